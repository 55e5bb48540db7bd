"""Where a model's files are looked for, and what is said of those that are missing; all of it without torch."""

import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import imagen
from imagen.backends.diffusers import DiffusersKeys, create, device, finding
from imagen.core.errors import BadConfig, MissingFile, Unsupported
from imagen.core.model import Model

PARTS = {"transformer": ["diffusers", "Some"], "vae": ["diffusers", "Other"], "scheduler": ["diffusers", "Third"]}


def model(folder: Path, **keys: Any) -> Model:
    told = {name: getattr(DiffusersKeys(weights="here"), name) for name in DiffusersKeys.__dataclass_fields__}
    origin = str(folder / "mine" / "model.yaml")
    return Model(name="mine", backend="diffusers", device="cpu@here", keys={**told, **keys}, origin=origin)


def weights(file: Path, *shapes: list[int]) -> Path:
    """A file of zeros."""
    file.parent.mkdir(parents=True, exist_ok=True)
    head: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    for number, shape in enumerate(shapes):
        head[f"layer.{number}"] = {"dtype": "F16", "shape": shape, "data_offsets": [0, 0]}
    text = json.dumps(head).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text)
    return file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of models with one pipeline in it."""
    here = tmp_path / "here"
    here.mkdir()
    (here / "model_index.json").write_text(json.dumps({"_class_name": "X", **PARTS, "safety_checker": [None, None]}))
    (here / "scheduler").mkdir()
    for name in ("transformer", "vae"):
        (here / name).mkdir()
        (here / name / "config.json").write_text("{}")
    shards = {"a": "model-1.safetensors", "b": "model-2.safetensors"}
    (here / "transformer" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    weights(here / "transformer" / "model-1.safetensors", [10, 20], [5])
    weights(here / "transformer" / "model-2.safetensors", [100])
    weights(here / "vae" / "model.safetensors", [2, 3, 4])
    weights(here / "vae" / "model.fp16.safetensors", [7])
    return tmp_path


def test_the_parts_are_those_with_weights(folder: Path) -> None:
    """As many numbers as the heads of the files say; a scheduler has none."""
    found = {part.name: part for part in finding.parts(model(folder))}
    assert {name: part.numbers for name, part in found.items()} == {"transformer": 305, "vae": 24}
    assert [file.name for file in found["transformer"].files] == ["model-1.safetensors", "model-2.safetensors"]


def test_a_variant_is_read_where_there_is_one(folder: Path) -> None:
    """And the plain files of a part that has none, as diffusers does it."""
    found = {part.name: part.numbers for part in finding.parts(model(folder, variant="fp16"))}
    assert found["vae"] == 7
    for file in (folder / "here" / "transformer").glob("model*"):
        file.unlink()
    weights(folder / "here" / "transformer" / "model.safetensors", [9])
    assert {part.name: part.numbers for part in finding.parts(model(folder, variant="fp16"))}["transformer"] == 9


@pytest.mark.parametrize("gone", ["transformer/model-2.safetensors", "vae/model.safetensors", "vae"])
def test_what_is_missing_is_named(gone: str, folder: Path) -> None:
    """One of several files of a part, its only one, or all of it."""
    place = folder / "here" / gone
    place.rename(folder / "elsewhere")
    with pytest.raises(MissingFile, match="vae" if "vae" in gone else "model-2"):
        finding.parts(model(folder))


def test_a_part_of_ones_own_takes_the_place_of_the_pipelines(folder: Path) -> None:
    """Then the pipeline's own may be missing."""
    for file in (folder / "here" / "transformer").glob("*"):
        file.unlink()
    weights(folder / "files" / "mine.safetensors", [11])
    found = finding.parts(model(folder, parts={"transformer": "files/mine.safetensors"}))
    assert {part.name: part.numbers for part in found} == {"transformer": 11, "vae": 24}


def test_a_part_that_is_left_out_may_be_missing(folder: Path) -> None:
    """What the pipeline's file names and nobody has is asked for, unless the model does without it."""
    index = folder / "here" / "model_index.json"
    told = json.loads(index.read_text())
    index.write_text(json.dumps(told | {"text_encoder_3": ["transformers", "T5EncoderModel"]}))
    with pytest.raises(MissingFile, match="text_encoder_3"):
        finding.parts(model(folder))
    found = finding.parts(model(folder, leave_out=["text_encoder_3"]))
    assert [part.name for part in found] == ["transformer", "vae"]


def test_the_command_that_fetches_leaves_out_what_is_not_read(folder: Path) -> None:
    """Twenty gigabytes that would be replaced by a file."""
    keys = {"weights": "lab/big", "parts": {"transformer": "x.gguf"}, "leave_out": ["text_encoder_3"], "revision": "v2"}
    said = finding.get(model(folder, **keys))
    assert said.startswith("hf download lab/big --revision v2 --include 'model_index.json'")
    assert "--exclude 'transformer/*'" in said
    assert "--exclude 'text_encoder_3/*'" in said


