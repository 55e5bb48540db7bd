"""The devices of another imagen server: what there is, and pausing one, as far as the key allows."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any
from urllib.parse import quote

from imagen.away import reading
from imagen.away.asking import Asking
from imagen.core.device import Device
from imagen.core.errors import ImagenError, UnknownDevice
from imagen.reading import maybe


class Devices:
    """List, pause and resume devices. Part of `Away`."""

    def __init__(self, asking: Asking, read: Callable[[Callable[[Any], Device], Any], Device]) -> None:
        self._asking = asking
        self._read = read

    async def all(self) -> list[Device]:
        """Every device that its workers have, by name."""
        told = await self._asking.json("GET", "/v1/devices")
        return [self._read(reading.device_of, one) for one in told.get("devices", ())]

    async def pause(self, names: Iterable[str] = (), *, by: str, reason: str = "", now: bool = False) -> list[Device]:
        """Begin nothing on these devices until they are resumed. Who it was, the server knows by the key."""
        return await self._each(names, "pause", {"reason": reason, "now": now})

    async def resume(self, names: Iterable[str] = ()) -> list[Device]:
        """Let jobs begin on these devices again."""
        return await self._each(names, "resume")

    async def _each(self, names: Iterable[str], verb: str, body: Any = None) -> list[Device]:
        done: list[Device] = []
        try:
            for name in await self._known(names):
                done.append(await self._set(name, verb, body))
        except ImagenError as error:
            if done:
                error.message += f"; {verb}d before that: {', '.join(device.name for device in done)}"
            raise
        return done

    async def _set(self, name: str, verb: str, body: Any = None) -> Device:
        said = {} if body is None else {"json": body}
        told = await self._asking.json("POST", f"/v1/devices/{quote(name, safe='')}/{verb}", **said)
        return self._read(reading.device_of, told)

    async def _known(self, names: Iterable[str]) -> Sequence[str]:
        """All that are meant, none named: every one. A slip in the second leaves the first as it is."""
        wanted = list(dict.fromkeys(names))
        there = [device.name for device in await self.all()]
        hint = f"devices: {', '.join(there) or 'none'}"
        for name in wanted:
            if name not in there:
                raise UnknownDevice(f"there is no device {name!r}{maybe(name, there)}", hint=hint, param="device")
        return wanted or there
