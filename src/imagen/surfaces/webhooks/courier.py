"""The courier: takes what webhooks are to be told, tells it, and notes what became of that; beside the drawing.

Any number of processes may have one. Each message is in the hands of one of them at a time, and whoever dies with one
in hand leaves it to the others.
"""

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

from imagen.core.errors import ImagenError
from imagen.store.webhooks import Answer, Message
from imagen.surfaces.webhooks.post import Post
from imagen.surfaces.webhooks.signing import signed
from imagen.surfaces.wire import job_json, moment, series_json

if TYPE_CHECKING:
    from imagen.app import App
    from imagen.core.webhook import Delivery

AT_ONCE = 16  # messages under way; each costs a connection for ten seconds at most
TO_ONE_HOST = 4  # of these, so that a receiver that hangs does not hold up the others
LOOK_S = 1.0  # what waits for its next try has no bell
DONE_S = 5.0  # for notes to be taken when the process leaves


@asynccontextmanager
async def delivering(
    app: "App", *, log: Any = None, post: Post | None = None, listen: bool = True
) -> AsyncIterator["Courier"]:
    """While inside, webhooks are told. `log` is a structlog logger.

    Without `listen` the ends of other processes are told up to LOOK_S later, unless somebody else here listens.
    """
    from imagen.app import VERSION

    courier = Courier(app, post or Post(app.outbox.reach), agent=f"imagen/{VERSION}", log=log, listen=listen)
    task = asyncio.create_task(courier.run(), name="courier")
    try:
        yield courier
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await courier.close()


class Courier:
    """Tells webhooks what ended. Made by `delivering`."""

    def __init__(
        self,
        app: "App",
        post: Post,
        *,
        agent: str,
        log: Any = None,
        clock: Callable[[], float] = time.time,
        listen: bool = True,
    ) -> None:
        self._app = app
        self._post = post
        self._agent = agent
        self._log = log
        self._clock = clock
        self._listen = listen
        self._under_way: dict[asyncio.Task[None], Message] = {}
        self._troubled = False

    async def run(self) -> None:
        """Take and tell until cancelled."""
        while True:
            mark = self._app.outbox.mark()
            try:
                await self._app.outbox.forget()
                taken, self._troubled = await self._take(), False
            except Exception as exc:
                # Whatever it is, the telling goes on when it is over, as the drawing beside it does.
                if not self._troubled:  # once, and not each second while the database is away
                    self._tell("webhooks wait", said=_words(exc))
                taken, self._troubled = [], True
            for message in taken:
                task = asyncio.create_task(self._carry(message), name=f"webhook-{message.id}")
                self._under_way[task] = message
                task.add_done_callback(self._done)
            if not taken:
                await self._app.outbox.news(mark, LOOK_S, listen=self._listen)

    async def close(self) -> None:
        """Let what is under way arrive, for as long as it may take; what has not is told by the next courier."""
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=DONE_S)
        for task in tuple(self._under_way):
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)
        self._post.close()

    async def _take(self) -> list[Message]:
        room = AT_ONCE - len(self._under_way)
        if room <= 0:
            return []
        hosts = Counter(message.webhook.origin for message in self._under_way.values())
        busy = [host for host, count in hosts.items() if count >= TO_ONE_HOST]
        return await self._app.outbox.take(min(room, TO_ONE_HOST), busy)

    async def _carry(self, message: Message) -> None:
        began = time.monotonic()
        try:
            answer = await self._tried(message)
        except Exception as exc:
            answer = Answer(ok=False, said=_words(exc))  # the message comes again
        with suppress(ImagenError):  # not noted: then it is told again, and its id says so
            became = await self._app.outbox.finish(message, answer)
            self._tell_of(message, answer, became, round((time.monotonic() - began) * 1000))

    async def _tried(self, message: Message) -> Answer:
        body = json.dumps(await self._body(message), ensure_ascii=False, separators=(",", ":")).encode()
        own = message.webhook.secret
        secrets = [own] if own is not None else await self._app.outbox.secrets(message.owner)
        headers = signed(message.id, int(self._clock()), body, secrets) | {"user-agent": self._agent}
        return await self._post.send(message.webhook.url, message.owner, headers, body)

    async def _body(self, message: Message) -> dict[str, Any]:
        told: dict[str, Any] = {"type": message.type, "at": moment(message.at)}
        if message.job is not None:
            return told | {"job": self._absolute(job_json(await self._app.job(message.job), reader="http"))}
        assert message.series is not None
        shape = series_json(await self._app.series(message.series), reader="http")
        del shape["cells"]  # a thousand jobs are no message; `GET /v1/series/{id}` has them
        del shape["webhook"]
        return told | {"series": shape}

    def _absolute(self, job: dict[str, Any]) -> dict[str, Any]:
        """Addresses of pictures with this server in front, where it knows how others reach it."""
        del job["webhook"]  # the receiver is the one who knows
        public = self._app.settings.server.public_url
        if public:
            for image in job["images"]:
                image["url"] = public.rstrip("/") + image["url"]
        return job

    def _done(self, task: asyncio.Task[None]) -> None:
        del self._under_way[task]
        self._app.outbox.ring()

    def _tell_of(self, message: Message, answer: Answer, became: "Delivery | None", ms: int) -> None:
        told = {"webhook": message.id, "type": message.type, "to": message.webhook.origin, "tries": message.tries}
        state = became.state if became is not None else "taken by another"
        if answer.ok:
            self._tell("webhook delivered", **told, ms=ms)
        elif state == "failed":
            self._tell("webhook given up", **told, said=answer.said)
        else:
            self._tell("webhook not delivered yet", **told, said=answer.said)

    def _tell(self, event: str, **more: Any) -> None:
        if self._log is not None:
            (self._log.info if event == "webhook delivered" else self._log.warning)(event, **more)


def _words(exc: Exception) -> str:
    return exc.message if isinstance(exc, ImagenError) else f"imagen broke: {type(exc).__name__}"
