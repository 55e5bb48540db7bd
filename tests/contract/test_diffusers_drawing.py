"""What the diffusers backend draws, and what it says: real classes, random weights, in this process."""

import asyncio
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests import inprocess_kit as kit
from tests.diffusers_kit import PATIENCE_S, Counting, Gate, asked, drawing, drawn, loaded, notices, pixels

from imagen.core.errors import BadConfig, Crashed, MissingFile, Unsupported
from imagen.core.signals import Output, Phase, Preview, Step
from imagen.testing.signals import Watching, collect, outputs, picture

OPTIONS = {"lora": {"type": "str", "default": ""}, "lora_scale": {"type": "float", "default": 1.0}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "models"


def array(shown: Output | Preview, size: tuple[int, int] | None = None) -> Any:
    image = picture(shown)
    return np.asarray(image.resize(size) if size else image).astype(float)


@pytest.mark.parametrize("family", kit.FAMILIES)
def test_each_preview_is_nearer_to_the_picture(family: str, folder: Path) -> None:
    """What is shown is the estimate of the clean picture: here by the model's own decoder, so nothing else differs."""
    said = drawn(folder, kit.model(folder, family), previews=Asking(method="vae", max_size=kit.SIZE), steps=10)
    shown = [signal for signal in said if isinstance(signal, Preview)]
    assert [preview.step for preview in shown] == list(range(1, 10))
    assert {(preview.method, preview.estimate) for preview in shown} == {("vae", True)}
    final = array(outputs(said)[0])
    away = [np.abs(array(preview) - final).mean() for preview in shown]
    assert all(later < earlier for earlier, later in pairwise(away)), away
    assert away[-1] < away[0] / 3, away


@pytest.mark.parametrize("family", kit.FAMILIES)
def test_a_linear_map_shows_the_same_coming_nearer(family: str, folder: Path) -> None:
    """By a map that was fitted to this very decoder; random ones are anything but linear, so frames are compared."""
    said = drawn(folder, kit.model(folder, family, preview_method="fitted"), previews=Watching(), steps=10)
    shown = [signal for signal in said if isinstance(signal, Preview)]
    assert {(preview.method, preview.estimate) for preview in shown} == {("latent_rgb", True)}
    assert {picture(preview).size for preview in shown} == {(8, 8)}
    away = [np.abs(array(preview) - array(shown[-1])).mean() for preview in shown[:-1]]
    early, late = sum(away[:4]), sum(away[4:])
    assert early > late * 1.2, away


@pytest.mark.parametrize("family", kit.FAMILIES)
def test_previews_change_nothing_also_when_they_fail(family: str, folder: Path) -> None:
    """Not asked for, shown in every way there is, failing: the same bytes, and of a failure one word."""
    name = kit.model(folder, family)
    plain = pixels(drawn(folder, name, n=2))
    for method in ("latent_rgb", "fitted", "vae", "tiny", "off"):
        watched = drawn(folder, name, n=2, previews=Asking(method=method))
        assert pixels(watched) == plain, method
        assert notices(watched) == []
        assert any(isinstance(signal, Preview) for signal in watched) == (method != "off")
    for failing in (Broken("wants"), Broken("max_size")):
        watched = drawn(folder, name, n=2, previews=failing)
        assert pixels(watched) == plain
        assert len(notices(watched)) == 1
        assert "the sink broke" in notices(watched)[0]


def test_a_tiny_decoder_is_used_when_it_is_asked_for(folder: Path) -> None:
    """Where it cannot be read, the frame is made the plain way, and one word is said."""
    from diffusers import AutoencoderTiny

    AutoencoderTiny(
        latent_channels=16, encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1),
    ).save_pretrained(folder / "taesd")  # fmt: skip
    name = kit.model(folder, "flux", preview_decoder="taesd", preview_method="tiny")
    said = drawn(folder, name, previews=Watching())
    assert {signal.method for signal in said if isinstance(signal, Preview)} == {"tiny"}
    assert notices(said) == []
    gone = kit.model(folder, "flux", "gone", preview_decoder="nowhere", preview_method="tiny")
    said = drawn(folder, gone, previews=Watching())
    assert {signal.method for signal in said if isinstance(signal, Preview)} == {"latent_rgb"}
    assert len(notices(said)) == 1
    assert "nowhere" in notices(said)[0]


