"""Read YAML, JSON and settings so that every mistake in a file can be named by file and line."""

import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from imagen.core.errors import BadConfig

MAX_BYTES = 2**20  # a settings file of a megabyte is a mistake, or an attack
MAX_VALUES = 20_000  # counting each use of an alias: nine lines of YAML can spell a billion of them
MAX_DEPTH = 32

KeyPath = tuple[Any, ...]

_NAME = re.compile(r"[a-z0-9_]([a-z0-9._-]*[a-z0-9_])?|[0-9a-f:.]*:[0-9a-f:.]*")
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?")
_TARGET = re.compile(r"(\*\.)?[a-z0-9_]([a-z0-9._-]*[a-z0-9_])?|[0-9a-f:.]+(/[0-9]{1,3})?")
_LISTED = {
    "names": (_NAME, "names without scheme and port"),
    "origins": (_ORIGIN, "addresses such as https://gallery.example"),
    "targets": (_TARGET, "names such as hook.lan or *.lan, and networks such as 10.0.0.0/8"),
}
_SECRET_CHARS = 24  # a password is shorter, and can be guessed
_OFF = {"off": None, "null": None, "none": None}  # how the environment switches a limit off
_FLAGS = {"true": True, "1": True, "false": False, "0": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A mapping out of a file, with the line of every key."""

    file: Path
    data: Mapping[str, Any] = field(default_factory=dict)
    lines: Mapping[KeyPath, int] = field(default_factory=dict)

    def where(self, *path: Any) -> str:
        """`config.yaml:12`, as near to the path as the file goes."""
        while path and path not in self.lines:
            path = path[:-1]
        return f"{self.file}:{self.lines[path]}" if path else str(self.file)

    def wrong(self, message: str, *path: Any, hint: str) -> BadConfig:
        """The error for something at this path."""
        return BadConfig(f"{self.where(*path)}: {message}", hint=hint)

    def known(self, keys: Iterable[Any], allowed: Iterable[str], *path: Any) -> None:
        """Raise for the first key that is not allowed."""
        names = sorted(set(allowed))
        for key in keys:
            if key not in names:
                raise self.wrong(
                    f"{key!r} is not a key that belongs here{maybe(str(key), names)}",
                    *path,
                    key,
                    hint=f"the keys are: {', '.join(names)}",
                )


def read_yaml(file: Path) -> Document:
    """The mapping in a YAML file; BadConfig with file and line for everything else."""
    import yaml

    try:
        raw = file.read_bytes()
    except OSError as exc:
        hint = "move that folder away" if file.is_dir() else "make the file readable"
        raise BadConfig(f"{file} cannot be read: {exc.strerror}", hint=hint) from exc
    if len(raw) > MAX_BYTES:
        raise BadConfig(f"{file} is larger than {MAX_BYTES} bytes", hint="that is no settings file; move it away")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = raw[: exc.start].count(b"\n") + 1
        raise BadConfig(f"{file}:{line}: is not UTF-8 text", hint="save the file as UTF-8") from exc
    lines: dict[KeyPath, int] = {}
    try:
        kind = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        _check_depth(yaml.parse(text, Loader=kind), file)
        loader = kind(text)
        try:
            node = loader.get_single_node()
            data = None if node is None else _value(loader, node, (), lines, file)
        finally:
            loader.dispose()
    except yaml.YAMLError as exc:
        mark = getattr(exc, "problem_mark", None)
        said = getattr(exc, "problem", None) or str(exc).splitlines()[0]
        place = f"{file}:{mark.line + 1}" if mark else str(file)
        raise BadConfig(f"{place}: is not YAML: {said}", hint="see `imagen config init` for a sample") from exc
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise BadConfig(
            f"{file}:1: holds a {type(data).__name__}, not `key: value` lines",
            hint="see `imagen config init` for a sample",
        )
    return Document(file=file, data=data, lines=lines)


def parse_json(text: str | bytes, file: Path, *, hint: str, deepest: int = 100) -> Any:
    """What a JSON text holds; BadConfig for one that is none, or that could not be written again."""
    said = f"{file} is not JSON"
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
        if _deeper(value, deepest):
            raise RecursionError
        json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as exc:
        raise BadConfig(f"{file}:{exc.lineno}: is not JSON: {exc.msg}", hint=hint) from exc
    except UnicodeDecodeError as exc:
        raise BadConfig(f"{said}: it is not UTF-8 text", hint=hint) from exc
    except UnicodeEncodeError as exc:
        raise BadConfig(f"{file} holds half a character", hint="write the text that holds it anew") from exc
    except RecursionError as exc:
        raise BadConfig(f"{file}: its brackets are too deep", hint=hint) from exc
    except ValueError as exc:
        raise BadConfig(f"{said}: {exc}", hint=hint) from exc
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number that everybody can read")


def _deeper(value: Any, depth: int) -> bool:
    """True when brackets stand in brackets more often than that; found without going there by recursion."""
    level = [value]
    for _ in range(depth):
        level = [item for one in level for item in _held(one)]
    return bool(level)


def _held(value: Any) -> list[Any]:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [item for item in inner if isinstance(item, dict | list)]


def maybe(word: str, words: Iterable[str]) -> str:
    """`; did you mean 'steps'?`, or nothing."""
    names = list(words)
    near = difflib.get_close_matches(word, names, 1)
    # `flux2` is far from `flux2-klein-local` by letters, and close to everybody who reads it.
    near = near or sorted(name for name in names if len(word) > 2 and name.startswith(word))
    return f"; did you mean {near[0]!r}?" if near else ""


def some(names: Sequence[str], most: int) -> str:
    """`a, b and 3 more`: no more than `most` names of many."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _check_depth(events: Iterable[Any], file: Path) -> None:
    """Before anything is built: the library builds by recursion, and dies of ten thousand brackets."""
    import yaml

    depth = 0
    for event in events:
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise _too_much(file, event.start_mark.line + 1)


def _too_much(file: Path, line: int) -> BadConfig:
    return BadConfig(
        f"{file}:{line}: holds too many values, or too deep ones",
        hint=f"the limits are {MAX_VALUES:,} values and {MAX_DEPTH} levels",
    )


def _value(loader: Any, node: Any, path: KeyPath, lines: dict[KeyPath, int], file: Path) -> Any:
    import yaml

    line = node.start_mark.line + 1
    if len(lines) > MAX_VALUES or len(path) > MAX_DEPTH:
        raise _too_much(file, line)
    match node:
        case yaml.MappingNode():
            return _mapping(loader, node, path, lines, file)
        case yaml.SequenceNode():
            items = []
            for index, item in enumerate(node.value):
                lines[(*path, index)] = item.start_mark.line + 1
                items.append(_value(loader, item, (*path, index), lines, file))
            return items
        case _ if node.tag.endswith(":timestamp"):
            return node.value  # a date is text here: nothing in these files is a moment
        case _:
            try:
                return loader.construct_object(node, deep=True)
            except (ValueError, OverflowError) as exc:
                raise BadConfig(
                    f"{file}:{line}: {node.value[:40]!r} cannot be read: {exc}", hint="put it in quotes"
                ) from exc


def _mapping(loader: Any, node: Any, path: KeyPath, lines: dict[KeyPath, int], file: Path) -> dict[str, Any]:
    import yaml

    own: dict[str, int] = {}
    for key_node, _ in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            raise BadConfig(f"{file}:{line}: a key is not a word", hint="write `key: value`")
        # A key is what is written, also where YAML would read `on` as true and `123` as a number.
        if key_node.value in own:
            raise BadConfig(
                f"{file}:{line}: {key_node.value!r} stands here a second time, first at line {own[key_node.value]}",
                hint="keep one of the two",
            )
        own[key_node.value] = line
    loader.flatten_mapping(node)  # `<<: *base`: what is merged comes first, so that own keys win
    told: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = key_node.value
        lines[(*path, key)] = key_node.start_mark.line + 1
        told[key] = _value(loader, value_node, (*path, key), lines, file)
    return told


def spelled(kind: str, value: Any) -> Any:
    """What the environment or a flag gives as text, as the file would have it."""
    if not isinstance(value, str):
        return value
    if kind in _LISTED:
        return [item.strip() for item in value.split(",") if item.strip()]
    if kind == "aliases":
        pairs = [item.partition("=") for item in value.split(",") if item.strip()]
        return {name.strip(): model.strip() or None for name, _, model in pairs}
    if kind == "flag":
        return _FLAGS.get(value.lower(), value)
    if kind in ("port", "limit", "number"):
        return int(value) if value.isascii() and value.isdigit() and len(value) < 19 else _OFF.get(value.lower(), value)
    return value


def valued(kind: str, default: Any, value: Any) -> Any:
    """A setting of this kind as it is kept; ValueError says what it should be."""
    if value is None and kind != "number":
        return None if kind == "limit" else default  # null switches a limit off
    if kind == "port":
        return _whole(value, 0, 65_535)
    if kind in ("limit", "number"):
        return _whole(value, 1, 2**53, "" if kind == "number" else ", or null for no limit")
    if kind == "flag":
        if not isinstance(value, bool):
            raise ValueError(f"is true or false, not {value!r}")
        return value
    if kind == "aliases":
        told = list(value.items()) if isinstance(value, Mapping) else [(None, None)]
        if not all(isinstance(name, str) and isinstance(model, str | None) for name, model in told):
            raise ValueError(f"is a mapping such as {{dall-e-3: flux2-klein}}, not {value!r}")
        return dict(value)
    if "|" in kind:
        if value not in kind.split(" | "):
            raise ValueError(f"is {kind.replace(' | ', ' or ')}, not {value!r}")
        return value
    if kind in _LISTED:
        pattern, like = _LISTED[kind]
        items = [item.lower() if isinstance(item, str) else "" for item in value] if isinstance(value, list) else [""]
        if not all(map(pattern.fullmatch, items)):
            raise ValueError(f"is a list of {like}, not {value!r}")
        if kind == "targets":
            _check_networks(items)
        return tuple(items)
    if kind == "secret" and (not isinstance(value, str) or len(value) < _SECRET_CHARS):
        raise ValueError(f"is a text of at least {_SECRET_CHARS} characters")
    if not isinstance(value, str) or (kind == "url" and not _ORIGIN.match(value.lower())):
        raise ValueError(f"is {'an address such as https://draw.example' if kind == 'url' else 'text'}, not {value!r}")
    return value


def _check_networks(items: Iterable[str]) -> None:
    from ipaddress import ip_network

    for item in items:
        if "/" in item:
            ip_network(item)  # its ValueError says what is wrong with it


def _whole(value: Any, low: int, high: int, more: str = "") -> int:
    if type(value) is not int or not low <= value <= high:  # a bool is an int to Python
        raise ValueError(f"is a whole number from {low} to {high:,}{more}, not {value!r}")
    return value
