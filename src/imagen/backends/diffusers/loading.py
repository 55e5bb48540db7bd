"""From files to a pipeline that can draw: found, loaded, and fitted into the memory that is there."""

import gc
import json
import os
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from threading import Lock
from typing import Any

from imagen.backends.diffusers import finding, presets
from imagen.backends.diffusers.errors import MAX_WORDS, translated
from imagen.backends.diffusers.finding import Part
from imagen.backends.diffusers.moving import pinned_parts
from imagen.backends.diffusers.presets import DENOISERS, Machine, Preset
from imagen.backends.weights import described
from imagen.core.errors import BadConfig, MissingExtra, NotConfigured, OutOfMemory, Unsupported
from imagen.core.model import Model, ModelFile

PROMPTS = 4  # encoded ones that are kept: a comparison of seeds, and of pictures with and without a word


@dataclass(slots=True, kw_only=True)
class Loaded:
    """A pipeline in memory."""

    pipe: Any
    preset: Preset
    device: str
    parts: list[Part]
    files: list[ModelFile]
    prompts: "OrderedDict[str, Any]" = field(default_factory=OrderedDict)
    lora: tuple[Path, int, float] | None = None  # file, when it was changed, how much of it
    lora_unused: str = ""  # how much of it this pipeline has no place for, in words
    decoder: Lock = field(default_factory=Lock)  # held by whoever decodes beside another call, or beside such a one
    stream: Any = None  # on a card: where that is done
    crowded: bool = False  # there was no memory for two at once; it is not tried again
    free_mib: Callable[[str], int] = field(default_factory=lambda: free_mib)  # of a device, now

    @property
    def denoiser(self) -> Any:
        """What guesses: the part that takes nearly all of the time."""
        return denoiser(self.pipe)

    @property
    def words(self) -> str:
        """How it draws, for the record."""
        return f"{type(self.pipe).__name__}, {self.preset}, on {self.device}"


def key(model: Model, settings: Mapping[str, Any]) -> str:
    """What tells loaded pipelines apart: what was asked for, and the files as they lie there now."""
    called_with = ("arguments", "batch", "loras_folder", "overlap")
    keys = {name: value for name, value in model.keys.items() if name not in called_with}
    files = [finding.base(model) / finding.INDEX, *(file for part in finding.parts(model) for file in part.files)]
    states = [(str(file), file.stat().st_mtime_ns, file.stat().st_size) for file in files]
    return json.dumps([keys, finding.accelerator({**settings, **_said(keys)}), states], sort_keys=True, default=str)


def load(model: Model, settings: Mapping[str, Any]) -> Loaded:
    """Load the pipeline that a model's keys name."""
    _quiet()
    folder = finding.base(model)
    parts = finding.parts(model)
    machine = machine_of(finding.accelerator({**settings, **_said(model.keys)}))
    preset = presets.chosen(model.keys, parts, machine)
    pipe = _read(model, folder, preset)
    loaded = Loaded(
        pipe=pipe,
        preset=preset,
        device=machine.device,
        parts=parts,
        files=described([file for part in parts for file in part.files], folder),
    )
    _remember_prompts(loaded)
    _hasten(loaded, model)
    _place(loaded)
    if model.keys["compile"]:
        # Last: what is compiled is the module with all its hooks.
        loaded.denoiser.compile_repeated_blocks()
    return loaded


