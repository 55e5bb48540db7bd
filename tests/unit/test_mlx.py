"""The backend mlx: what is seen between two steps of mflux, how it is left, and what is said of files and failures."""

import asyncio
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import tests.mlx_kit as kit
from mflux.models.common.config.model_config import ModelConfig

from imagen.backends import mlx
from imagen.backends.mlx.backend import Mlx
from imagen.backends.mlx.drawing import arguments, clean
from imagen.backends.mlx.errors import translated
from imagen.backends.mlx.finding import look
from imagen.backends.mlx.loading import FAMILIES
from imagen.backends.weights import OFFLINE
from imagen.config import load_settings
from imagen.core.errors import BadConfig, Crashed, ImagenError, MissingExtra, MissingFile, OutOfMemory
from imagen.core.model import Model
from imagen.core.request import Draft, Request
from imagen.core.signals import Notice, Output, Phase, Preview, Signal, Step
from imagen.engine.wiring import catalog_of
from imagen.models.catalog import Catalog, load_catalog
from imagen.testing.signals import Watching, collect, outputs, picture


def catalog(home: Path, name: str) -> Catalog:
    return load_catalog(
        folders=[home],
        configured={},
        default_model=name,
        backends={"mlx": mlx.registration},
        backend_settings={},
        host="here",
    )


def asked(home: Path, name: str, **draft: Any) -> tuple[Request, Model]:
    found = catalog(home, name)
    return found.resolve(Draft(**{"prompt": "a fox", "seed": 1, **draft}), lambda: 1).request, found.get(name)


def said(home: Path, name: str, sink: Watching | None = None, **draft: Any) -> list[Signal]:
    """Everything a fresh backend says."""
    request, model = asked(home, name, **draft)

    async def ask() -> list[Signal]:
        backend = Mlx({})
        try:
            return await collect(backend, request, model, previews=sink)
        finally:
            await backend.aclose()

    return asyncio.run(ask())


def seen(shown: Output | Preview, size: tuple[int, int]) -> Any:
    return np.asarray(picture(shown).convert("RGB").resize(size), np.float64)


@pytest.mark.parametrize("family", kit.FAMILIES)
def test_previews_come_nearer_to_the_picture_with_every_step(tmp_path: Path, family: str) -> None:
    """They show the picture that is aimed at, not the noise that is left."""
    signals = said(kit.model(tmp_path, family), family, Watching(), steps=6)
    final = outputs(signals)[0]
    previews = [signal for signal in signals if isinstance(signal, Preview)]
    assert [preview.step for preview in previews] == [1, 2, 3, 4, 5]
    assert {(preview.width, preview.height, preview.method) for preview in previews} == {(8, 8, "latent_rgb")}
    away = [np.abs(seen(preview, (8, 8)) - seen(final, (8, 8))).mean() for preview in previews]
    assert away == sorted(away, reverse=True)
    assert away[-1] < 12


@pytest.mark.parametrize("family", kit.FAMILIES)
def test_the_picture_is_the_same_whoever_watches(tmp_path: Path, family: str) -> None:
    """Previews on, off, and failing."""

    class Broken(Watching):
        def wants(self, step: int, total: int) -> bool:
            self.max_size = 0  # nothing can be that small
            return True

    home = kit.model(tmp_path, family)
    runs = [said(home, family, sink, seed=3) for sink in (None, Watching(), Broken())]
    assert len({outputs(run)[0].data for run in runs}) == 1
    assert len([one for one in runs[2] if isinstance(one, Notice)]) <= 1


def test_phases_and_facts_are_told(tmp_path: Path) -> None:
    """Loading once, then reading, drawing and decoding; with what was drawn, and by which files."""
    signals = said(kit.model(tmp_path, "flux", quantize=4), "flux", n=2)
    names = [signal.name for signal in signals if isinstance(signal, Phase)]
    assert names == ["loading", "encoding", "sampling", "decoding", "encoding", "sampling", "decoding"]
    facts = outputs(signals)[1].facts
    assert facts["drawn"] == "TinyFlux of mflux 0.24.0, 4 bits"
    assert [(file.path, file.size) for file in facts["files"]] == [("model.safetensors", len(kit.EMPTY))]
    assert facts["vram_peak_mib"] >= 0


def test_a_picture_that_is_no_picture_any_more_is_left_within_a_step(tmp_path: Path) -> None:
    """And the next one is drawn by the same pipeline, which nobody watches any more."""
    request, model = asked(kit.model(tmp_path, "flux"), "flux", steps=50)

    async def ask() -> tuple[int, list[Signal]]:
        backend = Mlx({})
        steps = 0
        async with aclosing(backend.generate(request, model, Watching())) as signals:
            async for signal in signals:
                steps += isinstance(signal, Step)
                if steps == 3:
                    break
        assert backend._open is not None
        pipe = backend._open[1].pipe
        assert (pipe.callbacks.before_loop, pipe.callbacks.in_loop, pipe.callbacks.after_loop) == ([], [], [])
        again = await collect(backend, request, model)
        await backend.aclose()
        return steps, again

    steps, again = asyncio.run(ask())
    assert steps == 3
    assert not any(isinstance(one, Phase) and one.name == "loading" for one in again)
    assert len(outputs(again)) == 1


