"""ComfyUI: its server draws, and a model is one of its workflows as data.

Nothing is loaded here until a server is really spoken to, so that a list of models costs nothing. Read on in this
order: `backend.py` (the methods), `workflow.py` (what is sent), `run.py` (one prompt, from its submission to its
picture), `story.py` (what the server tells about it), `keeper.py` (what it says when asked), `line.py` and `server.py`
(the two ways to speak to it).
"""

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any, Literal

from imagen.backends.base import Backend, Registration, Templates

# What every request fills. `cfg` and `guidance` are the request's guidance, the first of the two that is there.
FROM_REQUEST = frozenset({"prompt", "negative", "seed", "steps", "width", "height"})
FROM_BACKEND = frozenset({"filename_prefix"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ComfyKeys:
    """The model keys of this backend."""

    url: str | None = None  # of the server; else `backends: {comfyui: {url: …}}`
    outputs: Literal["temp", "output"] | None = None  # its pictures: gone when the server starts again, or kept there
    preview_method: Literal["auto", "latent2rgb", "taesd"] | None = None  # how the server makes previews
    requires: str | None = None  # the oldest ComfyUI that can draw this model


def create(settings: Mapping[str, Any]) -> Backend:
    """The backend, with the settings of `backends: {comfyui: …}`."""
    from imagen.backends.comfyui.backend import ComfyUI

    return ComfyUI(settings)


def device(settings: Mapping[str, Any]) -> str:
    """`comfyui@HOST:PORT`: models of one server take turns."""
    from imagen.backends.comfyui.address import DEFAULT, Address

    return f"comfyui@{Address.of(str(settings.get('url') or DEFAULT)).place(str(settings.get('host') or 'localhost'))}"


def filled(slots: Set[str]) -> Set[str]:
    """Of a template's slots, those that the request or this backend fills."""
    guided = {"cfg"} if "cfg" in slots else {"guidance"}
    return slots & (FROM_REQUEST | FROM_BACKEND | guided)


def wrong(document: Any) -> tuple[str, str] | None:
    """Why a document is no template, and what to do about it."""
    from imagen.backends.comfyui.workflow import fault

    return fault(document)


registration = Registration(
    create=create,
    keys=ComfyKeys,
    device=device,
    settings=frozenset({"url", "models_folder", "outputs", "preview_method", "patience_s", "unload_after_s"}),
    templates=Templates(
        default="flux1-schnell",
        filled=filled,
        aliases={"clip_t5": "clip"},
        knobs=frozenset({"vae", "clip", "clip_l", "clip_t5", "dtype", "shift", "guidance"}),
        wrong=wrong,
    ),
)
