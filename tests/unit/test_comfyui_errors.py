"""Whatever goes wrong with a server comes out as an error that says what to do."""

import inspect
from collections.abc import Mapping
from typing import Any

import httpx2
import pytest

from imagen.backends.comfyui import errors
from imagen.backends.comfyui.nodes import node_type
from imagen.core.errors import (
    Crashed,
    ImagenError,
    MissingExtra,
    MissingFile,
    NotConfigured,
    OutOfMemory,
    RateLimited,
    Rejected,
    TimedOut,
    Unreachable,
    Unsupported,
)

URL = "http://127.0.0.1:8188"
GRAPH = {"1": {"class_type": "VAELoader", "inputs": {}}, "4": {"class_type": "KSampler", "inputs": {}}}
RAISED = [kind for _, kind in inspect.getmembers(httpx2, inspect.isclass) if issubclass(kind, Exception)]


def response(status: int, text: str = "", method: str = "GET") -> httpx2.Response:
    return httpx2.Response(status, text=text, request=httpx2.Request(method, f"{URL}/prompt"))


def wrong(kind: str, details: str = "", **extra: Any) -> Mapping[str, Any]:
    problem = {"type": kind, "message": "Not good", "details": details, "extra_info": extra}
    return {
        "error": {"type": "prompt_outputs_failed_validation", "message": "Prompt outputs failed validation"},
        "node_errors": {"1": {"errors": [problem], "class_type": "VAELoader", "dependent_outputs": []}},
    }


def refused(answer: Mapping[str, Any], types: Mapping[str, Any] | None = None) -> ImagenError:
    return errors.refused(URL, "mine", answer, GRAPH, types or {})


@pytest.mark.parametrize("kind", [kind for kind in RAISED if not issubclass(kind, Warning)], ids=lambda k: k.__name__)
def test_every_error_of_the_client_library_is_one_of_ours(kind: type[Exception]) -> None:
    """A new version of it with a new one fails here, and not at somebody's server."""
    if kind.__module__.startswith("httpx2.websockets") or kind.__name__.startswith("WebSocket"):
        pytest.skip("the websocket of this library is not used")
    assert issubclass(kind, errors.LIBRARY), f"{kind.__name__} is caught nowhere"
    exc = kind.__new__(kind)
    Exception.__init__(exc, "it says so")
    said = errors.away(URL, exc)
    assert said.hint
    assert said.message


@pytest.mark.parametrize(
    ("exc", "expected"),
    [
        (httpx2.ConnectError("refused"), Unreachable),
        (httpx2.ConnectTimeout("x"), Unreachable),
        (httpx2.RemoteProtocolError("gone"), Unreachable),
        (httpx2.ReadTimeout("x"), TimedOut),
        (httpx2.PoolTimeout("x"), TimedOut),
        (httpx2.UnsupportedProtocol("x"), NotConfigured),
        (httpx2.TooManyRedirects("x"), Rejected),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_what_may_work_later_is_worth_a_retry(exc: Exception, expected: type[ImagenError]) -> None:
    """And what will not is the owner's turn."""
    assert type(errors.away(URL, exc)) is expected


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        *((status, NotConfigured) for status in (401, 403, 404)),
        *((status, Unreachable) for status in (502, 503, 504)),
        (429, RateLimited),
        (500, Crashed),
    ],
)
def test_a_status_is_told_by_whose_turn_it_is(status: int, expected: type[ImagenError]) -> None:
    """A proxy's, the server's, or the owner's."""
    said = errors.answered(URL, response(status, "<html>no</html>"))
    assert type(said) is expected
    assert URL in said.message


def test_a_file_that_is_not_there_is_named_with_how_to_get_it() -> None:
    """And with what looks like it, but never with all that is there."""
    kind = node_type("VAELoader", {"input": {"required": {"vae_name": [["ae.safetensors", "secret.safetensors"]]}}})
    answer = wrong("value_not_in_list", input_name="vae_name", received_value="ae2.safetensors", input_config=None)
    said = refused(answer, {"VAELoader": kind})
    assert isinstance(said, MissingFile)
    assert "'ae2.safetensors'" in said.message
    assert "there is ae.safetensors" in said.message
    assert "secret" not in said.message + said.hint
    assert "imagen models pull mine" in said.hint


