"""Which texts of a graph are the prompt, and which what should not be seen: followed from the samplers back.

Pure. A prompt goes into a text encoder, whose result travels through other nodes to the `positive` input of a sampler.
Before the encoder it may be put together out of several texts; then only what people see of them is a candidate.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from imagen.backends.comfyui.nodes import ANYTHING, Input
from imagen.backends.comfyui.trail import Spot, Trail

Role = Literal["prompt", "negative"]

_NOT = re.compile(r"neg|uncond", re.IGNORECASE)  # of an input: what should not be seen
_WIPES = re.compile(r"zero_?out", re.IGNORECASE)  # of a class: nothing is left of the text that goes in
# Texts that say how, not what: instructions to a language model, separators, keys.
_HOW = re.compile(r"system|template|instruct|delimiter|separator|\bkey\b|\bfind\b|filename|path|url", re.IGNORECASE)
_WORDS = re.compile(r"text|prompt|clip_|t5|llama|caption|tags|description", re.IGNORECASE)
_GAP = re.compile(r"[{}<>$%\[\]]")  # of a text to be replaced: it is a gap in a form
_DEEP = 100


@dataclass(frozen=True, slots=True)
class Encoder:
    """One node that reads text; for each of its texts, the places where it may stand."""

    node: str
    texts: tuple[tuple[Spot, ...], ...]

    @property
    def spots(self) -> list[Spot]:
        return list(dict.fromkeys(spot for text in self.texts for spot in text))


def encoders(trail: Trail, samplers: Sequence[str], role: Role) -> list[Encoder]:
    """The nodes whose text reaches a sampler in this role, each once."""
    found: dict[str, Encoder] = {}
    seen: set[tuple[str, int]] = set()
    for sampler in samplers:
        for node in steering(trail, sampler):
            found |= {item.node: item for item in _own(trail, node, role)}
            for name, source, slot in trail.links(node):
                if _conditioning(trail, source, slot) and (bool(_NOT.search(name)) == (role == "negative")):
                    found |= {item.node: item for item in _behind(trail, source, slot, role, seen)}
    return list(found.values())


def steering(trail: Trail, sampler: str) -> list[str]:
    """A sampler and the nodes that steer it: guider, noise, schedule; neither the model nor what it draws on."""
    found = dict.fromkeys([sampler])
    waiting = [sampler]
    while waiting:
        for _, source, slot in trail.links(waiting.pop(0)):
            if trail.output(source, slot)[0] in ("GUIDER", "NOISE", "SAMPLER", "SIGMAS") and source not in found:
                found[source] = None
                waiting.append(source)
    return list(found)


def conditioning(trail: Trail, samplers: Sequence[str]) -> list[str]:
    """The nodes between the encoders and the samplers, encoders too, of what should be seen."""
    found: dict[str, None] = {}
    waiting = [
        source
        for sampler in samplers
        for node in steering(trail, sampler)
        for name, source, slot in trail.links(node)
        if _conditioning(trail, source, slot) and not _NOT.search(name)
    ]
    while waiting:
        node = waiting.pop(0)
        if node in found:
            continue
        found[node] = None
        waiting += [
            source
            for name, source, slot in trail.links(node)
            if _conditioning(trail, source, slot) and not _NOT.search(name)
        ]
    return list(found)


def everything(trail: Trail, nodes: Iterable[str]) -> list[Spot]:
    """Every text of several lines that stands anywhere, what people see first."""
    found = [
        Spot(node, name)
        for node in nodes
        for name, item in trail.inputs(node).items()
        if item.kind == "STRING" and item.multiline and trail.standing(Spot(node, name)) and not _HOW.search(name)
    ]
    return sorted(found, key=lambda spot: not trail.seen(spot))


def _conditioning(trail: Trail, node: str, slot: int) -> bool:
    return trail.output(node, slot)[0] == "CONDITIONING"


def _behind(trail: Trail, node: str, slot: int, role: Role, seen: set[tuple[str, int]]) -> Iterator[Encoder]:
    if (node, slot) in seen or len(seen) > 5_000 or _WIPES.search(trail.nodes[node]["class_type"]):
        return
    seen.add((node, slot))
    told = trail.output(node, slot)[1].lower()
    links = [item for item in trail.links(node) if _conditioning(trail, item[1], item[2])]
    named = [item for item in links if item[0].lower() == told]
    yield from _own(trail, node, role)
    for name, source, source_slot in named or links:
        if not named and len(links) > 1 and bool(_NOT.search(name)) != (role == "negative") and _split(links):
            continue
        yield from _behind(trail, source, source_slot, role, seen)


def _split(links: Sequence[tuple[str, str, int]]) -> bool:
    """True for a node with inputs for both roles."""
    return len({bool(_NOT.search(name)) for name, _, _ in links}) == 2


def _own(trail: Trail, node: str, role: Role) -> Iterator[Encoder]:
    """The texts of a node that reads some."""
    inputs = [item for item in trail.inputs(node).values() if _is_text(trail, node, item)]
    if any(_NOT.search(item.name) for item in inputs):
        inputs = [item for item in inputs if bool(_NOT.search(item.name)) == (role == "negative")]
    elif role == "negative" and any(_NOT.search(name) for name in trail.kind(node).output_names):
        return  # what it gives out as negative is made without a text
    texts = tuple(found for item in inputs if (found := tuple(_standing(trail, Spot(node, item.name)))))
    if texts:
        yield Encoder(node, texts)


def _is_text(trail: Trail, node: str, item: Input) -> bool:
    spot = Spot(node, item.name)
    if item.kind != "STRING" or _HOW.search(item.name):
        return False
    return item.multiline or trail.link(spot) is not None or bool(_WORDS.search(item.name))


def _standing(trail: Trail, spot: Spot, deep: int = 0) -> Iterator[Spot]:
    """The texts out of which one is put together."""
    spot = trail.origin(spot)
    there = trail.link(spot)
    if there is None:
        if isinstance(trail.value(spot), str):
            yield spot
        return
    if deep > _DEEP:
        return
    inputs = trail.inputs(there[0])
    if {"find", "replace"} <= set(inputs):
        if filled := _filled_in(trail, there[0], deep):
            yield from filled
            return
        inputs = {name: item for name, item in inputs.items() if name not in ("find", "replace")}
    for name, item in inputs.items():
        part = Spot(there[0], name)
        if not {"STRING", *ANYTHING} & set(item.kind.split(",")) or _HOW.search(name):
            continue
        if trail.link(part) is not None:
            yield from _standing(trail, part, deep + 1)
        elif item.multiline and str(trail.value(part) or "").strip():
            yield part


def _filled_in(trail: Trail, node: str, deep: int) -> list[Spot]:
    """The texts that are put into the gaps of a form: they are what is said, the form is how."""
    gap = trail.value(Spot(node, "find"))
    if deep > _DEEP or not isinstance(gap, str) or not _GAP.search(gap):
        return []
    filled = list(_standing(trail, Spot(node, "replace"), deep + 1))
    form = trail.link(trail.origin(Spot(node, "string")))
    if form is not None and {"find", "replace"} <= set(trail.inputs(form[0])):
        filled += _filled_in(trail, form[0], deep + 1)
    return list(dict.fromkeys(filled))
