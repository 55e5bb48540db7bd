"""The onnx backend: words to numbers, noise to picture, picture to paper; and other people's networks as data."""

import asyncio
import hashlib
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tests.onnx_kit as kit

from imagen.backends import onnx
from imagen.backends.onnx.painting import Painting
from imagen.backends.onnx.paper import laid, shown
from imagen.backends.onnx.words import Words, read_words
from imagen.core.errors import BadConfig, MissingFile
from imagen.core.request import Draft
from imagen.core.signals import Notice, Phase, Preview, Signal
from imagen.models.catalog import Catalog, load_catalog, model_folders
from imagen.testing.signals import Watching, collect, outputs, picture

PIECES = ("[PAD]", "[UNK]", "a", "red", "app", "##le", "##s", "cat")


def words(*understood: str) -> Words:
    return Words(numbers={piece: number for number, piece in enumerate(PIECES)}, understood=frozenset(understood))


def test_the_longest_piece_that_fits_comes_first() -> None:
    """Case and accents do not count, what is short is filled up."""
    assert words().encode("A Réd apples", 8) == [2, 3, 4, 5, 6, 0, 0, 0]


def test_a_word_of_no_piece_is_unknown_as_a_whole() -> None:
    """Half of it would be something else."""
    assert words().encode("appz cat", 4) == [1, 7, 0, 0]


def test_a_word_without_end_takes_no_longer_than_a_word() -> None:
    """Whoever sends one would otherwise hold up everybody else."""
    endless = Words(numbers={"[UNK]": 1, "a": 2, "##a": 3}, understood=frozenset())
    assert endless.encode("a" * 20_000, 4) == [1, 0, 0, 0]
    assert endless.left_out("a " + "a" * 20_000, 1) == "a" * 20_000


def test_a_picture_in_the_text_that_means_nothing_is_named() -> None:
    """A comma needs no meaning, an emoji was meant."""
    assert words("apple").strange("apple, 🍎!") == ["🍎"]


def test_what_does_not_fit_is_told() -> None:
    """From the first word that was cut, as the network would have read it."""
    assert words().encode("a red apple cat", 4) == [2, 3, 4, 5]
    assert words().left_out("A red Apple cat", 4) == "cat"
    assert words().left_out("a red apple", 3) == "apple"
    assert words().left_out("a red apple", 4) == ""


def test_words_that_mean_nothing_are_named_once_and_plurals_are_known() -> None:
    """Numbers and signs are no words; without a list nothing can be said."""
    assert words("cat", "red").strange("red cats, a Zeppelin & a zeppelin 7") == ["a", "zeppelin"]
    assert words().strange("zeppelin") == ()


@pytest.mark.parametrize("text", ['{"pieces": 3}', "[]", "{", '{"understood": []}'])
def test_a_vocabulary_that_is_none_is_an_error_that_shows_the_shape(tmp_path: Path, text: str) -> None:
    """Nobody should have to read a stack trace to learn what belongs there."""
    (tmp_path / "words.json").write_text(text)
    with pytest.raises(BadConfig) as caught:
        read_words(tmp_path / "words.json")
    assert "pieces" in caught.value.hint


def test_a_plain_vocabulary_is_one_piece_a_line(tmp_path: Path) -> None:
    """As the tokenizers of BERT and its kin have it."""
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\ncat\n")
    assert read_words(tmp_path / "vocab.txt").encode("cat dog", 3) == [2, 1, 0]


def test_a_square_lies_in_the_middle_of_its_own_paper() -> None:
    """The colour around is the one that runs along its edge."""
    drawn = np.full((8, 8, 3), (10, 20, 30), np.uint8)
    drawn[2:6, 2:6] = 255
    sheet = laid(drawn, 32, 16)
    assert sheet.shape == (16, 32, 3)
    assert sheet[0, 0].tolist() == sheet[15, 31].tolist() == [10, 20, 30]
    assert sheet[8, 16].min() > 200
    assert (laid(drawn, 8, 8) == drawn).all()


