"""`imagen doctor --clients`: what programs that exist already send, replayed against a server that runs."""

import asyncio
import base64
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from imagen.core.errors import NotConfigured, RequestError, UnknownModel
from imagen.reading import maybe
from imagen.surfaces.cli.output import one_line, print_json, table

if TYPE_CHECKING:
    from imagen.testing.clients import Client, Verdict

KEY_FROM = "IMAGEN_KEY"
ASK_S = 10.0  # for the list of models; the pictures have all the time there is
WIDEST = 120  # names of verbs that are cut off say nothing; a narrow terminal wraps them
LISTS = ("/v1/models", "/sdapi/v1/sd-models")  # where servers name their models; those of A1111 have the second only
_MARKS = {"works": "works", "refused": "refused", "busy": "busy", "fails": "FAIL"}


def check_clients(url: str, *, key: str | None, model: str | None, names: Sequence[str], json_output: bool) -> bool:
    """Replay, tell as it goes, and say whether everything works or is refused in a way that clients show."""
    chosen = _chosen(names)
    place = place_of(url) or _own()
    key = key or os.environ.get(KEY_FROM)
    drawn, verdicts = asyncio.run(_replayed(chosen, place, key, model, tell=not json_output))
    ok = all(verdict.outcome != "fails" for verdict in verdicts)
    if json_output:
        told = [_json(verdict) for verdict in verdicts]
        print_json({"ok": ok, "server": place, "model": drawn, "verdicts": told})
        return ok
    click.echo()
    for line in table(*summary(chosen, verdicts), width=WIDEST):
        click.echo(line)
    click.echo()
    click.echo(conclusion(verdicts))
    return ok


def only_with_clients(**given: str | None) -> None:
    """Refuse options that would be ignored where nothing is replayed."""
    for name, value in given.items():
        if value is not None:
            raise click.UsageError(f"--{name} is for --clients: imagen doctor --clients [URL] --{name} …")


def place_of(url: str) -> str:
    """The root of a server, however much or little of its address was typed."""
    place = url.strip().rstrip("/").removesuffix("/v1")
    return place if "://" in place or not place else f"http://{place}"


def conclusion(verdicts: Sequence["Verdict"]) -> str:
    """All of it in one line."""
    failed = sum(verdict.outcome == "fails" for verdict in verdicts)
    busy = sum(verdict.outcome == "busy" for verdict in verdicts)
    if failed:
        return f"{_counted(failed, 'thing fails', 'things fail')}: see FAIL above"
    if busy:
        things = _counted(busy, "thing was", "things were")
        return f"nothing fails; {things} not tried: try again when nothing of yours is being drawn"
    return "every client can work with this server"


def summary(clients: Sequence["Client"], verdicts: Sequence["Verdict"]) -> tuple[list[str], list[list[str]]]:
    """A table: what each client can do here, what it is refused, and what fails."""
    outcomes = [one for one in _MARKS if one != "busy" or any(verdict.outcome == one for verdict in verdicts)]
    rows = [
        [client.name]
        + [
            " ".join(one.verb for one in verdicts if (one.client, one.outcome) == (client.name, outcome))
            for outcome in outcomes
        ]
        for client in clients
    ]
    return ["client", *outcomes], rows


async def _replayed(
    clients: Sequence["Client"], url: str, key: str | None, model: str | None, *, tell: bool
) -> tuple[str, list["Verdict"]]:
    """The model that was asked for, and what came of it."""
    from imagen.testing.clients import insisted, pinned, replay

    models = await _models(url, key)
    drawn = _meant(model, models, url) if model else next(iter(models))
    if tell:
        programs = _counted(len(clients), "client does", "clients do")
        click.echo(f"{url} is asked for pictures of {drawn}, as {programs}", err=True)
    if model:
        replaced = ", ".join(name for name in insisted(clients) if name != drawn)
        if tell and replaced:
            click.echo(f"{drawn} stands in place of the names that they insist on: {replaced}", err=True)
        clients = [pinned(client) for client in clients]
    verdicts = []
    async for verdict in replay(clients, url, key=key, model=drawn):
        verdicts.append(verdict)
        if tell:
            _tell(verdict)
    return drawn, verdicts


