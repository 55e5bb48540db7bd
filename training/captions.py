"""What the pictures are called: concepts from emojibase and everyday.txt, and the many ways to ask for one."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

FACES, PEOPLE, NATURE, FOOD, TRAVEL, ACTIVITIES, OBJECTS = 0, 1, 3, 4, 5, 6, 7  # groups of emojibase
NO_GROUP = -1

STYLES = ("3d", "flat", "noto")  # the order is the number that the network is given; append, never reorder

# How often a concept is drawn. A face is learned soonest and asked for least; everyday.txt goes before everything.
WEIGHTS = {FACES: 0.3, PEOPLE: 0.3, NATURE: 0.8, FOOD: 0.8, TRAVEL: 0.6, ACTIVITIES: 0.5, OBJECTS: 0.5}
EVERYDAY = 5.0

# Drawings that nobody could tell apart at 64 pixels, or that say who somebody is in ways the pictures cannot show.
_SKIPPED = re.compile(r"^(man|men|woman|women|person|people|Mx|deaf|pregnant|family|kiss|couple)\b|:|o’clock|-thirty")
_COLOURS = re.compile(
    r"\b(light |dark )?(red|orange|yellow|green|cyan|blue|purple|pink|brown|black|white|grey|gray)\s+"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Concept:
    """One thing that can be drawn, and its names."""

    code: str
    label: str
    names: tuple[str, ...]  # everyday names, besides the label
    tags: tuple[str, ...]
    group: int
    weight: float


def everyday(lines: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Read everyday.txt: label to further names."""
    found = {}
    for line in lines:
        if line.strip() and not line.startswith("#"):
            label, _, names = line.strip().partition(":")
            found[label] = tuple(name.strip() for name in names.split(",") if name.strip())
    return found


def concepts(entries: Iterable[Mapping[str, Any]], names: Mapping[str, tuple[str, ...]]) -> list[Concept]:
    """The concepts worth drawing, of all that emojibase knows."""
    found = []
    for entry in entries:
        label, group = entry["label"], entry.get("group", NO_GROUP)
        common = label in names
        if not common and (group not in WEIGHTS or _SKIPPED.search(label)):
            continue
        found.append(
            Concept(
                code=entry["hexcode"],
                label=label.replace("’", "'"),
                names=names.get(label, ()),
                tags=tuple(tag for tag in entry.get("tags", ()) if tag.isalpha()),
                group=group,
                weight=EVERYDAY if common else WEIGHTS[group],
            )
        )
    return found


def name(concept: Concept, rng: Random) -> str:
    """One of the names of a concept."""
    chance = rng.random()
    if chance < 0.04 and len(concept.tags) > 1:
        return " ".join(rng.sample(concept.tags, 2))
    if chance < 0.10 and concept.tags:
        return f"{concept.label} {rng.choice(concept.tags)}"
    if chance < 0.55 and concept.names:
        return rng.choice(concept.names)
    return concept.label


def colourless(text: str) -> str:
    """A name without its colours, to put another before it; a name that is nothing else stays."""
    return _COLOURS.sub("", text) or text


def article(text: str) -> str:
    """The text with "a" or "an" before it, unless it speaks of several."""
    if text.endswith("s") and not text.endswith(("ss", "us")):
        return text
    return f"an {text}" if text[:1].lower() in "aeiou" else f"a {text}"


def plural(text: str) -> str | None:
    """Several of it, or None where a rule of thumb would give a wrong word."""
    if re.search(r"[^a-z -]|s$|man$|mouse$|foot$|tooth$|fish$|sheep$|deer$|\b(of|on|in|with|and|behind)\b", text):
        return None
    if text.endswith(("ch", "sh", "x")):
        return text + "es"
    if text.endswith("y") and text[-2] not in "aeiou":
        return text[:-1] + "ies"
    return text + "s"


def phrase(text: str, rng: Random) -> str:
    """The same words as different people would type them."""
    chance = rng.random()
    if chance < 0.45:
        return text
    if chance < 0.88:
        return article(text)
    return rng.choice((f"the {text}", f"a picture of {article(text)}", f"an icon of {article(text)}", f"one {text}"))


def spoken(concepts: Sequence[Concept]) -> set[str]:
    """Every word that a caption of these concepts may hold."""
    texts = [text for item in concepts for text in (item.label, *item.names, *item.tags)]
    return {word for text in texts for word in re.findall(r"[a-z0-9]+", text.lower())}
