"""One call on Replicate: a prediction for each picture, paid for once, whatever happens to us meanwhile."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from time import monotonic
from typing import Any

from imagen.backends.base import Previews
from imagen.backends.remote import paying, pictures
from imagen.backends.remote.http import maybe_sent, never_begun
from imagen.backends.replicate import errors, inputs
from imagen.backends.replicate.cloud import ENDED, STOPPED, Cloud, Prediction, outputs
from imagen.backends.replicate.inputs import Schema
from imagen.backends.replicate.ledger import Ledger
from imagen.backends.replicate.telling import Teller
from imagen.backends.to_its_end import to_its_end
from imagen.core.errors import Crashed, ImagenError, RateLimited, TimedOut, Unreachable
from imagen.core.model import Model
from imagen.core.request import Request
from imagen.core.signals import Handle, Notice, Output, Signal

LOOKS = 3  # for a prediction whose answer was lost: it may be listed a moment later


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How often it is asked, and how long it is waited for."""

    poll_s: float = 0.5  # while it is quick; slower predictions are looked at less often
    slowest_s: float = 3.0
    patience_s: float = 60.0  # for a service that is away or asks for patience; the prediction goes on meanwhile
    timeout_s: float = 1800.0  # of one prediction
    lost_s: float = 1.0  # between two looks for one whose answer was lost


