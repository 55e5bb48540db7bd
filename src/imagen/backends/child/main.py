"""What runs inside: makes the backend, draws with it when told to, and ends when the parent does.

`python -m imagen.backends.child.main FD`; FD is this end of a pair of sockets.
"""

import asyncio
import faulthandler
import itertools
import os
import resource
import signal
import socket
import sys
import threading
import traceback
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from concurrent.futures import Future
from contextlib import suppress
from importlib import import_module
from typing import Any, NoReturn

from imagen.backends.base import Backend
from imagen.backends.child import last_words
from imagen.backends.child.frames import BadFrameError, Frame, Unpacking, checks_told, error_told, packed, signal_told
from imagen.core.errors import ImagenError
from imagen.core.model import Model
from imagen.core.request import Request
from imagen.core.signals import Signal

ASK_S = 0.05  # a preview that is answered for later than this is not worth waiting for
PROMISED_S = 5.0  # one that was promised is, while the parent is alive at all
CHUNK = 2**16
PR_SET_PDEATHSIG = 1


class Wire:
    """This end of the pair: read by a thread of its own, written to by any."""

    def __init__(self, ours: socket.socket) -> None:
        self._socket = ours
        self._writing = threading.Lock()
        self._numbers = itertools.count(1)
        self._asked: dict[int, Future[bool]] = {}

    def say(self, head: Mapping[str, Any], body: bytes = b"") -> None:
        """To the parent; returns when it is on its way."""
        with self._writing:
            for piece in packed(head, body):
                self._socket.sendall(piece)

    def ask(self, call: int, step: int, total: int, within_s: float) -> bool:
        """Is a preview of this step wanted? Without an answer in time it is not."""
        number = next(self._numbers)
        answer = self._asked[number] = Future()
        try:
            self.say({"say": "ask", "call": call, "ask": number, "step": step, "total": total})
            return answer.result(within_s)
        except TimeoutError:
            return False
        finally:
            del self._asked[number]

    def listen(self, hear: Callable[[dict[str, Any]], None]) -> None:
        """Hear everything the parent says. When it is gone there is nobody to draw for."""
        unpacking = Unpacking()
        try:
            while data := self._socket.recv(CHUNK):
                for frame in unpacking.feed(data):
                    if frame.head["say"] == "answer":
                        self._answered(frame)
                    else:
                        hear(frame.head)
        except BaseException:
            traceback.print_exc()  # deaf it would be of no use either
        finally:
            end()

    def close(self) -> None:
        self._socket.close()

    def _answered(self, frame: Frame) -> None:
        if answer := self._asked.get(frame.head["ask"]):
            answer.set_result(bool(frame.head["wanted"]))


class Asking:
    """The preview sink that the backend sees; the real one is in the parent."""

    def __init__(self, wire: Wire, call: int, told: Mapping[str, Any]) -> None:
        self.max_size: int = told["max_size"]
        self.method: str = told["method"]
        self.promised: bool = told["promised"]
        self._within_s = PROMISED_S if self.promised else ASK_S
        self._wire = wire
        self._call = call

    def wants(self, step: int, total: int) -> bool:
        """Asked of the parent; from any thread."""
        return self._wire.ask(self._call, step, total, self._within_s)


