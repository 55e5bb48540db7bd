"""How much one request may ask for; each refusal names the limit and where it is set."""

from collections.abc import Mapping, Sequence
from typing import Any

from imagen.config import Limits
from imagen.core.errors import TooLarge, Unsupported
from imagen.core.request import Draft
from imagen.models.catalog import Catalog
from imagen.surfaces.http.connection import SET


def check_draft(draft: Draft, limits: Limits, catalog: Catalog | None = None) -> None:
    """TooLarge when a request passes a limit. What it leaves open is the model's own affair.

    With the `catalog` what its model cannot do at all is told in place of that: no owner who sets more helps there.
    """
    try:
        check_fields({name: getattr(draft, name) for name in Draft.__dataclass_fields__}, limits)
    except TooLarge:
        if catalog is not None:
            catalog.resolve(draft, lambda: 0)
        raise


def check_asked(draft: Draft, limits: Limits, catalog: Catalog) -> None:
    """The same at a door that has promised 400 for what is too large; in the words of the model where it is that."""
    try:
        check_draft(draft, limits, catalog)
    except Unsupported as error:
        raise TooLarge(error.message, hint=error.hint, param=error.param) from None


def check_series(
    prompts: Sequence[str],
    models: Sequence[str],
    seeds: Sequence[int],
    limits: Limits,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """TooLarge when a series has too many cells, or one of them passes a limit; `settings` is what they share."""
    cells = len(prompts) * len(models) * max(1, len(seeds))
    _at_most(cells, limits.series_cells, "series_cells", "pictures in one series", None)
    for prompt in prompts:
        _at_most(len(prompt), limits.prompt_chars, "prompt_chars", "characters of a prompt", "prompts")
    check_fields(settings or {}, limits)


def check_fields(fields: Mapping[str, Any], limits: Limits) -> None:
    """TooLarge when one of the fields of a request passes a limit."""
    for name in ("prompt", "negative"):
        _at_most(len(fields.get(name) or ""), limits.prompt_chars, "prompt_chars", f"characters of the {name}", name)
    width, height = fields.get("width"), fields.get("height")
    for name, side in (("width", width), ("height", height)):
        _at_most(side, limits.side, "side", f"pixels of {name}", name)
    if width is not None and height is not None:
        _at_most(width * height, limits.pixels, "pixels", f"pixels ({width}x{height})", "width")
    _at_most(fields.get("steps"), limits.steps, "steps", "steps", "steps")
    _at_most(fields.get("n"), limits.n, "n", "pictures in one request", "n")


def _at_most(value: int | None, limit: int | None, name: str, what: str, param: str | None) -> None:
    if value is not None and limit is not None and value > limit:
        raise TooLarge(
            f"{value:,} {what}; the limit is {limit:,}",
            hint=f"ask for less; {SET.format(name)}",
            param=param,
        )
