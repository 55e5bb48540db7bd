"""The colours of the mock's pictures, and the words of a prompt that choose a scene or a colour."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Palette:
    """The colours of one picture, as hex."""

    top: str
    low: str
    sun: str
    far: str
    near: str
    accent: str


def _palette(colours: str) -> Palette:
    top, low, sun, far, near, accent = colours.split()
    return Palette(top=top, low=low, sun=sun, far=far, near=near, accent=accent)


# The last one of each family is its night.
PALETTES: dict[str, tuple[Palette, ...]] = {
    "balanced": (
        _palette("7fb7cf fde6c4 fff6df 9cc3b5 1b4644 e8774f"),
        _palette("8fc3e0 f9f1d6 ffe79a a9cba4 24512f d1495b"),
        _palette("a6a2dc fcd9cf fff3cf b79fce 322c66 f2a65a"),
        _palette("0b1333 4d6a99 f4efd8 4b6a92 08131f f0b967"),
    ),
    "warm": (
        _palette("f2a65e fee7bd fffbe8 ec9a6c 541629 c93a2c"),
        _palette("e9926f fbe3bf fff5d6 dd9a63 5f2517 1f7a74"),
        _palette("d9707f fdd8ba fff1d0 c96a7e 3c1229 f4b860"),
        _palette("220b26 c2504a ffdca6 8a3350 16081a ff9f5a"),
    ),
    "cool": (
        _palette("4f97c2 e2f3f2 ffffff 8ab8cf 0c2c49 f2c14e"),
        _palette("7cc0d8 f1f8f3 fdfde8 8fc7c4 0b414c ef6f6c"),
        _palette("7483cc dee1f7 faf6ff 8a90cf 1e2459 7fe0d0"),
        _palette("040a1f 1f6384 e6f6ff 2a6080 030f19 62e0c3"),
    ),
}


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


SCENES = {
    "sea": _words("sea ocean lake river boat ship sail fish whale beach island water harbour harbor wave"),
    "hills": _words("mountain hill forest tree fox wolf deer valley meadow castle wizard village landscape sunset"),
    "paper": _words("cave portrait face abstract circle flower rose eye planet portal pattern paper"),
    "ribbons": _words("silk wind music dance dream flow cloud dune desert ribbon aurora"),
}
NIGHT = _words("night moon star stars midnight dark space galaxy owl dream neon aurora")
COLOURS = {
    "red": "d8402f",
    "orange": "f0883a",
    "yellow": "f6cf4d",
    "golden": "f2bc4a",
    "green": "58a55c",
    "blue": "3f7fd0",
    "purple": "8657b8",
    "pink": "ee8fb0",
    "white": "ffffff",
    "black": "20202a",
}