class Inside:
    """The backend, and the calls to it that are open."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._loop = asyncio.get_running_loop()
        self._backend: Backend | None = None
        self._name = ""
        self._calls: dict[int, AsyncGenerator[Signal]] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._closing: dict[int, asyncio.Task[None]] = {}
        self._left = asyncio.Event()

    async def run(self) -> None:
        """Until the parent wants no more."""
        listening = threading.Thread(target=self._wire.listen, args=[self._heard], name="listening", daemon=True)
        listening.start()
        await self._left.wait()
        for number in tuple(self._calls):
            self._begin_closing(number)
        await asyncio.gather(*self._closing.values())
        if self._backend is not None:
            await self._backend.aclose()

    def _heard(self, head: dict[str, Any]) -> None:
        self._loop.call_soon_threadsafe(self._obey, head)

    def _obey(self, head: dict[str, Any]) -> None:
        match head["say"]:
            case "hello":
                self._prepare(head)
            case "quit":
                self._left.set()
            case "draw":
                self._draw(head)
            case "next":
                self._begin(head["call"], self._next(head["call"]))
            case "check":
                self._begin(head["call"], self._check(head["call"], head["model"]))
            case "close":
                self._begin_closing(head["call"])
            case other:
                raise BadFrameError(f"nobody says {other!r}")

    def _prepare(self, hello: Mapping[str, Any]) -> None:
        """Imports, and the backend. Nothing else can be done meanwhile, so it may as well hold up the loop."""
        self._name = hello["name"]
        try:
            die_with(hello["parent"])
            sys.path[:] = hello["path"]
            if hello["memory_limit_mib"]:
                limit = hello["memory_limit_mib"] * 2**20
                resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
            for name in hello["ready"]:
                with suppress(ImportError):  # the backend says better what it lacks
                    import_module(name)
            module, _, attribute = hello["factory"].partition(":")
            self._backend = getattr(import_module(module), attribute)(hello["settings"])
        except BaseException as exc:
            self._wire.say({"say": "refused", "error": self._told(exc)})
        else:
            self._wire.say({"say": "ready"})

    def _draw(self, head: Mapping[str, Any]) -> None:
        """Begin a call. Nothing happens in it before it is asked for its first signal."""
        number = head["call"]
        try:
            request, model = Request.from_dict(head["request"]), Model.from_dict(head["model"])
            previews = Asking(self._wire, number, head["previews"])
            self._calls[number] = self._made().generate(request, model, previews, head["resume"])
        except BaseException as exc:
            self._over(number, {"say": "error", "error": self._told(exc)})

    async def _next(self, number: int) -> None:
        said = self._calls[number]
        try:
            frame = signal_told(await anext(said))
            self._wire.say({"say": "signal", "call": number, **frame.head}, frame.body)
        except StopAsyncIteration:
            self._over(number, {"say": "ended"})
        except BaseException as exc:
            if number in self._closing:
                return  # `_close` waits for it, and says the end
            await said.aclose()  # it may have said well what could not be sent
            self._over(number, {"say": "error", "error": self._told(exc)})

    async def _check(self, number: int, model: Mapping[str, Any]) -> None:
        try:
            checks = checks_told(await self._made().check(Model.from_dict(model)))
        except BaseException as exc:
            self._over(number, {"say": "error", "error": self._told(exc)})
        else:
            self._over(number, {"say": "checked", "checks": checks})

    async def _close(self, number: int) -> None:
        """As where both are one process: what is under way is cancelled, then the iterator is closed."""
        end: dict[str, Any] = {"say": "ended"}
        if task := self._tasks.get(number):
            task.cancel()
            await asyncio.wait([task])
        try:
            if said := self._calls.get(number):
                await said.aclose()
        except BaseException as exc:
            end = {"say": "error", "error": self._told(exc)}
        self._over(number, end)

    def _begin(self, number: int, work: Coroutine[Any, Any, None]) -> None:
        task = self._tasks[number] = self._loop.create_task(work)
        task.add_done_callback(lambda done: self._forget(number, done))

    def _forget(self, number: int, done: asyncio.Task[None]) -> None:
        # The parent may have asked for the next signal before the task that said the last one was quite over.
        if self._tasks.get(number) is done:
            del self._tasks[number]

    def _begin_closing(self, number: int) -> None:
        task = self._closing[number] = self._loop.create_task(self._close(number))
        task.add_done_callback(lambda _done: self._closing.pop(number, None))

    def _over(self, number: int, head: dict[str, Any]) -> None:
        self._calls.pop(number, None)
        self._wire.say({**head, "call": number})

    def _made(self) -> Backend:
        assert self._backend is not None
        return self._backend

    def _told(self, exc: BaseException) -> dict[str, Any]:
        own = exc if isinstance(exc, ImagenError) else last_words.broke(f"the backend {self._name}", exc)
        return error_told(own)


def die_with(parent: int) -> None:
    """Be killed when the parent is gone, however it went and whatever is being computed here."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        end()


def end() -> NoReturn:
    """Now, with everything that was started from here."""
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def main(descriptor: int) -> NoReturn:
    """Draw until the parent says that it is enough, or says nothing any more."""
    faulthandler.enable(all_threads=False)  # where it was, when it dies of a signal
    # A picture in the making is 40 GiB of memory, and writing that to a disk would keep it occupied for minutes.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        # Who stops a service asks every process of it. The parent lets the picture be finished, and then ends us.
        signal.signal(number, lambda *_: None)
    wire = Wire(socket.socket(fileno=descriptor))
    os.register_at_fork(after_in_child=lambda: _be_another(wire))

    async def inside() -> None:
        await Inside(wire).run()

    try:
        asyncio.run(inside())
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    # No farewell of libraries: those that hold a device are known to hang in it, and the system takes all of it back.
    os._exit(0)


def _be_another(wire: Wire) -> None:
    """In a process that a library forked: it neither speaks for us nor outlives a polite request."""
    wire.close()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


if __name__ == "__main__":
    main(int(sys.argv[1]))