def unload() -> None:
    """Give back what nobody refers to any more."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def denoiser(pipe: Any) -> Any:
    """The transformer, or the U-Net, of a pipeline."""
    return next(part for name in DENOISERS if (part := getattr(pipe, name, None)) is not None)


def put_lora(loaded: Loaded, path: Path | None, scale: float) -> None:
    """Draw with this LoRA, or with none; what was encoded with another one is forgotten."""
    wanted = None if path is None or scale == 0 else (path, path.stat().st_mtime_ns, scale)
    if wanted == loaded.lora:
        return
    pipe = loaded.pipe
    if not hasattr(pipe, "load_lora_weights"):
        raise Unsupported(
            f"{type(pipe).__name__} cannot take a LoRA", hint="leave the option `lora` out", param="options.lora"
        )
    loaded.prompts.clear()
    loaded.lora_unused = ""
    if loaded.lora is not None:
        loaded.lora = None
        pipe.unload_lora_weights()
    if path is not None and wanted is not None:
        try:
            pipe.load_lora_weights(
                str(path.parent),
                weight_name=path.name,
                adapter_name="lora",
                use_safetensors=True,
                local_files_only=True,
            )
            pipe.set_adapters("lora", scale)
        except Exception as exc:
            pipe.unload_lora_weights()  # half of one would be in the next picture
            error = translated(exc, "load", name=path.name)
            if isinstance(error, OutOfMemory | MissingExtra):
                raise error from exc
            raise Unsupported(
                f"the LoRA {path.name} is none for {type(pipe).__name__}: {' '.join(str(exc).split())[:300]}",
                hint="take one that was made for this model",
                param="options.lora",
            ) from exc
        loaded.lora = wanted
        loaded.lora_unused = _unused(pipe, path)


def _unused(pipe: Any, path: Path) -> str:
    """diffusers takes of a LoRA what it finds a place for, and only its log would say so.

    Told of files in its own spelling, `transformer.PLACE.lora_A.weight`; others it renames as it reads them.
    """
    names = [name.removesuffix(".lora_A.weight") for name in finding.tensors(path) if name.endswith(".lora_A.weight")]
    lost = 0
    for prefix, part in pipe.components.items():
        if hasattr(part, "named_modules"):
            places = {name for name, _ in part.named_modules()}
            lost += sum(
                name.startswith(f"{prefix}.") and name.removeprefix(f"{prefix}.") not in places for name in names
            )
    if not lost:
        return ""
    return (
        f"the LoRA {path.name} fits {type(pipe).__name__} only in part: {lost} of its {len(names)} places are not there"
    )


def machine_of(device: str) -> Machine:
    """What there is to draw with, now; raises where PyTorch cannot use it."""
    import torch

    kind, _, number = device.partition(":")
    if kind == "cpu":
        return Machine(device="cpu", memory_mib=_memory_mib())
    if kind == "mps":
        if not torch.backends.mps.is_available():
            raise _unusable(device)
        return Machine(device=device, memory_mib=torch.mps.recommended_max_memory() // 2**20)
    card = getattr(torch, kind, None)
    if card is None or not hasattr(card, "is_available") or not card.is_available():
        raise _unusable(device)
    if int(number or 0) >= card.device_count():
        raise NotConfigured(
            f"there is no {device} here: PyTorch sees {card.device_count()} of them, from {kind}:0",
            hint="correct `runs_on`",
            param="runs_on",
        )
    free, _ = card.mem_get_info(int(number or 0))
    bfloat16 = bool(card.is_bf16_supported())
    return Machine(device=device, memory_mib=free // 2**20, bfloat16=bfloat16, host_mib=_memory_mib())


def free_mib(device: str) -> int:
    """What can still be computed in, with what PyTorch keeps for that."""
    free = machine_of(device).memory_mib
    if device.startswith("cuda"):
        import torch

        free += (torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)) // 2**20
    return free


def _said(keys: Mapping[str, Any]) -> dict[str, Any]:
    return {"runs_on": keys["runs_on"]} if keys["runs_on"] else {}


def _read(model: Model, folder: Path, preset: Preset) -> Any:
    import diffusers
    import torch

    dtype = getattr(torch, preset.dtype)
    keys = model.keys
    kind: Any = getattr(diffusers, keys["pipeline"] or "DiffusionPipeline", None)
    if not hasattr(kind, "from_pretrained"):
        raise BadConfig(
            f"diffusers {diffusers.__version__} has no pipeline {keys['pipeline']}",
            hint="correct `pipeline`, or leave it out: the model_index.json names one",
            param="pipeline",
        )
    given: dict[str, Any] = dict.fromkeys(keys["leave_out"])
    given |= {name: _part(name, said, model, folder, dtype) for name, said in keys["parts"].items()}
    pipe = kind.from_pretrained(
        folder,
        dtype=dtype,
        variant=keys["variant"] or None,
        use_safetensors=True,
        local_files_only=True,
        **given,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _part(name: str, said: str, model: Model, folder: Path, dtype: Any) -> Any:
    """One component from a file or folder of its own; how it is built says the pipeline's own folder."""
    import diffusers
    import transformers

    library, class_name = json.loads((folder / finding.INDEX).read_text())[name]
    kind: Any = getattr({"diffusers": diffusers, "transformers": transformers}.get(library), class_name, None)
    place = finding.part(said, model)
    if place.is_dir():
        if kind is None:
            raise _no_part(name, said, library, class_name)
        return kind.from_pretrained(place, dtype=dtype, use_safetensors=True, local_files_only=True)
    if not hasattr(kind, "from_single_file"):
        raise _no_part(name, said, library, class_name)
    more: dict[str, Any] = {}
    if place.suffix == ".gguf":
        more["quantization_config"] = diffusers.GGUFQuantizationConfig(compute_dtype=dtype)
    # Both of `config` and `subfolder`, or it would ask the hub what this file is.
    return kind.from_single_file(
        str(place), config=str(folder), subfolder=name, dtype=dtype, local_files_only=True, **more
    )


def _no_part(name: str, said: str, library: str, class_name: str) -> Unsupported:
    return Unsupported(
        f"the part {name}, a {class_name} of {library}, cannot be read from {said}",
        hint="give the folder of such a part; single files are possible for transformers, U-Nets and VAEs",
        param="parts",
    )