class Hosted:
    """The pictures of one request."""

    def __init__(
        self, cloud: Cloud, request: Request, model: Model, previews: Previews, pace: Pace, *, paid: bool
    ) -> None:
        self._cloud, self._request, self._model, self._pace, self._paid = cloud, request, model, pace, paid
        self._name = model.title or model.name
        intermediate = bool(model.keys.get("intermediate"))
        self._teller = Teller(previews, n=request.n, steps=request.steps, intermediate=intermediate)
        self._ledger = Ledger.new(request.n)
        self._schema = Schema()
        self._over: set[str] = set()  # predictions that need not be cancelled
        self._spent_s = 0.0

    async def signals(self, resume: str | None) -> AsyncGenerator[Signal]:
        """Everything, to the last picture."""
        try:
            self._schema = await self._cloud.schema(self._model)
            for notice in inputs.notices(self._request, self._model, self._schema):
                yield notice
            async with aclosing(self._ask_for_all(resume)) as signals:
                async for signal in signals:
                    yield signal
            for index in range(self._ledger.done, self._request.n):
                async with aclosing(self._follow(index)) as signals:
                    async for signal in signals:
                        yield signal
                self._ledger = replace(self._ledger, done=index + 1)
                if index + 1 < self._request.n:
                    yield Handle(token=self._ledger.token)
        except ImagenError as error:
            if not error.retryable:
                await to_its_end(self._stop())  # whoever gives up does not go on paying
            raise
        except (GeneratorExit, asyncio.CancelledError):
            await to_its_end(self._stop())
            raise

    async def _ask_for_all(self, resume: str | None) -> AsyncGenerator[Signal]:
        """See to it that each picture has its prediction: one that is there already, else a new one."""
        resumed = Ledger.of(resume, self._request.n)
        self._ledger = resumed or self._ledger
        for index in range(self._ledger.done, self._request.n):
            known = self._ledger.ids[index]
            if known:
                found = await self._patiently(known)
                if found is None or found["status"] not in STOPPED:
                    continue
                self._ledger = self._ledger.without(index)  # stopped before it gave anything: by us, when we ended
            given = self._given(index)
            lost = self._ledger.window if resumed and self._ledger.asking == index else None
            if lost and (found_id := await self._cloud.find(self._model, given, lost, self._ledger.ids)):
                self._ledger = self._ledger.has(index, found_id)
            else:
                if self._paid:
                    paying.allow(self._cloud.http.name)
                self._ledger = self._ledger.about_to_ask(index)
                yield Handle(token=self._ledger.token)
                try:
                    # Whole, or else nobody would know what to cancel.
                    await to_its_end(self._create(index, given))
                except ImagenError as error:
                    if never_begun(error):
                        # Nothing was made: whoever resumes looks for nothing, and takes nothing of somebody else.
                        self._ledger = self._ledger.refused()
                        yield Handle(token=self._ledger.token)
                    raise
            yield Handle(token=self._ledger.token)

    async def _create(self, index: int, given: Mapping[str, Any]) -> None:
        """One prediction more, and never two: when an answer is lost, it is looked for and not asked for again."""
        until = monotonic() + self._pace.patience_s
        while True:
            try:
                made = await self._cloud.create(self._model, given, at_most_s=self._pace.timeout_s)
                self._ledger = self._ledger.has(index, str(made["id"]))
                return
            except RateLimited as error:
                wait_s = 5.0 if error.retry_after_s is None else error.retry_after_s
                if monotonic() + wait_s > until:
                    raise
                await asyncio.sleep(wait_s)
            except (Unreachable, TimedOut, Crashed) as error:
                window = self._ledger.window
                if window is None or not maybe_sent(error):
                    raise
                for _ in range(LOOKS):
                    found = await self._cloud.find(self._model, given, window, self._ledger.ids)
                    if found:
                        self._ledger = self._ledger.has(index, found)
                        return
                    await asyncio.sleep(self._pace.lost_s)
                raise

    async def _follow(self, index: int) -> AsyncGenerator[Signal]:
        """One prediction to its end, and its picture."""
        prediction_id = self._ledger.ids[index]
        assert prediction_id is not None
        service, since, seen, streamed = self._cloud.http.name, monotonic(), 0, False
        self._teller.begin()
        while True:
            found = await self._patiently(prediction_id)
            if found is None:
                raise errors.expired(service, self._name)
            ended = found["status"] in ENDED
            for signal in self._teller.status(str(found["status"])):
                yield signal
            for signal in self._teller.log(index, str(found.get("logs") or ""), whole=True):
                yield signal
            made = outputs(found.get("output"))
            forming = made[:-1] if ended else made
            for place in range(seen, len(forming)):
                async for signal in self._teller.output(index, place, partial(self._cloud.file, forming[place])):
                    yield signal
            seen = max(seen, len(forming))
            if ended:
                break
            if monotonic() - since > self._pace.timeout_s:
                raise errors.too_long(service, self._name, self._pace.timeout_s)
            stream = found.get("urls", {}).get("stream")
            if isinstance(stream, str) and not streamed:
                streamed = True
                async with aclosing(self._stream(index, stream, seen)) as signals:
                    async for signal in signals:
                        yield signal
                continue
            waited_s = monotonic() - since
            await asyncio.sleep(min(max(self._pace.poll_s, waited_s / 20), self._pace.slowest_s))
        self._over.add(prediction_id)
        async with aclosing(self._picture(index, found)) as signals:
            async for signal in signals:
                yield signal

    async def _stream(self, index: int, url: str, known: int) -> AsyncGenerator[Signal]:
        """What is told while it runs, at once instead of at the next look."""
        number = 0
        async with aclosing(self._cloud.told(url)) as said:
            async for event in said:
                if event.name == "logs":
                    for signal in self._teller.log(index, event.data, whole=False):
                        yield signal
                elif event.name == "output":
                    if number >= known:
                        async for signal in self._teller.output(
                            index, number, partial(self._cloud.file, event.data.strip())
                        ):
                            yield signal
                    number += 1

    async def _picture(self, index: int, found: Prediction) -> AsyncGenerator[Signal]:
        """What became of it, and its file, copied at once: an hour later it is gone."""
        service, status = self._cloud.http.name, str(found["status"])
        if status == "failed":
            raise errors.failed(service, self._name, found.get("error"), str(found.get("logs") or ""))
        if status in STOPPED:
            raise errors.stopped(service, self._name, status)
        made = outputs(found.get("output"))
        if not made:
            gone = bool(found.get("data_removed"))
            raise errors.expired(service, self._name) if gone else errors.no_picture(service, self._name)
        last = bool(self._model.keys.get("intermediate"))
        if len(made) > 1 and not last:
            yield Notice(code="more_pictures", message=f"{self._name} gave {len(made)} pictures; the first one is kept")
        data = await self._cloud.file(made[-1] if last else made[0])
        if data is None:
            raise errors.expired(service, self._name)
        for signal in self._teller.end(index):
            yield signal
        told = inputs.names(self._model, self._schema)
        seed = self._request.seed + index if "seed" in told else None
        yield self._output(data, index, seed, found)

    def _output(self, data: bytes, index: int, seed: int | None, found: Prediction) -> Output:
        if pictures.mime_of(data) is None:
            raise errors.no_picture(self._cloud.http.name, self._name)
        name = self._cloud.http.name
        facts: dict[str, Any] = {"prediction": found["id"], "drawn": f"prediction {found['id']} at {name}"}
        took_s = (found.get("metrics") or {}).get("predict_time")
        facts |= cost(self._model, took_s)
        if isinstance(took_s, int | float):
            self._spent_s += took_s
            facts["predict_time_s"] = round(self._spent_s, 4)
            facts["timings"] = {"sample": round(self._spent_s, 4)}
        return pictures.output(data, name, index=index, seed=seed, facts=facts)

    async def _patiently(self, prediction_id: str) -> Prediction | None:
        """A look at a prediction; it goes on while nobody answers, so that is waited for."""
        until = monotonic() + self._pace.patience_s
        while True:
            try:
                return await self._cloud.get(prediction_id)
            except (Unreachable, TimedOut, RateLimited) as error:
                wait_s = self._pace.poll_s if error.retry_after_s is None else error.retry_after_s
                if monotonic() + wait_s > until:
                    raise
                await asyncio.sleep(wait_s)

    async def _stop(self) -> None:
        await self._cloud.cancel(
            [one for one in self._ledger.ids[self._ledger.done :] if one and one not in self._over]
        )

    def _given(self, index: int) -> dict[str, Any]:
        return inputs.inputs(self._request.part(index, 1), self._model, self._schema)


def cost(model: Model, took_s: Any) -> dict[str, float]:
    """What a picture cost, by the price that its owner wrote down; nobody else tells it."""
    each, second = model.keys.get("price_per_image"), model.keys.get("price_per_s")
    if each is not None:
        return {"cost": float(each)}
    if second is not None and isinstance(took_s, int | float):
        return {"cost": round(float(second) * took_s, 6)}
    return {}