def test_a_word_that_is_not_known_is_named_with_those_that_are() -> None:
    """The answer itself has none when there are many."""
    kind = node_type("VAELoader", {"input": {"required": {"how": ["COMBO", {"options": ["euler", "heun"]}]}}})
    answer = wrong("value_not_in_list", input_name="how", received_value="wild")
    said = refused(answer, {"VAELoader": kind})
    assert isinstance(said, Unsupported)
    assert said.hint == "this ComfyUI knows: euler, heun"
    assert refused(answer).hint


def test_a_value_out_of_bounds_is_named_with_its_node() -> None:
    """In the server's own words."""
    said = refused(wrong("value_smaller_than_min", "steps", input_name="steps"))
    assert isinstance(said, Rejected)
    assert "VAELoader (node 1), input steps: Not good: steps" in said.message


def test_what_the_owner_can_put_right_goes_first() -> None:
    """Of several errors the others often follow from it."""
    answer = {
        "node_errors": {
            "4": {"errors": [{"type": "bad_linked_input", "message": "Bad"}], "class_type": "KSampler"},
            **wrong("value_not_in_list", input_name="vae_name", received_value="a.safetensors")["node_errors"],
        }
    }
    assert isinstance(refused(answer), MissingFile)


@pytest.mark.parametrize(
    "error",
    [
        {"type": "missing_node_type", "message": "m", "extra_info": {"node_id": "4", "class_type": "KSampler"}},
        {"type": "missing_node_type", "message": "m", "extra_info": {"node_id": "4"}},
        {
            "type": "invalid_prompt",
            "message": "Cannot execute because node KSampler does not exist.",
            "extra_info": {"node_id": "4"},
        },
    ],
)
def test_a_node_that_is_not_there_is_named(error: Mapping[str, Any]) -> None:
    """Older servers say it otherwise."""
    said = refused({"error": error, "node_errors": {}})
    assert isinstance(said, MissingExtra)
    assert "'KSampler'" in said.message


@pytest.mark.parametrize(
    "answer",
    [
        {},
        *({"error": error} for error in (None, "no", {"type": 3, "extra_info": []}, {"type": "no_prompt"})),
        {"node_errors": []},
        {"node_errors": {"1": None}},
        {"node_errors": {"1": {"errors": [None]}}},
    ],
)
def test_an_answer_that_nobody_expected_is_an_error_all_the_same(answer: Mapping[str, Any]) -> None:
    """Never one of Python's."""
    assert isinstance(refused(answer), Rejected)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("torch.OutOfMemoryError", "Allocation on device"),
        ("torch.cuda.OutOfMemoryError", "CUDA out of memory. Tried to allocate 2.00 GiB"),
        ("RuntimeError", "MPS backend out of memory (MPS allocated: 10 GB)"),
        ("comfy.model_management.OOM_EXCEPTION", "Allocation on device 0 would exceed allowed memory."),
    ],
)
def test_out_of_memory_is_recognised(kind: str, message: str) -> None:
    """By its type or its words: they differ by device."""
    told = {"node_id": "4", "node_type": "KSampler", "exception_type": kind, "exception_message": message}
    said = errors.broke("mine", told)
    assert isinstance(said, OutOfMemory)
    assert "smaller size" in said.hint


def test_a_node_that_broke_is_named_without_paths_and_tensors() -> None:
    """What is on the server's disk is nobody's business."""
    told = {
        "node_id": "4",
        "node_type": "KSampler",
        "exception_type": "builtins.ValueError",
        "exception_message": "bad file /home/ann/ComfyUI/models/vae/x.safetensors\nand more",
        "traceback": [
            '  File "/home/ann/ComfyUI/execution.py", line 1\n',
            "C:\\Users\\ann\\x.py tensor([[1., 2.],\n [3., 4.]])",
        ],
        "current_inputs": {"samples": ["secret"]},
    }
    said = errors.broke("mine", told)
    assert said.message == "ComfyUI broke in KSampler (node 4): ValueError: bad file x.safetensors"
    assert said.detail == '  File "execution.py", line 1\nx.py tensor(…)'


def test_an_error_that_says_nothing_is_still_one() -> None:
    """Some custom nodes raise bare ones."""
    assert errors.broke("mine", {}).message == "ComfyUI broke in a node (node None): error: it said nothing more"
