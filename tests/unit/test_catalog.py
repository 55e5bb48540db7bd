"""What can be asked for: model files, how they go on from each other, and how a draft becomes a request."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from imagen.backends.registry import registrations
from imagen.config import load_settings
from imagen.core.errors import BadConfig, ImagenError, NotConfigured, RequestError, TooLarge, UnknownModel, Unsupported
from imagen.core.model import Defaults, Limits, Model, Option
from imagen.core.request import MAX_SEED, Draft
from imagen.engine.wiring import catalog_of, model_files
from imagen.models.catalog import LOOK_S, Catalog, CatalogWatch, load_catalog
from imagen.models.resolve import MAX_PROMPT, resolve

SEED = 7


def catalog(home: Path, config: str = "", environ: Mapping[str, str] | None = None, **models: str) -> Catalog:
    """The catalog of a home with this config.yaml and these models/NAME/model.yaml."""
    home.joinpath("config.yaml").write_text(config)
    for name, text in models.items():
        folder = home / "models" / name
        folder.mkdir(parents=True, exist_ok=True)
        folder.joinpath("model.yaml").write_text(text)
    return catalog_of(load_settings(home=home, environ=environ or {}))


def test_the_bundled_models_are_there_and_right(tmp_path: Path) -> None:
    """Without a single file of the user's there is something to ask for."""
    found = catalog(tmp_path)
    assert {"mock", "mock-broken", "mock-cool", "mock-warm"} <= set(found.models)
    assert not found.problems
    assert not found.notices


def test_a_model_may_be_a_folder_or_an_entry(tmp_path: Path) -> None:
    """Both ways give a model that knows where it came from."""
    found = catalog(tmp_path, "models:\n  two: {backend: mock, title: Two}\n", one="backend: mock\n")
    assert found.models["one"].title == "one"
    assert found.models["one"].origin == str(tmp_path / "models" / "one" / "model.yaml")
    assert found.models["two"].title == "Two"
    assert found.models["two"].origin == f"{tmp_path / 'config.yaml'}:2"


@pytest.mark.parametrize(
    ("text", "line", "word"),
    [
        ("backend: mock\nlicense: MIT\n", 2, "did you mean 'licence'"),
        ("backend: mock\ndefaults:\n  setps: 4\n", 3, "did you mean 'steps'"),
        ("backend: mock\ndefaults:\n  steps: many\n", 3, "many"),
        ("backend: mock\nlimits: {min: 16,\n  mx: 32}\n", 3, "did you mean 'max'"),
        ("backend: mock\noptions:\n  slow:\n    rnge: [0, 1]\n", 4, "did you mean 'range'"),
        ("backend: mock\noptions: slow\n", 2, "mapping"),
        ("backend: mock\nfiles: weights\n", 2, "list"),
        ("backend: mock\nfiles:\n- {path: a}\n- {pth: b}\n", 4, "did you mean 'path'"),
        ("backend: mock\nenabled: perhaps\n", 2, "perhaps"),
        ("backend: mock\npreview: {count: 0}\n", 2, "from 1 to 64"),
        ("backend: mokc\n", 1, "mokc"),
        ("backend: mock\npalette: 7\n", 2, "palette"),
        ("backend: [\n", 2, "not YAML"),
    ],
)
def test_a_wrong_model_file_is_named_with_its_line(tmp_path: Path, text: str, line: int, word: str) -> None:
    """The broken model is left out and says why when it is asked for; the others work."""
    found = catalog(tmp_path, mine=text)
    file = tmp_path / "models" / "mine" / "model.yaml"
    (problem,) = found.problems
    assert problem.message.startswith(f"{file}:{line}:")
    assert word in problem.message
    assert problem.hint
    assert "mine" not in found.models
    assert found.get("mock").name == "mock"
    with pytest.raises(type(problem)) as raised:
        found.get("mine")
    assert raised.value is problem


def test_no_backend_and_nothing_to_go_on_from_is_said(tmp_path: Path) -> None:
    """A model must say what draws it."""
    (problem,) = catalog(tmp_path, mine="title: Mine\n").problems
    assert isinstance(problem, BadConfig)
    assert "backend" in problem.message
    assert "mock" in problem.hint


