"""What is asked for: a Draft is what somebody typed, a Request is complete and reproducible."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from imagen.core.errors import RequestError
from imagen.core.webhook import Webhook, webhook_of

MAX_SEED = 2**63 - 1  # what both databases can store in one integer column

PREVIEW_METHODS = ("auto", "latent_rgb", "tiny", "vae", "backend", "off")
PREVIEW_FORMATS = ("jpeg", "webp")
PREVIEW_BOUNDS: Mapping[str, tuple[int, int]] = {
    "count": (1, 64),
    "stride": (1, 10_000),
    "min_interval_ms": (0, 60_000),
    "max_size": (16, 2048),
    "quality": (1, 100),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PreviewPolicy:
    """How many previews, how large, made how. `count` is a promise, `stride` a habit."""

    method: str = "auto"
    count: int | None = None
    stride: int | None = None
    min_interval_ms: int | None = None
    max_size: int = 384
    format: str = "jpeg"
    quality: int = 80

    def __post_init__(self) -> None:
        for name, (low, high) in PREVIEW_BOUNDS.items():
            value = getattr(self, name)
            if value is None:
                continue
            # Built from JSON and YAML too, where nobody checked the type; a bool is an int to Python.
            if type(value) is not int or not low <= value <= high:
                raise _bad_preview(f"preview {name} must be a whole number from {low} to {high}", name)
        if self.method not in PREVIEW_METHODS:
            raise _bad_preview(f"preview method {self.method!r} is not known", "method")
        if self.format not in PREVIEW_FORMATS:
            raise _bad_preview(f"preview format {self.format!r} is not known", "format")
        if self.count is not None and self.stride is not None:
            raise _bad_preview("preview takes a count or a stride, not both", "stride")

    @property
    def off(self) -> bool:
        return self.method == "off"

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


# The first names are ours; the others are how the libraries this grew from spell the same wish.
_ALIASES = {
    "emit_previews": "enabled",
    "emitPreviews": "enabled",
    "preview_stride": "stride",
    "previewStride": "stride",
}


def preview_policy(value: Any) -> PreviewPolicy | None:
    """Read a preview wish: absent = None (auto), true/false, or a mapping of policy fields."""
    match value:
        case None:
            return None
        case PreviewPolicy():
            return value
        case bool():
            return PreviewPolicy() if value else PreviewPolicy(method="off")
        case str():
            return PreviewPolicy(method=value)
        case Mapping():
            fields: dict[str, Any] = {_ALIASES.get(key, str(key)): item for key, item in value.items()}
            enabled = fields.pop("enabled", None)
            stride = fields.get("stride")
            # The library of the seed treats a stride of zero or less as "off", never as a mistake.
            if isinstance(stride, int) and not isinstance(stride, bool) and stride <= 0:
                enabled, fields["stride"] = False, None
            unknown = sorted(set(fields) - set(PreviewPolicy.__dataclass_fields__))
            if unknown:
                raise _bad_preview(f"preview has no field {unknown[0]!r}", unknown[0])
            if enabled is False:
                fields["method"] = "off"
            return PreviewPolicy(**fields)
        case _:
            raise _bad_preview(f"preview cannot be {type(value).__name__}", None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """What somebody typed: everything but the prompt may be left to the model."""

    prompt: str
    model: str | None = None
    negative: str | None = None
    width: int | None = None
    height: int | None = None
    steps: int | None = None
    seed: int | None = None
    guidance: float | None = None
    n: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    preview: PreviewPolicy | None = None
    priority: int = 0
    webhook: Webhook | None = None


def drafted(prompt: str, fields: Mapping[str, Any]) -> Draft:
    """A draft from keyword arguments, with the preview wish in any of its spellings, and a webhook as an address."""
    given = dict(fields)
    hook = given.pop("webhook", None)
    wish = given.pop("preview", None)
    others = {name: given.pop(name) for name in _ALIASES if name in given}
    if others:
        wish = others | (dict(wish) if isinstance(wish, Mapping) else {})
    return Draft(
        prompt=prompt, preview=preview_policy(wish), webhook=None if hook is None else webhook_of(hook), **given
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Everything a backend needs to draw, and to draw the same again."""

    prompt: str
    model: str
    negative: str = ""
    width: int
    height: int
    steps: int
    seed: int
    guidance: float | None = None
    n: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)

    def part(self, first: int, n: int) -> "Request":
        """The request for pictures `first … first + n - 1` of this one: picture k uses seed + k."""
        return replace(self, seed=self.seed + first, n=n)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"options": dict(self.options)}

    @classmethod
    def from_dict(cls, shape: Mapping[str, Any]) -> "Request":
        """Read a stored request, ignoring fields a later version may have added."""
        known = {key: shape[key] for key in cls.__dataclass_fields__ if key in shape}
        return cls(**known)


def _bad_preview(message: str, name: str | None) -> RequestError:
    fields = ", ".join(PreviewPolicy.__dataclass_fields__)
    return RequestError(
        message,
        hint=f"preview is true, false or some of: {fields}; methods: {', '.join(PREVIEW_METHODS)}",
        param=f"preview.{name}" if name else "preview",
    )
