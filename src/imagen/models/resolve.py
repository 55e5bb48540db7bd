"""From a draft to a complete request: what is left out is filled in, what cannot be done is refused or said."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from imagen.core.errors import RequestError, TooLarge, Unsupported
from imagen.core.job import Warned
from imagen.core.model import Model, Option
from imagen.core.request import MAX_SEED, Draft, Request
from imagen.reading import maybe

MAX_PROMPT = 100_000  # characters; the longest that any known text encoder reads is a fraction of it
PRIORITIES = (-100, 100)
BOOLS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """A complete request, its model, and what there is to say about it."""

    request: Request
    model: Model
    warnings: tuple[Warned, ...] = ()


def resolve(draft: Draft, model: Model, random_seed: Callable[[], int]) -> Resolved:
    """Fill in what the draft leaves to the model; raise a RequestError for what cannot be."""
    warnings: list[Warned] = []
    prompt = _text("prompt", draft.prompt)
    if not prompt.strip():
        raise RequestError("the prompt is empty", hint="say what the picture should show", param="prompt")
    width, height = _size(draft, model, warnings)
    n = _whole("n", draft.n, model.defaults.n, 1, model.limits.n, model)
    seed = _whole("seed", draft.seed, None, 0, MAX_SEED - n + 1, model) if draft.seed is not None else random_seed()
    _whole("priority", draft.priority, 0, *PRIORITIES, model)
    _guidance(draft, model)  # wrong is wrong, also where it would be ignored
    _text("negative", draft.negative or "")
    for name in model.ignores:
        # What equals the model's own default was not asked for: a request that is drawn again carries it.
        if getattr(draft, name) not in (None, "", {}, getattr(model.defaults, name, None)):
            warnings.append(Warned(code="ignored", message=f"the model {model.name} ignores `{name}`"))
            left_out: dict[str, Any] = {name: None}
            draft = replace(draft, **left_out)  # what changes nothing is no part of the request
    request = Request(
        prompt=prompt,
        model=model.name,
        negative=_text("negative", draft.negative if draft.negative is not None else model.defaults.negative),
        width=width,
        height=height,
        steps=_whole("steps", draft.steps, model.defaults.steps, *model.limits.steps, model),
        seed=seed,
        guidance=_guidance(draft, model),
        n=n,
        options=_options(draft.options, model),
    )
    return Resolved(request=request, model=model, warnings=tuple(warnings))


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise RequestError(f"the {name} is not text", hint=f"give the {name} as text", param=name)
    if len(value) > MAX_PROMPT:
        raise TooLarge(
            f"the {name} has {len(value):,} characters, the limit is {MAX_PROMPT:,}",
            hint="shorten it: no model reads that much",
            param=name,
        )
    for place, character in enumerate(value):
        if character == "\0" or "\ud800" <= character <= "\udfff":
            what = "a NUL" if character == "\0" else f"half a character (U+{ord(character):04X})"
            raise RequestError(
                f"the {name} holds {what} at place {place + 1}",
                hint="remove it; text from a terminal must be UTF-8",
                param=name,
            )
    return value


def _whole(name: str, value: Any, default: int | None, low: int, high: int, model: Model) -> int:
    if value is None and default is not None:
        value = default
    if isinstance(value, bool) or not isinstance(value, int):
        raise RequestError(f"{name} is a whole number, not {value!r}", hint=f"give {low} to {high}", param=name)
    if not low <= value <= high:
        kind = TooLarge if name == "n" and value > high else RequestError
        raise kind(f"{name} {value} is not possible for {model.name}", hint=f"give {low} to {high}", param=name)
    return value


def _size(draft: Draft, model: Model, warnings: list[Warned]) -> tuple[int, int]:
    limits = model.limits
    asked = []
    for name in ("width", "height"):
        value = getattr(draft, name)
        if value is None:
            value = getattr(model.defaults, name)
        if isinstance(value, bool) or not isinstance(value, int):
            raise RequestError(f"{name} is a whole number, not {value!r}", hint="give pixels", param=name)
        asked.append(value)
    width, height = asked
    if limits.sizes:
        if (width, height) not in limits.sizes:
            raise _impossible(width, height, model, _nearest(width, height, limits.sizes))
        return width, height
    if not all(limits.min <= side <= limits.max for side in asked):
        fit = tuple(_round(min(max(side, limits.min), limits.max), model) for side in asked)
        raise _impossible(width, height, model, (fit[0], fit[1]))
    fitting = tuple(_round(side, model) for side in asked)
    if fitting != (width, height):
        message = f"{width}x{height} became {fitting[0]}x{fitting[1]}: sides are multiples of {limits.multiple_of}"
        warnings.append(Warned(code="size_adjusted", message=message))
    return fitting[0], fitting[1]


def _round(side: int, model: Model) -> int:
    step = model.limits.multiple_of
    nearest = (side + step // 2) // step * step
    while nearest > model.limits.max:
        nearest -= step
    while nearest < model.limits.min:
        nearest += step
    return nearest


def _nearest(width: int, height: int, sizes: tuple[tuple[int, int], ...]) -> tuple[int, int]:
    """Of the same shape if there is one, and then of about the same area."""

    def distance(size: tuple[int, int]) -> tuple[float, int]:
        shape = abs(math.log((size[0] * height) / (size[1] * width)))
        return round(shape, 1), abs(size[0] * size[1] - width * height)

    return min(sizes, key=distance)


def _impossible(width: int, height: int, model: Model, nearest: tuple[int, int]) -> Unsupported:
    limits = model.limits
    can = (
        "only " + ", ".join(f"{w}x{h}" for w, h in limits.sizes)
        if limits.sizes
        else f"sides from {limits.min} to {limits.max}"
    )
    return Unsupported(
        f"{model.name} cannot draw {width}x{height}",
        hint=f"it draws {can}; the nearest is {nearest[0]}x{nearest[1]}",
        param="size",
    )


def _guidance(draft: Draft, model: Model) -> float | None:
    value = draft.guidance
    if value is None:
        return model.defaults.guidance
    # Drafts are built from JSON and SQL too, where nobody checked the type.
    if type(value) not in (int, float) or value != value:
        raise RequestError(f"guidance is a number, not {value!r}", hint="give for instance 4.5", param="guidance")
    if not 0 <= value <= 100:
        raise RequestError(f"guidance {value} is not possible", hint="give 0 to 100", param="guidance")
    return float(value)


def _options(given: Any, model: Model) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        raise RequestError("options has to be a mapping", hint='give {"name": value}', param="options")
    for name in given:
        if name not in model.options:
            if name in Request.__dataclass_fields__:
                has = f"`{name}` is a field of every request, not an option: on the command line --{name}"
            else:
                has = f"it has: {', '.join(sorted(model.options)) or 'no options'}"
            raise RequestError(
                f"the model {model.name} has no option {name!r}{maybe(str(name), model.options)}",
                hint=has,
                param=f"options.{name}",
            )
    told = {}
    for name, option in model.options.items():
        value = given.get(name)
        told[name] = option.default if value is None else _option(name, value, option)
    return told


def _option(name: str, value: Any, option: Option) -> Any:
    """Convert what a command line gives as text, then hold it against the option's type, range and choices."""
    converted = _convert(value, option.type)
    if converted is None:
        raise RequestError(
            f"{name} is of type {option.type}, not {value!r}", hint=_can(option), param=f"options.{name}"
        )
    in_range = option.range is None or isinstance(converted, str) or option.range[0] <= converted <= option.range[1]
    if not in_range or (option.choices and converted not in option.choices):
        raise RequestError(f"{name} cannot be {value!r}", hint=_can(option), param=f"options.{name}")
    return converted


def _convert(value: Any, type_: str) -> Any:
    try:
        if type_ == "str" and isinstance(value, str):
            return _text("option", value)
        if type_ == "bool":
            return value if isinstance(value, bool) else BOOLS.get(str(value).lower())
        if type_ == "int" and isinstance(value, int | str) and not isinstance(value, bool):
            return int(value)
        if type_ == "float" and isinstance(value, int | float | str) and not isinstance(value, bool):
            number = float(value)
            return number if math.isfinite(number) else None
    except (ValueError, OverflowError):
        pass
    return None


def _can(option: Option) -> str:
    if option.choices:
        return f"one of: {', '.join(map(str, option.choices))}"
    if option.range:
        return f"give {option.range[0]:g} to {option.range[1]:g}"
    return f"give a value of type {option.type}"
