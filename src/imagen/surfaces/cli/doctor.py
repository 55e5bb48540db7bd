"""`imagen doctor`: everything that would go wrong, found before it does."""

import asyncio
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from imagen.core.errors import DatabaseAway, ImagenError
from imagen.surfaces.cli.models import check_json
from imagen.surfaces.cli.output import json_option, one_line, print_json
from imagen.surfaces.cli.where import address, server

if TYPE_CHECKING:
    from imagen.app import App
    from imagen.config import Settings
    from imagen.engine.doctor import Finding, Look

NOT_READY = 3
WORKERS = 20  # that are told one by one; `imagen worker list` has all devices


@click.command()
@click.argument("model", required=False)
@click.option(
    "--clients",
    metavar="[URL]",
    is_flag=False,
    flag_value="",
    help="Replay what programs send, against a server that runs. It draws some thirty pictures.",
)
@click.option(
    "--client", "names", metavar="NAME", multiple=True, help="With --clients: only this one; may be repeated."
)
@click.option("--key", metavar="KEY", help="With --clients: the key of that server; else IMAGEN_KEY.")
@click.option("--model", "asked", metavar="NAME", help="With --clients: what is asked for; else the server's default.")
@json_option
def doctor(
    model: str | None,
    clients: str | None,
    names: tuple[str, ...],
    key: str | None,
    asked: str | None,
    json_output: bool,
) -> None:
    """Say what would go wrong, before it does.

    With MODEL only that model is asked. Exit code 3 means that something needed is missing.
    """
    from imagen.surfaces.cli.doctor_away import diagnosed
    from imagen.surfaces.cli.doctor_clients import check_clients, only_with_clients

    if clients is not None or names:
        url, known = address() if server() and not clients else (clients or "", None)
        fine = check_clients(url, key=key or known, model=asked or model, names=names, json_output=json_output)
        sys.exit(0 if fine else NOT_READY)
    only_with_clients(key=key, model=asked)
    findings = asyncio.run(diagnosed(model) if server() else _diagnosed(model))
    ok = all(finding.ok for finding in findings)
    if json_output:
        checks = [{**check_json(finding.check), "needed": finding.needed} for finding in findings]
        print_json({"ok": ok, "checks": checks})
    else:
        for finding in _once(findings if model else list(_short(findings))):
            _print(finding)
        click.echo("everything needed is fine" if ok else "something needs you: see FAIL above")
    sys.exit(0 if ok else NOT_READY)


async def _diagnosed(model: str | None) -> list["Finding"]:
    from imagen.app import App
    from imagen.config import load_settings, masked
    from imagen.engine.doctor import diagnose
    from imagen.engine.wiring import catalog_of

    settings = load_settings()
    try:
        app, refused = App(_usable(settings), patient=False), None
    except ImagenError as error:
        # A database that cannot even be named; the models can still be asked.
        app, refused = App(replace(_usable(settings), database="sqlite", storage="local")), error
    try:
        place = ""
        try:
            if refused is None:
                await app.start()
                place = str(masked("", await app.check_store()))
        except ImagenError as error:
            refused = error  # what only the database knows is not asked, each time anew, of one that is away
            if isinstance(error, DatabaseAway):  # which one is said here only: errors travel to callers too
                error.message += f": {masked('database', settings.database)}"
        looks = _looks(app, place, refused)
        return await diagnose(settings, catalog_of(settings), app.backend_for, model=model, looks=looks)
    finally:
        await app.aclose()


def _usable(settings: "Settings") -> "Settings":
    """What is left of broken settings: the app refuses them, a doctor looks at the rest."""
    return replace(settings, problems=())


