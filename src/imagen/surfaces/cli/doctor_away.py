"""`imagen --server URL doctor`: what can be seen of a server from here. It is asked once, however it is."""

from collections import Counter
from collections.abc import Awaitable
from typing import TYPE_CHECKING

from imagen.core.errors import Check, ImagenError, SetupError
from imagen.surfaces.cli.where import open_away

if TYPE_CHECKING:
    from imagen.core.device import Device
    from imagen.engine.doctor import Finding

LIST = "`imagen --server URL worker list` says what each device lacks"


async def diagnosed(name: str | None) -> list["Finding"]:
    """That it answers, takes our key, accepts jobs, who draws there, what waits for nobody, and what is ready."""
    from imagen.app import VERSION
    from imagen.engine.doctor import Finding
    from imagen.engine.doctor_crew import begins_nothing, nobody_draws

    async with open_away(patient=False) as away:
        checks: list[Check] = []

        async def look(what: str, asked: Awaitable[str]) -> None:
            try:
                checks.append(Check.passed(what, await asked))
            except ImagenError as error:
                checks.append(Check.failed(what, error))

        async def version() -> str:
            about = await away.about()
            queue.update(about.get("queue", {}))
            other = "" if about["version"] == VERSION else f"; imagen here is {VERSION}"
            who = f"as {about['key']['name']}{', an admin' if about['key']['admin'] else ''}"
            return f"{away.url} is imagen {about['version']}{other}; we ask {who}"

        async def ready() -> str:
            await away.ready()
            return "accepted"

        async def workers() -> str:
            devices.extend(await away.devices.all())
            if troubled := [device for device in devices if device.troubled]:
                names = ", ".join(device.name for device in troubled)
                raise begins_nothing(f"the workers of {names}", troubled[0].troubled or "")
            here = {worker for device in devices for worker in device.workers}
            return f"{len(here)} alive" + "".join(f"\n{_told(device)}" for device in devices if device.workers)

        async def waiting() -> str:
            drawn = {model for device in devices for model in device.models}
            if lost := {model: count for model, count in queue.items() if model not in drawn}:
                lacks = {model: why for device in devices for model, why in device.lacks.items()}
                why = {model: SetupError(lacks[model], hint=LIST) for model in lost if model in lacks}
                raise nobody_draws(lost, why=why)
            return "none that nobody draws"

        queue: Counter[str] = Counter()
        devices: list[Device] = []
        await look("server", version())
        if not checks[0].ok:
            return [Finding(check=checks[0])]
        await look("jobs", ready())
        await look("workers", workers())
        known = checks[-1].ok or bool(devices)  # an older server has no such address
        if known:
            await look("waiting jobs", waiting())
        try:
            told = await away.model_states()
        except ImagenError as error:
            return [Finding(check=check) for check in [*checks, Check.failed("models", error)]]
        wanted = away.catalog_of(told).get(name).name if name is not None else None
        drawn = {model for device in devices for model in device.models}
        return [Finding(check=check) for check in checks] + [
            Finding(
                check=Check(
                    name=f"{one.model.name}: ready",
                    error=one.error or (_undrawn(one.model.name) if known and one.model.name not in drawn else None),
                ),
                needed=one.default or wanted is not None,
            )
            for one in told
            if (one.model.enabled if wanted is None else one.model.name == wanted)
        ]


def _told(device: "Device") -> str:
    state = f"; {device.paused}" if device.paused else ""
    return f"{device.name}: models: {len(device.models)}{state}"


def _undrawn(model: str) -> ImagenError:
    return SetupError(
        f"no worker there draws {model}",
        hint=f"start one: `imagen worker --models {model}`; where workers come by themselves, the first job brings one",
    )