def test_latents_in_an_unknown_order_are_not_shown(folder: Path) -> None:
    """One word about it, no preview, and the picture as always."""
    name = kit.model(folder, "flux")

    async def run() -> None:
        async with drawing() as backend:
            plain = pixels(await collect(backend, *asked(folder, name)))
            loaded(backend).pipe.vae.register_to_config(latent_channels=5)
            said = await collect(backend, *asked(folder, name), previews=Watching())
            assert not [signal for signal in said if isinstance(signal, Preview)]
            assert len(notices(said)) == 1
            assert "for a decoder of 5 channels" in notices(said)[0]
            assert pixels(said) == plain

    asyncio.run(run())


@pytest.mark.parametrize("family", kit.FAMILIES)
def test_pictures_drawn_at_once_are_those_drawn_alone(family: str, folder: Path) -> None:
    """Each has a generator of its own. Larger matrices may round differently: by one step of 255 at most."""
    alone = drawn(folder, kit.model(folder, family), n=3)
    said = drawn(folder, kit.model(folder, family, "together", batch=2), n=3, previews=Watching())
    assert [output.seed for output in outputs(said)] == [7, 8, 9]
    for one, other in zip(outputs(alone), outputs(said), strict=True):
        assert np.abs(array(one) - array(other)).max() <= 1
    steps = [signal for signal in said if isinstance(signal, Step)]
    assert len(steps) == steps[-1].total == 2 * len(steps) // 2
    assert {signal.image for signal in said if isinstance(signal, Preview)} == {0, 1, 2}


def test_a_prompt_is_encoded_once_for_all_its_pictures(folder: Path) -> None:
    """And the pictures are those of a prompt that is encoded each time."""
    name = kit.model(folder, "qwen")

    async def run() -> None:
        async with drawing() as backend:
            request, model = asked(folder, name, n=3)
            said = await collect(backend, request, model)
            encoder = loaded(backend).pipe.text_encoder
            calls = Counting(encoder)
            again = await collect(backend, request, model)
            assert calls.count == 0
            assert pixels(again) == pixels(said)
            await collect(backend, *asked(folder, name, prompt="a blue fox"))
            assert calls.count == 1  # its negative prompt is the one of before

    asyncio.run(run())


def test_it_stops_within_a_step(folder: Path) -> None:
    """Closed in step 3 of 100, nothing is computed after that step, and the next request is drawn to its end."""
    name = kit.model(folder, "flux")

    async def run() -> None:
        async with drawing() as backend:
            await collect(backend, *asked(folder, name))
            guesses, decodes = Counting(loaded(backend).denoiser), Counting(loaded(backend).pipe.vae.decoder)
            gate = Gate(3)
            said = backend.generate(*asked(folder, name, steps=100), gate)
            while not isinstance(signal := await anext(said), Step) or signal.step < gate.step:
                pass
            await asyncio.to_thread(gate.reached.wait, PATIENCE_S)
            closing = asyncio.create_task(said.aclose())
            await asyncio.sleep(0.05)
            assert not closing.done()  # it waits for the thread
            gate.open.set()
            await closing
            assert (guesses.count, decodes.count) == (3, 0)
            assert len(outputs(await collect(backend, *asked(folder, name)))) == 1

    asyncio.run(run())


def test_closed_while_it_loads_it_never_encodes(folder: Path) -> None:
    """What was loaded is kept for the next request."""
    name = kit.model(folder, "flux")

    async def run() -> None:
        async with drawing() as backend:
            said = await collect(backend, *asked(folder, name), until=lambda signal: signal == Phase(name="loading"))
            assert said == [Phase(name="loading")]
            said = await collect(backend, *asked(folder, name))
            assert Phase(name="loading") not in said
            assert len(outputs(said)) == 1

    asyncio.run(run())


def test_the_phases_come_in_their_order(folder: Path) -> None:
    """For each picture, and loading once."""
    said = drawn(folder, kit.model(folder, "sd3"), n=2)
    phases = [(signal.name, signal.device_free) for signal in said if isinstance(signal, Phase)]
    each = [("encoding", False), ("sampling", False), ("decoding", False)]
    # With the last one in its memory, only saving is left.
    assert phases == [("loading", False), *each, *each, ("decoding", True)]


def test_a_lora_changes_the_picture_and_is_gone_afterwards(folder: Path) -> None:
    """By how much, too; with 0 it is none."""
    kit.lora("flux", folder / "loras" / "wild.safetensors", strength=3)
    name = kit.model(folder, "flux", options=OPTIONS)

    async def run() -> None:
        async with drawing() as backend:

            async def draw(**options: Any) -> bytes:
                return pixels(await collect(backend, *asked(folder, name, options=options)))[0]

            plain = await draw()
            wild = await draw(lora="wild")
            assert wild != plain
            assert await draw(lora="wild.safetensors") == wild
            assert await draw(lora="wild", lora_scale=0.3) not in (plain, wild)
            assert await draw(lora="wild", lora_scale=0.0) == plain
            assert await draw(lora="wild") == wild
            assert await draw() == plain

    asyncio.run(run())


