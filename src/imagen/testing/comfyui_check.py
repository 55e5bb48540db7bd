"""What the fake ComfyUI answers to a graph it will not take, in the shapes of the real one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from imagen.testing.comfyui_nodes import Input, Node

Graph = Mapping[str, Any]
Error = dict[str, Any]

LONGEST_LIST = 20  # a longer list of choices is not told


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Taken when `error` is None; even then some of its outputs may have been left out, which `node_errors` tells."""

    error: Error | None
    outputs: list[str] = field(default_factory=list)
    node_errors: dict[str, Any] = field(default_factory=dict)


def validate(
    graph: dict[str, Any],
    *,
    nodes: Mapping[str, Node],
    files: Mapping[str, Sequence[str]],
    targets: Sequence[str] | None = None,
    new_words: bool = True,
) -> Verdict:
    """Hold a graph against the node classes; values are turned into what was declared, as the server does."""
    for node_id, node in graph.items():
        name = node.get("class_type")
        if name is None or name not in nodes:
            return Verdict(error=_unknown(node_id, node, name, new_words=new_words))
    ends = [
        node_id
        for node_id, node in graph.items()
        if nodes[node["class_type"]].output_node and (targets is None or node_id in targets)
    ]
    if not ends:
        return Verdict(error=_error("prompt_no_outputs", "Prompt has no outputs", ""))
    check = _Check(graph, nodes, files, new_words)
    good, node_errors, lines = [], dict[str, Any](), []
    for end in ends:
        if check.end(end):
            good.append(end)
            continue
        lines += [f"{one['message']}: {one['details']}" for one in check.found[end]]
        for node_id, reasons in check.found.items():
            if reasons:
                entry = node_errors.setdefault(
                    node_id,
                    {"errors": reasons, "dependent_outputs": [], "class_type": graph[node_id]["class_type"]},
                )
                entry["dependent_outputs"].append(end)
    if good:
        return Verdict(error=None, outputs=good, node_errors=node_errors)
    error = _error("prompt_outputs_failed_validation", "Prompt outputs failed validation", "\n".join(lines))
    return Verdict(error=error, node_errors=node_errors)


