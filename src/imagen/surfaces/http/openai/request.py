"""What a client of the OpenAI Images API asks for, as a draft of ours.

Fields that nobody here knows are ignored, as clients send many. What is known and cannot be honoured is a warning; what
makes no sense is refused with the name of the field.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from imagen.config import OpenAI
from imagen.core.errors import RequestError, UnknownModel
from imagen.core.request import PREVIEW_BOUNDS, Draft, PreviewPolicy
from imagen.models.catalog import Catalog
from imagen.reading import maybe
from imagen.surfaces.http.foreign.fields import Fields, fitting, wrong

MOST_PARTIALS = 3
MOST_PREVIEWS = PREVIEW_BOUNDS["count"][1]  # of one job, however many pictures it draws
PARTIAL_SIDE = 512  # enough to see what it becomes, at a few dozen KiB
FORMATS = ("png", "jpeg", "webp")
ENDS = ("auto", "keep", "cancel")

# What clients say for "as you think best"; only other wishes can be missed.
_AS_YOU_LIKE: Mapping[str, tuple[Any, ...]] = {
    "quality": ("auto", "standard"),
    "style": (),
    "moderation": ("low",),  # nothing is kept back here, which is what "low" comes nearest to
    "background": ("auto", "opaque"),
}
_WHY = {
    "quality": "a model has one quality; `steps` is what can be chosen",
    "style": "say it in the prompt",
    "moderation": "nothing is moderated here",
    "background": "what is behind things is the model's own choice",
    "user": "it is not kept; each key has jobs of its own",
    "safety_identifier": "it is not kept; each key has jobs of its own",
}
_SIZE = re.compile(r"\s*([0-9]{1,6})\s*[xX×*]\s*([0-9]{1,6})\s*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request to this door: what to draw, and how to tell of it."""

    draft: Draft
    stream: bool = False
    partial_images: int = 0  # of each picture
    url: bool = False  # where it is, instead of what it is
    output_format: str | None = None  # None: as it was stored
    output_compression: int | None = None
    on_disconnect: str
    warnings: tuple[str, ...] = ()


def read(body: Any, catalog: Catalog, settings: OpenAI, public_url: str | None) -> Asked:
    """What this body asks for; a RequestError names the field that makes no sense."""
    if not isinstance(body, Mapping):
        raise RequestError("the body is not a JSON object", hint='send for instance {"prompt": "a red fox"}')
    fields = Fields({name: value for name, value in body.items() if value is not None})
    warnings = [_unhonoured(name, fields.given[name]) for name in _WHY if _unlike(fields, name)]
    model, warning = _model(fields.text("model"), catalog, settings)
    warnings += [warning] if warning else []
    n = fields.whole("n", low=1) or 1
    seed = fields.whole("seed")
    draft = Draft(
        prompt=fields.text("prompt") or "",
        model=model,
        negative=fields.text("negative_prompt", "negative"),
        steps=fields.whole("steps", "num_inference_steps", low=1),
        seed=None if seed is None or seed < 0 else seed,  # -1 is how many clients spell "any"
        guidance=fields.number("guidance", "guidance_scale", "cfg_scale"),
        n=n,
        options=fields.mapping("options"),
    )
    size = _size(fields, warnings)
    if size is not None:
        fit = fitting(*size, catalog.get(model).limits)
        if fit != size:
            warnings.append(f"size {size[0]}x{size[1]} became {fit[0]}x{fit[1]}, the nearest that the model draws")
        draft = replace(draft, width=fit[0], height=fit[1])
    stream = fields.flag("stream")
    partials = fields.whole("partial_images", low=0, high=MOST_PARTIALS) or 0
    if partials and not stream:
        warnings.append("partial_images: only a stream has them, say `stream: true`")
    output_format = _format(fields, warnings)
    if stream and partials:
        # The frames are sent as they are shown: small ones, in a format that loses a little.
        policy = PreviewPolicy(
            count=min(partials * n, MOST_PREVIEWS),
            max_size=PARTIAL_SIDE,
            format="webp" if output_format == "webp" else "jpeg",
        )
        draft = replace(draft, preview=policy)
    return Asked(
        draft=draft,
        stream=stream,
        partial_images=partials if stream else 0,
        url=_by_url(fields, public_url, stream, output_format, warnings),
        output_format=output_format,
        output_compression=fields.whole("output_compression", low=0, high=100),
        on_disconnect=fields.one_of("on_disconnect", ENDS) or settings.on_disconnect,
        warnings=tuple(warnings),
    )


