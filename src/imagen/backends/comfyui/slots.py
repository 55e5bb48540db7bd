"""What a request can fill in a workflow: found by following the graph back from its picture.

Pure. Never by node ids or by what somebody called a node: a seed is what goes into a sampler as its noise, a prompt
what is encoded for it. Where two answers are equally good it is a question.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from imagen.backends.base import Question
from imagen.backends.comfyui.nodes import COMBO, Input
from imagen.backends.comfyui.sums import number
from imagen.backends.comfyui.texts import Encoder, Role, conditioning, encoders, everything, steering
from imagen.backends.comfyui.trail import Spot, Trail
from imagen.backends.comfyui.workflow import samples
from imagen.core.errors import RequestError, Unsupported

NONE = "none"  # the answer for a slot that there shall not be
GUIDANCE = ("cfg", "guidance")  # two names of what a request calls guidance
_SEEDS = ("seed", "noise_seed")
_SIDES = ("width", "height")


@dataclass(slots=True, kw_only=True)
class Found:
    """The slots of a graph, and what could not be decided."""

    slots: dict[str, list[Spot]] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)  # what stands there now
    samplers: list[str] = field(default_factory=list)
    sides: list[tuple[Spot, Spot]] = field(default_factory=list)  # width and height of what is drawn on, the last first
    questions: list[Question] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def find(trail: Trail, output: str, answers: Mapping[str, str]) -> Found:
    """Every slot; `answers` is `{"prompt": "6.text"}`, several with commas, `none` for no such slot."""
    found = Found(samplers=[node for node in reversed(list(trail.upstream(output))) if samples(trail.kind(node))])
    if not found.samplers:
        raise Unsupported(
            "this workflow draws nothing: no sampler stands behind its picture",
            hint="give one that makes a picture out of a prompt",
        )
    given = {name: _answered(trail, name, answer) for name, answer in answers.items()}
    _texts(trail, found, given)
    _seed(trail, found, given)
    _numbers(trail, found, given)
    _size(trail, found, given)
    _choices(trail, found, given)
    for name, spots in given.items():
        if name not in found.slots and spots:
            found.slots[name] = spots
            found.values[name] = trail.value(trail.origin(spots[0]))
    _apart(found)
    return found


def _texts(trail: Trail, found: Found, given: Mapping[str, list[Spot]]) -> None:
    seen = encoders(trail, found.samplers, "prompt")
    unseen = encoders(trail, found.samplers, "negative")
    # What goes into a sampler as both is what should not be seen, unless there is nothing else.
    both = set(seen) & set(unseen)
    if set(seen) - both:
        seen = [item for item in seen if item not in both]
    else:
        unseen = [item for item in unseen if item not in both]
    prompt = given.get("prompt")
    if prompt is None:
        prompt = _text(trail, found, "prompt", seen)
    taken = set(prompt)
    unseen = [Encoder(item.node, tuple(text for text in item.texts if not taken & set(text))) for item in unseen]
    negative = given.get("negative")
    if negative is None:
        negative = _text(trail, found, "negative", [item for item in unseen if item.texts])
    for name, spots in (("prompt", prompt), ("negative", negative)):
        if spots:
            found.slots[name] = spots
            found.values[name] = trail.value(spots[0])


def _text(trail: Trail, found: Found, role: Role, readers: list[Encoder]) -> list[Spot]:
    """The places of one text: all those that say the same, else what people see, else a question."""
    filled = [item for item in readers if any(str(trail.value(spot)).strip() for spot in item.spots)]
    readers = filled or readers
    parts = [_decided(trail, text) for item in readers for text in item.texts]
    spots = list(dict.fromkeys(spot for part in parts for spot in part))
    mixed = any(len(part) > 1 for part in parts)
    if spots and not mixed and (len(readers) == 1 or _same(trail, spots)):
        return spots
    shown = [spot for spot in spots if trail.seen(spot)]
    if shown and len(shown) < len(spots) and _same(trail, shown):
        return shown
    if not spots and role == "negative":
        return []
    if not spots:
        spots = everything(trail, trail.nodes)
        if len(spots) == 1:
            found.notes.append(f"the prompt is the only text of this workflow, {spots[0]}")
            return spots
    why = {
        ("prompt", True): "several texts go into the picture",
        ("prompt", False): "no text can be followed from the sampler",
        ("negative", True): "several texts say what should not be seen",
    }[role, bool(parts)]
    found.questions.append(Question(slot=role, why=why, candidates=tuple(map(trail.place, spots))))
    return []


def _decided(trail: Trail, text: Sequence[Spot]) -> list[Spot]:
    """Of the parts that one text is put together of, those that people see."""
    shown = [spot for spot in text if trail.seen(spot)]
    return list(shown if len(shown) == 1 else text)


def _same(trail: Trail, spots: Iterable[Spot]) -> bool:
    return len({str(trail.value(spot)).strip() for spot in spots}) == 1


def _seed(trail: Trail, found: Found, given: Mapping[str, list[Spot]]) -> None:
    spots = given.get("seed")
    if spots is None:
        spots = _origins(trail, _knobs(trail, found.samplers, _is_seed))
        if not spots:
            found.notes.append("it has no seed: the same prompt may always give the same picture")
    if spots:
        found.slots["seed"] = spots
        found.values["seed"] = trail.value(spots[0])
    if len(found.samplers) > 1 and len(spots) > 1:
        found.notes.append(f"its {len(found.samplers)} samplers share the seed of the request")


def _is_seed(item: Input) -> bool:
    return item.kind == "INT" and (item.control_after_generate or item.name.rpartition(".")[2] in _SEEDS)


def _numbers(trail: Trail, found: Found, given: Mapping[str, list[Spot]]) -> None:
    """Steps, and how closely the prompt is followed."""
    steps = given.get("steps")
    if steps is None:
        steps = _origins(trail, _knobs(trail, found.samplers, lambda i: i.kind == "INT" and i.name == "steps"))
        if _cut_up(trail, found.samplers) or not _alike(trail, steps):
            said = ", ".join(dict.fromkeys(_shown(number(trail, spot)) for spot in steps))
            many = len(found.samplers)
            who = f"{many} samplers share the work" if many > 1 else "its sampler begins or ends in the middle"
            why = f"{who}, with {said} steps; `none` leaves them as they are"
            found.questions.append(Question(slot="steps", why=why, candidates=tuple(map(trail.place, steps))))
            steps = []
    _set(trail, found, "steps", steps, "int")
    name, guidance = next(((key, given[key]) for key in GUIDANCE if given.get(key)), ("", []))
    if not name and not any(key in given for key in GUIDANCE):
        name, guidance = _guidance(trail, found)
    _set(trail, found, name, guidance, "float")


def _guidance(trail: Trail, found: Found) -> tuple[str, list[Spot]]:
    knobs = _knobs(trail, found.samplers, lambda item: item.kind == "FLOAT" and item.name.startswith("cfg"))
    exact = [spot for spot in knobs if spot.input == "cfg"]
    cfg = _origins(trail, exact or knobs)
    nodes = conditioning(trail, found.samplers)
    flux = _origins(trail, [Spot(n, k) for n in nodes for k, i in trail.inputs(n).items() if _is_guidance(i)])
    # A model that was distilled to be told the guidance runs at cfg 1, which is none.
    if flux and all(number(trail, spot) == 1 for spot in cfg) and _alike(trail, flux):
        return "guidance", flux
    if not flux and _alike(trail, cfg):
        return "cfg", cfg
    both = [*cfg, *flux]
    said = ", ".join(_shown(number(trail, spot)) for spot in both)
    why = f"{len(both)} numbers say how closely to follow the prompt: {said}"
    found.questions.append(Question(slot="guidance", why=why, candidates=tuple(map(trail.place, both))))
    return "", []


def _is_guidance(item: Input) -> bool:
    return item.kind == "FLOAT" and item.name == "guidance"


def _cut_up(trail: Trail, samplers: Sequence[str]) -> bool:
    """True where a sampler ends or begins in the middle, so that its steps mean nothing alone."""
    for node in samplers:
        first = number(trail, Spot(node, "start_at_step"))
        last, steps = number(trail, Spot(node, "end_at_step")), number(trail, Spot(node, "steps"))
        if first or (last is not None and steps is not None and last < steps):
            return True
    return False


def _size(trail: Trail, found: Found, given: Mapping[str, list[Spot]]) -> None:
    pairs = found.sides = _sized(trail, found.samplers[::-1])
    if "width" in given or "height" in given:
        for name, other in (_SIDES, _SIDES[::-1]):
            partners = [Spot(spot.node, spot.input.replace(other, name)) for spot in given.get(other, [])]
            spots = given.get(name) or [spot for spot in partners if spot.input in trail.inputs(spot.node)]
            _set(trail, found, name, spots, "int", must=True)
        return
    sizes = dict.fromkeys((number(trail, wide), number(trail, high)) for wide, high in pairs)
    if not pairs:
        found.notes.append("no node has the size as numbers: it stays as the workflow makes it")
        return
    if len(sizes) > 1:
        said = ", ".join(f"{_shown(wide)}x{_shown(high)}" for wide, high in sizes)
        why = f"it draws in several sizes: {said}; the height goes with the width"
        places = tuple(trail.place(trail.origin(wide)) for wide, _ in pairs)
        found.questions.append(Question(slot="width", why=why, candidates=places))
        return
    for name, side in zip(_SIDES, zip(*pairs, strict=True), strict=True):
        origins = list(dict.fromkeys(map(trail.origin, side)))
        _set(trail, found, name, origins, "int", must=True)
    if set(found.slots["width"]) & set(found.slots["height"]):
        # One number for both sides: each side gets its own.
        for name, side in zip(_SIDES, zip(*pairs, strict=True), strict=True):
            found.slots[name] = list(side)
    _everywhere(trail, found)


def _sized(trail: Trail, samplers: Sequence[str]) -> list[tuple[Spot, Spot]]:
    """The nodes that say the size of what the samplers draw on."""
    pairs: dict[str, tuple[Spot, Spot]] = {}
    seen: set[str] = set()
    waiting = list(samplers)
    while waiting:
        node = waiting.pop(0)
        if node in seen:
            continue
        seen.add(node)
        inputs = trail.inputs(node)
        if node not in samplers and all(side in inputs and inputs[side].kind == "INT" for side in _SIDES):
            pairs[node] = (Spot(node, "width"), Spot(node, "height"))
        waiting += [source for _, source, slot in trail.links(node) if _drawn_on(trail, node, source, slot)]
    return list(pairs.values())


def _drawn_on(trail: Trail, node: str, source: str, slot: int) -> bool:
    images = {"LATENT", "IMAGE"}
    return trail.output(source, slot)[0] in images and bool(images & set(trail.kind(node).outputs))


def _everywhere(trail: Trail, found: Found) -> None:
    """Other nodes that were told the same size: a schedule, a model that is tuned to it, SDXL's encoders."""
    values = tuple(found.values.get(side) for side in _SIDES)
    known = {spot for side in _SIDES for spot in found.slots[side]}
    for node in trail.nodes:
        inputs = trail.inputs(node)
        for name, item in inputs.items():
            other = name.replace("width", "height")
            if "width" not in name or other not in inputs or item.kind != "INT":
                continue
            pair = (Spot(node, name), Spot(node, other))
            if (origins := (trail.origin(pair[0]), trail.origin(pair[1])))[0] != origins[1]:
                pair = origins
            if not known & set(pair) and tuple(number(trail, spot) for spot in pair) == values:
                for side, spot in zip(_SIDES, pair, strict=True):
                    found.slots[side].append(spot)