def test_a_name_that_is_no_repository_has_no_command(folder: Path) -> None:
    """But places where the folder would be found."""
    with pytest.raises(MissingFile) as caught:
        finding.base(model(folder, weights="nowhere"))
    assert str(folder / "nowhere") in caught.value.hint


def test_a_file_in_the_place_of_a_folder_is_told_where_it_belongs(folder: Path) -> None:
    """The single files that other programs want."""
    weights(folder / "all.safetensors", [1])
    with pytest.raises(BadConfig, match="is a file") as caught:
        finding.base(model(folder, weights="all.safetensors"))
    assert "parts" in caught.value.hint


@pytest.mark.parametrize("content", [b"", b"<html>", struct.pack("<Q", 2**40) + b"{}", struct.pack("<Q", 4) + b"{,,}"])
def test_a_damaged_file_is_named(content: bytes, folder: Path) -> None:
    """Whatever was saved in its place."""
    (folder / "here" / "vae" / "model.safetensors").write_bytes(content)
    with pytest.raises(BadConfig, match=r"vae/model\.safetensors is damaged"):
        finding.parts(model(folder))


def test_loras_of_a_bundled_model_need_a_folder() -> None:
    """Beside it is a place that the next version replaces."""
    bundled = model(Path(imagen.__file__).parent / "models")
    with pytest.raises(Unsupported, match="no folder of LoRAs") as caught:
        finding.lora("mine", bundled, {})
    assert "loras_folder" in caught.value.hint


def test_what_draws_is_what_was_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of a card is part of its name, so that its models take turns."""
    assert device({"runs_on": "cuda", "host": "box"}) == "cuda:0@box"
    assert device({"runs_on": "cuda:1", "host": "box"}) == "cuda:1@box"
    assert device({"runs_on": "cpu", "host": "box"}) == "cpu@box"


def test_nothing_of_it_loads_torch(folder: Path) -> None:
    """Neither making the backend nor looking at a model."""
    code = (
        "import sys; from imagen.backends.diffusers import registration, finding; from imagen.core.model import Model;"
        "backend = registration.create({}); print(sorted({'torch', 'diffusers', 'numpy'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_the_child_is_told_that_there_is_no_network() -> None:
    """Whatever its settings say besides; what is no mapping is refused with its name."""
    made: Any = create({"environment": {"OMP_NUM_THREADS": "2"}})
    assert made._environment == {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "OMP_NUM_THREADS": "2"}
    with pytest.raises(BadConfig, match="environment"):
        create({"environment": "no"})


@pytest.mark.parametrize(
    ("name", "said"),
    [("_class_name", "os.system"), ("_class_name", ["pipeline", "Own"]), ("transformer", ["../../evil", "Own"])],
)
def test_code_that_comes_with_weights_is_not_run(tmp_path: Path, name: str, said: object) -> None:
    """A pipeline of classes that are in neither library is refused before anything of it is loaded."""
    (tmp_path / finding.INDEX).write_text(json.dumps({"_class_name": "FluxPipeline", name: said}))
    with pytest.raises(Unsupported, match="is not run"):
        finding.parts(model(tmp_path, weights=str(tmp_path)))


def test_a_file_that_was_broken_off_is_damaged(tmp_path: Path) -> None:
    """Half of a download has its head, and not what that promises."""
    from safetensors.numpy import save

    whole = save({"a": np.zeros((64, 64), np.float32)})
    for data, damaged in ((whole, False), (whole[: len(whole) // 2], True), (whole + b"more", True)):
        (tmp_path / "model.safetensors").write_bytes(data)
        if damaged:
            with pytest.raises(BadConfig, match="damaged"):
                finding._numbers(tmp_path / "model.safetensors")
        else:
            assert finding._numbers(tmp_path / "model.safetensors") == 64 * 64


@pytest.mark.parametrize("said", ["banana", "cuda:x", "CPU", "cuda:1:2"])
def test_a_device_is_one_of_those_there_are(said: str) -> None:
    """A typing mistake is none of PyTorch."""
    with pytest.raises(BadConfig, match="no device"):
        finding.accelerator({"runs_on": said})


@pytest.mark.parametrize("name", ["vae", "transformer", "scheduler"])
def test_what_nothing_is_drawn_without_cannot_be_left_out(name: str, folder: Path) -> None:
    """Found when the model is checked, and not when it is to draw."""
    (check,) = finding.look(model(folder, leave_out=("safety_checker", name)))
    assert isinstance(check.error, BadConfig)
    assert f"cannot draw without its {name}" in check.error.message
    assert check.error.param == "leave_out"
