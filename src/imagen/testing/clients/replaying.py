"""Clients replayed against a server: one verdict for each thing that each of them does."""

import base64
import dataclasses
import io
import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import httpx2
from PIL import Image

from imagen.testing.clients.needs import Unmet, find, met, picture_of
from imagen.testing.clients.recording import VERBS, Client, Exchange, Need, Verb
from imagen.testing.clients.seat import Seat, busy_matters, chooses

# works: as the client needs it. refused: the server says that it cannot, in a way that the client shows. fails: not so.
# busy: it was not tried, because something of the same caller is being drawn.
Outcome = Literal["works", "refused", "busy", "fails"]

PATIENCE_S = 600.0  # what the libraries of OpenAI wait
QUIET_S = 5.0  # how long a picture of the caller's own is waited for
PROMPT = "a red fox"
ANY_KEY = "anything"  # what people type where a program insists on a key
USER = "imagen"
_EDITED_SIDE = 64
_SAID_CHARS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether one thing works with one client; where not, what was found, and what to do next."""

    client: str
    verb: Verb
    outcome: Outcome
    said: str = ""
    hint: str = ""
    took_s: float = 0.0


class _Failed(Exception):
    """A client would not go on from here."""

    def __init__(self, said: str, hint: str, outcome: Outcome = "fails") -> None:
        super().__init__(said)
        self.said, self.hint, self.outcome = said, hint, outcome


async def replay(
    clients: Sequence[Client],
    url: str,
    *,
    key: str | None = None,
    model: str,
    timeout_s: float = PATIENCE_S,
) -> AsyncIterator[Verdict]:
    """What becomes of each verb of each client, one after the other. `url` is the root of the server, without /v1.

    `model` is what clients ask for by name; what insists on a name of its own is left to the server (see `pinned`).
    """
    async with httpx2.AsyncClient(base_url=url.rstrip("/"), timeout=timeout_s, trust_env=False) as http:
        for client in clients:
            for verb in sorted(client.verbs, key=list(VERBS).index):
                began = time.monotonic()
                said, hint, outcome = await _verb(http, client, verb, _words(key, model, url.rstrip("/")))
                took_s = round(time.monotonic() - began, 3)
                yield Verdict(client=client.name, verb=verb, outcome=outcome, said=said, hint=hint, took_s=took_s)


async def _verb(
    http: httpx2.AsyncClient, client: Client, verb: Verb, words: dict[str, Any]
) -> tuple[str, str, Outcome]:
    """One thing that people do, and the checkpoint of the caller as it was before."""
    steps = client.verbs[verb]
    choosing = next((exchange for exchange in steps if chooses(exchange)), None)
    seat = Seat(http=http, headers=_headers(client, choosing or steps[0], words))
    if busy_matters(steps) and await seat.drawing(QUIET_S):
        return "something of yours is being drawn", "try again when it is done", "busy"
    before = await seat.checkpoint() if choosing else None
    try:
        said, hint, outcome = await _tried(http, client, steps, words)
    finally:
        trouble = await seat.put_back(before)
    if trouble:
        return "; ".join(filter(None, (said, trouble))), "choose it again in that client", "fails"
    return said, hint, outcome


async def _tried(
    http: httpx2.AsyncClient, client: Client, steps: Sequence[Exchange], words: dict[str, Any]
) -> tuple[str, str, Outcome]:
    said: list[str] = []
    try:
        for exchange in steps:
            said += await _exchange(http, client, exchange, words)
    except _Failed as failed:
        return failed.said, failed.hint, failed.outcome
    except httpx2.ConnectError:
        return (
            "nobody answers",
            f"start the server with `imagen serve`, or name another one than {http.base_url}",
            "fails",
        )
    except httpx2.TimeoutException:
        return "no answer in time", "see with `imagen jobs list` whether somebody draws", "fails"
    except httpx2.HTTPError as error:
        return f"the connection broke: {error}", "see the log of the server", "fails"
    return ", ".join(dict.fromkeys(said)), "", "works"


async def _exchange(http: httpx2.AsyncClient, client: Client, exchange: Exchange, words: dict[str, Any]) -> list[str]:
    where = f"{exchange.method} {exchange.path}"
    headers = _headers(client, exchange, words)
    body: dict[str, Any] = {}
    if exchange.json is not None:
        body["json"] = _filled(exchange.json, words)
    elif exchange.files:
        fields = [(name, (None, str(_filled(text, words)))) for name, text in exchange.form]
        body["files"] = [*fields, *((name, ("picture.png", _png(), "image/png")) for name in exchange.files)]
    request = http.build_request(exchange.method, str(_filled(exchange.path, words)), headers=headers, **body)
    answer = await http.send(request)
    if answer.status_code not in exchange.status:
        raise _refused(answer, where, exchange, keyed=words["basic"] is not None)
    if exchange.events is not None:
        return _events(answer.text, where, exchange.events)
    told = _json(answer, where) if exchange.needs or exchange.keep else None
    said = []
    for need in exchange.needs:
        wanted = need if isinstance(need.is_, str) else _meant(need, words)
        try:
            said.append(met(wanted, told))
        except Unmet as unmet:
            raise _Failed(f"{where}: {unmet}", need.otherwise or f"{client.title} cannot go on without it") from None
    for name, place in exchange.keep.items():
        words[name] = find(place, told)[0]
    return [one for one in said if one]


def _headers(client: Client, exchange: Exchange, words: Mapping[str, Any]) -> dict[str, str]:
    filled = _filled({**client.headers, **exchange.headers}, words)
    return {name: text for name, text in filled.items() if text is not None}


def _refused(answer: httpx2.Response, where: str, exchange: Exchange, *, keyed: bool) -> _Failed:
    """What a status that was not expected means."""
    status = answer.status_code
    message, hint = _error(answer)
    if exchange.may_refuse and 400 <= status < 500 and status not in (401, 403, 404, 405) and message:
        return _Failed(message, hint, "refused")
    if status in (401, 403):
        hint = hint or _about_key(keyed, sent="authorization" in answer.request.headers)
    elif status in (404, 405):
        hint = hint or "this server has no such route; see whether the address is its root, without /v1"
    return _Failed(f"{where}: {status}: {message or 'no message'}"[:_SAID_CHARS], hint or "see the log of the server")


def _about_key(keyed: bool, *, sent: bool) -> str:
    if not keyed:
        return "the server asks for a key: give one with --key"
    return "the server does not take this key" if sent else "this program sends no key, and the server asks for one"


def _error(answer: httpx2.Response) -> tuple[str, str]:
    """Message and hint of a refusal, in the shape of either door."""
    with suppress(ValueError):
        told = answer.json()
        error = told.get("error") if isinstance(told, Mapping) else None
        if isinstance(error, Mapping):
            return str(error.get("message") or ""), str(error.get("hint") or "")
        if isinstance(told, Mapping):
            return str(told.get("errors") or told.get("detail") or error or ""), str(told.get("hint") or "")
    return answer.text[:_SAID_CHARS], ""


def _json(answer: httpx2.Response, where: str) -> Any:
    try:
        return answer.json()
    except ValueError:
        kind = answer.headers.get("content-type", "nothing")
        raise _Failed(f"{where}: {kind} instead of JSON", "see whether the address is that of the server") from None


def _events(text: str, where: str, kinds: Mapping[str, str]) -> list[str]:
    """A stream, read as OpenAI's libraries read it: any event that they do not know is a picture to them."""
    shapes = []
    for frame in text.replace("\r\n", "\n").split("\n\n"):
        data = "\n".join(line[5:].strip() for line in frame.split("\n") if line.startswith("data:"))
        if data and data != "[DONE]":
            shapes.append(json.loads(data))
    counted = {"partial": 0, "completed": 0}
    for shape in shapes:
        if "error" in shape:
            raise _Failed(f"{where}: {shape['error'].get('message')}", str(shape["error"].get("hint") or ""))
        kind = next((name for name, type_ in kinds.items() if type_ == shape.get("type")), None)
        if kind is None:
            raise _Failed(f"{where}: an event {shape.get('type')!r}", "the library takes it for a picture and breaks")
        counted[kind] += 1
        try:
            size = picture_of(shape.get("b64_json"), f"{shape['type']}.b64_json")
        except Unmet as unmet:
            raise _Failed(f"{where}: {unmet}", "every event of this stream carries a picture") from None
    if not shapes or shapes[-1]["type"] != kinds["completed"]:
        raise _Failed(f"{where}: the stream ended without `{kinds['completed']}`", "see the log of the server")
    return [f"{counted['partial']} partial images, then {size}"]