def test_an_entry_goes_on_from_the_model_of_its_name(tmp_path: Path) -> None:
    """Only the keys that are given change, key by key inside defaults, limits and options."""
    plain = catalog(tmp_path).models["mock"]
    found = catalog(tmp_path, "models:\n  mock:\n    defaults: {steps: 4}\n    options: {slow: 0.25}\n")
    mine = found.models["mock"]
    assert mine.defaults == replace(plain.defaults, steps=4)
    assert mine.options["slow"] == replace(plain.options["slow"], default=0.25)
    assert {**mine.options, "slow": None} == {**plain.options, "slow": None}
    assert mine.limits == plain.limits


def test_an_entry_goes_on_from_the_model_its_workflow_names(tmp_path: Path) -> None:
    """`workflow: NAME` inherits all of NAME under another name."""
    found = catalog(tmp_path, "models:\n  mine: {workflow: mock-warm, title: Mine}\n")
    mine, warm = found.models["mine"], found.models["mock-warm"]
    assert (mine.backend, mine.options, mine.keys) == (warm.backend, warm.options, warm.keys)
    assert mine.title == "Mine"
    assert not found.notices


def test_the_later_wins_and_says_so(tmp_path: Path) -> None:
    """config.yaml over the user's folder over what is bundled."""
    found = catalog(
        tmp_path,
        "models:\n  mock: {title: Of config}\n",
        mock="backend: mock\ntitle: Of folder\nlicence: MIT\n",
    )
    assert found.models["mock"].title == "Of config"
    assert found.models["mock"].licence == "MIT"
    assert len(found.notices) == 2
    assert all("'mock'" in notice for notice in found.notices)
    assert found.notices[-1].startswith(f"{tmp_path / 'config.yaml'}:2")


def test_the_device_is_the_backends_unless_the_model_says(tmp_path: Path) -> None:
    """What draws one thing at a time has a name."""
    found = catalog(tmp_path, "models:\n  mine: {workflow: mock, device: gpu@attic, slots: 3}\n")
    assert (found.models["mine"].device, found.models["mine"].slots) == ("gpu@attic", 3)
    assert found.models["mock"].device.startswith("cpu@")


class TestDefaultModel:
    """Configured, else the first enabled one of config.yaml, else the one in the box, else the mock with a warning."""

    @pytest.mark.parametrize(
        ("config", "default"),
        [
            ("default_model: mock-cool\nmodels: {mine: {workflow: mock}}\n", "mock-cool"),
            (
                "models: {off: {workflow: mock, enabled: false}, mine: {workflow: mock}, other: {workflow: mock}}\n",
                "mine",
            ),
        ],
    )
    def test_what_is_configured_is_the_default(self, tmp_path: Path, config: str, default: str) -> None:
        """No warning where somebody chose."""
        found = catalog(tmp_path, config)
        assert (found.default, found.default_warning) == (default, None)
        assert found.get(None).name == default

    def test_a_broken_one_is_told_instead_of_drawing_with_another(self, tmp_path: Path) -> None:
        """Whoever wrote it meant it; a picture of some other model would hide the mistake."""
        found = catalog(tmp_path, "models: {mine: {workflow: mock, stops: 4}, other: {workflow: mock}}\n")
        with pytest.raises(BadConfig, match="stops"):
            found.get(None)

    def test_a_workflow_that_there_is_not_is_named_with_its_line(self, tmp_path: Path) -> None:
        """And with the nearest one there is."""
        with pytest.raises(
            BadConfig, match=r"config.yaml:2: there is no workflow 'mock-worm'; did you mean 'mock-warm'"
        ) as no:
            catalog(tmp_path, "models:\n  mine: {workflow: mock-worm}\n").get("mine")
        assert "mock-cool" in no.value.hint

    def test_nothing_configured_gives_the_mock_and_a_warning(self, tmp_path: Path) -> None:
        """The warning reaches the job of whoever did not choose, and only that."""
        (tmp_path / "mock").mkdir()
        (tmp_path / "mock" / "model.yaml").write_text("backend: mock\n")
        found = load_catalog(
            folders=[tmp_path],
            configured={},
            default_model=None,
            backends=registrations(),
            backend_settings={},
            host="here",
        )
        assert [w.code for w in found.resolve(Draft(prompt="x"), lambda: SEED).warnings] == ["default_model"]
        assert not found.resolve(Draft(prompt="x", model="mock"), lambda: SEED).warnings

    def test_a_default_that_does_not_exist_is_a_problem(self, tmp_path: Path) -> None:
        """It is named with a suggestion, and other models can still be asked for."""
        found = catalog(tmp_path, environ={"IMAGEN_DEFAULT_MODEL": "mock-wram"})
        (problem,) = found.problems
        assert isinstance(problem, NotConfigured)
        assert "did you mean 'mock-warm'" in problem.message
        assert found.get("mock").name == "mock"
        with pytest.raises(ImagenError):
            found.get(None)