@pytest.mark.filterwarnings("ignore:invalid value encountered in cast:RuntimeWarning")  # of mflux, about the picture
def test_a_picture_without_numbers_says_so_once(tmp_path: Path) -> None:
    """No preview is better than a black one that looks like a picture; and the job goes on."""
    signals = said(kit.model(tmp_path, "flux"), "flux", Watching(), prompt=f"a {kit.BROKEN} fox")
    notices = [signal for signal in signals if isinstance(signal, Notice)]
    assert [notice.code for notice in notices] == ["preview_failed"]
    assert "no numbers" in notices[0].message
    assert len(outputs(signals)) == 1


def test_another_model_takes_the_place_of_the_one_that_is_loaded(tmp_path: Path) -> None:
    """There may not be room for two."""
    kit.model(tmp_path, "flux")
    kit.model(tmp_path, "z-image")

    async def ask() -> list[str]:
        backend = Mlx({})
        loaded = []
        for name in ("flux", "z-image", "z-image", "flux"):
            request, model = asked(tmp_path, name)
            for one in await collect(backend, request, model):
                if isinstance(one, Phase) and one.name == "loading":
                    loaded.append(name)
        await backend.aclose()
        return loaded

    assert asyncio.run(ask()) == ["flux", "z-image", "flux"]


def test_weights_that_were_written_again_are_read_again(tmp_path: Path) -> None:
    """A folder may be filled with the next version while the process runs."""
    home = kit.model(tmp_path, "flux")
    request, model = asked(home, "flux")

    async def ask() -> list[str]:
        backend = Mlx({})
        said = await collect(backend, request, model)
        (home / "flux" / "weights" / "model.safetensors").write_text("others")
        said += await collect(backend, request, model)
        await backend.aclose()
        return [one.name for one in said if isinstance(one, Phase)]

    assert asyncio.run(ask()).count("loading") == 2


def test_only_what_a_class_takes_is_passed_on(tmp_path: Path) -> None:
    """FLUX.2 has no negative prompt; what the model's file says stands over the request."""
    request, _ = asked(kit.model(tmp_path, "flux"), "flux", negative="blur", guidance=3.5)

    def call(seed: int, prompt: str, width: int, guidance: float, scheduler: str = "linear") -> None: ...

    assert arguments(call, request, {"scheduler": "euler", "unknown": 1}) == {
        "seed": 1,
        "prompt": "a fox",
        "width": 64,
        "guidance": 3.5,
        "scheduler": "euler",
    }


def test_the_clean_picture_lies_where_no_noise_is_left() -> None:
    """Half way between noise 4 and picture 1 it was 2.5, and a step later 1.75."""
    aim = clean(mx.array([2.5]), mx.array([1.75]), mx.array(0.5), mx.array(0.25))
    assert aim.tolist() == [1.0]


def test_its_files_are_found_here_or_in_the_hubs_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And where they are not, the hint is what to type."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    home = kit.model(tmp_path / "models", "flux", weights="org/name")
    model = catalog(home, "flux").get("flux")
    missing = look(model)[-1].error
    assert isinstance(missing, MissingFile)
    assert missing.hint == "hf download org/name"
    snapshot = tmp_path / "hub" / "models--org--name" / "snapshots" / "abc" / "vae"
    snapshot.mkdir(parents=True)
    (snapshot / "x.safetensors").write_text("1234")
    refs = tmp_path / "hub" / "models--org--name" / "refs"
    refs.mkdir()
    (refs / "main").write_text("abc")
    assert [check.ok for check in look(model)] == [True, True]


def test_a_lora_that_is_not_there_is_told_before_anything_is_loaded(tmp_path: Path) -> None:
    """With the places where it would be found."""
    home = kit.model(tmp_path, "flux", loras={"fox.safetensors": 0.8})
    model = catalog(home, "flux").get("flux")
    error = look(model)[-1].error
    assert isinstance(error, MissingFile)
    assert str(home / "flux" / "fox.safetensors") in error.hint
    (home / "flux" / "fox.safetensors").write_text("x")
    assert look(model)[-1].ok


