"""The backend: pictures from a server with an OpenAI Images API, and what would go wrong with a model there."""

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from imagen.backends.base import Previews
from imagen.backends.openai import USUAL, asking, errors
from imagen.backends.openai import paid as costs_money
from imagen.backends.openai.call import STAGES, Call, StreamRefused
from imagen.backends.openai.dialects import Dialect, dialect_of
from imagen.backends.remote import paying
from imagen.backends.remote.address import Address
from imagen.backends.remote.http import Http, maybe_sent
from imagen.backends.remote.mark import Mark
from imagen.backends.remote.settings import hosts, seconds
from imagen.backends.remote.token import read_token, remedy
from imagen.backends.to_its_end import to_its_end
from imagen.core.errors import Check, ImagenError, NotConfigured, RateLimited, Unreachable
from imagen.core.model import Model
from imagen.core.request import Request
from imagen.core.signals import Handle, Notice, Output, Signal

CHECK_S = 2.0
SILENCE_S = 600.0  # what OpenAI's own clients wait for a picture
PATIENCE_S = 60.0  # how long a server that asks for patience is given it
WAIT_S = 5.0  # between two attempts, when it does not say how long
OWN = ("api.openai.com", "OPENAI_API_KEY")  # its own tools expect the token there, and it is sent nowhere else
USUAL_REMEDY = "set IMAGEN_OPENAI_TOKEN, `token_file`, or the model's `token_env`: docs/howto/use-a-cloud-model.md"
# The other tokens were given for another server, and are never sent to this one.
OTHER_REMEDY = "for this server only the model's own counts: `token_env: NAME_OF_A_VARIABLE` that holds its token"


