"""What a client of the A1111 API asks for, as a draft of ours.

These clients were made for one program with one kind of model, and send all of its settings with every request. So
nothing is refused here that can be brought to what the model draws, and what has no meaning here is left out: the note
about it stands in the answer.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from imagen.config import Limits
from imagen.core.errors import RequestError
from imagen.core.model import Limits as Sizes
from imagen.core.model import Model
from imagen.core.request import MAX_SEED, PREVIEW_BOUNDS, Draft, PreviewPolicy, Request
from imagen.models.catalog import Catalog
from imagen.reading import maybe
from imagen.surfaces.http.foreign.fields import Fields, fitting

MOST_GUIDANCE = 100.0
MOST_STRIDE = PREVIEW_BOUNDS["stride"][1]
MAX_TASK = 200  # characters of a name that a client chooses for its request
OPTIONS: Mapping[str, tuple[str, ...]] = {"sampler": ("sampler_name", "sampler_index"), "scheduler": ("scheduler",)}
NO_ALIASES: Mapping[str, str | None] = {}
UNSAID = ("", "automatic", "default", "none", "use same sampler", "use same scheduler")

# How that program names what the engines call otherwise; the lists it offers are made in `lists.py`.
SAMPLERS: Mapping[str, str] = {
    "Euler a": "euler_ancestral",
    "Euler": "euler",
    "Heun": "heun",
    "DPM++ 2M": "dpmpp_2m",
    "DPM++ 2M SDE": "dpmpp_2m_sde",
    "DPM++ SDE": "dpmpp_sde",
    "DDIM": "ddim",
    "LMS": "lms",
    "UniPC": "uni_pc",
    "DEIS": "deis",
    "Res Multistep": "res_multistep",
    "IPNDM": "ipndm",
}
SCHEDULERS: Mapping[str, str] = {
    "Normal": "normal",
    "Karras": "karras",
    "Exponential": "exponential",
    "SGM Uniform": "sgm_uniform",
    "Simple": "simple",
    "DDIM": "ddim_uniform",
    "Beta": "beta",
    "Linear Quadratic": "linear_quadratic",
}
SPOKEN: Mapping[str, Mapping[str, str]] = {"sampler": SAMPLERS, "scheduler": SCHEDULERS}

# What is asked with these and has no counterpart here; only wishes that would change the picture are worth a note.
_NOT_HERE = {
    "enable_hr": "pictures are not drawn a second time, larger; ask for the size you want",
    "restore_faces": "faces are not drawn again",
    "tiling": "pictures are not made to tile",
    "styles": "there are no styles here; say it in the prompt",
    "script_name": "there are no scripts here",
    "alwayson_scripts": "there are no scripts here",
    "refiner_checkpoint": "one model draws a picture from beginning to end",
    "subseed_strength": "a picture has one seed",
}
_NETWORK = re.compile(r"<(?:lora|lyco|hypernet):[^<>]{1,200}>")
_HASH = re.compile(r"\s*\[[0-9a-fA-F]{4,64}\]\s*$")
_SUFFIX = re.compile(r"\.(safetensors|ckpt|gguf|onnx|pt)$")
_SECRET = ("auth", "url")  # a front end passes on what its own page sent: the password for this server is in it


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request to this door: what to draw, and how to tell of it."""

    draft: Draft
    model: Model
    echo: Mapping[str, Any]
    batch_size: int = 1
    send_images: bool = True
    task: str | None = None  # the name that the client follows it by
    notes: tuple[str, ...] = ()


def read(
    body: Any,
    catalog: Catalog,
    limits: Limits,
    *,
    checkpoint: str | None = None,
    aliases: Mapping[str, str | None] = NO_ALIASES,
) -> Asked:
    """What this body asks for of the model that its sender had chosen; a RequestError names what makes no sense."""
    fields = Fields(object_of(body))
    wishes = Fields(object_of(fields.mapping("override_settings")))
    notes = [f"{name}: {why}" for name, why in _NOT_HERE.items() if fields.given.get(name) not in _NOTHING]
    model = _model(fields, wishes, catalog, checkpoint, aliases, notes)
    prompt = _plain(fields.text("prompt") or "", notes)
    batch_size = max(1, fields.whole("batch_size") or 1)
    seed = fields.whole("seed")
    draft = Draft(
        prompt=prompt,
        model=model.name,
        negative=_negative(fields, model, notes),
        steps=_steps(fields, model, limits, notes),
        seed=seed if seed is not None and 0 <= seed < MAX_SEED else None,  # -1 is how these clients spell "any"
        guidance=_guidance(fields, model, notes),
        n=batch_size * max(1, fields.whole("n_iter") or 1),
        options=_options(fields, model, notes),
        preview=_preview(wishes),
    )
    draft = _sized(draft, fields, model, limits, notes)
    resolved = catalog.resolve(draft, lambda: 0)
    return Asked(
        draft=draft,
        model=model,
        echo=_echo(fields, resolved.request),
        batch_size=batch_size,
        send_images=fields.given.get("send_images", True) not in (False, "false", "False"),
        task=task_of(fields.given.get("force_task_id")),
        notes=(*notes, *(one.message for one in resolved.warnings)),
    )