def test_an_unknown_model_gets_a_suggestion(tmp_path: Path) -> None:
    """And the names of all that can be asked for."""
    with pytest.raises(UnknownModel, match="did you mean 'mock-warm'") as unknown:
        catalog(tmp_path).get("mock-wram")
    assert "mock-cool" in unknown.value.hint


def test_a_model_that_is_switched_off_says_where(tmp_path: Path) -> None:
    """The hint names the file to change."""
    with pytest.raises(RequestError, match="switched off") as off:
        catalog(tmp_path, "models:\n  mock: {enabled: false}\n").get("mock")
    assert str(tmp_path / "config.yaml") in off.value.hint


class TestWatch:
    """Files change while a process runs."""

    @pytest.fixture
    def watched(self, tmp_path: Path) -> Callable[..., Catalog]:
        """Writes files anew, lets the clock pass, and gives the catalog as it is then."""
        now = [0.0]
        settings = load_settings(home=tmp_path, environ={})
        watch: list[CatalogWatch] = []

        def load() -> Catalog:
            return catalog_of(load_settings(home=tmp_path, environ={}))

        def after(config: str = "", **models: str) -> Catalog:
            catalog(tmp_path, config, {}, **models)
            if not watch:
                watch.append(CatalogWatch(load, lambda: model_files(settings), lambda: now[0]))
            now[0] += LOOK_S
            return watch[0].current()

        return after

    def test_a_change_is_picked_up(self, watched: Callable[..., Catalog]) -> None:
        """An entry, a new folder and a changed file, without a restart."""
        assert "mine" not in watched().models
        assert watched("models: {mine: {workflow: mock}}\n").models["mine"].title == "Mock"
        assert watched(hers="backend: mock\ntitle: First\n").models["hers"].title == "First"
        assert watched(hers="backend: mock\ntitle: Another\n").models["hers"].title == "Another"

    def test_what_is_taken_out_is_gone(self, watched: Callable[..., Catalog]) -> None:
        """Removed is not broken."""
        assert "mine" in watched("models: {mine: {workflow: mock}}\n").models
        assert "mine" not in watched("models: {}\n").models

    def test_a_broken_file_keeps_its_last_good_version(self, watched: Callable[..., Catalog]) -> None:
        """And is named; once it is repaired the new version counts."""
        watched(mine="backend: mock\ntitle: Good\n")
        broken = watched(mine="backend: mock\ntitel: Better\n")
        assert broken.models["mine"].title == "Good"
        assert "titel" in broken.problems[0].message
        repaired = watched(mine="backend: mock\ntitle: Better\n")
        assert repaired.models["mine"].title == "Better"
        assert not repaired.problems

    def test_a_broken_replacement_of_a_bundled_model_keeps_the_replacement(
        self, watched: Callable[..., Catalog]
    ) -> None:
        """It does not fall back to what somebody had replaced."""
        watched(mock="backend: mock\ntitle: Mine\n")
        assert watched(mock="backend: mock\ntitle: [\n").models["mock"].title == "Mine"

    @pytest.mark.parametrize("broken", ["models: [\n", "modles: {}\n"])
    def test_a_broken_config_keeps_its_models_and_its_default(
        self, watched: Callable[..., Catalog], broken: str
    ) -> None:
        """All that the file said last while it could be read."""
        watched("default_model: mock-warm\nmodels:\n  mine: {workflow: mock}\n  mock: {title: Mine}\n")
        kept = watched(broken)
        assert kept.default == "mock-warm"
        assert kept.default_warning is None
        assert kept.models["mine"].title == "Mock"
        assert kept.models["mock"].title == "Mine"
        assert kept.problems
        assert watched("default_model: mock-cool\n").default == "mock-cool"

    def test_files_are_not_looked_at_more_often_than_needed(self, tmp_path: Path) -> None:
        """However often somebody asks."""
        looks = []
        found = catalog(tmp_path)

        def files() -> list[Path]:
            looks.append(1)
            return []

        watch = CatalogWatch(lambda: found, files, lambda: 0.0)
        assert all(watch.current() is found for _ in range(100))
        assert len(looks) == 1


