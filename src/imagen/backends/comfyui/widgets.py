"""Which value belongs to which input: the editor saves the values of a node as a bare list.

Pure. The list follows the inputs as the server declares them, with words of the editor's own in between: after a seed
stands what becomes of it (`randomize`), after a file that is uploaded the name of the button.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from imagen.backends.comfyui.litegraph import Box
from imagen.backends.comfyui.nodes import COMBO, Input, NodeType

AFTERWARDS = ("fixed", "increment", "decrement", "randomize", "increment-wrap")
BUTTONS = ("image", "audio", "video")
SEEDS = ("seed", "noise_seed")  # got the word even where the server did not ask for it, before it could


def widget_values(box: Box, kind: NodeType) -> dict[str, Any]:
    """The values of a node by the names of its inputs; inputs that came later than the file are not there."""
    told: dict[str, Any] = {}
    match box.values:
        case Mapping():
            told = {str(name): value for name, value in box.values.items()}
        case list():
            _read(box.values, kind, told)
        case _:
            pass
    # Newer files say the names as well. The list is what the editor itself reads, so the names help only where the
    # list is from another version of the node.
    if box.named and (not told or misfits(told, kind)):
        declared = kind.expanded(box.named)
        told = {name: value for name, value in box.named.items() if name in declared}
    return told


def misfits(told: Mapping[str, Any], kind: NodeType) -> list[Input]:
    """The inputs whose values cannot be theirs, because the node had others when the file was saved."""
    return [
        item
        for item in kind.walk(told)
        if item.name in told and not (fits(told[item.name], item) and offered(told[item.name], item))
    ]


def fits(value: Any, item: Input) -> bool:
    """True when the server would take this value for this input, file names and ranges aside."""
    match item.kind:
        case "INT":
            return (isinstance(value, int) and not isinstance(value, bool)) or (
                isinstance(value, float) and value.is_integer()
            )
        case "FLOAT":
            return isinstance(value, int | float) and not isinstance(value, bool)
        case "BOOLEAN":
            return isinstance(value, bool) or value in ("true", "false")
        case "STRING":
            return isinstance(value, str)
        case _ if item.branches:
            return isinstance(value, str | int) and value in item.branches
        case "COMBO":
            return isinstance(value, str | int | float | bool | list)
        case _:
            return True


def offered(value: Any, item: Input) -> bool:
    """False for a word that is none of the choices; the name of a file may be one that this server does not have."""
    if item.kind != COMBO or not item.choices or item.multiple or not isinstance(value, str | int | float):
        return True
    files = any("." in str(choice) for choice in item.choices) or "." in str(value)
    return files or value in item.choices


def _read(values: Sequence[Any], kind: NodeType, told: dict[str, Any]) -> None:
    left = list(values)
    # `told` is filled while we walk: the choice of a dynamic combo decides which inputs come next.
    for item in kind.walk(told):
        if not item.widget:
            continue
        if not left:
            return
        told[item.name] = left.pop(0)
        after = left[0] if left else None
        if (_controlled(item) and after in AFTERWARDS) or (item.upload and after in BUTTONS):
            left.pop(0)


def _controlled(item: Input) -> bool:
    return item.control_after_generate or (item.kind == "INT" and item.name.rpartition(".")[2] in SEEDS)