def test_a_lora_that_fits_in_part_says_so(folder: Path) -> None:
    """One of a deeper network finds some of its places; one of this network finds all, and nothing is said."""
    from safetensors.torch import load_file, save_file

    layers = load_file(kit.lora("flux", folder / "loras" / "whole.safetensors"))
    deeper = {name.replace("blocks.0.", "blocks.7."): layer.clone() for name, layer in layers.items()}
    save_file(layers | deeper, folder / "loras" / "deeper.safetensors")
    name = kit.model(folder, "flux", options=OPTIONS)
    assert notices(drawn(folder, name, options={"lora": "whole"})) == []
    assert "only in part" in notices(drawn(folder, name, options={"lora": "deeper"}))[0]


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "nothing", "sub/../../secret"])
def test_a_lora_from_elsewhere_is_refused(name: str, folder: Path) -> None:
    """A request names one inside the folder of LoRAs, and no other file of this machine."""
    kit.lora("flux", folder / "loras" / "mine.safetensors")
    shutil.copy(folder / "loras" / "mine.safetensors", folder / "secret.safetensors")
    with pytest.raises(Unsupported, match="there is no LoRA") as caught:
        drawn(folder, kit.model(folder, "flux", options=OPTIONS), options={"lora": name})
    assert "mine.safetensors" in caught.value.hint


def test_a_lora_of_another_model_is_an_error_and_leaves_nothing_behind(folder: Path) -> None:
    """The next picture is as it always was."""
    kit.lora("z-image", folder / "loras" / "other.safetensors")
    name = kit.model(folder, "flux", options=OPTIONS)

    async def run() -> None:
        async with drawing() as backend:
            plain = pixels(await collect(backend, *asked(folder, name)))
            with pytest.raises(Unsupported, match=r"other\.safetensors"):
                await collect(backend, *asked(folder, name, options={"lora": "other"}))
            assert pixels(await collect(backend, *asked(folder, name))) == plain

    asyncio.run(run())


@pytest.mark.parametrize("family", ["flux", "sd3", "z-image", "klein", "qwen"])
def test_a_transformer_from_a_single_file_is_the_same(family: str, folder: Path) -> None:
    """Taken out of its folder, and the rest from the folder."""
    (file,) = (kit.tiny(family) / "transformer").glob("*.safetensors")
    (folder / "files").mkdir(parents=True)
    shutil.copy(file, folder / "files" / "mine.safetensors")
    name = kit.model(folder, family, "single", parts={"transformer": "files/mine.safetensors"})
    said = drawn(folder, name)
    assert pixels(said) == pixels(drawn(folder, kit.model(folder, family)))
    assert "mine.safetensors" in [file.path for file in outputs(said)[0].facts["files"]]


@pytest.mark.parametrize("family", ["flux", "sd3", "z-image", "klein", "qwen"])
def test_a_transformer_from_a_gguf_file_is_nearly_the_same(family: str, folder: Path) -> None:
    """8 bits of each number: the picture is of the same thing, and not the same bytes."""
    kit.gguf(family, folder / "files" / "small.gguf")
    name = kit.model(folder, family, "packed", parts={"transformer": "files/small.gguf"}, dtype="float32")
    said = drawn(folder, name)
    packed, plain = array(outputs(said)[0]), array(outputs(drawn(folder, kit.model(folder, family)))[0])
    assert np.abs(packed - plain).mean() < 16
    assert "small.gguf" in [file.path for file in outputs(said)[0].facts["files"]]


@pytest.mark.parametrize(
    ("keys", "word"),
    [
        ({"dtype": "bfloat16"}, "bfloat16"),
        ({"tiling": "on"}, "decoded in tiles"),
        ({"float8": "on", "dtype": "bfloat16"}, "weights in float8"),
        ({"attention": "native"}, "FluxPipeline"),
        ({"cache": "first_block", "cache_threshold": 0.5}, "FluxPipeline"),
        ({"cache": "taylorseer"}, "FluxPipeline"),
        ({"pipeline": "FluxPipeline"}, "FluxPipeline"),
    ],
    ids=str,
)
def test_each_switch_draws_twice_the_same_and_is_told(keys: dict[str, Any], word: str, folder: Path) -> None:
    """Whatever is kept from one picture to the next is not in the next."""
    said = drawn(folder, kit.model(folder, "flux", **keys), n=2, steps=6)
    assert word in outputs(said)[0].facts["drawn"]
    assert pixels(drawn(folder, "tiny-flux", n=1, steps=6, seed=8)) == pixels(said)[1:]


