"""How much memory the device had in use at most while a prompt ran: sampled, so at least that much.

It is always the whole device: other programs on it count too. The method is said with the figure.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from importlib import import_module
from typing import Any

from imagen.backends.comfyui.server import Server
from imagen.core.errors import ImagenError

ASK_S = 0.25  # a question to the server costs it a millisecond
LOOK_S = 0.05  # one to the driver costs nothing
MIB = 2**20


class Peak:
    """The most that was seen."""

    def __init__(self) -> None:
        self.mib: int | None = None
        self.method = ""

    def saw(self, used_bytes: float) -> None:
        """One more sample."""
        self.mib = max(self.mib or 0, round(used_bytes / MIB))

    def facts(self) -> dict[str, Any]:
        """For an Output; nothing when nothing was seen."""
        return {} if self.mib is None else {"vram_peak_mib": self.mib, "vram_method": self.method}


@asynccontextmanager
async def watched(server: Server, begun: asyncio.Event) -> AsyncIterator[Peak]:
    """Sample from when `begun` is set to the end of the block; before, it is other people's work that is seen."""
    peak = Peak()
    task = asyncio.create_task(_sample(server, peak, begun), name="comfyui-vram")
    try:
        yield peak
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _sample(server: Server, peak: Peak, begun: asyncio.Event) -> None:
    await begun.wait()
    with suppress(ImagenError):  # a figure is missing then, and nothing else
        device = next(iter((await server.stats()).devices), {})
        look = _driver(device) if server.address.here else None
        if look is not None:
            peak.method = f"nvml every {LOOK_S * 1000:.0f} ms, whole device"
            while True:
                peak.saw(look())
                await asyncio.sleep(LOOK_S)
        what = "RAM of the machine, the server runs on the CPU" if device.get("type") == "cpu" else "whole device"
        peak.method = f"system_stats every {ASK_S * 1000:.0f} ms, {what}"
        await asyncio.sleep(LOOK_S)  # not at once, where nothing is in use yet; but a short run has a figure too
        while True:
            devices = (await server.get_json("/system_stats")).get("devices")
            used = _used(devices[0] if isinstance(devices, list) and devices else {})
            if used is not None:
                peak.saw(used)
            await asyncio.sleep(ASK_S)


def _used(device: Mapping[str, Any]) -> float | None:
    total, free = device.get("vram_total"), device.get("vram_free")
    return total - free if isinstance(total, int | float) and isinstance(free, int | float) else None


def _driver(device: Mapping[str, Any]) -> Callable[[], int] | None:
    """Asks the NVIDIA driver itself, where the server is on this machine and pynvml is installed."""
    if device.get("type") != "cuda":
        return None
    try:
        pynvml = import_module("pynvml")
        pynvml.nvmlInit()
        if pynvml.nvmlDeviceGetCount() != 1:
            return None  # the server may number several cards in another order
        card = pynvml.nvmlDeviceGetHandleByIndex(0)
        pynvml.nvmlDeviceGetMemoryInfo(card)
    except Exception:  # not installed, no driver, or a device that this process may not see
        return None
    return lambda: int(pynvml.nvmlDeviceGetMemoryInfo(card).used)
