"""The outbox: what webhooks are to be told, who may be asked, and with which secret it is signed."""

import base64
import hmac
import time
from collections.abc import Collection, Sequence

from imagen.config import Settings
from imagen.core.webhook import SECRET, Delivery, Webhook
from imagen.engine.webhooks.addresses import Reach
from imagen.store import webhooks
from imagen.store.db import Database
from imagen.store.webhooks import Answer, Message

FORGET_S = 3600.0


class Outbox:
    """Messages for webhooks, taken by a courier a few at a time. Part of the app."""

    def __init__(self, db: Database, settings: Settings) -> None:
        self.reach = Reach(settings)
        self._db = db
        self._seeds = (settings.webhooks.secret or "").split()
        self._keep_days = settings.webhooks.keep_days
        self._forget_at = time.monotonic()

    def check(self, webhook: Webhook | None, owner: str) -> None:
        """Raise what keeps this owner from using this webhook, as far as its address alone tells."""
        if webhook is not None:
            self.reach.check(webhook.url, owner)

    async def take(self, room: int, busy: Collection[str]) -> list[Message]:
        """Up to `room` messages that are due, none of them to a host that is `busy`."""
        # Looked at first, because SQLite has but one writer, which draws.
        if not await self._db.read(webhooks.anything, busy):
            return []
        return await self._db.write(webhooks.take, room, busy)

    async def finish(self, message: Message, answer: Answer) -> Delivery | None:
        """Note what became of a try; None when somebody else has the message by now."""
        return await self._db.write(webhooks.finish, message, answer)

    async def again(self, delivery: Delivery | None) -> None:
        """Begin anew to deliver this."""
        await self._db.write(webhooks.again, delivery.id if delivery else None)

    async def all_again(self) -> list[str]:
        """Begin anew with everything that was given up; its ids."""
        return await self._db.write(webhooks.all_again)

    async def forget(self) -> int:
        """Once an hour forget what was delivered or given up long ago; how many these were."""
        if self._keep_days is None or time.monotonic() < self._forget_at:
            return 0
        self._forget_at = time.monotonic() + FORGET_S
        gone = 0
        while count := await self._db.write(webhooks.forget, self._keep_days):
            gone += count
        return gone

    async def secrets(self, owner: str) -> Sequence[str]:
        """The secrets that sign what is told for an owner; the first is the one to use, others are on their way out.

        Each owner has one of his own, so that nobody can forge what another's receiver believes.
        """
        if not self._seeds:
            self._seeds = [await self._db.write(webhooks.seed)]
        return [_derived(seed, owner) for seed in self._seeds]

    def mark(self) -> int:
        """Take this before `take`, hand it to `news`."""
        return self._db.mark()

    async def news(self, mark: int, timeout_s: float, *, listen: bool = True) -> None:
        """Return when something is surely due, or after `timeout_s`; `listen` is that of `Database.changed`."""
        until = time.monotonic() + timeout_s
        # Another process's write to SQLite may have been anything: whoever looked at each would look all the time.
        topics = frozenset({webhooks.TOPIC})
        while not await self._db.changed(mark, until - time.monotonic(), topics, listen=listen):
            if time.monotonic() >= until:
                return
            mark = self._db.mark()

    def ring(self) -> None:
        """Wake whoever waits for news."""
        self._db.ring(webhooks.TOPIC)


def _derived(seed: str, owner: str) -> str:
    return SECRET + base64.b64encode(hmac.digest(seed.encode(), f"webhook {owner}".encode(), "sha256")).decode()