MODEL = Model(
    name="m",
    backend="mock",
    device="cpu@here",
    defaults=Defaults(width=64, height=64, steps=4, guidance=2.0, negative="dull"),
    limits=Limits(min=32, max=256, multiple_of=16, steps=(1, 50), n=4),
    options={
        "slow": Option(type="float", range=(0, 10), default=1.0),
        "times": Option(type="int", range=(1, 3), default=1),
        "style": Option(type="str", choices=("oil", "ink"), default="oil"),
        "fast": Option(type="bool", default=False),
        "word": Option(type="str", default=""),
    },
)


def resolved(model: Model = MODEL, /, **fields: Any) -> Any:
    return resolve(Draft(**{"prompt": "a fox", **fields}), model, lambda: SEED)


def test_a_bare_prompt_is_completed() -> None:
    """Everything a backend needs, from the model and one random number."""
    request = resolved().request
    assert (request.width, request.height, request.steps, request.guidance) == (64, 64, 4, 2.0)
    assert (request.negative, request.n, request.seed) == ("dull", 1, SEED)
    assert request.options == {"slow": 1.0, "times": 1, "style": "oil", "fast": False, "word": ""}


@pytest.mark.parametrize(
    ("fields", "kind", "param"),
    [
        ({"prompt": ""}, RequestError, "prompt"),
        ({"prompt": " \n\t"}, RequestError, "prompt"),
        ({"prompt": "x" * (MAX_PROMPT + 1)}, TooLarge, "prompt"),
        ({"prompt": "a\0b"}, RequestError, "prompt"),
        ({"prompt": "a\ud800b"}, RequestError, "prompt"),
        ({"prompt": b"bytes"}, RequestError, "prompt"),
        ({"negative": "a\0b"}, RequestError, "negative"),
        ({"negative": "x" * (MAX_PROMPT + 1)}, TooLarge, "negative"),
        ({"width": 16}, Unsupported, "size"),
        ({"height": 100_000}, Unsupported, "size"),
        ({"width": 0}, Unsupported, "size"),
        ({"width": -64}, Unsupported, "size"),
        ({"width": 64.5}, RequestError, "width"),
        ({"width": True}, RequestError, "width"),
        ({"steps": 0}, RequestError, "steps"),
        ({"steps": 51}, RequestError, "steps"),
        ({"steps": -1}, RequestError, "steps"),
        ({"steps": "4"}, RequestError, "steps"),
        ({"n": 0}, RequestError, "n"),
        ({"n": 5}, TooLarge, "n"),
        ({"seed": -1}, RequestError, "seed"),
        ({"seed": MAX_SEED + 1}, RequestError, "seed"),
        ({"seed": MAX_SEED, "n": 2}, RequestError, "seed"),
        ({"seed": 1.0}, RequestError, "seed"),
        ({"seed": True}, RequestError, "seed"),
        ({"guidance": math.nan}, RequestError, "guidance"),
        ({"guidance": math.inf}, RequestError, "guidance"),
        ({"guidance": -1}, RequestError, "guidance"),
        ({"guidance": "high"}, RequestError, "guidance"),
        ({"options": {"slwo": 1}}, RequestError, "options.slwo"),
        ({"options": {"slow": 11}}, RequestError, "options.slow"),
        ({"options": {"slow": "much"}}, RequestError, "options.slow"),
        ({"options": {"slow": math.nan}}, RequestError, "options.slow"),
        ({"options": {"slow": "nan"}}, RequestError, "options.slow"),
        ({"options": {"slow": True}}, RequestError, "options.slow"),
        ({"options": {"slow": [1]}}, RequestError, "options.slow"),
        ({"options": {"times": 1.5}}, RequestError, "options.times"),
        ({"options": {"times": "1.5"}}, RequestError, "options.times"),
        ({"options": {"times": 0}}, RequestError, "options.times"),
        ({"options": {"style": "chalk"}}, RequestError, "options.style"),
        ({"options": {"fast": "maybe"}}, RequestError, "options.fast"),
        ({"options": {"word": 5}}, RequestError, "options.word"),
        ({"options": {"steps": 5}}, RequestError, "options.steps"),
        ({"options": [1]}, RequestError, "options"),
        ({"priority": 1000}, RequestError, "priority"),
    ],
    ids=lambda value: repr(value)[:40] if isinstance(value, dict) else "",
)
def test_what_cannot_be_is_refused(fields: dict[str, Any], kind: type[ImagenError], param: str) -> None:
    """Before anything is queued, with what to do and the field that is at fault."""
    with pytest.raises(kind) as refused:
        resolved(**fields)
    assert refused.value.param == param
    assert refused.value.hint
    assert refused.value.exit_code == 2


