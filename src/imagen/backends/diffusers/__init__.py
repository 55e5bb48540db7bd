"""Diffusers: Hugging Face's pipelines, drawn with in a child process on this machine.

Nothing here loads torch but in that child. Read on in this order: `backend.py` (the methods), `drawing.py` (one
request, from its arguments to its pictures), `stepping.py` (what happens between two steps), `showing.py` (previews),
`turn.py` and `beside.py` (one call after the other, and what of two may be done at once), `loading.py` (from files to a
pipeline), `presets.py` (how it fits into the memory that is there), `moving.py` (parts that wait beside the card),
`finding.py` (where the files are; all that the parent process knows), `errors.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le

from imagen.backends.base import Backend, Registration
from imagen.backends.child import SETTINGS


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffusersKeys:
    """The model keys of this backend; all but `weights` may be left out."""

    weights: str  # a folder with a model_index.json, or ORG/NAME as the hub calls what lies in its cache
    revision: str = ""  # of ORG/NAME; else the newest that was fetched
    variant: str = ""  # of the files, as in model.VARIANT.safetensors
    parts: Mapping[str, str] = field(default_factory=dict)  # components from files of their own: .safetensors, .gguf
    leave_out: tuple[str, ...] = ()  # components it draws without, such as text_encoder_3
    pipeline: str = ""  # another class of diffusers than its model_index.json names
    arguments: Mapping[str, Any] = field(default_factory=dict)  # of every call, over what the request says
    batch: Annotated[int, Ge(1), Le(16)] = 1  # how many pictures of a request are drawn at once
    loras_folder: str = ""  # where the option `lora` looks; else the setting of this name, else `loras` beside models

    runs_on: str = ""  # cpu, cuda, cuda:1, mps, xpu; else the setting of this name, else what is there
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"  # what is computed in
    offload: Literal["auto", "none", "model", "group"] = "auto"  # on the card: all of it, a part, or a layer at a time
    pinned: Literal["auto", "on", "off"] = "auto"  # what waits for the card waits in memory that is copied fast
    float8: Literal["auto", "on", "off"] = "auto"  # keep the transformer's weights in 8 bits, compute as `dtype` says
    tiling: Literal["auto", "on", "off"] = "auto"  # decode in tiles: less memory for large pictures

    overlap: Literal["on", "off"] = "off"  # decode the last picture while the next job begins, where memory allows
    attention: str = ""  # which implementation, as diffusers names it: native, _native_cudnn, sage, flash …
    compile: bool = False  # the blocks that repeat, once, when the model is loaded
    cache: Literal["none", "first_block", "taylorseer"] = "none"  # reuse what hardly changes from step to step
    cache_threshold: Annotated[float, Gt(0), Le(1)] = 0.08  # of first_block: how much may change and still be reused

    preview_method: Literal["auto", "latent_rgb", "fitted", "tiny", "vae", "off"] = "auto"  # unless a request says
    preview_decoder: str = ""  # a tiny autoencoder (TAESD and its like): its folder


def create(settings: Mapping[str, Any]) -> Backend:
    """The backend, with the settings of `backends: {diffusers: …}`."""
    from imagen.backends.child.parent import Child
    from imagen.backends.diffusers.finding import look
    from imagen.backends.weights import offline

    return Child(
        "imagen.backends.diffusers.backend:Diffusers",
        offline(settings),
        name="diffusers",
        ready=("torch", "diffusers.pipelines.pipeline_utils", "transformers"),  # what every pipeline begins with
        look=look,
    )


def device(settings: Mapping[str, Any]) -> str:
    """`cuda:0@HOST`: models on one accelerator take turns."""
    from imagen.backends.diffusers.finding import accelerator

    return f"{accelerator(settings)}@{settings.get('host') or 'localhost'}"


registration = Registration(
    create=create,
    keys=DiffusersKeys,
    device=device,
    settings=SETTINGS | {"runs_on", "loras_folder"},
)