def test_without_the_packages_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On another machine than a Mac that is another backend."""
    monkeypatch.setattr("imagen.backends.mlx.finding.find_spec", lambda name: None)
    model = catalog(kit.model(tmp_path, "flux"), "flux").get("flux")
    for system, machine, hint in [("darwin", "arm64", "[mlx]"), ("linux", "x86_64", "diffusers")]:
        monkeypatch.setattr("imagen.backends.mlx.finding.sys.platform", system)
        monkeypatch.setattr("imagen.backends.mlx.finding.platform.machine", lambda machine=machine: machine)
        (check,) = look(model)
        assert isinstance(check.error, MissingExtra)
        assert hint in check.error.hint


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"draws": "mflux.nowhere:Flux1"}, "names no class"),
        ({"draws": "mflux.models.flux.variants.txt2img.flux:Flux9"}, "names no class"),
        ({"draws": "Flux1"}, "names no class"),
        ({"variant": "flux-7"}, "flux-7"),
    ],
)
def test_a_key_that_names_nothing_is_a_mistake_in_the_models_file(
    tmp_path: Path, keys: dict[str, Any], words: str
) -> None:
    """It is named, with what was written."""
    with pytest.raises(BadConfig, match=words):
        said(kit.model(tmp_path, "flux", **keys), "flux")


def test_weights_that_are_none_are_an_error_of_loading(tmp_path: Path) -> None:
    """The real class, given a file that holds nothing, says so without asking any network."""
    home = kit.model(tmp_path, "z-image", draws="")
    with pytest.raises((BadConfig, MissingFile)) as caught:
        said(home, "z-image")
    assert caught.value.hint


def _raised(work: Callable[[], Any]) -> Exception:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - whatever it is, it is to be translated
        work()
    return caught.value


@pytest.mark.parametrize(
    ("exc", "doing", "kind"),
    [
        (MemoryError(), "draw", OutOfMemory),
        (RuntimeError("[metal::malloc] Attempting to allocate 9 bytes"), "load", OutOfMemory),
        (RuntimeError("[METAL] Command buffer execution failed: Insufficient Memory"), "draw", OutOfMemory),
        (ModuleNotFoundError("No module named 'sentencepiece'"), "load", MissingExtra),
        (FileNotFoundError("Model not found: 'x'"), "load", MissingFile),
        (ValueError("[load_safetensors] Invalid json header length"), "load", BadConfig),
        (KeyError("x"), "load", BadConfig),
        (RuntimeError("anything"), "draw", Crashed),
        (Crashed("ours", hint="stay"), "load", Crashed),
    ],
)
def test_what_the_libraries_raise_means_something(exc: Exception, doing: str, kind: type[ImagenError]) -> None:
    """One translation for all of it, each with a hint."""
    error = translated(exc, doing, name="m")
    assert type(error) is kind
    assert error.hint


def test_every_error_of_mflux_is_one_of_ours() -> None:
    """Those it declares, and what MLX itself raises for a shape that does not fit."""
    import inspect

    import mflux.utils.exceptions as theirs

    kinds = [kind for _, kind in inspect.getmembers(theirs, inspect.isclass) if issubclass(kind, Exception)]
    assert kinds
    plain = [kind("words") for kind in kinds if kind is not theirs.CommandExecutionError]
    plain.append(_raised(lambda: mx.eval(mx.zeros((2, 3)) @ mx.zeros((2, 3)))))
    for exc in plain:
        for doing in ("load", "draw"):
            assert isinstance(translated(exc, doing, name="m"), ImagenError)


def test_the_child_alone_is_told_that_there_is_no_network() -> None:
    """What the library is told through the environment stays out of this process."""
    before = dict(os.environ)
    made: Any = mlx.registration.create({"environment": {"OMP_NUM_THREADS": "2"}})
    assert made._environment == OFFLINE | {"TQDM_DISABLE": "1", "OMP_NUM_THREADS": "2"}
    assert dict(os.environ) == before
    with pytest.raises(BadConfig, match="environment"):
        mlx.registration.create({"environment": "no"})


def test_the_parent_imports_neither_mlx_nor_mflux() -> None:
    """Listing, checking and asking for a backend leave both alone."""
    code = (
        "import sys; from imagen.backends import mlx; import imagen.backends.mlx.finding; mlx.registration.create({});"
        "sys.exit(any(name.split('.')[0] in ('mlx', 'mflux', 'torch') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], env=os.environ, check=False).returncode == 0


def test_what_the_page_tells_people_to_write_is_read(tmp_path: Path) -> None:
    """Each model of docs/howto/use-mlx.md, with a family and a variant that there are."""
    page = (Path(__file__).parents[2] / "docs/howto/use-mlx.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    (tmp_path / "config.yaml").write_text(text, encoding="utf-8")
    found = catalog_of(load_settings(home=tmp_path, environ={}))
    assert [problem.message for problem in found.problems] == []
    named = [model for model in found.models.values() if model.backend == "mlx"]
    assert {model.keys["family"] for model in named} == set(kit.FAMILIES) == set(FAMILIES)
    assert {model.device for model in named} == {f"mps@{platform.node()}"}
    for model in named:
        assert (
            ModelConfig.from_name(model_name=FAMILIES[model.keys["family"]].variant).model_name == model.keys["weights"]
        )
