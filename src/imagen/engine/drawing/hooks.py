"""What the owner wants done before a device is used and after it was given back: a command, or an address to post to.

For instance to make another program unload what it holds. No shell is involved, and time is bounded.
"""

import asyncio
import os
import signal
from collections.abc import Mapping
from contextlib import suppress

from imagen.core.device import Hook
from imagen.core.errors import HookFailed

TAIL = 4096  # bytes of what it says that are kept
LINE = 200  # characters of its last line that are told


async def run(hook: Hook, which: str, *, device: str, model: str, timeout_s: float) -> None:
    """Run one hook to its end; HookFailed says how it went wrong, with the last line it said.

    `which` is `before` or `after`.
    """
    told = {"device": device, "hook": which, "model": model}
    try:
        async with asyncio.timeout(timeout_s):
            wrong = await (_post(hook, told) if isinstance(hook, str) else _command(hook, told))
    except TimeoutError:
        wrong = f"took longer than {timeout_s:g} s"
    if wrong is not None:
        hint = f"run it by hand on that machine; it stands under `devices: {{{device}: {{{which}: …}}}}` in config.yaml"
        raise HookFailed(f"the hook `{which}` of {device} {wrong}", hint=hint)


async def _command(words: tuple[str, ...], told: Mapping[str, str]) -> str | None:
    """What went wrong; None when nothing did."""
    loop = asyncio.get_running_loop()
    tail = bytearray()
    heard, mouth = os.pipe()  # not asyncio's: it would wait for whatever the command leaves running
    os.set_blocking(heard, False)

    def hear() -> None:
        try:
            said = os.read(heard, 65_536)
        except BlockingIOError:
            return
        if not said:
            loop.remove_reader(heard)
        tail.extend(said)
        del tail[:-TAIL]

    loop.add_reader(heard, hear)
    try:
        process = await asyncio.create_subprocess_exec(
            *words,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=mouth,
            stderr=mouth,
            start_new_session=True,  # so that all of it can be ended
            env={**os.environ, **{f"IMAGEN_{name.upper()}": value for name, value in told.items()}},
        )
        try:
            code = await process.wait()
        except asyncio.CancelledError:  # too late, or this program ends
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
            raise
        hear()
    except OSError as exc:
        return f"cannot run {words[0]}: {exc.strerror or exc}"
    finally:
        loop.remove_reader(heard)
        os.close(heard)
        os.close(mouth)
    return f"({words[0]}) ended with {code}{_last(tail)}" if code else None


async def _post(url: str, told: Mapping[str, str]) -> str | None:
    import httpx2

    from imagen.backends.remote.address import Address, split
    from imagen.backends.remote.http import LIBRARY

    place = Address(**split(url))
    tail = bytearray()
    try:
        # A proxy of the environment is for the world outside; time is kept by whoever calls.
        client = httpx2.AsyncClient(timeout=None, trust_env=place.public, verify=place.scheme == "https")
        async with client, client.stream("POST", url, json=dict(told)) as answer:
            async for piece in answer.aiter_bytes():
                tail.extend(piece)
                if len(tail) > TAIL:
                    break
            good = answer.is_success
    except LIBRARY as exc:
        return f"cannot reach {place.authority}: {' '.join(str(exc).split()) or type(exc).__name__}"
    return None if good else f"was answered {answer.status_code} by {place.authority}{_last(tail)}"


def _last(tail: bytearray) -> str:
    lines = [line.strip() for line in tail.decode(errors="replace").splitlines() if line.strip()]
    said = "".join(letter for letter in lines[-1] if letter.isprintable())[:LINE] if lines else ""
    return f": {said}" if said else ""