class _Check:
    """One walk through a graph, from its ends to its beginnings."""

    def __init__(
        self, graph: dict[str, Any], nodes: Mapping[str, Node], files: Mapping[str, Sequence[str]], new_words: bool
    ) -> None:
        self.graph, self.nodes, self.files, self.new_words = graph, nodes, files, new_words
        self.found: dict[str, list[Error]] = {}
        self._valid: dict[str, bool] = {}

    def end(self, node_id: str) -> bool:
        try:
            return self._node(node_id, ())
        except Exception as exc:  # the server turns whatever its own check stumbles over into a reason
            told = {"exception_type": type(exc).__name__, "traceback": [_TRACE]}
            self.found[node_id] = [_error("exception_during_validation", "Exception when validating node", exc, told)]
            self._valid[node_id] = False
            return False

    def _node(self, node_id: str, above: tuple[str, ...]) -> bool:
        if node_id in self._valid:
            return self._valid[node_id]
        if node_id in above:
            return self._cycle([*above[above.index(node_id) :], node_id])
        inputs = self.graph[node_id]["inputs"]
        node = self.nodes[self.graph[node_id]["class_type"]]
        reasons: list[Error] = []
        good = True
        for one in node.inputs:
            if one.name not in inputs:
                if one.required:
                    told = {"input_name": one.name}
                    reasons.append(_error("required_input_missing", "Required input is missing", one.name, told))
            elif isinstance(inputs[one.name], list):
                wrong = self._link(one, node, inputs[one.name])
                if wrong:
                    reasons.append(wrong)
                else:
                    good &= self._upstream(one, node, inputs[one.name], (*above, node_id))
            elif wrong := self._value(one, node, inputs):
                reasons.append(wrong)
        self.found[node_id] = self.found.get(node_id, []) + reasons  # a cycle may have put its own there
        self._valid[node_id] = good and not self.found[node_id]
        return self._valid[node_id]

    def _config(self, one: Input, node: Node) -> list[Any]:
        return one.config(self.files, new=node.new_spelling)

    def _link(self, one: Input, node: Node, value: list[Any]) -> Error | None:
        config = self._config(one, node)
        if len(value) != 2:
            told = {"input_name": one.name, "input_config": config, "received_value": value}
            message = "Bad linked input, must be a length-2 list of [node_id, slot_index]"
            return _error("bad_linked_input", message, one.name, told)
        received = self.nodes[self.graph[value[0]]["class_type"]].outputs[value[1]]
        if received != one.kind and "*" not in (received, one.kind) and received not in one.kind.split(","):
            told = {"input_name": one.name, "input_config": config, "received_type": received, "linked_node": value}
            details = f"{one.name}, received_type({received}) mismatch input_type({config[0]})"
            return _error("return_type_mismatch", "Return type mismatch between linked nodes", details, told)
        return None

    def _upstream(self, one: Input, node: Node, link: list[Any], above: tuple[str, ...]) -> bool:
        try:
            return self._node(link[0], above)
        except Exception as exc:  # as in end()
            told = {
                "input_name": one.name,
                "input_config": self._config(one, node),
                "exception_message": str(exc),
                "exception_type": type(exc).__name__,
                "traceback": [_TRACE],
                "linked_node": link,
            }
            message = "Exception when validating inner node"
            self.found[link[0]] = [_error("exception_during_inner_validation", message, exc, told)]
            self._valid[link[0]] = False
            return False

    def _value(self, one: Input, node: Node, inputs: dict[str, Any]) -> Error | None:
        value = inputs[one.name]
        if isinstance(value, dict) and "__value__" in value:
            value = inputs[one.name] = value["__value__"]
        config = self._config(one, node)
        told = {"input_name": one.name, "input_config": config, "received_value": value}
        try:
            value = inputs[one.name] = _CONVERSIONS.get(one.kind, _as_it_is)(value)
        except (ValueError, TypeError, OverflowError) as exc:
            message = f"Failed to convert an input value to a {one.kind} value"
            details = f"{one.name}, {value}, {exc}"
            return _error("invalid_input_type", message, details, {**told, "exception_message": str(exc)})
        told["received_value"] = value
        if "min" in one.options and value < one.options["min"]:
            message = f"Value {value} smaller than min of {one.options['min']}"
            return _error("value_smaller_than_min", message, one.name, told)
        if "max" in one.options and value > one.options["max"]:
            message = f"Value {value} bigger than max of {one.options['max']}"
            return _error("value_bigger_than_max", message, one.name, told)
        if one.kind == "COMBO":
            choices = config[1]["options"] if config[0] == "COMBO" else config[0]
            if value not in choices:
                long = len(choices) > LONGEST_LIST
                told["input_config"] = None if long else config
                there = f"(list of length {len(choices)})" if long else str(choices)
                shown = repr(value) if self.new_words else f"'{value}'"
                return _error("value_not_in_list", "Value not in list", f"{one.name}: {shown} not in {there}", told)
        return None

    def _cycle(self, path: list[str]) -> bool:
        ring = list(dict.fromkeys(path))
        details = " -> ".join(f"{one} ({self.graph[one]['class_type']})" for one in path)
        for one in ring if self.new_words else ():  # older servers refuse without saying why
            told = {"node_id": one, "cycle_nodes": ring}
            self.found[one] = [_error("dependency_cycle", "Dependency cycle detected", details, told)]
        return False


def _as_it_is(value: Any) -> Any:
    return value


_CONVERSIONS: Mapping[str, Any] = {"INT": int, "FLOAT": float, "STRING": str, "BOOLEAN": bool}
_TRACE = '  File "/home/comfy/ComfyUI/execution.py", line 1008, in validate_inputs\n    o_class_type = prompt[o_id]\n'


def _error(kind: str, message: str, details: object, told: Mapping[str, Any] | None = None) -> Error:
    return {"type": kind, "message": message, "details": str(details), "extra_info": dict(told or {})}


def _unknown(node_id: str, node: Mapping[str, Any], name: str | None, *, new_words: bool) -> Error:
    place = f"Node ID '#{node_id}'"
    if not new_words:
        message = f"Cannot execute because node {name} does not exist."
        if name is None:
            message = "Cannot execute because a node is missing the class_type property."
        return _error("invalid_prompt", message, place)
    title = node.get("_meta", {}).get("title", name)
    message = f"Node '{title}' not found. The custom node may not be installed."
    if name is None:
        message = f"Node '{title or f'ID #{node_id}'}' has no class_type. "
        message += "The workflow may be corrupted or a custom node is missing."
    return _error("missing_node_type", message, place, {"node_id": node_id, "class_type": name, "node_title": title})