@pytest.fixture
def traced() -> Iterator[Callable[[], int]]:
    """How many pieces were compiled: traced as always, but then run without a compiler of C++ for them."""
    import torch
    from torch._dynamo.utils import counters

    usual = torch.compiler.get_default_backend()
    torch.compiler.set_default_backend("aot_eager")
    counters.clear()
    yield lambda: counters["stats"]["unique_graphs"]
    torch.compiler.set_default_backend(usual)
    torch.compiler.reset()


@pytest.mark.parametrize("family", ["flux", "klein", "qwen"])
def test_blocks_that_repeat_are_compiled(family: str, folder: Path, traced: Callable[[], int]) -> None:
    """Only where the key says so, and the picture stays what it is."""
    plain = drawn(folder, kit.model(folder, family))
    assert traced() == 0
    said = drawn(folder, kit.model(folder, family, "compiled", compile=True))
    assert traced() > 0
    assert np.abs(array(outputs(said)[0]) - array(outputs(plain)[0])).max() <= 1


def test_parts_that_waited_in_pinned_memory_draw_the_same(folder: Path) -> None:
    """They are the same numbers in another place; here any other, as a processor has no pinned memory."""
    from imagen.backends.diffusers.moving import pinned_parts

    name = kit.model(folder, "flux")

    async def run() -> None:
        async with drawing() as backend:
            plain = pixels(await collect(backend, *asked(folder, name)))
            pipe = loaded(backend).pipe
            before = pipe.transformer.proj_out.weight.data_ptr()
            pinned_parts(pipe, pin=lambda values: values.clone())
            assert pipe.transformer.proj_out.weight.data_ptr() != before
            pipe.to("cpu")
            assert pixels(await collect(backend, *asked(folder, name))) == plain

    asyncio.run(run())


@pytest.mark.parametrize(
    ("family", "keys", "said"),
    [
        ("flux", {"offload": "model"}, "two memories"),
        ("flux", {"offload": "group"}, "two memories"),
        ("sd3", {"cache": "first_block"}, "has no `cache`"),
        ("klein", {"cache": "first_block"}, "cannot draw with"),
        ("flux", {"attention": "no_such"}, "no_such"),
        ("flux", {"pipeline": "NoSuchPipeline"}, "no pipeline NoSuchPipeline"),
        ("flux", {"parts": {"no_such": "x"}}, "no part 'no_such'"),
        ("flux", {"leave_out": ["no_such"]}, "no part 'no_such'"),
        ("flux", {"arguments": {"no_such": 1}}, "takes no 'no_such'"),
    ],
    ids=str,
)
def test_what_cannot_be_is_said_in_words(family: str, keys: dict[str, Any], said: str, folder: Path) -> None:
    """The owner's turn, with what to do."""
    with pytest.raises(BadConfig, match=said) as caught:
        drawn(folder, kit.model(folder, family, **keys))
    assert caught.value.hint


@pytest.mark.parametrize(
    ("key", "wrong"), [("attention", "no_such"), ("leave_out", ["vae"]), ("parts", {"no_such": "x"})], ids=str
)
def test_the_key_that_is_wrong_is_the_one_that_is_named(key: str, wrong: Any, folder: Path) -> None:
    """Not the weights, which are well."""
    with pytest.raises(BadConfig) as caught:
        drawn(folder, kit.model(folder, "flux", **{key: wrong}))
    assert caught.value.param == key


def test_a_part_can_be_left_out(folder: Path) -> None:
    """SD3's largest text encoder is most of what it weighs."""
    whole = outputs(drawn(folder, kit.model(folder, "sd3")))[0]
    name = kit.model(folder, "sd3", "light", leave_out=["text_encoder_3", "tokenizer_3"])
    light = outputs(drawn(folder, name))[0]
    assert light.data != whole.data
    assert not [file for file in light.facts["files"] if file.path.startswith("text_encoder_3")]


