"""What a number comes to that a workflow computes: a size out of a ratio and megapixels, steps out of a sum.

Pure. Only what a default of a model may need; what cannot be computed here is None.
"""

import ast
import math
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

from imagen.backends.comfyui.trail import Spot, Trail

_DEEP = 30
_MEGAPIXEL = 1024 * 1024  # as ComfyUI counts it
_RATIO = re.compile(r"(?<![\d.])(\d{1,2}(?:\.\d+)?)\s*:\s*(\d{1,2}(?:\.\d+)?)(?![\d.])")
_PIXELS = re.compile(r"(?<!\d)(\d{3,5})\s*[x×*]\s*(\d{3,5})(?!\d)")
_SIDES = ("width", "height")

_BINARY: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.BitAnd: operator.and_,
}
_CALLS: Mapping[str, Callable[..., Any]] = {
    "min": min,
    "max": max,
    "round": round,
    "int": int,
    "float": float,
    "abs": abs,
    "floor": math.floor,
    "ceil": math.ceil,
    "sqrt": math.sqrt,
}


def number(trail: Trail, spot: Spot, deep: int = 0) -> float | None:
    """The number that this input gets, as far as it can be known here."""
    spot = trail.origin(spot)
    there = trail.link(spot)
    if there is None:
        value = trail.value(spot)
        return value if _is_number(value) else None
    if deep > _DEEP:
        return None
    node, slot = there
    inputs = trail.nodes[node]["inputs"]
    if isinstance(inputs.get("expression"), str):
        names = {name.rpartition(".")[2]: Spot(node, name) for name in inputs if name != "expression"}
        told = _expression(inputs["expression"], {key: number(trail, at, deep + 1) for key, at in names.items()})
        return math.floor(told) if told is not None and trail.output(node, slot)[0] == "INT" else told
    side = trail.output(node, slot)[1].lower()
    if side in _SIDES and (size := _size(inputs)):
        return size[_SIDES.index(side)]
    return None


def _size(inputs: Mapping[str, Any]) -> tuple[int, int] | None:
    """The size that a node with a choice of shapes stands for."""
    words = [value for value in inputs.values() if isinstance(value, str)]
    for word in words:
        if found := _PIXELS.search(word):
            return int(found[1]), int(found[2])
    megapixels = next((inputs[key] for key in ("megapixels", "megapixel") if key in inputs), None)
    if not isinstance(megapixels, int | float):
        return None
    multiple = next((inputs[key] for key in ("multiple", "divisible_by") if isinstance(inputs.get(key), int)), 8)
    for word in words:
        if found := _RATIO.search(word):
            wide, high = float(found[1]), float(found[2])
            scale = math.sqrt(megapixels * _MEGAPIXEL / (wide * high)) if wide and high else 0
            return round(wide * scale / multiple) * multiple, round(high * scale / multiple) * multiple
    return None


def _expression(text: str, names: Mapping[str, Any]) -> float | None:
    """A sum with names in it; arithmetic only, nothing is called that is not in the table."""
    if len(text) > 200:
        return None
    try:
        told = _term(ast.parse(text.strip(), mode="eval").body, names)
    except (SyntaxError, ValueError, TypeError, KeyError, ArithmeticError, RecursionError):
        return None
    return told if _is_number(told) else None


def _is_number(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool)


def _term(term: ast.expr, names: Mapping[str, Any]) -> Any:
    match term:
        case ast.Constant(value=int() | float() as value):
            return value
        case ast.Name(id=name):
            return names[name]
        case ast.BinOp(left=left, op=op, right=right):
            return _BINARY[type(op)](_term(left, names), _term(right, names))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_term(operand, names)
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]):
            return _CALLS[name](*(_term(arg, names) for arg in args))
        case _:
            raise ValueError("not arithmetic")
