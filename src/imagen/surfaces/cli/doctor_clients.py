"""`imagen doctor --clients`: what programs that exist already send, replayed against a server that runs."""

import asyncio
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from imagen.core.errors import NotConfigured, RequestError
from imagen.surfaces.cli.output import one_line, print_json, table

if TYPE_CHECKING:
    from imagen.testing.clients import Client, Verdict

KEY_FROM = "IMAGEN_KEY"
ASK_S = 10.0  # for the list of models; the pictures have all the time there is
WIDEST = 120  # names of verbs that are cut off say nothing; a narrow terminal wraps them
_MARKS = {"works": "works", "refused": "refused", "fails": "FAIL"}


def check_clients(url: str, *, key: str | None, model: str | None, names: Sequence[str], json_output: bool) -> bool:
    """Replay, tell as it goes, and say whether everything works or is refused in a way that clients show."""
    chosen = _chosen(names)
    place = url.rstrip("/").removesuffix("/v1") or _own()
    key = key or os.environ.get(KEY_FROM)
    verdicts = asyncio.run(_replayed(chosen, place, key, model, tell=not json_output))
    ok = all(verdict.outcome != "fails" for verdict in verdicts)
    if json_output:
        print_json({"ok": ok, "server": place, "verdicts": [_json(verdict) for verdict in verdicts]})
        return ok
    click.echo()
    for line in table(*summary(chosen, verdicts), width=WIDEST):
        click.echo(line)
    click.echo()
    failed = sum(verdict.outcome == "fails" for verdict in verdicts)
    click.echo("every client can work with this server" if ok else f"{failed} things fail: see FAIL above")
    return ok


def summary(clients: Sequence["Client"], verdicts: Sequence["Verdict"]) -> tuple[list[str], list[list[str]]]:
    """A table: what each client can do here, what it is refused, and what fails."""
    rows = [
        [client.name]
        + [
            " ".join(one.verb for one in verdicts if (one.client, one.outcome) == (client.name, outcome))
            for outcome in _MARKS
        ]
        for client in clients
    ]
    return ["client", *_MARKS], rows


async def _replayed(
    clients: Sequence["Client"], url: str, key: str | None, model: str | None, *, tell: bool
) -> list["Verdict"]:
    from imagen.testing.clients import replay

    model = model or await _first_model(url, key)
    if tell:
        click.echo(f"{url} is asked for pictures of {model}, as {len(clients)} clients do", err=True)
    verdicts = []
    async for verdict in replay(clients, url, key=key, model=model):
        verdicts.append(verdict)
        if tell:
            _tell(verdict)
    return verdicts


def _tell(verdict: "Verdict") -> None:
    said = f": {one_line(verdict.said)}" if verdict.said else ""
    click.echo(f"{_MARKS[verdict.outcome]:8} {verdict.client}: {verdict.verb}{said} ({verdict.took_s:.1f} s)")
    if verdict.outcome != "works" and verdict.hint:
        click.echo(f"         hint: {one_line(verdict.hint)}")


async def _first_model(url: str, key: str | None) -> str:
    """The model that the server names first, which is its default."""
    import httpx2

    headers = {"authorization": f"Bearer {key}"} if key else {}
    try:
        async with httpx2.AsyncClient(base_url=url, timeout=ASK_S, trust_env=False) as http:
            answer = await http.get("/v1/models", headers=headers)
            answer.raise_for_status()
            return str(answer.json()["data"][0]["id"])
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403):
            raise NotConfigured(f"{url} asks for a key", hint=f"give one with --key or in {KEY_FROM}") from error
        raise NotConfigured(
            f"{url} does not answer: {status or error}",
            hint="start it with `imagen serve`, or name another: imagen doctor --clients http://HOST:PORT",
        ) from error
    except (ValueError, LookupError, TypeError) as error:
        raise NotConfigured(
            f"{url} names no models", hint="name one that it has with --model", detail=str(error)
        ) from error


def _own() -> str:
    """Where `imagen serve` listens here."""
    from imagen.config import load_settings

    server = load_settings().server
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(server.host, server.host)
    return f"http://{host}:{server.port}"


def _chosen(names: Sequence[str]) -> list["Client"]:
    from imagen.testing.clients import load

    try:
        return load(names)
    except KeyError as missing:
        known = ", ".join(client.name for client in load())
        raise RequestError(
            f"there is no recording of a client {missing.args[0]!r}", hint=f"there are: {known}", param="client"
        ) from missing


def _json(verdict: "Verdict") -> dict[str, Any]:
    return {
        "client": verdict.client,
        "verb": verdict.verb,
        "outcome": verdict.outcome,
        "said": verdict.said,
        "hint": verdict.hint,
        "took_s": verdict.took_s,
    }
