"""Replicate's HTTP API: predictions made, looked at, found again and cancelled."""

import asyncio
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import quote, urlsplit

from imagen.backends.remote.http import Http
from imagen.backends.remote.sse import Event, events
from imagen.backends.replicate import errors
from imagen.backends.replicate.inputs import Schema
from imagen.core.errors import ImagenError, Unreachable
from imagen.core.model import Model

# Where its files lie and its streams come from. Nothing is fetched from elsewhere.
HOSTS = ("replicate.delivery", "*.replicate.delivery", "stream.replicate.com", "*.replicate.com")
ENDED = frozenset({"succeeded", "failed", "canceled", "aborted"})
STOPPED = frozenset({"canceled", "aborted"})

PAGES = 20  # of a hundred predictions each, in a window of minutes
FILE_TRIES = 3
STOP_S = 5.0  # how long a cancelled prediction is watched until it has really stopped
SILENCE_S = 120.0  # of a stream; then the prediction is looked at instead

Prediction = Mapping[str, Any]


@dataclass(slots=True, kw_only=True)
class Cloud:
    """The service, as one account sees it."""

    http: Http
    hosts: Sequence[str] = HOSTS
    look_s: float = 0.2  # between two looks at a prediction that was cancelled
    _schemas: dict[str, Schema] = field(default_factory=dict)

    async def account(self) -> str:
        """Whose token it is; raises where it is none."""
        said = await self._ask("GET", "account")
        return str(said.get("username") or "")

    async def schema(self, model: Model) -> Schema:
        """What the model says it takes; unknown for a deployment, which does not say."""
        name = str(model.keys.get("model") or "")
        if not name:
            return Schema()
        if name not in self._schemas:
            plain, _, version = name.partition(":")
            path = f"models/{quote(plain)}" + (f"/versions/{quote(version)}" if version else "")
            said = await self._ask("GET", path)
            told = said if version else said.get("latest_version")
            document = told.get("openapi_schema") if isinstance(told, Mapping) else None
            self._schemas[name] = Schema.of(document)
        return self._schemas[name]

    async def create(self, model: Model, given: Mapping[str, Any], *, at_most_s: float) -> Prediction:
        """Ask for a prediction. It costs money from here on."""
        # Should nobody of us come back, Replicate ends it by itself.
        headers = {"cancel-after": f"{max(5, round(at_most_s))}s"}
        name, deployment = str(model.keys.get("model") or ""), model.keys.get("deployment")
        body: dict[str, Any] = {"input": dict(given)}
        if deployment:
            path = f"deployments/{quote(str(deployment))}/predictions"
        elif ":" in name:
            path, body["version"] = "predictions", name.partition(":")[2]
        else:
            path = f"models/{quote(name)}/predictions"
        response = await self.http.ask("POST", path, json=body, headers=headers)
        if response.status_code not in (200, 201, 202):
            raise errors.answered(self.http, response)
        said = self.http.said(response)
        if not isinstance(said, Mapping) or not said.get("id"):
            raise self.http.stranger(response, "no prediction")
        return said

    async def get(self, prediction_id: str) -> Prediction | None:
        """A prediction as it is now; None when it is not known (any more)."""
        response = await self.http.ask("GET", f"predictions/{quote(prediction_id)}")
        if response.status_code == 404:
            return None
        if response.status_code != 200:
            raise errors.answered(self.http, response)
        said = self.http.said(response)
        if not isinstance(said, Mapping) or "status" not in said:
            raise self.http.stranger(response, "no prediction")
        return said

    async def find(
        self, model: Model, given: Mapping[str, Any], window: tuple[datetime, datetime], known: Collection[str | None]
    ) -> str | None:
        """The prediction of this input, made in this window, that is not one of those known already."""
        name, _, version = str(model.keys.get("model") or "").partition(":")
        begin, end = window
        path: str | None = f"predictions?created_after={quote(begin.isoformat())}"
        unreadable = False
        for _ in range(PAGES):
            if path is None:
                break
            said = await self._ask("GET", path)
            for one in said.get("results") or ():
                at = _time(one.get("created_at"))
                if at is None or not begin <= at <= end or one.get("id") in known or one.get("status") in STOPPED:
                    continue
                if one.get("version" if version else "model") != (version or name) and name:
                    continue
                input_ = one.get("input")
                if one.get("data_removed") or not isinstance(input_, Mapping) or not input_:
                    unreadable = True
                elif all(input_.get(key) == value for key, value in given.items()):
                    return str(one["id"])
            path = said.get("next") or None
        if unreadable:
            raise errors.unknown_end(self.http.name)
        return None

    async def cancel(self, prediction_ids: Sequence[str]) -> None:
        """Stop predictions, and see that they have stopped; one that cannot be reached ends by its own deadline."""
        # All at once: a worker that stops has no time to wait for one after the other.
        await asyncio.gather(*(self._cancel(prediction_id) for prediction_id in prediction_ids))

    async def told(self, url: str) -> AsyncGenerator[Event]:
        """What the stream of a prediction says, as long as it says something; nothing where it cannot be had."""
        host = urlsplit(url).hostname or ""
        known = (self.http.address.host, *self.hosts)
        if not any(host == one or (one.startswith("*.") and host.endswith(one[1:])) for one in known):
            return
        try:
            headers = {"accept": "text/event-stream"}
            async with self.http.stream("GET", url, headers=headers, silence_s=SILENCE_S) as response:
                if response.status_code != 200:
                    return
                async with aclosing(events(response)) as said:
                    async for event in said:
                        if event.name in ("done", "error"):
                            return
                        yield event
        except ImagenError:
            return

    async def file(self, url: str) -> bytes | None:
        """A file that a prediction made, or None when its time is over."""
        for number in range(FILE_TRIES):
            try:
                return await self.http.file(url, self.hosts)
            except Unreachable:
                if number + 1 == FILE_TRIES:
                    raise
                await asyncio.sleep(self.look_s * 2**number)
        return None

    async def _cancel(self, prediction_id: str) -> None:
        with suppress(ImagenError, TimeoutError):
            await self.http.ask("POST", f"predictions/{quote(prediction_id)}/cancel")
            async with asyncio.timeout(STOP_S):
                while True:
                    found = await self.get(prediction_id)
                    if found is None or found["status"] in ENDED:
                        return
                    await asyncio.sleep(self.look_s)

    async def _ask(self, method: str, path: str) -> Mapping[str, Any]:
        response = await self.http.ask(method, path)
        if response.status_code != 200:
            raise errors.answered(self.http, response)
        said = self.http.said(response)
        if not isinstance(said, Mapping):
            raise self.http.stranger(response, "something else than expected")
        return said


def outputs(output: Any) -> list[str]:
    """The addresses in the output of a prediction, whatever shape it has."""
    match output:
        case str():
            return [output]
        case list():
            return [one for item in output for one in outputs(item)]
        case Mapping():
            return [one for item in output.values() for one in outputs(item)]
        case _:
            return []


def _time(text: Any) -> datetime | None:
    try:
        return datetime.fromisoformat(str(text))
    except ValueError:
        return None
