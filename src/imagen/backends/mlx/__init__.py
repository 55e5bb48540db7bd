"""MLX: models on Apple silicon through mflux, drawn with in a child process on this machine.

Nothing here loads MLX but in that child. Read on in this order: `backend.py` (the methods), `drawing.py` (one request,
and what is seen of it between two steps), `loading.py` (from files to a pipeline), `finding.py` (where the files are;
all that the parent process knows), `errors.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from imagen.backends.base import Backend, Registration
from imagen.backends.child import SETTINGS


@dataclass(frozen=True, slots=True, kw_only=True)
class MlxKeys:
    """The model keys of this backend; all but `family` and `weights` may be left out."""

    family: Literal["flux", "flux2-klein", "z-image", "qwen-image"]  # which class of mflux draws, and its latents
    weights: str  # a folder, or ORG/NAME as the hub calls what lies in its cache
    variant: str = ""  # which of the family, as mflux names it: schnell, dev, flux2-klein-9b …; else its first
    quantize: Literal[0, 3, 4, 5, 6, 8] = 0  # bits of the weights in memory; 0 = as they lie in the files
    loras: Mapping[str, float] = field(default_factory=dict)  # files, each with its strength
    tiling: bool = False  # decode in pieces: less memory for large pictures
    arguments: Mapping[str, Any] = field(default_factory=dict)  # of every call, over what the request says
    draws: str = ""  # another class than the family's own, MODULE:CLASS, with the same latents


def create(settings: Mapping[str, Any]) -> Backend:
    """The backend, with the settings of `backends: {mlx: …}`."""
    from imagen.backends.child.parent import Child
    from imagen.backends.mlx.finding import look
    from imagen.backends.weights import offline

    quiet = offline(settings, TQDM_DISABLE="1")  # its bars would be all there is in the last words of a crash
    return Child("imagen.backends.mlx.backend:Mlx", quiet, name="mlx", ready=("mlx.core",), look=look)


# The accelerator has one name whoever uses it, so that models of several backends take turns on it.
registration = Registration(create=create, keys=MlxKeys, device="mps@{host}", settings=SETTINGS)
