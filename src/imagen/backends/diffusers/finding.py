"""Where a model's files are, without torch and without asking anybody: all that the parent process knows of it."""

import json
import os
import platform
import re
import struct
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from math import prod
from pathlib import Path
from typing import Any

import imagen
from imagen.backends.weights import REPOSITORY, cached, places
from imagen.core.errors import BadConfig, Check, ImagenError, MissingExtra, MissingFile, Unsupported
from imagen.core.model import Model

BUNDLED = Path(imagen.__file__).parent / "models"
INDEX = "model_index.json"
DEVICES = re.compile(r"cpu|mps|(cuda|xpu)(:\d+)?")
NEEDED = ("torch", "diffusers", "transformers", "accelerate")
EXTRA = "pip install 'imagen-platform[diffusers]'"
DOUBLES = ("text_encoders",)  # folders of well-known repositories that hold the same once more, for other programs
INDISPENSABLE = ("transformer", "unet", "vae", "scheduler", "text_encoder", "tokenizer")  # nothing is drawn without
LIBRARIES = ("diffusers", "transformers", None)  # None: a part that this pipeline goes without
WEIGHTS = (".safetensors", ".gguf")  # files that hold numbers and nothing that could be run


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A component of a pipeline: what of it lies on the disk."""

    name: str
    files: tuple[Path, ...]
    numbers: int  # how many its weights are

    @property
    def bytes(self) -> int:
        return sum(file.stat().st_size for file in self.files)

    @property
    def packed(self) -> bool:
        """Held in fewer bits than any dtype has."""
        return any(file.suffix == ".gguf" for file in self.files)


def look(model: Model) -> Sequence[Check]:
    """What would go wrong if this model were drawn now, as far as the files tell."""
    try:
        installed()
        found = parts(model)
        size = sum(part.bytes for part in found)
        where = accelerator({"runs_on": model.keys["runs_on"]})
        if where == "cpu" and model.keys["offload"] in ("model", "group"):
            raise one_memory(model.keys["offload"], where)
    except ImagenError as error:
        return [Check.failed("files" if error.param else "packages", error)]
    return [Check.passed("files", note=f"{size / 1e9:.1f} GB in {len(found)} parts, for {where}")]


def one_memory(offload: str, device: str) -> BadConfig:
    """Why parts cannot wait elsewhere."""
    return BadConfig(
        f"`offload: {offload}` moves parts between two memories, and with {device} there is one",
        hint="take `offload` out, or set `runs_on: cuda` where there is a card",
        param="offload",
    )


def installed() -> None:
    """Raise for the packages that are missing."""
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise MissingExtra(f"not installed: {', '.join(missing)}", hint=EXTRA)


def accelerator(settings: Mapping[str, Any]) -> str:
    """What draws here: as it was said, or what this machine has by the look of it."""
    said = str(settings.get("runs_on") or "")
    if said and not DEVICES.fullmatch(said):
        raise BadConfig(
            f"`runs_on: {said}` is no device", hint="it is cpu, cuda, cuda:1, mps, xpu or xpu:1", param="runs_on"
        )
    if said in ("cuda", "xpu"):
        return f"{said}:0"
    if said:
        return said
    if os.path.exists("/proc/driver/nvidia/version") or os.path.exists("/dev/kfd"):
        return "cuda:0"  # what torch calls AMD's too
    if sys.platform == "darwin" and platform.machine() == "arm64":
        return "mps"
    return "cpu"


def base(model: Model) -> Path:
    """The folder that `weights` names: a pipeline with its model_index.json."""
    said = str(model.keys["weights"])
    for place in (*places(said, model), *cached(said, str(model.keys["revision"]))):
        if (place / INDEX).is_file():
            return place
    if any(place.is_file() for place in places(said, model)):
        raise BadConfig(
            f"`weights: {said}` of {model.name} is a file",
            hint="name there the folder or ORG/NAME of its pipeline, and the file under `parts: {transformer: …}`",
            param="weights",
        )
    raise MissingFile(f"the weights of {model.name} are not here: {said}", hint=get(model), param="weights")


def get(model: Model) -> str:
    """How to get the files, as a command where there is one."""
    said = str(model.keys["weights"])
    if not REPOSITORY.fullmatch(said):
        return f"put a pipeline's folder, with its {INDEX}, to one of: {', '.join(map(str, places(said, model)))}"
    revision = f" --revision {model.keys['revision']}" if model.keys["revision"] else ""
    unread = (*DOUBLES, *model.keys["leave_out"], *model.keys["parts"])
    skipped = "".join(f" --exclude '{name}/*'" for name in unread)
    kinds = " ".join(f"--include '{kind}'" for kind in (INDEX, "*/*.json", "*/*.txt", "*/*.model", "*/*.safetensors"))
    return f"hf download {said}{revision} {kinds}{skipped}"


def parts(model: Model) -> list[Part]:
    """The components with weights; raises for the first that is not whole."""
    folder = base(model)
    told = _read(folder / INDEX, model)
    left_out, replaced = model.keys["leave_out"], model.keys["parts"]
    for name in left_out:
        if name in INDISPENSABLE:
            raise BadConfig(
                f"{model.name} cannot draw without its {name}",
                hint="take it out of `leave_out`, which is for what a pipeline can do without, such as text_encoder_3",
                param="leave_out",
            )
    for name in (*left_out, *replaced):
        if not isinstance(told.get(name), list):
            there = ", ".join(name for name, value in told.items() if isinstance(value, list))
            raise BadConfig(
                f"the pipeline of {model.name} has no part {name!r}",
                hint=f"it has: {there}",
                param="leave_out" if name in left_out else "parts",
            )
    found = []
    for name, kind in told.items():
        _known(name, kind, folder)
        if not isinstance(kind, list) or kind[0] is None or name in left_out:
            continue
        if name in replaced:
            files: Sequence[Path] = _own(part(replaced[name], model))
        else:
            files = list(_files(folder, name, model))
        if files:
            found.append(Part(name=name, files=tuple(files), numbers=sum(map(_numbers, files))))
    return found


def _known(name: str, kind: Any, folder: Path) -> None:
    """Raise for what is no class of the two libraries: a pipeline may bring code of its own, and that is not run."""
    own = name == "_class_name" and not (isinstance(kind, str) and kind.isidentifier())
    if own or (isinstance(kind, list) and kind[0] not in LIBRARIES):
        raise Unsupported(
            f"{INDEX} in {folder} names {kind!r} as {name}: code that comes with weights is not run",
            hint=f"take a pipeline whose parts are classes of {' or '.join(filter(None, LIBRARIES))}",
            param="weights",
        )


def part(said: str, model: Model) -> Path:
    """A file, or a folder, that a model names beside its pipeline; or ORG/NAME in the hub's cache."""
    for place in (*places(said, model), *cached(said)):
        if place.exists():
            if place.is_file() and place.suffix not in WEIGHTS:
                raise Unsupported(
                    f"{place.name} is not read: files of this kind can run programs",
                    hint=f"take one that ends in {' or '.join(WEIGHTS)}",
                    param="parts",
                )
            return place
    raise MissingFile(
        f"{said} of {model.name} is not there",
        hint=f"put it to one of: {', '.join(map(str, places(said, model)))}",
        param="parts",
    )


