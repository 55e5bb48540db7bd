"""What a pipeline is called with: each spells some of it in its own way, and its signature says how."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from imagen.core.errors import BadConfig
from imagen.core.model import Model
from imagen.core.request import Request
from imagen.core.signals import Notice

# Options that say what is loaded, not how it is called.
LOADED = ("lora", "lora_scale")

# What is ours to say.
OURS = frozenset(
    {"prompt", "width", "height", "num_inference_steps", "generator", "num_images_per_prompt", "output_type"}
)


def arguments(
    call: Any, request: Request, model: Model, generators: Sequence[Any]
) -> tuple[dict[str, Any], list[Notice]]:
    """The arguments of one call, by name: the first one is not the prompt in every pipeline; and what is left out."""
    takes = inspect.signature(call).parameters
    told: dict[str, Any] = {
        "prompt": request.prompt,
        "width": request.width,
        "height": request.height,
        "num_inference_steps": request.steps,
        "generator": list(generators),
        "num_images_per_prompt": len(generators),
        "output_type": "np",
    }
    notices = []
    guided = guidance_name(takes)
    if request.guidance is not None and guided:
        told[guided] = request.guidance
    if _reads_negative(takes, guided):
        if guided == "true_cfg_scale" and (request.guidance or 0) > 1:
            told["negative_prompt"] = request.negative or " "  # it is guided only where there is one; a blank will do
        elif request.negative:
            told["negative_prompt"] = request.negative
    elif request.negative:
        notices.append(Notice(code="ignored", message=f"the pipeline of {model.name} reads no negative prompt"))
    told |= {name: value for name, value in request.options.items() if name not in LOADED and value is not None}
    told |= model.keys["arguments"]
    for name in (*model.keys["arguments"], *request.options):
        if name in OURS or (name not in takes and name not in LOADED):
            raise BadConfig(
                f"the pipeline of {model.name} takes no {name!r}",
                hint=f"it takes: {', '.join(sorted(set(takes) - OURS))}",
                param="arguments",
            )
    return told, notices


def guidance_name(takes: Mapping[str, inspect.Parameter]) -> str | None:
    """Which argument is the guidance; where there are two, one of them may be for models that do not exist yet."""
    if "true_cfg_scale" in takes and ("guidance_scale" not in takes or takes["guidance_scale"].default is None):
        return "true_cfg_scale"
    return "guidance_scale" if "guidance_scale" in takes else None


def _reads_negative(takes: Mapping[str, inspect.Parameter], guided: str | None) -> bool:
    """With two kinds of guidance, the negative prompt belongs to the one that is off until it is asked for."""
    return "negative_prompt" in takes and (guided == "true_cfg_scale" or "true_cfg_scale" not in takes)
