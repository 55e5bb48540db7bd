"""`imagen --server URL doctor`: what can be seen of a server from here. It is asked once, however it is."""

from collections import Counter
from collections.abc import Awaitable
from typing import TYPE_CHECKING

from imagen.core.errors import Check, DatabaseAway, ImagenError, ServerAway, SetupError
from imagen.surfaces.cli.where import open_away

if TYPE_CHECKING:
    from imagen.away.client import Away
    from imagen.core.device import Device
    from imagen.engine.doctor import Finding
    from imagen.engine.states import ModelState

LIST = "`imagen --server URL worker list` says what each device lacks"


async def diagnosed(name: str | None) -> list["Finding"]:
    """That it answers, takes our key, accepts jobs, keeps pictures, who draws, what waits for nobody, what is ready."""
    from imagen.app import VERSION
    from imagen.away.client import LOOK_S
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

        async def jobs() -> str:
            await away.ready(pictures=False)
            return "accepted"

        async def pictures() -> str:
            await away.ready()
            return "stored"

        async def workers() -> str:
            devices.extend(await away.devices.all())
            if troubled := [device for device in devices if device.troubled]:
                names = ", ".join(device.name for device in troubled)
                raise begins_nothing(
                    f"the workers of {names}", {device.name: device.troubled or "" for device in troubled}
                )
            here = {worker for device in devices for worker in device.workers}
            return f"{len(here)} alive" + "".join(f"\n{_told(device)}" for device in devices if device.workers)

        async def models() -> str:
            told.extend(await away.model_states())
            return ""

        async def waiting() -> str:
            drawn = {model for device in devices for model in device.models}
            # One without a model, which came by SQL, waits for any worker.
            lost = {model: count for model, count in queue.items() if (model not in drawn if model else not drawn)}
            if lost:
                lacks = {model: why for device in devices for model, why in device.lacks.items()}
                why = {model: SetupError(lacks[model], hint=LIST) for model in lost if model in lacks}
                knows = {one.model.name for one in told} | lacks.keys() if told else lost
                raise nobody_draws(lost, why=why, knows=knows)
            return "none that nobody draws"

        queue: Counter[str] = Counter()
        devices: list[Device] = []
        told: list[ModelState] = []
        await look("server", version())
        if isinstance(checks[0].error, ServerAway) and await _alive(away):
            slow = ServerAway(
                f"{away.url} is there, and did not say within {LOOK_S:g} s who we are to it",
                hint="it waits for something itself: what else fails here says for what",
            )
            checks[0] = Check.failed("server", slow)
        elif not checks[0].ok:
            return [Finding(check=checks[0])]
        await look("jobs", jobs())
        if isinstance(checks[-1].error, DatabaseAway):  # whatever else is asked waits for the same
            return [Finding(check=check) for check in checks]
        await look("pictures", pictures())
        await look("workers", workers())
        known = checks[-1].ok or bool(devices)  # an older server has no such address
        await look("models", models())
        asked = checks.pop()
        if known:
            await look("waiting jobs", waiting())
        if not asked.ok:
            return [Finding(check=check) for check in [*checks, asked]]
        wanted = away.catalog_of(told).get(name).name if name is not None else None
        drawn = {model for device in devices for model in device.models}
        return [Finding(check=check) for check in checks] + [
            Finding(
                check=Check(
                    name=f"{one.model.name}: server",
                    error=one.error or (_undrawn(one.model.name) if known and one.model.name not in drawn else None),
                ),
                needed=one.default or wanted is not None,
            )
            for one in told
            if (one.model.enabled if wanted is None else one.model.name == wanted)
        ]


async def _alive(away: "Away") -> bool:
    try:
        await away.alive()
    except ImagenError:
        return False
    return True


def _told(device: "Device") -> str:
    state = f"; {device.paused}" if device.paused else ""
    return f"{device.name}: models: {len(device.models)}{state}"


def _undrawn(model: str) -> ImagenError:
    return SetupError(
        f"no worker there draws {model}",
        hint=f"start one: `imagen worker --models {model}`; where workers come by themselves, the first job brings one",
    )
