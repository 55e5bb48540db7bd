"""Work in a thread as an async iterator: nothing lost, nothing left running, errors as they were."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import aclosing

import pytest

from imagen.backends.aside import Say, Stopped, aside
from imagen.core.errors import Crashed
from imagen.core.signals import Notice, Signal


def word(number: int) -> Notice:
    return Notice(code="word", message=str(number))


async def listen(work: Callable[[Say], None], heard: list[Signal]) -> None:
    async for signal in aside(work):
        heard.append(signal)


async def test_everything_said_arrives_in_order() -> None:
    """Also what was said just before the end."""

    def work(say: Say) -> None:
        for number in range(100):
            say(word(number))

    assert [signal async for signal in aside(work)] == [word(number) for number in range(100)]


async def test_an_error_comes_out_after_what_was_said_before_it() -> None:
    """As it was raised."""

    def work(say: Say) -> None:
        say(word(1))
        raise Crashed("it broke", hint="mend it")

    heard: list[Signal] = []
    with pytest.raises(Crashed, match="it broke"):
        await listen(work, heard)
    assert heard == [word(1)]


async def test_closing_stops_it_where_it_next_says_something() -> None:
    """And waits until it is through with its last step."""
    done = threading.Event()

    def work(say: Say) -> None:
        try:
            for number in range(10_000_000):
                say(word(number))
        except Stopped:
            done.set()
            raise

    async with aclosing(aside(work)) as signals:
        async for _ in signals:
            break
    assert done.is_set()


async def test_closing_waits_for_what_cannot_be_interrupted() -> None:
    """A step of a network is such; nothing goes on behind the caller's back."""
    begun, leave, left = threading.Event(), threading.Event(), threading.Event()

    def work(say: Say) -> None:
        say(word(1))
        begun.set()
        leave.wait(10)
        left.set()
        say.listening()

    signals = aside(work)
    await anext(signals)
    await asyncio.to_thread(begun.wait, 10)
    closing = asyncio.create_task(signals.aclose())
    await asyncio.sleep(0.05)
    assert not closing.done()
    closing.cancel()  # impatience changes nothing, and is heard in the end
    await asyncio.sleep(0.05)
    assert not closing.done()
    leave.set()
    await asyncio.wait([closing])
    assert left.is_set()
    assert closing.cancelled()


async def test_work_that_was_not_closed_may_not_stop_by_itself() -> None:
    """Only who listens decides that nobody does."""

    def work(say: Say) -> None:
        raise Stopped

    with pytest.raises(Stopped):
        await listen(work, [])