def _tell(verdict: "Verdict") -> None:
    said = f": {one_line(verdict.said)}" if verdict.said else ""
    click.echo(f"{_MARKS[verdict.outcome]:8} {verdict.client}: {verdict.verb}{said} ({verdict.took_s:.1f} s)")
    if verdict.outcome != "works" and verdict.hint:
        click.echo(f"         hint: {one_line(verdict.hint)}")


def _meant(model: str, models: Mapping[str, str], url: str) -> str:
    if model in models:
        return models[model]
    known = ", ".join(models)
    raise UnknownModel(f"{url} has no model {model!r}{maybe(model, models)}", hint=f"it has: {known}", param="model")


async def _models(url: str, key: str | None) -> dict[str, str]:
    """What can be asked for, and which model each name means; the server's default comes first."""
    import httpx2

    basic = base64.b64encode(f"imagen:{key}".encode()).decode()
    ways = (f"Bearer {key}", f"Basic {basic}")
    try:
        async with httpx2.AsyncClient(base_url=url, timeout=ASK_S, trust_env=False) as http:
            answers = []
            for path, way in zip(LISTS, ways, strict=True):
                answers.append(await http.get(path, headers={"authorization": way} if key else {}))
                if answers[-1].status_code not in (404, 405):
                    break
    except httpx2.TimeoutException as error:
        raise _away(url, f"not within {ASK_S:.0f} s") from error
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise _away(url, str(error) or type(error).__name__) from error
    answer = answers[-1] if answers[-1].is_success else answers[0]
    status = answer.status_code
    if status in (401, 403):
        raise _locked(url, key)
    if not answer.is_success:
        raise _no_server(url, f"{status} for GET {answer.request.url.path}", broken=status >= 500)
    try:
        told = answer.json()
        models = _named(told if isinstance(told, list) else told["data"])
    except (ValueError, LookupError, TypeError) as error:
        kind = answer.headers.get("content-type", "nothing").partition(";")[0]
        raise _no_server(url, f"{kind} instead of a list for GET {answer.request.url.path}") from error
    if not models:
        raise NotConfigured(f"{url} names no models", hint="see with `imagen models` what its owner has switched off")
    return models


def _named(data: list[Mapping[str, Any]]) -> dict[str, str]:
    """Names of either list; what OpenAI's clients know by a name of theirs means the model behind it."""
    if data and "title" in data[0]:
        return {str(name): str(one["title"]) for one in data for name in (one["title"], one["model_name"])}
    return {str(one["id"]): str(one.get("alias_of") or one["id"]) for one in data}


def _away(url: str, why: str) -> NotConfigured:
    hint = "start it with `imagen serve`, or name another: imagen doctor --clients http://HOST:PORT"
    return NotConfigured(f"{url} does not answer: {why}", hint=hint)


def _locked(url: str, key: str | None) -> NotConfigured:
    if not key:
        return NotConfigured(f"{url} asks for a key", hint=f"give one with --key or in {KEY_FROM}")
    hint = f"give another with --key or in {KEY_FROM}; its owner makes one with `imagen keys add NAME`"
    return NotConfigured(f"{url} does not take this key", hint=hint)


def _no_server(url: str, found: str, *, broken: bool = False) -> NotConfigured:
    if broken:
        return NotConfigured(f"{url} answers, but not well: {found}", hint="see the log of that server")
    hint = "see whether the port is that of `imagen serve`, and give the root of the address, without a path behind it"
    return NotConfigured(f"{url} answers, but is no image server: {found}", hint=hint)


def _counted(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"


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
