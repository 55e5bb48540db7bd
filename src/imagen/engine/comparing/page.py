"""How a comparison looks: laid out as rows and columns, drawn as the contact sheet or written as one page."""

import io
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from urllib.parse import quote

from imagen.core.job import State
from imagen.engine.comparing.document import DELETED, Document, Entry
from imagen.engine.comparing.sheet import LOST, Picture, SheetCell, draw_sheet
from imagen.previews.decode import Unreadable, decode, kind_of

CELL_PX = 512  # longest edge of an embedded picture; the whole one is a click away

STYLE = """
:root { color-scheme: light dark; --paper: #f7f6f3; --ink: #1f1f22; --dim: #75737a; --red: #8f3b1d; --blush: #f6e7e1; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #191918; --ink: #eae9e3; --dim: #98978f; --red: #f0a58f; --blush: #35251f; }
}
* { box-sizing: border-box; }
body { margin: 0; padding: 2.5rem clamp(1rem, 4vw, 3.5rem); background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { margin: 0 0 .35rem; max-width: 60ch; font-size: 1.35rem; font-weight: 600; overflow-wrap: anywhere; }
h2 { margin: 2.5rem 0 .25rem; max-width: 75ch; font-size: 1rem; font-weight: 500; overflow-wrap: anywhere; }
p.about { margin: 0 0 2rem; color: var(--dim); }
.row { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(16rem, 100%), 1fr)); gap: 2rem 1.5rem;
  align-items: start; }
.grid { overflow-x: auto; padding-bottom: .5rem; }
.grid .row { grid-template-columns: repeat(var(--columns), minmax(11rem, 32rem)); min-width: 100%; }
figure { margin: 0; }
figure img { display: block; width: 100%; height: auto; border-radius: 3px; }
.none { display: flex; flex-direction: column; justify-content: center; aspect-ratio: 1; padding: 1.25rem;
  background: var(--blush); border-radius: 3px; overflow-wrap: anywhere; }
.none strong { color: var(--red); font-weight: 500; }
.none span, .dim { color: var(--dim); }
figcaption { margin-top: .6rem; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
figcaption b { font-weight: 600; }
.dim { font-size: .85rem; }
a { color: inherit; }
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A column for each model, a row for each prompt and seed."""

    title: str
    rows: tuple[tuple[str, int], ...]
    headings: tuple[str, ...]

    @classmethod
    def of(cls, document: Document) -> "Layout":
        """The rows of a comparison, named only by what tells them apart."""
        prompts, seeds = document.prompts, document.seeds
        rows = tuple((prompt, seed) for prompt in prompts for seed in seeds)
        several = len(prompts) > 1, len(seeds) > 1
        named = [(prompt if several[0] else "", f"seed {seed}" if several[1] else "") for prompt, seed in rows]
        return cls(
            title=prompts[0] if len(prompts) == 1 else f"{len(prompts)} prompts, {len(document.models)} models",
            rows=rows,
            headings=tuple(" · ".join(part for part in name if part) for name in named),
        )


def sheet(document: Document, pictures: Mapping[int, Picture]) -> bytes:
    """The contact sheet as PNG."""
    layout = Layout.of(document)
    cells = [
        SheetCell(
            row=layout.rows.index((entry.prompt, entry.seed)),
            column=document.models.index(entry.model),
            label=entry.model,
            latency_s=entry.latency_s,
            seed=entry.seed,
            size=_size(entry),
            picture=pictures.get(entry.index),
            error=_trouble(entry, pictures.get(entry.index)),
            note=_load(entry),
        )
        for entry in document.cells
        if (entry.prompt, entry.seed) in layout.rows
    ]
    return draw_sheet(layout.title, layout.headings, document.models, cells)


def page(document: Document, pictures: Mapping[int, Picture]) -> bytes:
    """One HTML page that needs nothing beside it; the whole pictures are linked by their names."""
    layout = Layout.of(document)
    by_place = {entry.place: entry for entry in document.cells}
    body = []
    for (prompt, seed), heading in zip(layout.rows, layout.headings, strict=True):
        found = [by_place.get((model, prompt, seed)) for model in document.models]
        figures = "\n".join(_figure(entry, pictures.get(entry.index)) if entry else "<div></div>" for entry in found)
        body.append(
            (f'<h2 dir="auto">{_text(heading)}</h2>\n' if heading else "") + f'<div class="row">\n{figures}\n</div>'
        )
    rows = "\n".join(body)
    # One row may wrap like text; several keep each model in its own column.
    grid = f'<main class="grid" style="--columns: {len(document.models)}">' if len(layout.rows) > 1 else "<main>"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{_text(layout.title)}</title>
