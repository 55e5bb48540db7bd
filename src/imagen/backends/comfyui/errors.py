"""Everything that can go wrong with a server, in words that say what to do: the one translation of this backend."""

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import httpx2

from imagen.backends.comfyui.nodes import NodeType
from imagen.core.errors import (
    BackendError,
    Crashed,
    ImagenError,
    MissingExtra,
    MissingFile,
    NotConfigured,
    OutOfMemory,
    RateLimited,
    Rejected,
    SetupError,
    TimedOut,
    Unreachable,
    Unsupported,
)

# All that httpx2 raises; a test holds this against the library.
LIBRARY = (httpx2.HTTPError, httpx2.InvalidURL, httpx2.CookieConflict, httpx2.StreamError)

WEIGHTS = (".safetensors", ".sft", ".gguf", ".ckpt", ".pt", ".pth", ".bin", ".onnx")
MAX_DETAIL = 2000  # characters; the end of a traceback says what broke
MAX_SHOWN = 5  # of what there is instead

_PATH = re.compile(r"(?:[A-Za-z]:\\|/)(?:[^\s'\"<>|:*?,;()\\/]+[\\/])+([^\s'\"<>|:*?,;()\\/]*)")
_TENSOR = re.compile(r"tensor\(\[.*?\]\)", re.DOTALL)


def away(url: str, exc: Exception) -> ImagenError:
    """The client library could not ask, or was not answered."""
    words = " ".join(str(exc).split()) or type(exc).__name__
    match exc:
        case httpx2.ConnectTimeout() | httpx2.NetworkError() | httpx2.ProxyError() | httpx2.RemoteProtocolError():
            return Unreachable(
                f"ComfyUI does not answer at {url}",
                hint="start ComfyUI, or set its address: `backends: {comfyui: {url: …}}` or IMAGEN_COMFYUI_URL",
                detail=words,
            )
        case httpx2.TimeoutException():
            return TimedOut(
                f"ComfyUI at {url} took too long to answer",
                hint="it may be loading a large model; try again, and look at its log if it stays so",
                detail=words,
            )
        case httpx2.UnsupportedProtocol() | httpx2.InvalidURL():
            return NotConfigured(
                "the url of ComfyUI is no address of a web server",
                hint="write `backends: {comfyui: {url: http://127.0.0.1:8188}}`",
                param="url",
            )
        case _:
            return Rejected(
                f"what answers at {url} does not speak like ComfyUI: {words}",
                hint="check the address; a proxy before it may be in the way",
            )


def answered(url: str, response: httpx2.Response) -> ImagenError:
    """An answer with a status that is none of those a route has."""
    status, asked = response.status_code, f"{response.request.method} {response.request.url.path}"
    said = without_paths(response.text)[:MAX_DETAIL]
    if status in (401, 407):
        return NotConfigured(
            f"ComfyUI at {url} wants a name and a password",
            hint="write them into its url: http://NAME:PASSWORD@HOST:PORT",
            param="url",
        )
    if status == 403:
        return NotConfigured(f"ComfyUI at {url} refuses us", hint="see what stands before it, and its log", detail=said)
    if status == 429:
        return RateLimited(f"ComfyUI at {url} asks for patience", hint="try again later", detail=said)
    if status in (502, 503, 504):
        return Unreachable(
            f"what stands before ComfyUI at {url} cannot reach it: HTTP {status} to {asked}",
            hint="start ComfyUI, and see whether what stands before it is right",
            detail=said,
        )
    if status >= 500:
        return Crashed(
            f"ComfyUI at {url} broke: HTTP {status} to {asked}",
            hint="its log says why; update ComfyUI and its custom nodes if it stays so",
            detail=said,
        )
    return no_comfyui(url, asked, f"HTTP {status}")


def no_comfyui(url: str, asked: str, said: str = "something else than expected") -> ImagenError:
    """Something answers, and it is not ComfyUI."""
    return NotConfigured(
        f"what answers at {url} is not ComfyUI: {said} to {asked}",
        hint="check the address; ComfyUI listens on port 8188 unless told otherwise",
        param="url",
    )


def refused(
    url: str, model: str, answer: Mapping[str, Any], graph: Mapping[str, Any], types: Mapping[str, NodeType]
) -> ImagenError:
    """The server would not take the prompt, or not all of it; `types` say what it could have been."""
    error = answer.get("error")
    error = error if isinstance(error, Mapping) else {"message": str(error or "")}
    extra = error.get("extra_info")
    kind, words = str(error.get("type", "")), _one_line(error.get("message"), error.get("details"))
    wrong = answer.get("node_errors")
    found = [
        _node_error(model, str(node), told, problem, types)
        for node, told in (wrong.items() if isinstance(wrong, Mapping) else ())
        for problem in (told.get("errors") or () if isinstance(told, Mapping) else ())
        if isinstance(problem, Mapping)
    ]
    if found:
        # What the owner can put right goes before what follows from it.
        return min(found, key=lambda one: not isinstance(one, SetupError))
    absent = _absent(kind, extra, graph, words)
    if absent is not None:
        return missing_node(url, model, absent)
    if kind == "prompt_no_outputs":
        return Rejected(
            f"the workflow of {model} has no node that gives a picture",
            hint="end it with a SaveImage node",
            detail=words,
        )
    return Rejected(
        f"ComfyUI refused the workflow of {model}: {words or 'it does not say why'}",
        hint=f"`imagen models check {model}` looks at every node of it",
    )


