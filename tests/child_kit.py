"""A backend that does to its process whatever it is told, for the tests of those who run it in one of its own."""

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imagen.backends import child
from imagen.backends.base import Backend, Previews, Registration
from imagen.backends.child.parent import Child
from imagen.core.errors import BadConfig, Check, MissingFile, NotConfigured, Rejected
from imagen.core.model import Defaults, Model, ModelFile
from imagen.core.request import Request
from imagen.core.signals import Notice, Output, Phase, Preview, Signal, Step

ROOT = Path(__file__).parents[1]
FACTORY = "tests.child_kit:Faulty"
MIB = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultyKeys:
    """No keys of its own."""


class Faulty:
    """Draws grey squares. A prompt `fault@2` is what it does at step 2, once if the option `once` names a file."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        match str(settings.get("start")):
            case "hang":
                time.sleep(3600)
            case "slow":
                time.sleep(2)
            case "die":
                sys.stderr.write("the last thing it said\n")
                os._exit(3)
            case "refuse":
                raise BadConfig("the settings are wrong", hint="put them right")
            case "break":
                raise ValueError("no such thing")
            case _:
                pass
        self._settings = settings
        self._closes = settings.get("closes", "")
        self._weights: bytearray | None = None
        self._drawn = 0

    async def check(self, model: Model) -> Sequence[Check]:
        missing = MissingFile("no file", hint="get it")
        return [Check.passed("draws", note=f"pid {os.getpid()}"), Check.failed("files", missing)]

    async def generate(
        self, request: Request, model: Model, previews: Previews, resume: str | None = None
    ) -> AsyncGenerator[Signal]:
        yield Phase(name="loading")
        if self._weights is None:
            size = int(self._settings.get("weights_mib", 0)) * MIB
            self._weights = bytearray(os.urandom(MIB) * (size // MIB))  # really there, and not only promised
        fault, _, at = request.prompt.partition("@")
        once = Path(str(request.options["once"])) if request.options.get("once") else None
        if once is not None and once.exists():
            fault = ""
        total = request.steps * request.n
        for index in range(request.n):
            yield Phase(name="sampling")
            for step in range(1, request.steps + 1):
                done = index * request.steps + step
                await asyncio.sleep(float(request.options.get("slow", 0)))
                if fault and at and done == int(at):
                    yield Notice(code="begun", message=str(os.getpid()))
                    if once is not None:
                        once.touch()
                    async for signal_ in self._do(fault, str(request.options.get("until", ""))):
                        yield signal_
                yield Step(step=done, total=total, image=index)
                if previews.wants(done, total):
                    size = min(8, previews.max_size)
                    yield Preview(step=done, total=total, data=bytes(size * size * 3), width=size, height=size)
            self._drawn += 1
            grey = bytes([(request.seed + index) % 256])
            yield Output(
                data=grey * (request.width * request.height * 3),
                width=request.width,
                height=request.height,
                index=index,
                seed=request.seed + index,
                facts={"drawn": f"{os.getpid()} {self._drawn}", "files": [ModelFile(path="a", size=1, sha256="b")]},
            )

    async def aclose(self) -> None:
        if self._closes == "never":
            await asyncio.sleep(3600)
        elif self._closes:
            Path(self._closes).touch()

    async def _do(self, fault: str, until: str) -> AsyncGenerator[Signal]:
        match fault:
            case "decode":
                yield Phase(name="decoding", device_free=True)
                while not Path(until).exists():
                    await asyncio.sleep(0.01)
            case "unfit":
                raise NotConfigured("there is no such device", hint="name another one")
            case "segfault":
                ctypes.string_at(0)
            case "abort":
                os.abort()
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "exit":
                os._exit(7)
            case "raise":
                raise ValueError("a token=abcdefgh in /home/somebody/secret/file.py")
            case "thread":
                _raise_in_a_thread()
            case "leave":
                raise SystemExit(1)
            case "cancelled":
                raise asyncio.CancelledError
            case "reject":
                raise Rejected("not this", hint="something else")
            case "memory":
                held = []
                while True:
                    held.append(bytearray(64 * MIB))
            case "bad_alloc":
                sys.stderr.write("terminate called after throwing an instance of 'std::bad_alloc'\n")
                sys.stderr.flush()
                os.abort()
            case "wait":
                await asyncio.sleep(3600)
            case "stubborn":
                while True:
                    try:
                        await asyncio.sleep(3600)
                    except asyncio.CancelledError:
                        continue
            case "hold":
                hold_the_lock(2.0)
            case "hold for ever":
                hold_the_lock(3600.0)
            case "flood":
                for _ in range(64):
                    os.write(1, b"x" * 2**17 + b"\n")
                    os.write(2, b"y" * 2**17 + b"\r")
                os.write(2, b"\nthe flood is over\n")
            case "start" | "fork":
                yield Notice(code="found", message=str(_start() if fault == "start" else _fork()))
            case "babble":
                os.write(int(sys.argv[1]), b"\xff" * 64)
                await asyncio.sleep(3600)
            case "nonsense":
                yield object()  # type: ignore[misc]
            case "unsendable":
                yield Output(data=b"", facts={"what": object()})
            case "none":
                pass
            case "environment":
                yield Notice(code="found", message=os.environ.get("FAULTY", ""))
            case _:
                raise AssertionError(fault)


def hold_the_lock(seconds: float) -> None:
    """Keep Python's lock and do nothing, as a library does that loads something large."""
    ctypes.PyDLL(None).usleep(ctypes.c_uint(int(seconds * 1_000_000)))


def create(settings: Mapping[str, Any]) -> Backend:
    """It, in a process of its own."""
    return faulty(settings)


def faulty(settings: Mapping[str, Any], **others: Any) -> Child:
    return Child(FACTORY, settings, name="faulty", **others)


registration = Registration(
    create=create, keys=FaultyKeys, settings=child.SETTINGS | {"start", "weights_mib", "closes"}
)


def model(name: str = "faulty", device: str = "cpu@here") -> Model:
    return Model(name=name, backend="faulty", device=device, defaults=Defaults(width=16, height=16, steps=3))


def request(prompt: str = "a fox", **fields: Any) -> Request:
    usual = {"model": "faulty", "width": 16, "height": 16, "steps": 3, "seed": 7}
    return Request(**{"prompt": prompt, **usual, **fields})


def installed(folder: Path) -> Mapping[str, str]:
    """The environment in which `imagen` finds this backend, as that of a package somebody installed."""
    info = folder / "imagen_faulty-0.1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: imagen-faulty\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text("[imagen.backends]\nfaulty = tests.child_kit:registration\n")
    return {"PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}


def alive(pid: int) -> bool:
    """Is it there, and more than an entry in a table?"""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def _start() -> int:
    return subprocess.Popen(["sleep", "3600"]).pid


def _fork() -> int:
    if (forked := os.fork()) == 0:
        time.sleep(3600)
    return forked


def _raise_in_a_thread() -> None:
    raised: list[BaseException] = []

    def work() -> None:
        try:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        except RuntimeError as exc:
            raised.append(exc)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    raise raised[0]