<style>{STYLE}</style>
</head>
<body>
<h1 dir="auto">{_text(layout.title)}</h1>
<p class="about">{_text(_about(document))}</p>
{grid}
{rows}
</main>
</body>
</html>
""".encode("utf-8", "replace")


def _about(document: Document) -> str:
    states = [cell.state for cell in document.cells]
    done = states.count(State.COMPLETED)
    parts = [f"{done} of {len(states)} pictures" if done < len(states) else f"{done} pictures"]
    if len(document.seeds) == 1:
        parts.append(f"seed {document.seeds[0]}")
    parts.append("the times count reading the prompt, drawing and decoding; loading and waiting stand apart")
    return " · ".join(parts)


def _figure(entry: Entry, picture: Picture) -> str:
    shown = _embedded(picture, f"{entry.prompt[:200]}, drawn by {entry.model}")
    if shown is None:
        hint = str((entry.error or {}).get("hint") or "")
        why = _trouble(entry, None) or LOST
        top = f'<div class="none"><strong>{_text(why)}</strong><span>{_text(hint)}</span></div>'
    else:
        top = f'<a href="{quote(entry.file)}" title="{_text(entry.file)}">{shown}</a>' if entry.file else shown
    latency = f"{entry.latency_s:.1f} s" if entry.latency_s is not None else ""
    size = "{}×{}".format(*got) if (got := _size(entry)) else ""
    facts = " · ".join(part for part in (latency, f"seed {entry.seed}", size) if part)
    more = " · ".join(part for part in _small_print(entry) if part)
    return (
        f"<figure>{top}<figcaption><b>{_text(entry.model)}</b><br>{_text(facts)}"
        f'<div class="dim">{_text(more)}</div></figcaption></figure>'
    )


def _small_print(entry: Entry) -> Sequence[str]:
    vram = entry.vram_peak_mib
    waited = entry.timings.get("queue", 0.0)
    return (
        f"{entry.steps} steps" if entry.steps else "",
        _load(entry),
        f"waited {waited:.1f} s" if waited >= 0.05 else "",
        f"memory {vram / 1024:.1f} GiB ({entry.vram_method or 'by what its backend says'})" if vram else "",
        f"cost {entry.cost:g}" if entry.cost else "",
        entry.licence,
    )


def _load(entry: Entry) -> str:
    load = entry.timings.get("load", 0.0)
    return f"load {load:.1f} s" if entry.state is State.COMPLETED and load >= 0.05 else ""


def _trouble(entry: Entry, picture: Picture) -> str | None:
    """Why there is no picture; None when there is one."""
    if entry.error:
        return str(entry.error.get("message") or entry.error.get("code") or "failed")
    if entry.deleted and picture is None:
        return DELETED
    match entry.state:
        case State.COMPLETED:
            return None if picture else LOST
        case State.FAILED:
            return "failed"
        case State.CANCELLED:
            return "cancelled"
        case State.QUEUED | State.RUNNING:
            return "not drawn yet"


def _size(entry: Entry) -> tuple[int, int] | None:
    got = entry.size.got
    return (got.width, got.height) if got else None


def _embedded(picture: Picture, alt: str) -> str | None:
    data = picture() if callable(picture) else _shrunk(picture) if isinstance(picture, Path) else picture
    kind = kind_of(data) if data else None
    if data is None or kind is None:
        return None
    return f'<img src="data:{kind.mime};base64,{b64encode(data).decode()}" alt="{_text(alt)}" loading="lazy">'


def _shrunk(path: Path) -> bytes | None:
    """A cell-sized WebP of a whole picture; None for a file that is no picture any more."""
    out = io.BytesIO()
    try:
        decode(path, fit=(CELL_PX, CELL_PX)).save(out, "WEBP", quality=82)
    except (Unreadable, OSError):
        return None
    return out.getvalue()


def _text(text: str) -> str:
    return escape(text, quote=True)