def _looks(app: "App", place: str, refused: ImagenError | None) -> Mapping[str, "Look"]:
    from imagen.app import VERSION
    from imagen.engine.doctor import check_daemons, heard_of, package_changed_at
    from imagen.engine.doctor_crew import check_crew, check_waiting, told_of
    from imagen.engine.drawing.apart import check_places

    async def database() -> str:
        if refused is not None:
            raise refused
        return place

    async def pictures() -> str:
        return await app.check_images()

    async def waiting() -> str:
        before, heard = await seen()
        return check_waiting(await app.orphans(), await app.waiting(), before, heard, knows=app.catalog.models)

    asked: list[tuple[Sequence[Mapping[str, Any]], set[str]]] = []

    async def seen() -> tuple[Sequence[Mapping[str, Any]], set[str]]:
        """Listening takes seconds, so once."""
        if not asked:
            before = await app.workers()
            asked.append((before, await heard_of(before, app.workers)))
        return asked[0]

    async def workers() -> str:
        before, heard = await seen()
        check_daemons(before, version=VERSION, changed_at=package_changed_at())
        return "\n".join([check_crew(before, heard), *(told_of(worker, heard) for worker in before[:WORKERS])])

    async def storage() -> str:
        # Only of those that count up: a row may be left of one that is dead.
        before, heard = await seen()
        settings = app.settings
        here = str(settings.images_folder) if settings.storage == "local" else settings.storage.rstrip("/")
        return check_places((worker for worker in before if worker["id"] in heard), here)

    async def clock() -> str:
        return await app.check_clock()

    async def devices() -> str:
        asleep = [device for device in await app.devices.all() if device.paused]
        told = "; ".join(f"{device.name} is {device.paused}" for device in asleep)
        names = shlex.join(device.name for device in asleep)
        return f"{told}; jobs wait until `imagen worker resume {names}`" if told else "none paused"

    # A folder is looked at with the other folders; a bucket can only be tried.
    bucket = {} if app.settings.storage == "local" else {"image store": pictures}
    if refused is not None:
        return {"database": database, **bucket}
    several = app.settings.database != "sqlite"  # else there is one clock
    clocks = {"clock": clock} if several else {}
    those = {"waiting jobs": waiting, "workers": workers, "storage": storage, "devices": devices}
    return {"database": database, **clocks, **bucket, **those}


def _short(findings: Sequence["Finding"]) -> Iterator["Finding"]:
    """All models that are ready as one: who asks for none wants to know of those that are not."""
    fine = [finding for finding in findings if finding.check.error is None and ": " in finding.check.name]
    for finding in findings:
        if finding not in fine:
            yield finding
    names = {finding.check.name.partition(": ")[0] for finding in findings if ": " in finding.check.name}
    names -= {finding.check.name.partition(": ")[0] for finding in findings if finding.check.error is not None}
    if names:
        yield replace(fine[0], check=replace(fine[0].check, name="models", note=f"{len(names)} ready"))


def _once(findings: Sequence["Finding"]) -> Iterator["Finding"]:
    """What several models say alike, such as that their server is away, as one; needed when one of them is."""
    alike: dict[tuple[str, ...], list[Finding]] = {}
    for number, finding in enumerate(findings):
        error = finding.check.error
        key = (error.code, error.message) if error is not None else (str(number),)
        alike.setdefault(key, []).append(finding)
    for same in alike.values():
        first = same[0]
        if len(same) == 1:
            yield first
            continue
        names = [finding.check.name.partition(": ")[0] for finding in same]
        what = first.check.name.partition(": ")[2]
        name = ", ".join(dict.fromkeys(names)) + (f": {what}" if what else "")
        yield replace(first, check=replace(first.check, name=name), needed=any(finding.needed for finding in same))


def _print(finding: "Finding") -> None:
    check = finding.check
    if check.error is None:
        first, *more = check.note.splitlines() or [""]
        click.echo(f"ok    {check.name}" + (f": {one_line(first)}" if first else ""))
        for line in more:
            click.echo(f"        {one_line(line)}")
        return
    click.echo(f"{'FAIL' if finding.needed else 'note'}  {check.name}: {one_line(check.error.message)}")
    click.echo(f"      hint: {one_line(check.error.hint)}")