@pytest.mark.parametrize(
    "prompt", ["${seed} $(rm -rf /) {{x}} %s", "a fox\nand a hen", "狐 🦊 لثعلب", "e\u0301", "x" * MAX_PROMPT]
)
def test_a_prompt_is_text_and_nothing_else(prompt: str) -> None:
    """Whatever looks like a template, a command or a line break arrives as it was typed."""
    assert resolved(prompt=prompt).request.prompt == prompt


@pytest.mark.parametrize(
    ("name", "given", "value"),
    [
        ("slow", "2.5", 2.5),
        ("slow", 2, 2.0),
        ("times", "3", 3),
        ("style", "ink", "ink"),
        ("fast", "true", True),
        ("fast", "no", False),
        ("fast", True, True),
        ("word", "7", "7"),
        ("slow", None, 1.0),
    ],
)
def test_an_option_may_come_as_text(name: str, given: Any, value: Any) -> None:
    """A command line knows only words; they become what the option wants."""
    told = resolved(options={name: given}).request.options[name]
    assert told == value
    assert type(told) is type(value)


def test_an_unknown_option_gets_a_suggestion() -> None:
    """And the names of those there are."""
    with pytest.raises(RequestError, match="did you mean 'slow'") as refused:
        resolved(options={"slwo": 1})
    assert "style" in refused.value.hint


def test_a_size_is_brought_to_the_models_grid_and_said() -> None:
    """Sides are multiples; the nearest is taken with a warning."""
    found = resolved(width=100, height=64)
    assert (found.request.width, found.request.height) == (96, 64)
    assert [warned.code for warned in found.warnings] == ["size_adjusted"]
    assert "96x64" in found.warnings[0].message


def test_an_impossible_size_names_the_nearest() -> None:
    """Of a range, or of the only sizes there are."""
    with pytest.raises(Unsupported) as refused:
        resolved(width=1000, height=64)
    assert "256x64" in refused.value.hint
    fixed = replace(MODEL, limits=replace(MODEL.limits, sizes=((64, 64), (128, 64))))
    with pytest.raises(Unsupported) as refused:
        resolved(fixed, width=120, height=64)
    assert "128x64" in refused.value.hint
    assert resolved(fixed, width=128, height=64).request.width == 128


def test_the_last_picture_of_a_batch_still_has_a_seed() -> None:
    """Picture k uses seed + k, and the largest seed is the largest a database stores."""
    assert resolved(seed=MAX_SEED - 3, n=4).request.part(3, 1).seed == MAX_SEED
    assert resolved(seed=0).request.seed == 0


def test_what_a_model_ignores_is_said_once_it_is_asked() -> None:
    """A warning, not an error: the picture is drawn."""
    deaf = replace(MODEL, ignores=("negative", "guidance"))
    assert not resolved(deaf).warnings
    found = resolved(deaf, negative="fog", guidance=9)
    assert [warned.code for warned in found.warnings] == ["ignored", "ignored"]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (
            "backends:\n  comfyui: {ulr: 'http://x'}\n",
            "config.yaml:2: 'ulr' is not a key that belongs here; did you mean",
        ),
        (
            "backends:\n  confyui: {}\n",
            "config.yaml:2: 'confyui' is not a key that belongs here; did you mean 'comfyui'",
        ),
    ],
)
def test_a_setting_of_a_backend_that_nobody_reads_is_an_error(tmp_path: Path, config: str, words: str) -> None:
    """A typing mistake would otherwise be a silent default."""
    (problem,) = catalog(tmp_path, config).problems
    assert words in problem.message


def test_the_models_own_default_is_no_wish(tmp_path: Path) -> None:
    """A request that is drawn again carries it, and nobody asked for anything that is ignored."""
    text = "backend: mock\nignores: [guidance]\ndefaults: {guidance: 1.0}\n"
    model = catalog(tmp_path, one=text).models["one"]
    assert not resolve(Draft(prompt="x", guidance=1.0), model, lambda: SEED).warnings
    assert resolve(Draft(prompt="x", guidance=2.0), model, lambda: SEED).warnings