def _choices(trail: Trail, found: Found, given: Mapping[str, list[Spot]]) -> None:
    """The way a step is taken, and how the steps are spread: options, where all samplers agree."""
    for slot, names in (("sampler", ("sampler_name", "sampler")), ("scheduler", ("scheduler",))):
        spots = given.get(slot)
        if spots is None:
            knobs = _knobs(trail, found.samplers, partial(_is_choice, names))
            spots = [spot for spot in _origins(trail, knobs) if isinstance(trail.value(spot), str)]
            spots = spots if len({trail.value(spot) for spot in spots}) == 1 else []
        if spots:
            found.slots[slot] = spots
            found.values[slot] = trail.value(spots[0])
    for slot, name, kinds in (("shift", "shift", ("FLOAT",)), ("dtype", "weight_dtype", (COMBO,))):
        spots = [Spot(n, name) for n in trail.nodes if (i := trail.inputs(n).get(name)) and i.kind in kinds]
        spots = _origins(trail, spots)
        if slot not in given and len(spots) == 1 and trail.standing(spots[0]):
            found.slots[slot] = spots
            found.values[slot] = trail.value(spots[0])


def _is_choice(names: Sequence[str], item: Input) -> bool:
    return item.kind == COMBO and item.name in names


def _knobs(trail: Trail, samplers: Sequence[str], wanted: Callable[[Input], bool]) -> list[Spot]:
    """The inputs of the samplers, and of what steers them, that are wanted."""
    nodes = dict.fromkeys(node for sampler in samplers for node in steering(trail, sampler))
    return [Spot(n, name) for n in nodes for name, item in trail.inputs(n).items() if wanted(item)]


