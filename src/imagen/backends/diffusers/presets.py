"""How a pipeline is fitted into the memory that is there: pure arithmetic over the sizes of its parts.

From the top of the table the first row that fits is taken; whatever a model's keys say is kept, and the rest follows.

| what fits, with room to compute in    | it is kept         | tiling | float8 |
|---------------------------------------|--------------------|--------|--------|
| all of it, and 6 GiB                  | on the device      | off    | off    |
| all of it, and 3 GiB                  | on the device      | on     | off    |
| its largest part                      | a part at a time   | on     | off    |
| the same with half the transformer    | a part at a time   | on     | on     |
| none of that                          | a layer at a time  | on     | off    |
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from imagen.backends.diffusers.finding import Part, one_memory

# Reckoned from the sizes of what is computed at 1024x1024, not measured: tiling is what spares the decoder's 3 GiB.
ROOMY_MIB = 6 * 1024
TIGHT_MIB = 3 * 1024
DECODE_MIB, STEP_MIB = 3 * 1024, 3 * 1024  # of that room: a picture of this size, in 16 bits
AREA = 1024 * 1024
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
DENOISERS = ("transformer", "unet")


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What there is to draw with."""

    device: str  # as torch writes it: cpu, cuda:0, mps
    memory_mib: int  # free on the device; of a processor, of the machine
    bfloat16: bool = True  # can compute in it
    host_mib: int = 0  # of a card: free of the memory beside it, where parts wait

    @property
    def kind(self) -> str:
        return self.device.partition(":")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """How a pipeline is held."""

    dtype: str
    offload: str = "none"  # none, model: a part at a time, group: a layer at a time
    float8: bool = False
    tiling: bool = False
    pinned: str = ""  # what waits beside the card: kept = all of it is pinned, passing = each layer when its turn comes

    def __str__(self) -> str:
        kept = {"none": "", "model": "a part at a time on the device", "group": "a layer at a time on the device"}
        moved = kept[self.offload] + (" from pinned memory" if self.pinned == "kept" else "")
        words = [self.dtype, "weights in float8" if self.float8 else "", moved]
        return ", ".join(word for word in [*words, "decoded in tiles" if self.tiling else ""] if word)


def chosen(keys: Mapping[str, Any], parts: Sequence[Part], machine: Machine) -> Preset:
    """The preset for these parts on this machine; raises where the keys ask for what cannot be."""
    offload = keys["offload"]
    if machine.kind in ("cpu", "mps") and offload in ("model", "group"):
        raise one_memory(offload, machine.device)
    dtype = _dtype(keys["dtype"], parts, machine)
    pinned = partial(_pinned, keys["pinned"], parts, machine)
    for preset in _rows(dtype, parts, machine):
        switches = ((keys["float8"], preset.float8), (keys["tiling"], preset.tiling))
        if offload in ("auto", preset.offload) and all(said in ("auto", _word(has)) for said, has in switches):
            return replace(preset, pinned=pinned(preset))
    # Nothing of the table is all that the keys say: then they decide, and the rest is what costs the least.
    preset = Preset(
        dtype=dtype,
        offload="none" if offload == "auto" else offload,
        float8=keys["float8"] == "on",
        tiling=keys["tiling"] == "on",
    )
    return replace(preset, pinned=pinned(preset))


def beside_mib(width: int, height: int, count: int, dtype: str) -> float:
    """What it takes to decode pictures while others of the same size are drawn; in tiles it is less, not counted on."""
    return (DECODE_MIB * count + STEP_MIB) * width * height / AREA * BYTES[dtype] / BYTES["bfloat16"]


def _rows(dtype: str, parts: Sequence[Part], machine: Machine) -> list[Preset]:
    """The rows of the table that fit, best first."""
    if machine.kind == "cpu":
        return [Preset(dtype=dtype), Preset(dtype=dtype, tiling=True)]
    plain = [_mib(part, dtype) for part in parts]
    halved = [_mib(part, dtype) / (2 if part.name in DENOISERS and not part.packed else 1) for part in parts]
    free = machine.memory_mib
    one_memory = machine.kind == "mps"
    rows = [
        (sum(plain) + ROOMY_MIB <= free, Preset(dtype=dtype)),
        (sum(plain) + TIGHT_MIB <= free, Preset(dtype=dtype, tiling=True)),
        (one_memory and sum(halved) + TIGHT_MIB <= free, Preset(dtype=dtype, tiling=True, float8=True)),
        (not one_memory and max(plain) + TIGHT_MIB <= free, Preset(dtype=dtype, tiling=True, offload="model")),
        (
            not one_memory and max(halved) + TIGHT_MIB <= free,
            Preset(dtype=dtype, tiling=True, offload="model", float8=True),
        ),
        (not one_memory, Preset(dtype=dtype, tiling=True, offload="group")),
    ]
    return [preset for fits, preset in rows if fits]


def _pinned(said: str, parts: Sequence[Part], machine: Machine, preset: Preset) -> str:
    """Pinned memory cannot be lent to anybody else: by itself it is taken where half of what is free is left over."""
    if preset.offload == "none" or machine.kind != "cuda" or said == "off":
        return ""
    if said == "on":
        return "kept"
    if preset.offload == "model":
        return ""  # not measured
    return "kept" if 2 * sum(_mib(part, preset.dtype) for part in parts) <= machine.host_mib else "passing"


def _word(on: bool) -> str:
    return "on" if on else "off"


def _dtype(said: str, parts: Sequence[Part], machine: Machine) -> str:
    if said != "auto":
        return said
    if machine.kind != "cpu":
        return "bfloat16" if machine.bfloat16 else "float16"
    # Many processors compute in 32 bits much faster; in 16 bits only what would not fit otherwise.
    fits = sum(_mib(part, "float32") for part in parts) + TIGHT_MIB <= machine.memory_mib
    return "float32" if fits else "bfloat16"


def _mib(part: Part, dtype: str) -> float:
    return (part.bytes if part.packed else part.numbers * BYTES[dtype]) / 2**20
