"""`imagen reproduce`: draw a picture again from its own record, and say what differs."""

import asyncio
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from imagen.core.errors import MissingFile
from imagen.core.events import Completed
from imagen.surfaces.cli.destination import Destination, destination
from imagen.surfaces.cli.follow import cancelled_by_ctrl_c, face, not_cancelled, run, say_end, tell_orphans, to_the_end
from imagen.surfaces.cli.generate import hand_over
from imagen.surfaces.cli.output import json_option, print_json
from imagen.surfaces.cli.where import open_door

PICTURES = (".png", ".jpg", ".jpeg", ".webp")


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--output", "-o", metavar="FILE|DIR", help="Copy the new picture here; never over an existing file.")
@json_option
def reproduce(file: Path, output: str | None, json_output: bool) -> None:
    """Draw FILE again, a PNG or the JSON beside it, and compare the pixels.

    Exit code 0 means the same pixels, 1 that something differs.
    """
    run(_reproduce(file, destination(output) if output is not None else None, json_output))


async def _reproduce(file: Path, output: Destination | None, json_output: bool) -> int:
    from imagen.engine.pictures import reproduce as engine
    from imagen.engine.pictures.sidecar import read_recipe

    recipe = await asyncio.to_thread(read_recipe, file)
    draft = engine.draft_of(recipe)
    then, expected = await asyncio.to_thread(_recorded, file, recipe)
    async with open_door() as app:
        job = await app.submit(draft)
        await tell_orphans(app)
        shown = face(json_output=False, preview="ref", pictures=sys.stderr.isatty())
        async with (
            app.working([job.id]),
            cancelled_by_ctrl_c(lambda: app.cancel(job.id), shown, left=not_cancelled(app, job.id)),
        ):
            end = await to_the_end(app, job.id, shown, previews=shown.shows_pictures)
        if not isinstance(end, Completed):
            return say_end(end, job)
        image = end.images[0]
        now = await app.image_bytes(image)
        pixels = await asyncio.to_thread(engine.pixel_differences, then, now, image, expected)
        others = engine.differences(recipe, await app.sidecar(image.id))
        if json_output:
            print_json(
                {
                    "file": str(file),
                    "same_pixels": not pixels,
                    "differences": [one.as_dict() for one in (*pixels, *others)],
                    "job": job.id,
                    "image": image.as_dict(),
                }
            )
        else:
            click.echo("differs" if pixels else "same pixels")
            for one in (*pixels, *others):
                click.echo(f"  {one}")
        await hand_over(app, job, end, output, quiet=json_output)
        return 1 if pixels else 0


def _recorded(file: Path, recipe: dict[str, Any]) -> tuple[bytes | None, str | None]:
    """The picture as it is on disk, and the pixels' hash as it was written down."""
    image = recipe.get("image")
    expected = image.get("pixels_sha256") if isinstance(image, dict) else None
    expected = expected if isinstance(expected, str) else None
    candidates = [file] if file.suffix.lower() in PICTURES else [file.with_suffix(suffix) for suffix in PICTURES]
    for path in candidates:
        with suppress(OSError):
            return path.read_bytes(), expected
    if expected is None:
        raise MissingFile(
            f"there is no picture beside {file}, and it does not tell the picture's hash",
            hint="name the picture itself, or put the picture beside its JSON",
            param="file",
        )
    return None, expected
