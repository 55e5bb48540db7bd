"""Which preset a pipeline gets: the table of the docs is what the arithmetic says."""

import re
from pathlib import Path
from typing import Any

import pytest

from imagen.backends.diffusers.finding import Part
from imagen.backends.diffusers.presets import Machine, Preset, beside_mib, chosen
from imagen.core.errors import BadConfig

AUTO = {"dtype": "auto", "offload": "auto", "float8": "auto", "tiling": "auto", "pinned": "auto"}
PAGE = Path(__file__).parents[2] / "docs" / "howto" / "use-diffusers.md"

# Numbers in the weights, in thousands of millions, as the authors state them.
SIZES = {
    "flux1-schnell": {"transformer": 11.9, "text_encoder_2": 4.76, "text_encoder": 0.12, "vae": 0.08},
    "flux2-klein": {"transformer": 3.88, "text_encoder": 4.02, "vae": 0.08},
    "sd35-medium": {
        "transformer": 2.47, "text_encoder_3": 4.76, "text_encoder_2": 0.69, "text_encoder": 0.12, "vae": 0.08,
    },
    "z-image-turbo": {"transformer": 6.15, "text_encoder": 4.02, "vae": 0.08},
    "qwen-image": {"transformer": 20.4, "text_encoder": 8.29, "vae": 0.13},
}  # fmt: skip
CARDS_GIB = (8, 12, 16, 24, 32, 48, 80)


def parts(name: str) -> list[Part]:
    return [Part(name=part, files=(), numbers=int(size * 1e9)) for part, size in SIZES[name].items()]


def card(gib: float, **fields: Any) -> Machine:
    """A card with a little of it taken already, as it always is."""
    return Machine(device="cuda:0", memory_mib=int(gib * 1024 * 0.97), **fields)


def word(preset: Preset) -> str:
    kept = {"none": "all of it", "model": "a part at a time", "group": "a layer at a time"}[preset.offload]
    return kept + (", float8" if preset.float8 else "") + (", tiles" if preset.tiling else "")


def test_the_table_of_the_docs_is_true() -> None:
    """Every model on every size of card."""
    rows = re.findall(r"^\| `([\w-]+)-diffusers` \| (.*) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    told = {name: [cell.strip() for cell in cells.split("|")] for name, cells in rows if name in SIZES}
    assert told == {name: [word(chosen(AUTO, parts(name), card(gib))) for gib in CARDS_GIB] for name in SIZES}


def test_more_memory_is_never_slower() -> None:
    """From a layer at a time over a part at a time to all of it."""
    order = ["group", "model", "none"]
    for name in SIZES:
        kept = [order.index(chosen(AUTO, parts(name), card(gib)).offload) for gib in range(2, 96)]
        assert kept == sorted(kept)
        assert kept[-1] == 2


@pytest.mark.parametrize(
    ("key", "value"),
    [("offload", "none"), ("offload", "group"), ("float8", "on"), ("tiling", "off"), ("dtype", "float16")],
)
def test_what_the_keys_say_is_kept(key: str, value: str) -> None:
    """On a card of any size, and the rest follows."""
    for gib in CARDS_GIB:
        preset = chosen({**AUTO, key: value}, parts("qwen-image"), card(gib))
        assert getattr(preset, key) in (value, value == "on")


def test_a_processor_computes_in_32_bits_where_they_fit() -> None:
    """And in 16 where only those do."""
    keys = {**AUTO, "offload": "none"}
    small = chosen(keys, parts("sd35-medium"), Machine(device="cpu", memory_mib=24 * 1024))
    large = chosen(keys, parts("sd35-medium"), Machine(device="cpu", memory_mib=64 * 1024))
    assert (small.dtype, large.dtype) == ("bfloat16", "float32")
    assert small.offload == large.offload == "none"


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_offloading_needs_a_second_memory(device: str) -> None:
    """Said in words before anything is loaded."""
    with pytest.raises(BadConfig, match="two memories") as caught:
        chosen({**AUTO, "offload": "model"}, parts("flux2-klein"), Machine(device=device, memory_mib=10**6))
    assert caught.value.hint


def test_a_card_that_cannot_compute_in_bfloat16_computes_in_float16() -> None:
    """Those before 2020."""
    assert chosen(AUTO, parts("flux2-klein"), card(24, bfloat16=False)).dtype == "float16"


def test_a_gguf_file_counts_as_large_as_it_is(tmp_path: Path) -> None:
    """Whatever is computed in."""
    file = tmp_path / "small.gguf"
    with file.open("wb") as stream:
        stream.truncate(12 * 10**9)  # of nothing, so it takes no room
    packed = [Part(name="transformer", files=(file,), numbers=0), *parts("qwen-image")[1:]]
    assert chosen(AUTO, packed, card(24)) == Preset(dtype="bfloat16", offload="model", tiling=True)
    assert chosen(AUTO, parts("qwen-image"), card(24)).float8


@pytest.mark.parametrize(
    ("said", "offload", "host_gib", "pinned"),
    [
        ("auto", "group", 128, "kept"),
        ("auto", "group", 64, "passing"),  # 57 GB of it would be all that other programs have
        ("auto", "model", 128, ""),
        ("on", "model", 64, "kept"),
        ("on", "group", 64, "kept"),
        ("off", "group", 128, ""),
        ("on", "none", 128, ""),  # nothing waits
    ],
)
def test_what_waits_is_pinned_where_memory_is_left_for_others(
    said: str, offload: str, host_gib: int, pinned: str
) -> None:
    """By itself only layers, and half of what is free at most; the key's word counts."""
    machine = card(24, host_mib=host_gib * 1024)
    preset = chosen({**AUTO, "pinned": said, "offload": offload}, parts("qwen-image"), machine)
    assert (preset.pinned, preset.offload) == (pinned, offload)
    assert ("from pinned memory" in str(preset)) == (pinned == "kept")


def test_a_processor_pins_nothing() -> None:
    """There is no second memory to copy to."""
    machine = Machine(device="cpu", memory_mib=10**6, host_mib=10**6)
    assert chosen({**AUTO, "pinned": "on"}, parts("flux2-klein"), machine).pinned == ""


def test_decoding_beside_another_takes_memory_by_the_pixel() -> None:
    """And by the byte, and by how many are decoded at once."""
    one = beside_mib(1024, 1024, 1, "bfloat16")
    assert one == 6 * 1024
    assert beside_mib(512, 512, 1, "bfloat16") == one / 4
    assert beside_mib(1024, 1024, 1, "float32") == 2 * one
    assert one < beside_mib(1024, 1024, 4, "bfloat16") < 4 * one


def test_it_says_itself_in_words() -> None:
    """For the record beside a picture."""
    preset = Preset(dtype="bfloat16", offload="model", float8=True, tiling=True)
    said = "bfloat16, weights in float8, a part at a time on the device, decoded in tiles"
    assert (str(preset), str(Preset(dtype="float32"))) == (said, "float32")
