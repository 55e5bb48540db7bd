"""A client: what it sends for each thing that people do with it, and what it reads in the answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import ConfigDict, Field, TypeAdapter

FOLDER = Path(__file__).parent

Verb = Literal["connect", "models", "lists", "switch", "generate", "several", "stream", "progress", "stop", "edit"]
Method = Literal["DELETE", "GET", "HEAD", "OPTIONS", "POST", "PUT"]

# What people do with a client, in the order in which they do it, in words.
VERBS: Mapping[Verb, str] = {
    "connect": "see whether the server is there",
    "models": "list the models",
    "lists": "fill the other menus",
    "switch": "choose a model",
    "generate": "draw a picture",
    "several": "draw several at once",
    "stream": "show it as it forms",
    "progress": "ask how far it is",
    "stop": "stop it",
    "edit": "change a picture",
}

_STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """Something that a client does with an answer; `needs.py` says what each `is` means."""

    __pydantic_config__ = _STRICT

    at: str  # where in the answer: data[].b64_json, state.job_count, info{}.seed
    is_: str | Mapping[str, Any] = Field(alias="is")
    otherwise: str = Field(default="", alias="else")  # what happens in the client without it


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """One request, and what its answer has to be like."""

    __pydantic_config__ = _STRICT

    method: Method
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    json: Any = None
    form: Sequence[tuple[str, str]] = ()  # fields of a multipart body, in their order
    files: Sequence[str] = ()  # the fields of that body that carry a picture
    status: Sequence[int] = (200,)
    events: Mapping[str, str] | None = None  # of a stream: the types it may have, and which of them is the end
    keep: Mapping[str, str] = field(default_factory=dict)  # what later requests of this verb say again: name -> where
    needs: Sequence[Need] = ()
    may_refuse: bool = False  # the client shows what the server says instead, and goes on
    alone: bool = False  # only while nothing else of the caller is drawn: it waits until idle, or stops what runs


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """One program, or one way in which a program can be set up to ask."""

    __pydantic_config__ = _STRICT

    name: str
    title: str
    version: str
    door: Literal["openai", "a1111"]
    # As it ran; the part of it that asks, run by itself; or read, and put together.
    recorded: Literal["from the program", "from its own code", "from its source"]
    source: str  # where in the program this can be read
    settings: Mapping[str, str]  # what a person types in there
    notes: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)  # of every request
    verbs: Mapping[Verb, Sequence[Exchange]]


_CLIENT = TypeAdapter(Client)


def load(names: Sequence[str] = ()) -> list[Client]:
    """Every client there is, or those of these names; KeyError names one that is not there."""
    files = {path.stem: path for path in sorted(FOLDER.glob("*.yaml"))}
    return [_read(files[name]) for name in names or files]


def _read(path: Path) -> Client:
    told = yaml.safe_load(path.read_text(encoding="utf-8"))
    return _CLIENT.validate_python({"name": path.stem, **told})