def _meant(need: Need, words: Mapping[str, Any]) -> Need:
    return dataclasses.replace(need, is_=_filled(need.is_, words))


def _words(key: str | None, model: str, url: str) -> dict[str, Any]:
    """What stands for a name in what was recorded."""
    basic = base64.b64encode(f"{USER}:{key}".encode()).decode() if key else ""
    return {
        "key": key or ANY_KEY,
        "basic": f"Basic {basic}" if basic else None,  # None: that header is not sent
        "basic_always": f"Basic {basic}".strip(),  # what is empty arrives without the blank behind it
        "basic_or_blank": f"Basic {basic}" if basic else "",  # what is there and empty
        "model": model,
        "url": url,
        "prompt": PROMPT,
    }


def _filled(value: Any, words: Mapping[str, Any]) -> Any:
    """With names in place: a text that is one name becomes what it stands for, whatever that is."""
    if isinstance(value, str):
        if value.startswith("${") and value[2:-1] in words:
            return words[value[2:-1]]
        for name, word in words.items():
            value = value.replace("${" + name + "}", str(word))
        return value
    if isinstance(value, Mapping):
        if set(value) == {"echo", "with"}:
            return {**words[value["echo"]], **_filled(value["with"], words)}
        return {name: _filled(inner, words) for name, inner in value.items()}
    return [_filled(inner, words) for inner in value] if isinstance(value, list) else value


def _png() -> bytes:
    """A picture to be edited."""
    file = io.BytesIO()
    Image.new("RGBA", (_EDITED_SIDE, _EDITED_SIDE), (200, 80, 40, 255)).save(file, "PNG")
    return file.getvalue()