def _hasten(loaded: Loaded, model: Model) -> None:
    """The switches that make it faster, or smaller."""
    import torch

    keys, pipe, guesser = model.keys, loaded.pipe, loaded.denoiser
    if keys["attention"]:
        _attend(guesser, keys["attention"])
    if keys["cache"] != "none":
        _cache(guesser, keys)
    if loaded.preset.float8:
        if any(part.packed for part in loaded.parts if part.name in DENOISERS):
            raise BadConfig("a .gguf file is in fewer bits already", hint="take `float8: on` out", param="float8")
        guesser.enable_layerwise_casting(
            storage_dtype=torch.float8_e4m3fn, compute_dtype=getattr(torch, loaded.preset.dtype)
        )
    vae: Any = getattr(pipe, "vae", None)
    if loaded.preset.tiling and hasattr(vae, "enable_tiling"):
        vae.enable_tiling()


def _attend(guesser: Any, name: str) -> None:
    try:
        guesser.set_attention_backend(name)
    except (ValueError, RuntimeError, AttributeError) as exc:  # a name it has not, or one that this machine cannot do
        raise BadConfig(
            f"`attention: {name}` cannot be used: {' '.join(str(exc).split())[:MAX_WORDS]}",
            hint="take `attention` out of the model's file, or name another: `native` is there always",
            param="attention",
        ) from exc


def _cache(guesser: Any, keys: Mapping[str, Any]) -> None:
    import diffusers

    if not hasattr(guesser, "enable_cache"):
        raise BadConfig(
            f"a {type(guesser).__name__} has no `cache`",
            hint="take `cache` out of the model's file; which models have one: docs/howto/use-diffusers.md",
            param="cache",
        )
    if keys["cache"] == "first_block" and type(guesser).__name__ == "Flux2Transformer2DModel":
        # In diffusers 0.42 its blocks return what this cache cannot compare.
        raise BadConfig("FLUX.2 cannot draw with `cache: first_block`", hint="take `cache: taylorseer`", param="cache")
    if keys["cache"] == "first_block":
        guesser.enable_cache(diffusers.FirstBlockCacheConfig(threshold=keys["cache_threshold"]))
    else:
        guesser.enable_cache(diffusers.TaylorSeerCacheConfig())


def _place(loaded: Loaded) -> None:
    import torch

    pipe, preset, device = loaded.pipe, loaded.preset, torch.device(loaded.device)
    match preset.offload:
        case "model":
            if preset.pinned:
                pinned_parts(pipe)
            pipe.enable_model_cpu_offload(device=device)
        case "group":
            pipe.enable_group_offload(
                device,
                offload_type="leaf_level",
                use_stream=bool(preset.pinned),
                low_cpu_mem_usage=preset.pinned == "passing",
            )
        case _:
            pipe.to(device)


def _remember_prompts(loaded: Loaded) -> None:
    """Encode a prompt once for several pictures of it: large text encoders take longer than a step."""
    encode = getattr(loaded.pipe, "encode_prompt", None)
    if encode is None:
        return

    @wraps(encode)
    def encode_prompt(*args: Any, **kwargs: Any) -> Any:
        told = repr((args, sorted(kwargs.items())))
        if "tensor(" in told:  # somebody brings encoded ones along
            return encode(*args, **kwargs)
        if told not in loaded.prompts:
            encoded = encode(*args, **kwargs)
            loaded.prompts[told] = encoded
            while len(loaded.prompts) > PROMPTS:
                loaded.prompts.popitem(last=False)
        loaded.prompts.move_to_end(told)
        return loaded.prompts[told]

    loaded.pipe.encode_prompt = encode_prompt


def _quiet() -> None:
    """Their bars and warnings reach nobody; what matters of them is raised."""
    import diffusers.utils.logging
    import transformers.utils.logging

    for library in (diffusers.utils.logging, transformers.utils.logging):
        library.set_verbosity_error()
        library.disable_progress_bar()


def _memory_mib() -> int:
    """What is free of this machine's memory, or of the part of it that this process may use."""
    try:
        with open("/proc/meminfo") as file:
            told = dict(line.split(":", 1) for line in file)
        free = int(told["MemAvailable"].split()[0]) // 1024
    except (OSError, KeyError, ValueError):
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    try:
        with open("/sys/fs/cgroup/memory.max") as limit, open("/sys/fs/cgroup/memory.current") as used:
            free = min(free, (int(limit.read()) - int(used.read())) // 2**20)
    except (OSError, ValueError):
        pass  # no limit
    return free


def _unusable(device: str) -> MissingExtra:
    return MissingExtra(
        f"the installed PyTorch cannot draw on {device}",
        hint="install the PyTorch for it (https://pytorch.org/get-started), or draw slowly with `runs_on: cpu`",
        param="runs_on",
    )