def missing_node(url: str, model: str, name: str) -> MissingExtra:
    """A node class that the server has not."""
    return MissingExtra(
        f"ComfyUI at {url} has no node {name!r}, which {model} needs",
        hint="update ComfyUI, or install the custom nodes that bring it, and restart it",
    )


def too_old(url: str, model: str, requires: str, version: str) -> MissingExtra:
    """The server is older than the model."""
    return MissingExtra(
        f"{model} needs ComfyUI {requires}; the one at {url} is {version}", hint="update ComfyUI, and restart it"
    )


def not_listed(model: str, where: str, value: Any, choices: Sequence[Any]) -> ImagenError:
    """A value that is none of those the server has: a file that is not there, or a word it does not know."""
    name, there = str(value), [str(choice) for choice in choices]
    stems = {_stem(choice): choice for choice in there}  # what files end in makes all of them alike
    near = [stems[stem] for stem in get_close_matches(_stem(name), stems, n=MAX_SHOWN, cutoff=0.6)]
    if name.lower().endswith(WEIGHTS):
        # Never the whole list: other people's files are none of a caller's business, and there may be thousands.
        near_by = f"; there is {', '.join(near)}" if near else ""
        return MissingFile(
            f"ComfyUI has no file {name!r}, which {model} needs ({where}){near_by}",
            hint=f"`imagen models pull {model}` fetches what it needs; or name another file in its YAML",
            param=name,
        )
    known = ", ".join(near or there[: MAX_SHOWN * 2])
    return Unsupported(
        f"{where} of {model} cannot be {name!r}",
        hint=f"this ComfyUI knows: {known}" if known else f"`imagen models check {model}` says what it can be",
        param=where,
    )


def broke(model: str, told: Mapping[str, Any]) -> BackendError:
    """A node raised an error while it ran."""
    kind, words = str(told.get("exception_type") or ""), without_paths(str(told.get("exception_message") or "")).strip()
    where = f"{told.get('node_type') or 'a node'} (node {told.get('node_id')})"
    trace = told.get("traceback")
    detail = without_paths("".join(map(str, trace)))[-MAX_DETAIL:] if isinstance(trace, list) else None
    if "OutOfMemory" in kind or re.search(r"out of memory|allocation on device", words, re.IGNORECASE):
        return OutOfMemory(
            f"the device of ComfyUI ran out of memory in {where}",
            hint="ask for a smaller size or another model, or close what else uses the device",
            detail=detail,
        )
    first = words.splitlines()[0] if words else "it said nothing more"
    return Crashed(
        f"ComfyUI broke in {where}: {kind.rsplit('.', 1)[-1] or 'error'}: {first}",
        hint=f"`imagen models check {model}` may say more; ComfyUI's own log says most",
        detail=detail,
    )


def stopped(model: str) -> Rejected:
    """Somebody at the server ended our prompt."""
    return Rejected(
        f"somebody stopped the drawing of {model} in ComfyUI, or took it out of its queue",
        hint="ask for it again with `imagen jobs retry`",
    )


def lost(url: str) -> Unreachable:
    """The server does not know our prompt any more."""
    return Unreachable(
        f"ComfyUI at {url} lost this prompt: it was restarted",
        hint="nothing to do: it is handed over again",
    )


def no_picture(model: str) -> Crashed:
    """The prompt ended well, and there is nothing to show."""
    return Crashed(
        f"the workflow of {model} ended without a picture",
        hint="it needs an image output that always runs, such as SaveImage",
    )


def picture_gone(model: str) -> Crashed:
    """The server says it made a file, and does not have it."""
    return Crashed(
        f"ComfyUI drew the picture of {model} and does not have its file any more",
        hint="something empties ComfyUI's temp or output folder while it works; ask again",
    )


def without_paths(text: str) -> str:
    """Server paths reduced to their last part, and no walls of numbers."""
    return _TENSOR.sub("tensor(…)", _PATH.sub(lambda found: found[1] or "…", text))


def _stem(name: str) -> str:
    return name.lower().rpartition(".")[0] if name.lower().endswith(WEIGHTS) else name.lower()


def _node_error(
    model: str, node: str, told: Mapping[str, Any], problem: Mapping[str, Any], types: Mapping[str, NodeType]
) -> ImagenError:
    extra = problem.get("extra_info")
    extra = extra if isinstance(extra, Mapping) else {}
    name, kind = extra.get("input_name"), types.get(str(told.get("class_type")))
    where = f"{told.get('class_type') or 'a node'} (node {node})" + (f", input {name}" if name else "")
    if problem.get("type") == "value_not_in_list":
        # The answer itself leaves the choices out where there are more than 20.
        item = kind.inputs.get(str(name)) if kind is not None else None
        return not_listed(model, where, extra.get("received_value"), (item.choices if item else None) or ())
    words = _one_line(problem.get("message"), problem.get("details"))
    return Rejected(
        f"ComfyUI refused the workflow of {model}: {where}: {words}",
        hint=f"put it right in the workflow or the YAML of {model}; `imagen models check {model}` looks at all of it",
        param=str(name) if name else None,
    )


def _absent(kind: str, extra: Any, graph: Mapping[str, Any], words: str) -> str | None:
    """The class that the server does not know, if that is what it says."""
    if kind != "missing_node_type" and "does not exist" not in words:
        return None
    extra = extra if isinstance(extra, Mapping) else {}
    if extra.get("class_type"):
        return str(extra["class_type"])
    node = graph.get(str(extra.get("node_id", "")))
    return str(node["class_type"]) if node else None


def _one_line(*parts: Any) -> str:
    return without_paths(": ".join(" ".join(str(part).split()) for part in parts if part))
