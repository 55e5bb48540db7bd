"""One call on a container that Cog built: a prediction for each picture, re-attached to by its id.

What such a server does was seen with Cog 0.23.1. `PUT /predictions/ID` starts a prediction, or joins the one of that
id that runs; once it ended, it is forgotten, and the same PUT draws it again. Whoever started one with an answer that
stays open cancels it by going away; one started with `Prefer: respond-async` runs on, and can be joined.

So a container of one's own is told to begin, and then joined: it draws on whatever becomes of us. (Should it be done
before it is joined, it draws twice: as long as it takes to ask.) Where a prediction costs money that may not be. There
it is begun by the answer that stays open, which is read once; what was interrupted, a person looks at.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from json import loads
from time import monotonic
from typing import Any

from imagen.backends.base import Previews
from imagen.backends.remote import paying, pictures
from imagen.backends.remote.http import Http, maybe_sent, never_begun
from imagen.backends.remote.mark import Mark
from imagen.backends.remote.sse import events
from imagen.backends.replicate import errors, inputs
from imagen.backends.replicate.cloud import outputs
from imagen.backends.replicate.hosted import Pace, cost
from imagen.backends.replicate.inputs import Schema
from imagen.backends.replicate.telling import Teller
from imagen.backends.to_its_end import to_its_end
from imagen.core.errors import ImagenError, RateLimited, Unreachable
from imagen.core.model import Model
from imagen.core.request import Request
from imagen.core.signals import Handle, Notice, Phase, Signal

ASYNC = {"prefer": "respond-async"}
STREAM = {"accept": "text/event-stream"}
STOP_S = 5.0  # how long a cancelled prediction is watched until it has really stopped
LOOK_S = 0.05
JOINS = 5  # times that a broken stream is joined again

Json = Mapping[str, Any]


@dataclass(slots=True, kw_only=True)
class Container:
    """One container, asked and told."""

    http: Http

    async def health(self) -> Json:
        """What it says of itself."""
        response = await self.http.ask("GET", "health-check")
        # Of whatever stands before a container: it wants a token, or the container is not there yet.
        if response.status_code in (401, 403) or response.status_code >= 500:
            raise errors.answered(self.http, response)
        said = self.http.said(response) if response.status_code == 200 else None
        return said if isinstance(said, Mapping) else {}

    async def schema(self) -> Schema:
        """What its model says it takes."""
        response = await self.http.ask("GET", "openapi.json")
        return Schema.of(self.http.said(response)) if response.status_code == 200 else Schema()

    async def start(self, prediction_id: str, body: Json) -> Json:
        """Have it begin, or join the one that runs already; the answer comes at once."""
        response = await self.http.ask("PUT", f"predictions/{prediction_id}", json=body, headers=ASYNC)
        if response.status_code not in (200, 202):
            raise errors.answered(self.http, response)
        return self._prediction(response)

    async def whole(self, prediction_id: str, body: Json, *, within_s: float) -> tuple[int, Json]:
        """Have it drawn, with an answer at its end: 200 with the end, 202 while another one runs."""
        path = f"predictions/{prediction_id}"
        response = await self.http.ask("PUT", path, json=body, answer_s=within_s)
        if response.status_code not in (200, 202):
            raise errors.answered(self.http, response)
        return response.status_code, self._prediction(response)

    async def told(self, prediction_id: str, body: Json, *, silence_s: float) -> AsyncGenerator[tuple[str, Json]]:
        """What a prediction tells as it runs, from its beginning."""
        path = f"predictions/{prediction_id}"
        async with self.http.stream("PUT", path, json=body, headers=STREAM, silence_s=silence_s) as response:
            if response.status_code != 200:
                await response.aread()
                raise errors.answered(self.http, response)
            async with aclosing(events(response)) as said:
                async for event in said:
                    yield event.name, loads(event.data)

    async def cancel(self, prediction_id: str) -> None:
        """Stop a prediction, and see that it has stopped: then nobody knows it any more."""
        try:
            async with asyncio.timeout(STOP_S):
                while True:
                    response = await self.http.ask("POST", f"predictions/{prediction_id}/cancel")
                    if response.status_code != 200:
                        break
                    await asyncio.sleep(LOOK_S)
        except (ImagenError, TimeoutError):
            return

    def _prediction(self, response: Any) -> Json:
        said = self.http.said(response)
        if not isinstance(said, Mapping) or "status" not in said:
            raise self.http.stranger(response, "no prediction")
        return said


class Drawing:
    """The pictures of one request."""

    def __init__(
        self, container: Container, request: Request, model: Model, previews: Previews, pace: Pace, *, paid: bool
    ) -> None:
        self._container, self._request, self._model, self._pace, self._paid = container, request, model, pace, paid
        self._name = model.title or model.name
        intermediate = bool(model.keys.get("intermediate"))
        self._teller = Teller(previews, n=request.n, steps=request.steps, intermediate=intermediate)
        self._schema = Schema()
        self._running: str | None = None
        self._spent_s = 0.0

    async def signals(self, resume: str | None) -> AsyncGenerator[Signal]:
        """Everything, to the last picture."""
        resumed = Mark.of(resume)
        if resumed and self._paid and not resumed.free:
            raise errors.unknown_end(self._container.http.name)
        mark = resumed or Mark.new()
        try:
            async with aclosing(self._ready()) as waiting:
                async for signal in waiting:
                    yield signal
            self._schema = await self._container.schema()
            for notice in inputs.notices(self._request, self._model, self._schema):
                yield notice
            for index in range(mark.index, self._request.n):
                if self._paid:
                    paying.allow(self._container.http.name)
                mark = replace(mark, index=index, free=False)
                yield Handle(token=mark.token)
                async with aclosing(self._draw(index, mark.key.replace("-", ""))) as signals:
                    async for signal in signals:
                        yield signal
        except ImagenError as error:
            if never_begun(error):
                yield Handle(token=replace(mark, free=True).token)
            raise
        except (GeneratorExit, asyncio.CancelledError):
            if self._running:
                await to_its_end(self._container.cancel(self._running))
            raise

    async def _ready(self) -> AsyncGenerator[Signal]:
        """A container that loads its model is waited for."""
        until, said = monotonic() + self._pace.patience_s, False
        while error := await self._unready():
            if not error.retryable or monotonic() > until or error.__cause__ is not None:
                raise error
            if not said:
                said = True
                yield Phase(name="loading")
            await asyncio.sleep(self._pace.poll_s)

    async def _unready(self) -> ImagenError | None:
        try:
            return errors.unready(self._container.http, await self._container.health())
        except ImagenError as error:
            return error

    async def _draw(self, index: int, prediction_id: str) -> AsyncGenerator[Signal]:
        """One prediction to its end, and its picture."""
        body = {"input": inputs.inputs(self._request.part(index, 1), self._model, self._schema)}
        self._teller.begin()
        self._running = prediction_id
        found: Json = {}
        if self._schema.streams:
            if not self._paid:
                await self._patiently(partial(self._container.start, prediction_id, body))
            async with aclosing(self._joined(index, prediction_id, body)) as told:
                async for said in told:
                    if isinstance(said, Mapping):
                        found = said
                    else:
                        yield said
        else:
            for signal in self._teller.status("processing"):
                yield signal
            status = 202
            while status == 202:
                whole = partial(self._container.whole, prediction_id, body, within_s=self._pace.timeout_s)
                status, found = await self._patiently(whole)
                if status == 202:  # begun by an earlier call, whose going away has not been noticed yet
                    await asyncio.sleep(self._pace.poll_s)
        self._running = None
        async with aclosing(self._picture(index, found)) as signals:
            async for signal in signals:
                yield signal

    async def _joined(self, index: int, prediction_id: str, body: Json) -> AsyncGenerator[Signal | Json]:
        """Its events, over as many connections as it takes; its end comes as a mapping."""
        known, joins, until = 0, 0, monotonic() + self._pace.patience_s
        while joins < JOINS:
            count = 0
            try:
                async with aclosing(
                    self._container.told(prediction_id, body, silence_s=self._pace.timeout_s)
                ) as events_of:
                    async for name, said in events_of:
                        match name:
                            case "start":
                                for signal in self._teller.status(str(said.get("status"))):
                                    yield signal
                            case "log":
                                for signal in self._teller.log(index, str(said.get("data") or ""), whole=False):
                                    yield signal
                            case "output":
                                count += 1
                                chunk = outputs(said.get("chunk"))
                                if chunk and count > known:
                                    known = count
                                    fetch = partial(self._container.http.file, chunk[0], ())
                                    async for shown in self._teller.output(index, count - 1, fetch):
                                        yield shown
                            case "completed":
                                yield said
                                return
                            case _:
                                continue
            except (RateLimited, Unreachable) as error:
                if error.__cause__ is None:  # it says so itself: no free place, or not ready yet
                    if monotonic() > until:
                        raise
                    joins -= 1
                elif self._paid and maybe_sent(error):
                    raise errors.unknown_end(self._container.http.name) from error
                elif self._paid or joins + 1 == JOINS:
                    raise
            else:
                if self._paid:
                    raise errors.unknown_end(self._container.http.name)
            joins += 1
            await asyncio.sleep(self._pace.poll_s)
        raise Unreachable(
            f"{self._container.http.name} ends its answer before the picture", hint="see the log of the container"
        )

    async def _patiently(self, ask: Any) -> Any:
        """A container with no free place, or that is just starting again, is waited for."""
        until = monotonic() + self._pace.patience_s
        while True:
            try:
                return await ask()
            except (RateLimited, Unreachable) as error:
                if monotonic() > until or (isinstance(error, Unreachable) and error.__cause__ is not None):
                    raise
                await asyncio.sleep(self._pace.poll_s)

    async def _picture(self, index: int, found: Json) -> AsyncGenerator[Signal]:
        service, status = self._container.http.name, str(found.get("status"))
        if status == "failed":
            raise errors.failed(service, self._name, found.get("error"), str(found.get("logs") or ""))
        if status != "succeeded":
            raise errors.stopped(service, self._name, status)
        made = outputs(found.get("output"))
        last = bool(self._model.keys.get("intermediate"))
        if len(made) > 1 and not last:
            yield Notice(code="more_pictures", message=f"{self._name} gave {len(made)} pictures; the first one is kept")
        data = await self._container.http.file(made[-1] if last else made[0], ()) if made else None
        if not data or pictures.mime_of(data) is None:
            raise errors.no_picture(service, self._name)
        for signal in self._teller.end(index):
            yield signal
        took_s = (found.get("metrics") or {}).get("predict_time")
        facts: dict[str, Any] = dict(cost(self._model, took_s))
        if isinstance(took_s, int | float):
            self._spent_s += took_s
            facts |= {"predict_time_s": round(self._spent_s, 4), "timings": {"sample": round(self._spent_s, 4)}}
        seed = self._request.seed + index if "seed" in inputs.names(self._model, self._schema) else None
        yield pictures.output(data, service, index=index, seed=seed, facts=facts)