def object_of(body: Any) -> dict[str, Any]:
    """The fields of a body that are not null: these clients send null for what they leave open."""
    if not isinstance(body, Mapping):
        raise RequestError("the body is not a JSON object", hint='send for instance {"prompt": "a red fox"}')
    return {name: value for name, value in body.items() if value is not None}


def task_of(name: Any) -> str | None:
    """The name of a task, if it can be one."""
    return name if isinstance(name, str) and 0 < len(name) <= MAX_TASK else None


def checkpoint_of(name: str, catalog: Catalog) -> str | None:
    """The model that is meant by the name of a checkpoint, with or without hash and ending; None: there is none."""
    enabled = [model for model in catalog.models.values() if model.enabled]
    bare = _SUFFIX.sub("", _HASH.sub("", name)).rpartition("/")[2].rpartition("\\")[2].strip()
    for wanted in filter(None, (name, bare)):
        for model in enabled:
            if wanted in (model.name, model.title):
                return model.name
    return next((model.name for model in enabled if bare and bare.lower() == model.name.lower()), None)


_NOTHING: tuple[Any, ...] = (None, False, 0, "", "None", [], {})


def _model(
    fields: Fields,
    wishes: Fields,
    catalog: Catalog,
    checkpoint: str | None,
    aliases: Mapping[str, str | None],
    notes: list[str],
) -> Model:
    wanted = wishes.text("sd_model_checkpoint")
    if wanted:
        if found := checkpoint_of(wanted, catalog):
            return catalog.get(found)
        notes.append(f"there is no checkpoint {wanted!r}{maybe(wanted, catalog.models)}")
    # Not of that program: one client takes the names of GET /v1/models and draws here, and others fill in anything.
    wanted = fields.text("model") or ""
    if wanted in aliases:
        return catalog.get(aliases[wanted])
    if wanted and (found := checkpoint_of(wanted, catalog)):
        return catalog.get(found)
    if checkpoint is not None and checkpoint_of(checkpoint, catalog) is None:
        notes.append(f"the checkpoint {checkpoint!r} is no longer there; {catalog.default} draws")
        checkpoint = None
    if checkpoint is None and catalog.default_warning:
        notes.append(catalog.default_warning)
    return catalog.get(checkpoint)


def _plain(prompt: str, notes: list[str]) -> str:
    """The prompt without what that program takes out of it too: the names of networks to load."""
    plain, count = _NETWORK.subn("", prompt)
    if not count:
        return prompt
    notes.append("prompt: there are no networks to load here, so their names were left out of it")
    return re.sub(r"(?:\s*,)+", ",", plain).strip(" ,")


def _negative(fields: Fields, model: Model, notes: list[str]) -> str | None:
    wanted = _plain(fields.text("negative_prompt") or "", notes) or None
    if wanted and "negative" in model.ignores:
        notes.append(f"negative_prompt: the model {model.name} takes none")
        return None
    return wanted


def _steps(fields: Fields, model: Model, limits: Limits, notes: list[str]) -> int | None:
    wanted = fields.whole("steps")
    if wanted is None:
        return None
    fewest, most = model.limits.steps
    most = min(most, limits.steps) if limits.steps is not None else most
    fit = max(fewest, min(wanted, most))
    if fit != wanted:
        notes.append(f"steps {wanted} became {fit}: {model.name} draws with {fewest} to {most}")
    return fit


