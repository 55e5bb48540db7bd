"""One child process as the parent sees it: started, spoken with, and gone.

No task and no thread belongs to it: bytes are read when the loop says that there are some, so nothing outlives a call.
"""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from imagen.backends.base import Previews
from imagen.backends.child import last_words
from imagen.backends.child.frames import BadFrameError, Frame, Unpacking, checks_heard, packed, signal_heard
from imagen.core.errors import Check, Crashed, ImagenError, TimedOut
from imagen.core.signals import Phase, Signal, Step

CHUNK = 2**18
WORDS_S = 0.01  # between two looks at what it writes for people: 6 MiB a second, and a flood costs nothing here
LEFT = 16  # such looks at what a dead one left in the pipe; who still writes there is not ours
REAP_S = 0.01
GONE_S = 5.0  # SIGKILL works at once, except on a process that waits for a driver

Told = Signal | list[Check] | ImagenError | None  # None: it said all there was to say


class Call:
    """One draw or check in a child; it is asked for each signal, and says it."""

    def __init__(self, process: "Process", number: int, previews: Previews | None) -> None:
        self.over = False
        self.device_free = False  # it said that the next one may begin
        self.stalled: asyncio.TimerHandle  # while it is waited for
        self._process = process
        self._number = number
        self._previews = previews
        self._told: asyncio.Future[Told] | None = None
        self._last: Told = None
        self._end = asyncio.get_running_loop().create_future()

    async def next(self) -> Told:
        """What is said next. An error is returned, and raised by whoever asked."""
        if self.over:
            return self._last
        self._process.send({"say": "next", "call": self._number})
        return await self.answer()

    async def answer(self) -> Told:
        """What is said without being asked again."""
        if self.over:
            return self._last
        self._told = asyncio.get_running_loop().create_future()
        return await self._told

    async def close(self, within_s: float) -> bool:
        """Have it stopped; False when it did not stop in time."""
        if not self.over and not self._process.ready:
            # It has not begun, so there is nothing to wait for; whoever comes next may want what is being started.
            self._process.send({"say": "close", "call": self._number})
            self._process.forget(self._number)
        elif not self.over:
            self._process.send({"say": "close", "call": self._number})
            await asyncio.wait([self._end], timeout=within_s)
        return self.over

    async def ended(self) -> None:
        """Wait for its end, whoever hears what it says."""
        await asyncio.wait([self._end])

    def hear(self, told: Told, *, last: bool) -> None:
        """The child said this; `last` when nothing comes after it."""
        self.device_free |= isinstance(told, Phase) and told.device_free
        if last:
            self.over, self._last = True, told
            self._end.set_result(None)
        if self._told is not None and not self._told.done():
            self._told.set_result(told)

    def wants(self, step: int, total: int) -> bool:
        """Does anybody want a preview of this step? Nobody does after the end."""
        return self._previews is not None and not self.over and self._previews.wants(step, total)


