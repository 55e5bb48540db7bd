"""`imagen worker list|pause|resume`: the devices of all workers, and having one for something else for a while."""

import asyncio
import getpass
import platform
import shlex
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

import click

from imagen.surfaces.cli.output import age, json_option, one_line, print_json, print_table
from imagen.surfaces.cli.where import open_door

if TYPE_CHECKING:
    from imagen.core.device import Device
    from imagen.door import Devices

DEVICES = click.argument("devices", nargs=-1, metavar="[DEVICE]...")


@click.command("list")
@json_option
def list_(json_output: bool) -> None:
    """Every device: who draws there and what, how much of it is taken, and whether it is paused."""
    _show(_ask(lambda there: there.all()), json_output, lacks=True)


@click.command()
@DEVICES
@click.option("--reason", metavar="TEXT", default="", help="Told to whoever waits for the device.")
@click.option("--now", is_flag=True, help="Give back what runs there, instead of letting it end.")
@json_option
def pause(devices: tuple[str, ...], reason: str, now: bool, json_output: bool) -> None:
    """Begin nothing on DEVICE until it is resumed, whatever stops and starts meanwhile.

    Without DEVICE every device is meant on which the models of this machine's settings are drawn; with --server every
    one that the server lists, and the key has to be an admin's. Jobs wait, and say why. What is given back by --now has
    not failed.
    """

    _show(_ask(lambda there: there.pause(devices, by=_me(), reason=reason, now=now)), json_output)


@click.command()
@DEVICES
@json_option
def resume(devices: tuple[str, ...], json_output: bool) -> None:
    """Let jobs begin on DEVICE again; without DEVICE on every device that `pause` alone means."""

    async def resumed(there: "Devices") -> list["Device"]:
        meant = await there.resume(devices)
        if not devices and (still := [device.name for device in await there.all() if device.paused]):
            click.echo(f"still paused: `imagen worker resume {shlex.join(still)}`", err=True)
        return meant

    _show(_ask(resumed), json_output)


def _show(devices: Sequence["Device"], json_output: bool, *, lacks: bool = False) -> None:
    from imagen.surfaces.wire import device_json

    if json_output:
        print_json({"devices": [device_json(device) for device in devices]})
        return
    rows = [
        (
            device.name,
            f"{device.taken} of {device.slots}" if device.slots else "",
            _memory(device),
            str(len(device.workers)),
            _state(device),
            ", ".join(device.models),
        )
        for device in devices
    ]
    print_table(("DEVICE", "TAKEN", "MIB", "WORKERS", "STATE", "MODELS"), rows)
    for device in devices:
        if device.troubled:  # a sentence, and too long for a column
            click.echo(f"{device.name} begins nothing: {one_line(device.troubled)}")
        reasons: dict[str, list[str]] = {}
        for model, why in device.lacks.items() if lacks else ():
            reasons.setdefault(why, []).append(model)
        for why, models in reasons.items():
            click.echo(f"{device.name} cannot draw {', '.join(models)}: {one_line(why)}")


def _state(device: "Device") -> str:
    if device.paused is not None:
        since = age(device.paused.since)
        return f"{device.paused} ({since})" if since != "now" else str(device.paused)
    return "begins nothing" if device.troubled else "open"


def _memory(device: "Device") -> str:
    if device.vram_mib is None:
        return ""
    return f"{device.vram_taken_mib or 0} of {device.vram_mib}"


def _me() -> str:
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # an account without a name, as in some containers
        name = "somebody"
    return f"{name}@{platform.node() or 'localhost'}"


def _ask(question: Callable[["Devices"], Awaitable[list["Device"]]]) -> list["Device"]:
    async def asked() -> list["Device"]:
        async with open_door() as door:
            return await question(door.devices)

    return asyncio.run(asked())
