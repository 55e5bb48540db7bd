"""Single keys from a terminal, without Enter; lines where nobody sits at a keyboard."""

import asyncio
import os
import re
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

import click

Key = Callable[[], Awaitable[str]]

_READ = 64
_ONE = re.compile(r"\x1b[\[O][\d;]*.|.", re.DOTALL)  # an arrow is three characters and one key


@contextmanager
def keys(stream: TextIO | None = None) -> Iterator[Key]:
    """While inside, each call waits for one key: its letter in lower case, or nothing at the end of the input."""
    stream = stream or sys.stdin
    if not stream.isatty():
        yield _lines(stream)
    elif os.name == "nt":
        yield _windows
    else:
        with _unbuffered(stream.fileno()):
            yield _Keyboard(stream.fileno()).key


class _Keyboard:
    """A terminal that is read while the loop runs on, so that Ctrl-C ends the wait."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._typed: list[str] = []

    async def key(self) -> str:
        if not self._typed:
            await self._readable()
            self._typed = _ONE.findall(os.read(self._fd, _READ).decode(errors="replace"))
        return _lowered(self._typed.pop(0)) if self._typed else ""

    async def _readable(self) -> None:
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        loop.add_reader(self._fd, ready.set)
        try:
            await ready.wait()
        finally:
            loop.remove_reader(self._fd)


def _lines(stream: TextIO) -> Key:
    async def line() -> str:
        said = stream.readline()
        return _lowered(said.strip() or " ") if said else ""

    return line


async def _windows() -> str:
    try:
        return _lowered(click.getchar())
    except EOFError:
        return ""


def _lowered(key: str) -> str:
    return key.lower() if len(key) == 1 else key  # the letters of an arrow mean what they are


@contextmanager
def _unbuffered(fd: int) -> Iterator[None]:
    import termios
    import tty

    before = termios.tcgetattr(fd)
    try:
        tty.setcbreak(fd, termios.TCSADRAIN)  # what was typed ahead is kept
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