def lora(name: str, model: Model, settings: Mapping[str, Any]) -> Path:
    """The file of a LoRA that a request names; never one from outside the folder of LoRAs."""
    said = str(model.keys["loras_folder"] or settings.get("loras_folder") or "")
    if not said and BUNDLED in Path(model.origin).parents:
        raise Unsupported(
            "no folder of LoRAs is set",
            hint="write `backends: {diffusers: {loras_folder: /where/they/are}}` in config.yaml",
            param="options.lora",
        )
    folder = places(said or "loras", model)[-1]
    file = name if name.endswith(".safetensors") else f"{name}.safetensors"
    place = folder / file
    if not Path(file).is_absolute() and ".." not in Path(file).parts and place.is_file():
        return place
    there = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.safetensors"))
    raise Unsupported(
        f"there is no LoRA {name!r}",
        hint=f"in {folder.name} are: {', '.join(there[:20])}" if there else f"put .safetensors files into {folder}",
        param="options.lora",
    )


def _files(folder: Path, name: str, model: Model) -> Iterator[Path]:
    """The weights of a component; nothing for one that has none, such as a tokenizer."""
    inside = folder / name
    if not inside.is_dir():
        raise MissingFile(f"{model.name} has no folder {name} in {folder}", hint=get(model), param="weights")
    if not (inside / "config.json").is_file():
        return  # a scheduler, a tokenizer, a processor
    variant = str(model.keys["variant"])
    index = sorted(inside.glob(f"*.safetensors.index.{variant}.json" if variant else "*.safetensors.index.json"))
    if index:
        names = sorted(set(_read(index[0], model).get("weight_map", {}).values()))
    else:
        there = [file.name for file in sorted(inside.glob("*.safetensors"))]
        # diffusers takes the plain files of a part that has none of the variant.
        names = [name for name in there if _is_of(name, variant)] or [name for name in there if _is_of(name, "")]
    for file in names or ["*.safetensors"]:
        if not (inside / file).is_file():
            raise MissingFile(f"{model.name} lacks {name}/{file} in {folder}", hint=get(model), param="weights")
        yield inside / file


def _is_of(name: str, variant: str) -> bool:
    middle = name.removesuffix(".safetensors").partition(".")[2]
    return middle == variant or (bool(variant) and middle.startswith(f"{variant}-"))


def _own(place: Path) -> list[Path]:
    if place.is_file():
        return [place]
    files = sorted(place.glob("*.safetensors"))
    if not files:
        raise MissingFile(f"there is no .safetensors file in {place}", hint="correct `parts`", param="parts")
    return files


def _numbers(file: Path) -> int:
    """How many numbers a file holds, by its head; of a GGUF file its size says more."""
    if file.suffix == ".gguf":
        return 0
    return sum(prod(one["shape"]) for one in tensors(file).values())


def tensors(file: Path) -> dict[str, dict[str, Any]]:
    """What a .safetensors file holds, by its head alone: each tensor with its shape."""
    with file.open("rb") as stream:
        head = stream.read(8)
        if len(head) < 8 or (length := struct.unpack("<Q", head)[0]) > 2**28:
            raise _damaged(file)
        try:
            told: dict[str, dict[str, Any]] = json.loads(stream.read(length))
            told.pop("__metadata__", None)
            end = max((one["data_offsets"][1] for one in told.values()), default=0)
        except (ValueError, KeyError, TypeError, AttributeError) as exc:
            raise _damaged(file) from exc
    if 8 + length + end != file.stat().st_size:
        raise _damaged(file)  # for instance a download that was broken off
    return told


def _damaged(file: Path) -> BadConfig:
    return BadConfig(f"{file} is damaged, or no .safetensors file", hint="fetch it again", param="weights")


def _read(file: Path, model: Model) -> dict[str, Any]:
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise BadConfig(f"{file} cannot be read: {exc}", hint=get(model), param="weights") from exc
    if not isinstance(told, dict):
        raise BadConfig(f"{file} is no list of parts", hint=get(model), param="weights")
    return told