def _model(name: str | None, catalog: Catalog, settings: OpenAI) -> tuple[str | None, str | None]:
    """The model that a name means, None for the default one, and a warning where that is a guess."""
    if not name or name in catalog.models or name in catalog.broken:
        return name or None, None
    if name in settings.aliases:
        meant = settings.aliases[name]
        if meant is not None and meant not in catalog.models and meant not in catalog.broken:
            raise UnknownModel(
                f"{name!r} stands for {meant!r} here, and there is no such model{maybe(meant, catalog.models)}",
                hint="its owner corrects `openai: aliases:` in config.yaml; `GET /v1/models` has the names",
                param="model",
            )
        return meant, None
    if settings.strict:
        return name, None  # the catalog says best what is wrong with it
    return None, f"there is no model {name!r}{maybe(name, catalog.models)}; {catalog.default} draws"


def _size(fields: Fields, warnings: list[str]) -> tuple[int, int] | None:
    """Width and height; None leaves them to the model."""
    width, height = fields.whole("width", low=1), fields.whole("height", low=1)
    text = fields.text("size")
    if width is not None and height is not None:
        if text and text.strip().lower() not in ("auto", f"{width}x{height}"):
            warnings.append(f"size {text}: width and height were taken instead")
        return width, height
    if width is not None or height is not None:
        warnings.append(f"{'height' if width is None else 'width'}: it takes both, width and height")
    if not text or text.strip().lower() == "auto":
        return None
    found = _SIZE.fullmatch(text)
    if found is None or not int(found[1]) or not int(found[2]):
        raise wrong("size", text, "auto, or width and height such as 1024x1024")
    return int(found[1]), int(found[2])


def _format(fields: Fields, warnings: list[str]) -> str | None:
    asked = fields.text("output_format")
    asked = {"jpg": "jpeg"}.get(asked.lower(), asked.lower()) if asked else None
    if asked is not None and asked not in FORMATS:
        warnings.append(f"output_format {asked!r} is not made here, it is one of {', '.join(FORMATS)}")
        asked = None
    if asked in (None, "png") and fields.given.get("output_compression") not in (None, 100, "100"):
        warnings.append("output_compression: only jpeg and webp have one, say `output_format`")
    return asked


def _by_url(
    fields: Fields, public_url: str | None, stream: bool, output_format: str | None, warnings: list[str]
) -> bool:
    if fields.one_of("response_format", ("url", "b64_json")) != "url":
        return False
    if stream:
        warnings.append("response_format: a stream carries the pictures themselves")
        return False
    if public_url is None:
        raise RequestError(
            "this server does not know under which address others see it, so it cannot give one of a picture",
            hint="ask for `b64_json`, or let its owner set `server: public_url:` in config.yaml",
            param="response_format",
        )
    if output_format not in (None, "png"):
        warnings.append("output_format: an address leads to the picture as it was stored")
    return True


def _unlike(fields: Fields, name: str) -> bool:
    """Whether something is asked here that differs from what happens anyway."""
    value = fields.given.get(name)
    return value not in (None, "") and value not in _AS_YOU_LIKE.get(name, ())


def _unhonoured(name: str, value: Any) -> str:
    told = f" {value!r}" if isinstance(value, str) and len(value) < 20 and name in _AS_YOU_LIKE else ""
    return f"{name}{told}: {_WHY[name]}"