def _guidance(fields: Fields, model: Model, notes: list[str]) -> float | None:
    wanted = fields.number("cfg_scale")
    if wanted is None:
        return None
    if "guidance" in model.ignores:
        notes.append(f"cfg_scale: the model {model.name} has no guidance")
        return None
    fit = min(max(float(wanted), 0.0), MOST_GUIDANCE)
    if fit != wanted:
        notes.append(f"cfg_scale {wanted:g} became {fit:g}")
    return fit


def _sized(draft: Draft, fields: Fields, model: Model, limits: Limits, notes: list[str]) -> Draft:
    """With a size that the model draws here, the nearest to what was asked; an open side is the model's own."""
    wanted = {"width": fields.whole("width"), "height": fields.whole("height")}
    asked = {name: side for name, side in wanted.items() if side is not None and side > 0}
    if not asked:
        return draft
    width = asked.get("width", model.defaults.width)
    height = asked.get("height", model.defaults.height)
    fit = _within(fitting(width, height, _bounded(model.limits, limits)), model, limits)
    if fit != (width, height):
        notes.append(f"size {width}x{height} became {fit[0]}x{fit[1]}, the nearest that {model.name} draws")
    return replace(draft, width=fit[0], height=fit[1])


def _bounded(draws: Sizes, limits: Limits) -> Sizes:
    """The sizes that a model draws, as far as this server lets anybody ask for them."""
    side, pixels = limits.side or draws.max, limits.pixels or draws.max**2
    sizes = tuple(size for size in draws.sizes if max(size) <= side and size[0] * size[1] <= pixels)
    return replace(draws, max=max(min(draws.max, side), draws.min), sizes=sizes or draws.sizes)


def _within(size: tuple[int, int], model: Model, limits: Limits) -> tuple[int, int]:
    """The same shape with no more pixels than this server lets anybody ask for."""
    if limits.pixels is None or model.limits.sizes or size[0] * size[1] <= limits.pixels:
        return size
    scale = math.sqrt(limits.pixels / (size[0] * size[1]))
    step = model.limits.multiple_of
    width, height = (max(int(side * scale) // step * step, model.limits.min) for side in size)
    return width, height


def _options(fields: Fields, model: Model, notes: list[str]) -> dict[str, Any]:
    told = {}
    for option, names in OPTIONS.items():
        given = [fields.given.get(name) for name in names]
        wanted = next((name.strip() for name in given if isinstance(name, str) and name.strip()), "")
        if wanted.lower() in UNSAID or option not in model.options:
            continue
        choices = model.options[option].choices
        found = _spoken(wanted, SPOKEN[option], choices)
        if found is None:
            notes.append(f"{names[0]} {wanted!r}: the model {model.name} has {', '.join(map(str, choices))}")
        else:
            told[option] = found
    return told


def _spoken(wanted: str, names: Mapping[str, str], choices: tuple[Any, ...]) -> Any:
    """The choice that is meant by a name of theirs or by its own."""
    means = {_letters(name): choice for name, choice in names.items()} | {_letters(str(one)): one for one in choices}
    # Before it had a list of schedulers, their names stood at the end of the sampler's.
    for tail in ("", *map(_letters, SCHEDULERS)):
        choice = means.get(_letters(wanted).removesuffix(tail))
        if choice in choices:
            return choice
    return None


def _letters(name: str) -> str:
    """A name as all of them spell it: `DPM++ 2M`, `dpm++2m` and `k_dpmpp_2m` are one."""
    return re.sub(r"[ _-]", "", name.lower().removeprefix("k_").replace("++", "pp"))


def _echo(fields: Fields, request: Request) -> dict[str, Any]:
    """What was sent, as it was sent, and what was drawn with where nothing was."""
    told = {
        "prompt": request.prompt,
        "negative_prompt": request.negative,
        "seed": -1,
        "steps": request.steps,
        "cfg_scale": request.guidance,
        "width": request.width,
        "height": request.height,
        "batch_size": 1,
        "n_iter": 1,
        "sampler_name": None,
        "override_settings": {},
        "send_images": True,
        "save_images": False,
    }
    return told | {name: value for name, value in fields.given.items() if name not in _SECRET}


def _preview(wishes: Fields) -> PreviewPolicy | None:
    """Previews are drawn when somebody asks for the progress; a client may want them every so many steps, or none."""
    if "live_previews_enable" in wishes.given and not wishes.flag("live_previews_enable"):
        return PreviewPolicy(method="off")
    every = wishes.whole("show_progress_every_n_steps")
    return PreviewPolicy(stride=min(every, MOST_STRIDE)) if every is not None and every > 0 else None