def _origins(trail: Trail, spots: Iterable[Spot]) -> list[Spot]:
    return list(dict.fromkeys(trail.origin(spot) for spot in spots if trail.value(spot) is not None))


def _alike(trail: Trail, spots: Sequence[Spot]) -> bool:
    """True for one place, or for several with the same number."""
    return len(spots) < 2 or len({number(trail, spot) for spot in spots}) == 1


def _set(trail: Trail, found: Found, slot: str, spots: list[Spot], type_: str, must: bool = False) -> None:
    if not spots:
        return
    told = next((value for spot in spots if (value := number(trail, spot)) is not None), None)
    if told is None and not must:
        found.notes.append(
            f"other nodes compute the {slot} ({spots[0]}), and go on doing so; --slot {slot}={spots[0]} takes it over"
        )
        return
    found.slots[slot] = spots
    if told is not None:
        found.values[slot] = int(told) if type_ == "int" else float(told)


def _apart(found: Found) -> None:
    """No place can be filled from two slots."""
    owner: dict[Spot, str] = {}
    for name, spots in found.slots.items():
        for spot in spots:
            if owner.setdefault(spot, name) != name:
                raise RequestError(
                    f"{spot} cannot be both the {owner[spot]} and the {name}",
                    hint=f"give another place: --slot {name}=NODE.INPUT, or --slot {name}=none",
                    param=name,
                )


def _answered(trail: Trail, slot: str, answer: str) -> list[Spot]:
    """The places somebody named."""
    if answer.strip().lower() == NONE:
        return []
    spots = []
    for word in answer.split(","):
        node, _, name = word.strip().partition(".")
        spot = Spot(node, name)
        there = node in trail.nodes
        if not there or name not in {*trail.inputs(node), *trail.nodes[node]["inputs"]}:
            can = ", ".join(f"{node}.{key}" for key in trail.inputs(node)) if there else ", ".join(trail.nodes)
            raise RequestError(
                f"--slot {slot}={word.strip()}: there is no such place in what draws the picture",
                hint=f"write NODE.INPUT; there is: {can}",
                param=slot,
            )
        spots.append(spot if slot in _SIDES else trail.origin(spot))
    return spots


def _shown(value: float | None) -> str:
    return "?" if value is None else f"{value:g}"