class Process:
    """A child with a backend in it, from its start to the moment when the system has its memory back."""

    def __init__(self, who: str, hello: Mapping[str, Any], environment: Mapping[str, str]) -> None:
        pieces = packed({"say": "hello", "parent": os.getpid(), "path": sys.path, **hello})
        self.who = who
        self.dead = False
        self.ready = False
        self.drew = False  # a step, so that what it holds is worth keeping
        self.calls: dict[int, Call] = {}
        self._loop = asyncio.get_running_loop()
        self.heard_at = self._loop.time()
        self._count = 0
        self._refused: ImagenError | None = None
        self._why = ""
        self._starting: asyncio.Future[None] = self._loop.create_future()
        self._gone: asyncio.Future[None] = self._loop.create_future()
        self._unpacking = Unpacking()
        self._unsent = bytearray()
        self._tail = last_words.Tail()
        self._killed_before = last_words.killed_for_memory()
        self._socket, theirs = socket.socketpair()
        self._words, wrote = os.pipe()
        try:
            # On the loop's own thread: where a child is to die with its parent, it dies with the thread that made it.
            self._popen = subprocess.Popen(
                # -P: a file of the folder somebody happens to be in is no module.
                [sys.executable, "-P", "-m", "imagen.backends.child.main", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=wrote,
                stderr=wrote,
                pass_fds=[theirs.fileno()],
                env={**os.environ, **environment},
                start_new_session=True,  # Ctrl-C is for us alone, and whatever it starts can be killed with it
            )
        except OSError as exc:
            self._socket.close()
            os.close(self._words)
            raise Crashed(
                f"no process could be started for {who}: {exc.strerror}",
                hint="the system is short of memory or of processes; it is tried again",
                retryable=True,
            ) from exc
        finally:
            theirs.close()
            os.close(wrote)
        self._socket.setblocking(False)
        os.set_blocking(self._words, False)
        self._loop.add_reader(self._socket, self._on_bytes)
        self._loop.add_reader(self._words, self._on_words)
        self._put(pieces)

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def busy(self) -> bool:
        return bool(self.calls)

    @property
    def leaving(self) -> bool:
        """Does it only do what may be done beside the next one?"""
        return self.busy and all(call.device_free for call in self.calls.values())

    async def left(self) -> None:
        """Wait until that is done."""
        await asyncio.gather(*(call.ended() for call in self.calls.values()))

    def begin(self, head: Mapping[str, Any], previews: Previews | None = None) -> Call:
        """Begin with something; it may be asked for before the child is ready."""
        self._count += 1
        pieces = packed({**head, "call": self._count})
        call = self.calls[self._count] = Call(self, self._count, previews)
        self._put(pieces)
        if self._gone.done():
            self._over(self._count, self._refused)
        return call

    def forget(self, number: int) -> None:
        """Nobody wants to hear any more of this call."""
        self._over(number, None)

    async def started(self, within_s: float) -> None:
        """Wait until its imports are done and its backend is made; raises why that did not come about."""
        await asyncio.wait([self._starting], timeout=within_s)
        if not self._starting.done():
            self._refused = TimedOut(
                f"{self.who} was not ready within {within_s:g} s",
                hint="see what its imports wait for, a slow disk perhaps; it is tried again in a new process",
                detail=last_words.masked(self._tail.text()) or None,
            )
            self.kill()
        if self._refused is not None:
            raise self._refused

    async def stop(self, within_s: float) -> None:
        """Let it close its backend, and have it gone; when this returns its memory is back."""
        try:
            if self.ready:  # otherwise it has nothing to close, and would not hear it before its imports are done
                self.send({"say": "quit"})
                await asyncio.wait([self._gone], timeout=within_s)
        finally:
            self.kill()
        await asyncio.wait([self._gone], timeout=GONE_S)

    def kill(self, why: str = "") -> None:
        """At once, with all that it started; `why` is for those whose calls end with it."""
        if not self._gone.done():
            self._why = self._why or why
            with suppress(ProcessLookupError, PermissionError):  # macOS forbids what is gone already
                os.killpg(self._popen.pid, signal.SIGKILL)
            self._end()

    def send(self, head: Mapping[str, Any]) -> None:
        """Say something; what it does not take at once is kept for it."""
        self._put(packed(head))

    def _put(self, pieces: Sequence[bytes]) -> None:
        if not self.dead:
            self._unsent += b"".join(pieces)
            self._write()

    def _write(self) -> None:
        try:
            sent = self._socket.send(self._unsent) if self._unsent else 0
        except BlockingIOError:
            sent = 0
        except OSError:
            return self.kill()  # it is gone, or has closed its end
        del self._unsent[:sent]
        if self._unsent:
            self._loop.add_writer(self._socket, self._write)
        else:
            self._loop.remove_writer(self._socket)

    def _on_bytes(self) -> None:
        try:
            data = self._socket.recv(CHUNK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            return self.kill()
        try:
            for frame in self._unpacking.feed(data):
                self._hear(frame)
        except (BadFrameError, KeyError, TypeError, ValueError) as exc:
            self.kill(f"it said what nobody understands: {exc}")

    def _hear(self, frame: Frame) -> None:
        head = frame.head
        self.heard_at = self._loop.time()
        call = self.calls.get(head.get("call", 0))
        match head["say"]:
            case "ready":
                self.ready = True
                self._set(self._starting)
            case "refused":
                self._refused = ImagenError.from_dict(head["error"])
                self.kill()
            case "ask":
                # In a moment of its own: what a sink of somebody else's raises is no fault of the child.
                self._loop.call_soon(self._answer, call, head["ask"], head["step"], head["total"])
            case "signal":
                signal_ = signal_heard(frame)
                self.drew |= isinstance(signal_, Step)
                if call is not None:
                    call.hear(signal_, last=False)
            case "ended":
                self._over(head["call"], None)
            case "checked":
                self._over(head["call"], checks_heard(head["checks"]))
            case "error":
                self._over(head["call"], ImagenError.from_dict(head["error"]))
            case other:
                raise BadFrameError(f"nobody says {other!r}")

    def _answer(self, call: Call | None, ask: int, step: int, total: int) -> None:
        wanted = call is not None and call.wants(step, total)
        self.send({"say": "answer", "ask": ask, "wanted": wanted})

    def _over(self, number: int, told: Told) -> None:
        if call := self.calls.pop(number, None):
            call.hear(told, last=True)

    def _on_words(self) -> None:
        if self._read_words():
            # Not before a moment is over: whoever writes without end is held up by a full pipe, and not we by him.
            self._loop.remove_reader(self._words)
            self._loop.call_later(WORDS_S, self._listen)

    def _listen(self) -> None:
        if not self.dead:
            self._loop.add_reader(self._words, self._on_words)

    def _read_words(self) -> bool:
        try:
            data = os.read(self._words, 2**16)
        except BlockingIOError:
            return False
        if not data:
            self._loop.remove_reader(self._words)
            return False
        self._tail.add(data)
        return True

    def _end(self) -> None:
        if not self.dead:
            self.dead = True
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
            self._loop.remove_reader(self._words)
            self._socket.close()
            self._reap()

    def _reap(self) -> None:
        code = self._popen.poll()
        if code is None:
            self._loop.call_later(REAP_S, self._reap)
            return
        for _ in range(LEFT):
            if not self._read_words():
                break
        os.close(self._words)
        self._set(self._gone)
        if self._refused is None:
            starved = last_words.killed_for_memory() > self._killed_before
            self._refused = last_words.died(self.who, code, self._tail.text(), starved=starved, why=self._why)
        self._set(self._starting)
        for number in list(self.calls):
            self._over(number, self._refused)

    @staticmethod
    def _set(future: "asyncio.Future[None]") -> None:
        if not future.done():
            future.set_result(None)