@pytest.mark.parametrize(
    ("size", "max_size", "wanted"),
    [((256, 256), 512, (64, 64)), ((256, 256), 32, (32, 32)), ((512, 256), 512, (128, 64)), ((512, 256), 64, (64, 32))],
)
def test_a_preview_has_the_shape_of_the_picture(size: tuple[int, int], max_size: int, wanted: tuple[int, int]) -> None:
    """No larger than asked, and no larger than what there is to see."""
    pixels = shown(np.zeros((64, 64, 3), np.uint8), *size, max_size)
    assert (pixels.shape[1], pixels.shape[0]) == wanted


def folder(home: Path, name: str, **keys: Any) -> Path:
    """A folder of models with one model in it."""
    import yaml

    (home / "models" / name).mkdir(parents=True, exist_ok=True)
    usual = {
        "backend": "onnx",
        "network": "net.onnx",
        "words": "vocab.txt",
        "defaults": {"width": 16, "height": 16, "steps": 4, "guidance": 1.0},
    }
    (home / "models" / name / "model.yaml").write_text(yaml.safe_dump(usual | keys))
    (home / "models" / name / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", *(f"w{i}" for i in range(1000))]))
    return home / "models"


def catalog(models: Path, name: str) -> Catalog:
    return load_catalog(
        folders=[models],
        configured={},
        default_model=name,
        backends={"onnx": onnx.registration},
        backend_settings={},
        host="here",
    )


def said(models: Path, name: str, sink: Watching | None = None, **draft: Any) -> list[Signal]:
    """Everything the backend says to a request."""
    found = catalog(models, name)
    request = found.resolve(Draft(**{"prompt": "w498", "seed": 1, **draft}), lambda: 1).request

    async def ask() -> list[Signal]:
        backend = onnx.registration.create({})
        try:
            return await collect(backend, request, found.get(name), previews=sink)
        finally:
            await backend.aclose()

    return asyncio.run(ask())


def middle(signals: Sequence[Signal]) -> int:
    """The grey of the pixel in the middle of the first picture."""
    image = picture(outputs(signals)[0])
    red, green, blue = image.getpixel((image.width // 2, image.height // 2))  # type: ignore[misc]
    assert red == green == blue
    return int(red)


def grey(value: float) -> int:
    return int((value * 0.5 + 0.5) * 255 + 0.5)


NAMES = {"noisy": "sample", "time": "timestep", "words": "input_ids"}
SHADE = {"shade": {"type": "str", "choices": ["none", "some", "more"], "default": "none"}}


def test_a_network_paints_what_its_words_say(tmp_path: Path) -> None:
    """Word piece 500 of a network that takes 1000 for white is half way to it."""
    models = folder(tmp_path, "grey", options=SHADE)
    kit.painter(models / "grey/net.onnx")
    assert middle(said(models, "grey")) == grey(0.5)


def test_an_option_feeds_the_input_of_its_name_by_the_number_of_its_choice(tmp_path: Path) -> None:
    """`more` is the third choice, number 2."""
    models = folder(tmp_path, "grey", options=SHADE)
    kit.painter(models / "grey/net.onnx")
    assert middle(said(models, "grey", options={"shade": "more"})) == grey(0.7)


def test_guidance_leads_away_from_the_negative(tmp_path: Path) -> None:
    """0.1 + 2 x (0.5 - 0.1), and no further than the bound."""
    models = folder(tmp_path, "grey", options=SHADE)
    kit.painter(models / "grey/net.onnx")
    assert middle(said(models, "grey", guidance=2.0, negative="w98")) == grey(0.9)
    folder(tmp_path, "grey", options=SHADE, held_within=0.6)
    assert middle(said(models, "grey", guidance=2.0, negative="w98")) == grey(0.6)
    folder(tmp_path, "grey", options=SHADE, guided_until=0.7)
    assert middle(said(models, "grey", guidance=2.0, negative="w98")) == grey(0.5), "the last step is not guided"


def test_another_network_with_other_names_velocities_and_a_decoder_is_a_data_folder(tmp_path: Path) -> None:
    """Time runs down, latents have two channels, and pixels come from a second file: all of it stands in model.yaml."""
    models = folder(
        tmp_path,
        "flow",
        inputs=NAMES,
        predicts="velocity",
        noise_at=1,
        decoder="dec.onnx",
    )
    kit.back_to(models / "flow/net.onnx", 0.25)
    kit.decoder(models / "flow/dec.onnx")
    sink = Watching(max_size=64)
    signals = said(models, "flow", sink)
    assert middle(signals) == grey(0.25)
    previews = [signal for signal in signals if isinstance(signal, Preview)]
    assert [preview.step for preview in previews] == [1, 2, 3]
    assert {picture(preview).getpixel((3, 3)) for preview in previews} == {(grey(0.25),) * 3}, (
        "a straight way: all alike"
    )
    facts = outputs(signals)[0].facts
    assert facts["drawn"] == "drawn 4x4, 16x16 by its decoder"
    assert {file.path: file.sha256 for file in facts["files"]} == {
        name: hashlib.sha256((models / "flow" / name).read_bytes()).hexdigest()
        for name in ("net.onnx", "vocab.txt", "dec.onnx")
    }


def test_a_file_that_is_not_the_one_named_is_not_drawn_with(tmp_path: Path) -> None:
    """A digest in model.yaml is a promise about the file; and a size is looked at before anything is opened."""
    models = folder(tmp_path, "grey", options=SHADE, files=[{"path": "net.onnx", "sha256": "ab" * 32}])
    kit.painter(models / "grey/net.onnx")
    with pytest.raises(BadConfig, match="is not the file that grey names"):
        said(models, "grey")
    folder(tmp_path, "grey", options=SHADE, files=[{"path": "net.onnx", "size": 7}])
    model = catalog(models, "grey").get("grey")
    (check,) = asyncio.run(onnx.registration.create({}).check(model))
    assert check.error is not None
    assert "of 7" in check.error.message


def test_what_a_network_gives_is_looked_at(tmp_path: Path) -> None:
    """Values that are no numbers, and channels that are no colours, are faults of the data: they name the file."""
    models = folder(tmp_path, "flow", predicts="velocity", noise_at=1, inputs=NAMES)
    kit.back_to(models / "flow/net.onnx", 0.25)
    with pytest.raises(BadConfig, match=r"net\.onnx draws 2 channels"):
        said(models, "flow")
    folder(tmp_path, "flow", predicts="velocity", noise_at=1, inputs=NAMES, decoder="dec.onnx")
    kit.decoder(models / "flow/dec.onnx")
    kit.back_to(models / "flow/net.onnx", float("nan"))
    with pytest.raises(BadConfig, match="no numbers"):
        said(models, "flow")


@pytest.mark.parametrize("wrong", [{"held_within": -1}, {"guided_until": 2.0}, {"inputs": {"nosy": "sample"}}])
def test_a_key_out_of_its_range_is_no_model(tmp_path: Path, wrong: dict[str, Any]) -> None:
    """It is said where it stands, and not drawn with."""
    models = folder(tmp_path, "grey", options=SHADE, **wrong)
    assert next(iter(wrong)) in catalog(models, "grey").broken["grey"].message


def test_the_same_files_are_opened_once(tmp_path: Path) -> None:
    """Two models on one file, such as the styles of the model in the box, share it."""
    models = folder(tmp_path, "grey", options=SHADE)
    kit.painter(models / "grey/net.onnx")
    found = catalog(models, "grey")
    request = found.resolve(Draft(prompt="w1", seed=1), lambda: 1).request

    async def ask() -> list[list[Signal]]:
        backend = onnx.registration.create({})
        return [await collect(backend, request, found.get("grey")) for _ in range(2)]

    first, second = asyncio.run(ask())
    assert Phase(name="loading") in first
    assert Phase(name="loading") not in second


def test_files_of_one_name_are_told_apart_and_a_new_export_is_opened(tmp_path: Path) -> None:
    """A folder names its own `net.onnx`; the picture is drawn by that one, as it is now."""
    models = folder(tmp_path, "flow", predicts="velocity", noise_at=1, inputs=NAMES, decoder="dec.onnx")
    folder(tmp_path, "other", predicts="velocity", noise_at=1, inputs=NAMES, decoder="dec.onnx")
    for name, value in (("flow", 0.25), ("other", 0.75)):
        kit.back_to(models / name / "net.onnx", value)
        kit.decoder(models / name / "dec.onnx")
    found = catalog(models, "flow")

    async def ask() -> list[int]:
        backend = onnx.registration.create({})

        async def drawn(name: str) -> int:
            request = found.resolve(Draft(prompt="w1", model=name, seed=1), lambda: 1).request
            return middle(await collect(backend, request, found.get(name)))

        told = [await drawn("flow"), await drawn("other")]
        kit.back_to(models / "other/net.onnx", -0.5)
        return [*told, await drawn("other")]

    assert asyncio.run(ask()) == [grey(0.25), grey(0.75), grey(-0.5)]


def test_what_cannot_be_honoured_is_said(tmp_path: Path) -> None:
    """A prompt that is too long, and a size that is not square."""
    models = folder(tmp_path, "grey", options=SHADE)
    kit.painter(models / "grey/net.onnx")
    notices = [one for one in said(models, "grey", prompt="w1 w2 w3 w4 w5", width=32) if isinstance(one, Notice)]
    assert [notice.code for notice in notices] == ["prompt_cut", "size_adjusted"]
    assert "'w5'" in notices[0].message
    assert "16x16" in notices[1].message


def test_a_file_that_is_not_there_says_where_it_may_be_put(tmp_path: Path) -> None:
    """check() says it before anybody draws."""
    models = folder(tmp_path, "grey")
    model = catalog(models, "grey").get("grey")
    (check,) = asyncio.run(onnx.registration.create({}).check(model))
    assert isinstance(check.error, MissingFile)
    assert str(models / "grey/net.onnx") in check.error.hint
    with pytest.raises(MissingFile):
        said(models, "grey")


def test_an_input_that_nothing_fills_is_named(tmp_path: Path) -> None:
    """The error says which option to add."""
    models = folder(tmp_path, "grey")
    kit.painter(models / "grey/net.onnx")
    with pytest.raises(BadConfig, match="'shade'") as caught:
        said(models, "grey")
    assert "option" in caught.value.hint


def test_a_network_with_other_inputs_says_what_it_has(tmp_path: Path) -> None:
    """Before it is given anything."""
    models = folder(tmp_path, "grey", options=SHADE)
    kit.painter(models / "grey/net.onnx", names=("x", "time", "words", "shade"))
    with pytest.raises(BadConfig, match="'noisy'") as caught:
        said(models, "grey")
    assert "x, time, words, shade" in caught.value.hint


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    """Half a download, for instance."""
    models = folder(tmp_path, "grey")
    (models / "grey/net.onnx").write_bytes(b"half of it")
    with pytest.raises(BadConfig, match=r"net\.onnx"):
        said(models, "grey")


def test_cancelled_twice_it_still_waits_for_its_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing goes on behind the back of whoever cancels, however often he does."""
    models = folder(tmp_path, "grey", options=SHADE)
    kit.painter(models / "grey/net.onnx")
    begun, leave = threading.Event(), threading.Event()

    def step(_painting: Painting) -> None:
        begun.set()
        leave.wait(10)

    async def cancelled() -> bool:
        found = catalog(models, "grey")
        request = found.resolve(Draft(prompt="w498", seed=1), lambda: 1).request
        drawing = asyncio.create_task(collect(onnx.registration.create({}), request, found.get("grey")))
        await asyncio.to_thread(begun.wait, 10)
        for _ in range(2):
            drawing.cancel()
            await asyncio.sleep(0.05)
        early = drawing.done()
        leave.set()
        await asyncio.wait([drawing])
        return drawing.cancelled() and not early

    monkeypatch.setattr(Painting, "step", step)
    assert asyncio.run(cancelled())


@pytest.mark.parametrize("threads", [0, "many", 1000, None])
def test_threads_are_a_small_number(threads: Any) -> None:
    """The error names the setting."""
    with pytest.raises(BadConfig, match="threads"):
        onnx.registration.create({"threads": threads})


def test_the_box_is_small_and_whole() -> None:
    """At most 20 MB in the wheel, and a picture tells by their digests which files drew it."""
    models = model_folders()[0]
    told = {file.path: file for file in catalog(models, "tiny-3d").get("tiny-flat").files}
    assert {f"tiny/{file.name}" for file in (models / "tiny").iterdir()} == {*told, "tiny/NOTICE"}
    for path, file in told.items():
        assert hashlib.sha256((models / path).read_bytes()).hexdigest() == file.sha256, path
    assert sum(file.stat().st_size for file in (models / "tiny").iterdir()) <= 20e6