class OpenAIImages:
    """Draws on servers; a model says on which, and in which words."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = settings
        self._servers: dict[tuple[Address, str, str], Http] = {}
        self._no_streams: set[tuple[Address, str]] = set()  # models that take a request, and not its stream

    async def check(self, model: Model) -> Sequence[Check]:
        """Is the server there, does it take the token, does it have the model? Draws nothing and costs nothing."""
        try:
            http, dialect = self._http(model), self._dialect(model)
            checks = _money(http, self._paid(model))
            return checks if any(not one.ok for one in checks) else [*checks, await _check(http, dialect, model)]
        except ImagenError as error:
            return [Check.failed("server", error)]

    async def generate(
        self, request: Request, model: Model, previews: Previews, resume: str | None = None
    ) -> AsyncGenerator[Signal]:
        """Draw `request.n` pictures, one call after the other, or all in one where the model says so."""
        http, dialect, paid = self._http(model), self._dialect(model), self._paid(model)
        for check in _money(http, paid):
            if check.error is not None:
                raise check.error
        idempotent = bool(model.keys.get("idempotent"))
        mark = Mark.of(resume) or Mark.new()
        if resume and paid and not mark.free and not idempotent:
            raise errors.unknown_end(http, "the process that had sent it ended before the answer came")
        if not idempotent:
            mark = mark.again()  # a server that gives a key's old answer would give the one that was interrupted
        for notice in asking.notices(request, model, dialect):
            yield notice
        together = bool(model.keys.get("together"))
        counts = [request.n] if together else [1] * (request.n - mark.index)
        for count in counts:
            first = request.n - count if together else mark.index
            watched = [step for step in range(1, STAGES) if previews.wants(first * STAGES + step, request.n * STAGES)]
            call = Call(
                http=http,
                model=model,
                dialect=dialect,
                request=request.part(first, count),
                previews=previews,
                first=first,
                of=request.n,
                key=mark.key,
                silence_s=seconds(model.keys, self._settings, "timeout_s", SILENCE_S),
                hosts=hosts(self._settings),
                wanted=_wanted(model, dialect, watched),
            )
            if paid:
                paying.allow(http.name)
            mark = replace(mark, free=False)
            yield Handle(token=mark.token)
            if watched and not call.wanted:
                yield _no_previews(http.name)
            async with aclosing(self._drawn(call, mark, paid=paid)) as signals:
                async for signal in signals:
                    yield signal
            mark = replace(mark, index=mark.index + count)

    async def aclose(self) -> None:
        """Close the connections to every server."""
        servers, self._servers = list(self._servers.values()), {}
        for http in servers:
            await http.aclose()

    async def _drawn(self, call: Call, mark: Mark, *, paid: bool) -> AsyncGenerator[Signal]:
        """One call, again only after an answer that says that nothing was drawn."""
        name = (call.http.address, call.model.name)
        until = time.monotonic() + seconds({}, self._settings, "patience_s", PATIENCE_S)
        while True:
            drawn = 0
            try:
                async with aclosing(call.signals(stream=bool(call.wanted) and name not in self._no_streams)) as signals:
                    async for signal in signals:
                        drawn += isinstance(signal, Output)
                        yield signal
                if not drawn:
                    raise errors.cut_off(call.http)
                if drawn < call.request.n:
                    raise errors.too_few(call.http, drawn, call.request.n)
                return
            except (GeneratorExit, asyncio.CancelledError):
                await to_its_end(call.end())
                raise
            except StreamRefused:
                self._no_streams.add(name)
                yield _no_previews(call.http.name)
            except RateLimited as error:
                wait_s = WAIT_S if error.retry_after_s is None else error.retry_after_s
                if time.monotonic() + wait_s > until:
                    yield Handle(token=replace(mark, free=True).token)
                    raise
                await asyncio.sleep(wait_s)
            except ImagenError as error:
                if not paid or drawn:
                    raise
                if _nothing_drawn(error):
                    if error.retryable:
                        yield Handle(token=replace(mark, free=True).token)
                    raise
                if not error.retryable:
                    raise
                if call.model.keys.get("idempotent"):
                    raise
                raise errors.unknown_end(call.http, error.message) from error

    def _address(self, model: Model) -> Address:
        return Address.of(str(model.keys.get("url") or self._settings.get("url") or USUAL))

    def _dialect(self, model: Model) -> Dialect:
        return dialect_of(model.keys.get("dialect"), self._address(model))

    def _paid(self, model: Model) -> bool:
        return costs_money({**self._settings, **{k: v for k, v in model.keys.items() if v is not None}})

    def _http(self, model: Model) -> Http:
        """The server of a model. A token is sent to the one it was given for, and to no other."""
        address = self._address(model)
        own = Address.of(str(self._settings.get("url") or USUAL)).origin == address.origin
        named = model.keys.get("token_env")
        variable = named or (OWN[1] if address.host == OWN[0] else None)
        token = read_token({} if named or not own else self._settings, variable=variable)
        missing = remedy(token, named=named, usual=USUAL_REMEDY if own else OTHER_REMEDY)
        place = (address, token, missing)
        if place not in self._servers:
            name = "OpenAI" if address.host == OWN[0] else address.host
            self._servers[place] = Http(address, name, token=token, remedy=missing)
        return self._servers[place]


def _wanted(model: Model, dialect: Dialect, watched: Sequence[int]) -> tuple[int, ...]:
    """The steps of a picture to ask partial images of; none = an answer in one piece."""
    told = model.keys.get("stream")
    if told is False or not (told or dialect.stream):
        return ()
    # Somebody may begin to watch later; and the same call in every attempt, because another body under one key
    # is refused. Elsewhere partial images may cost something.
    always = told or dialect.partials_are_free or model.keys.get("idempotent")
    return tuple(range(1, STAGES)) if always else tuple(watched)


def _money(http: Http, paid: bool) -> list[Check]:
    """OpenAI needs a token; another server may cost money and have no keys, and says itself whether it wants one."""
    if not paid:
        return []
    if not http.signed and http.address.host == OWN[0]:
        error = NotConfigured(f"there is no token for {http.name}", hint=http.remedy, param="token")
        return [Check.failed("token", error)]
    return [Check.passed("token", note=f"{http.name} costs money{'' if http.signed else '; no token is sent'}")]


async def _check(http: Http, dialect: Dialect, model: Model) -> Check:
    """What it lists is held against the model's name; what lists nothing is seldom such a server at all."""
    response = await http.ask("GET", "models", answer_s=CHECK_S)
    address, status = http.address.url, response.status_code
    if status in errors.NO_ROUTE:
        if dialect.lists or errors.page(response) or not errors.versioned(http):
            raise errors.stranger(http, response, f"HTTP {status} and no list of models")
        return Check.passed("server", note=f"something answers at {address}; it has no list of models")
    if status != 200:
        raise errors.answered(http, response, _json(response))
    listed = _listed(_json(response))
    if listed is None:
        told = "a web page and no list of models" if errors.page(response) else "no list of models"
        raise errors.stranger(http, response, told)
    wanted = str(model.keys.get("model") or "")
    # Google lists `models/NAME` and is asked for NAME.
    if dialect.named and wanted and wanted not in listed and f"models/{wanted}" not in listed:
        raise errors.no_model(http, model.name, wanted, listed)
    unset = model.keys.get("token_env") and not http.signed
    return Check.passed("server", note=f"{address} answers, {len(listed)} models{f'; {http.remedy}' if unset else ''}")


def _listed(body: Any) -> list[str] | None:
    """The names in a list of models: `{data: [{id}]}`, null where there are none, or bare; None for anything else."""
    items = (body["data"] or []) if isinstance(body, Mapping) and "data" in body else body
    if not isinstance(items, list) or not all(isinstance(one, Mapping) and "id" in one for one in items):
        return None
    return [str(one["id"]) for one in items]


def _json(response: Any) -> Any:
    try:
        return response.json()
    except ValueError:
        return None


def _nothing_drawn(error: ImagenError) -> bool:
    """A connection that never came to be, or a server that says itself that it is not ready."""
    if error.__cause__ is not None:
        return not maybe_sent(error)
    return isinstance(error, Unreachable) and "ended its answer" not in error.message


def _no_previews(name: str) -> Notice:
    return Notice(code="preview_not_possible", message=f"{name} does not show pictures as they form")