def test_what_the_hubs_cache_has_is_drawn_with(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the name that the hub gives it; what it lacks is said with the command that fetches it."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    name = kit.model(folder, "flux", weights="some-lab/FLUX.9")
    with pytest.raises(MissingFile) as caught:
        drawn(folder, name)
    assert caught.value.hint.startswith("hf download some-lab/FLUX.9 --include 'model_index.json'")
    snapshot = kit.hub_cache(tmp_path / "hub", "some-lab/FLUX.9", kit.tiny("flux"))
    assert pixels(drawn(folder, name)) == pixels(drawn(folder, kit.model(folder, "flux", "local")))
    (snapshot / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(MissingFile, match="vae") as caught:
        drawn(folder, name)
    assert caught.value.hint.startswith("hf download some-lab/FLUX.9")


def test_what_was_drawn_with_is_recorded(folder: Path) -> None:
    """Each file with its size and hash, where the time went, and how it was held."""
    (output,) = outputs(drawn(folder, kit.model(folder, "flux")))
    assert output.facts["drawn"] == "FluxPipeline, float32, on cpu"
    # Loading is measured from outside: it begins before there is a process that could.
    assert set(output.facts["timings"]) == {"encode", "sample", "decode"}
    assert all(seconds > 0 for seconds in output.facts["timings"].values())
    files = {file.path: file for file in output.facts["files"]}
    transformer = files["transformer/diffusion_pytorch_model.safetensors"]
    assert transformer.size == (kit.tiny("flux") / transformer.path).stat().st_size
    assert len(transformer.sha256) == 64
    assert sorted({path.partition("/")[0] for path in files}) == [
        "text_encoder",
        "text_encoder_2",
        "transformer",
        "vae",
    ]


def test_another_model_takes_the_place_of_the_first_and_a_changed_file_is_read_again(folder: Path) -> None:
    """What is loaded is what the files say now."""
    weights = shutil.copytree(kit.tiny("flux"), folder / "weights")
    name, other = kit.model(folder, "flux", weights=str(weights)), kit.model(folder, "sd3")

    async def run() -> None:
        async with drawing() as backend:
            assert Phase(name="loading") in await collect(backend, *asked(folder, name))
            assert Phase(name="loading") not in await collect(backend, *asked(folder, name, seed=9))
            assert Phase(name="loading") in await collect(backend, *asked(folder, other))
            first = await collect(backend, *asked(folder, name))
            assert Phase(name="loading") in first
            spoil(weights / "transformer" / "diffusion_pytorch_model.safetensors", lambda value: value * 0.5)
            again = await collect(backend, *asked(folder, name))
            assert Phase(name="loading") in again
            assert pixels(again) != pixels(first)

    asyncio.run(run())


def test_a_picture_of_no_numbers_is_no_black_picture(folder: Path) -> None:
    """What happens in float16 with a decoder that was not made for it."""
    weights = shutil.copytree(kit.tiny("flux"), folder / "weights")
    spoil(weights / "vae" / "diffusion_pytorch_model.safetensors", lambda value: value * np.float32("nan"))
    with pytest.raises(Crashed, match="no numbers") as caught:
        drawn(folder, kit.model(folder, "flux", weights=str(weights)))
    assert "dtype" in caught.value.hint


def test_a_damaged_file_is_named(folder: Path) -> None:
    """Before anything is loaded."""
    weights = shutil.copytree(kit.tiny("flux"), folder / "weights")
    (weights / "transformer" / "diffusion_pytorch_model.safetensors").write_bytes(b"<html>not found</html>")
    with pytest.raises(BadConfig, match=r"diffusion_pytorch_model\.safetensors is damaged"):
        drawn(folder, kit.model(folder, "flux", weights=str(weights)))


def test_files_that_can_run_programs_are_not_read(folder: Path) -> None:
    """Pickles, whatever they are called."""
    (folder / "files").mkdir(parents=True)
    (folder / "files" / "old.ckpt").write_bytes(b"cos\nsystem\n")
    with pytest.raises(Unsupported, match="can run programs"):
        drawn(folder, kit.model(folder, "flux", parts={"transformer": "files/old.ckpt"}))


@dataclass(slots=True, kw_only=True)
class Asking:
    """A sink of a request that says how previews are to be made."""

    method: str
    promised: bool = False
    max_size: int = 48

    def wants(self, step: int, total: int) -> bool:
        return True


@dataclass(slots=True)
class Broken:
    """A sink of which one thing raises."""

    what: str

    @property
    def max_size(self) -> int:
        if self.what == "max_size":
            raise RuntimeError("the sink broke")
        return 48

    def wants(self, step: int, total: int) -> bool:
        if self.what == "wants":
            raise RuntimeError("the sink broke")
        return True


def spoil(file: Path, change: Callable[[Any], Any]) -> None:
    """Change every number of a file."""
    from safetensors.numpy import load_file, save_file

    save_file(
        {name: np.ascontiguousarray(change(value)) for name, value in load_file(file).items()}, file, {"format": "pt"}
    )
