"""`imagen doctor`: everything that would go wrong, found before it does."""

import asyncio
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from imagen.core.errors import ImagenError
from imagen.surfaces.cli.models import check_json
from imagen.surfaces.cli.output import one_line, print_json

if TYPE_CHECKING:
    from imagen.app import App
    from imagen.config import Settings
    from imagen.engine.doctor import Finding, Look

NOT_READY = 3


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
@click.option("--json", "json_output", is_flag=True, help="Print one JSON document.")
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
    from imagen.surfaces.cli.doctor_clients import check_clients, only_with_clients

    if clients is not None or names:
        fine = check_clients(clients or "", key=key, model=asked or model, names=names, json_output=json_output)
        sys.exit(0 if fine else NOT_READY)
    only_with_clients(key=key, model=asked)
    findings = asyncio.run(_diagnosed(model))
    ok = all(finding.ok for finding in findings)
    if json_output:
        checks = [{**check_json(finding.check), "needed": finding.needed} for finding in findings]
        print_json({"ok": ok, "checks": checks})
    else:
        for finding in _once(findings):
            _print(finding)
        click.echo("everything needed is fine" if ok else "something needs you: see FAIL above")
    sys.exit(0 if ok else NOT_READY)


async def _diagnosed(model: str | None) -> list["Finding"]:
    from imagen.app import App
    from imagen.config import load_settings
    from imagen.engine.doctor import diagnose
    from imagen.engine.wiring import catalog_of

    settings = load_settings()
    try:
        app, refused = App(_usable(settings)), None
    except ImagenError as error:
        # A database that cannot even be named; the models can still be asked.
        app, refused = App(replace(_usable(settings), database="sqlite", storage="local")), error
    try:
        looks = _looks(app, refused)
        return await diagnose(settings, catalog_of(settings), app.backend_for, model=model, looks=looks)
    finally:
        await app.aclose()


def _usable(settings: "Settings") -> "Settings":
    """What is left of broken settings: the app refuses them, a doctor looks at the rest."""
    return replace(settings, problems=())


def _looks(app: "App", refused: ImagenError | None) -> Mapping[str, "Look"]:
    from imagen.app import VERSION
    from imagen.config import masked
    from imagen.engine.doctor import check_daemons, package_changed_at

    async def database() -> str:
        if refused is not None:
            raise refused
        await app.start()
        return str(masked("", await app.check_store()))

    async def waiting() -> str:
        left = [] if refused else await app.orphans()
        if not left:
            return "none"
        return f"{len(left)} that nobody draws; run one with `imagen jobs watch {left[0].id}`"

    async def workers() -> str:
        alive = [] if refused else await app.workers()
        check_daemons(alive, version=VERSION, changed_at=package_changed_at())
        return f"{len(alive)} alive"

    return {"database": database, "waiting jobs": waiting, "workers": workers}


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
        click.echo(f"ok    {check.name}" + (f": {one_line(check.note)}" if check.note else ""))
        return
    click.echo(f"{'FAIL' if finding.needed else 'note'}  {check.name}: {one_line(check.error.message)}")
    click.echo(f"      hint: {one_line(check.error.hint)}")
