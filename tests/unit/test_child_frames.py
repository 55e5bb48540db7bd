"""What goes between a backend's process and ours, and what is made of a process's last words."""

import json
import signal
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagen.backends.child import frames, last_words
from imagen.backends.child.frames import BadFrameError, Frame, Unpacking, packed
from imagen.core.errors import BackendError, Check, Crashed, ImagenError, MissingFile, OutOfMemory, Rejected
from imagen.core.model import Limits, Model, ModelFile, Option
from imagen.core.signals import PHASES, Handle, Notice, Output, Phase, Preview, Signal, Step

texts = st.text(st.characters(), max_size=20)  # lone surrogates too: a prompt may hold them
numbers = st.integers(-(2**63), 2**63)
images = st.binary(max_size=64)
facts = st.dictionaries(st.sampled_from(["drawn", "cost", "vram_peak_mib"]), texts | numbers | st.floats(0, 9))
signals: st.SearchStrategy[Signal] = st.one_of(
    st.builds(Phase, name=st.sampled_from(PHASES)),
    st.builds(Step, step=numbers, total=numbers, image=numbers),
    st.builds(Preview, step=numbers, total=numbers, data=images, mime=texts, width=numbers, height=numbers),
    st.builds(Notice, code=texts, message=texts),
    st.builds(Handle, token=texts),
    st.builds(Output, data=images, width=numbers, height=numbers, index=numbers, seed=st.none() | numbers, facts=facts),
)
heads = st.dictionaries(texts, texts | numbers | st.none() | st.booleans(), max_size=4).map(
    lambda head: {**head, "say": "x"}
)


class Odd(Rejected):
    """A leaf that some package from outside has."""


@given(said=st.lists(st.tuples(heads, images), max_size=4), cuts=st.lists(st.integers(1, 40), min_size=1))
def test_frames_arrive_however_they_are_cut(said, cuts):
    """A frame is whole when its last byte is there, and not before."""
    data = b"".join(b"".join(packed(head, body)) for head, body in said)
    unpacking, heard, at = Unpacking(), list[Frame](), 0
    while at < len(data):
        size = cuts[at % len(cuts)]
        heard += unpacking.feed(data[at : at + size])
        at += size
    assert heard == [Frame(head, body) for head, body in said]


@given(signals)
def test_a_signal_comes_across_as_it_is(said):
    """Every kind of them, with every field, through bytes."""
    frame = frames.signal_told(said)
    (heard,) = Unpacking().feed(b"".join(packed({"say": "signal", **frame.head}, frame.body)))
    assert frames.signal_heard(heard) == said


def test_files_among_the_facts_come_across():
    """They are values of ours, and so they stay."""
    files = (ModelFile(path="a", size=3, sha256="b"),)
    frame = frames.signal_told(Output(data=b"", facts={"files": list(files), "cost": 0.5}))
    heard = frames.signal_heard(Frame(json.loads(json.dumps(frame.head)), frame.body))
    assert isinstance(heard, Output)
    assert heard.facts == {"files": files, "cost": 0.5}


def test_a_model_comes_across_with_its_graph():
    """Whatever a backend may look at."""
    model = Model(
        name="m",
        backend="b",
        device="d",
        limits=Limits(sizes=((1, 2),)),
        options={"o": Option(type="int", range=(1, 2), choices=(1, 2))},
        files=(ModelFile(path="p"),),
        ignores=("negative",),
        keys={"deep": {"list": [1, None]}},
        graph={"1": {"class_type": "X"}},
    )
    heard = Model.from_dict(json.loads(json.dumps(frames.model_told(model))))
    assert heard == model
    assert heard.graph == model.graph


def test_checks_come_across():
    """With their errors."""
    said = [Check.passed("draws", note="well"), Check.failed("files", MissingFile("no file", hint="get it", param="x"))]
    good, bad = frames.checks_heard(json.loads(json.dumps(frames.checks_told(said))))
    assert (good.name, good.note, good.ok) == ("draws", "well", True)
    assert isinstance(bad.error, MissingFile)
    assert bad.error.as_dict() == MissingFile("no file", hint="get it", param="x").as_dict()


def test_an_error_of_somebody_else_comes_across_as_its_nearest_of_ours():
    """A refusal stays a refusal."""
    heard = ImagenError.from_dict(frames.error_told(Odd("no", hint="yes", detail="so", retry_after_s=2)))
    assert type(heard) is Rejected
    assert (heard.message, heard.hint, heard.detail, heard.retry_after_s) == ("no", "yes", "so", 2)


def test_an_error_that_is_worth_a_retry_stays_so():
    """Although others of its kind are not."""
    assert not Crashed("a", hint="b").retryable
    heard = ImagenError.from_dict(frames.error_told(Crashed("a", hint="b", retryable=True)))
    assert heard.retryable
    assert heard.as_dict()["retryable"] is True
    assert not ImagenError.from_dict(Crashed("a", hint="b").as_dict()).retryable


def test_a_caller_over_http_is_told_that_it_is_worth_a_retry():
    """By the error itself, and not by its kind."""
    from imagen.surfaces.http.refusals import refusal

    assert "retry-after" in refusal(Crashed("a", hint="b", retryable=True)).headers
    assert "retry-after" not in refusal(Crashed("a", hint="b")).headers


@pytest.mark.parametrize(
    "data",
    [
        b"\xff" * 8,
        struct.pack(">II", frames.MAX_HEAD + 1, 0),
        struct.pack(">II", 2, frames.MAX_BODY + 1),
        struct.pack(">II", 1, 0) + b"{",
        struct.pack(">II", 2, 0) + b"[]",
        struct.pack(">II", 2, 0) + b"{}",
        struct.pack(">II", 9, 0) + b'{"say":1}',
    ],
)
def test_what_is_no_frame_is_refused(data):
    """By its announced length, before that much is waited for or kept; or by its head."""
    with pytest.raises(BadFrameError):
        list(Unpacking().feed(data))


def test_what_is_too_long_is_not_sent():
    """Who sends it hears of it."""
    with pytest.raises(BadFrameError):
        packed({"say": "x" * frames.MAX_HEAD})


def test_what_is_no_signal_is_not_sent():
    """Neither what has another name, nor what cannot be written down."""
    with pytest.raises(TypeError, match="no signal"):
        frames.signal_told("step")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="JSON"):
        packed({"say": "signal", **frames.signal_told(Output(data=b"", facts={"a": object()})).head})


@given(st.lists(st.binary(max_size=3000), max_size=40))
def test_the_tail_is_bounded_and_is_the_end(pieces):
    """Of any number of bytes the last ones are known."""
    tail = last_words.Tail()
    for piece in pieces:
        tail.add(piece)
    tail.add(b"\nthe end\n")
    assert tail.text().splitlines()[-1] == "the end"
    assert len(tail.text().splitlines()) <= last_words.LINES
    assert tail._size < last_words.KEPT + 3000


def test_of_a_progress_bar_the_last_state_is_kept():
    """And no empty line, and no wall of one."""
    tail = last_words.Tail()
    tail.add(b"loading\n\n  0%\r 50%\r100%\r\n" + b"x" * 9999)
    assert tail.text() == "loading\n100%\n" + "x" * last_words.MAX_LINE


@pytest.mark.parametrize(
    ("code", "tail", "starved", "kind", "words"),
    [
        (-signal.SIGSEGV, "", False, Crashed, "SIGSEGV (Segmentation fault)"),
        (-signal.SIGKILL, "", False, Crashed, "SIGKILL"),
        (-signal.SIGKILL, "", True, OutOfMemory, "the system killed it"),
        (-signal.SIGSEGV, "", True, Crashed, "SIGSEGV"),
        (-signal.SIGABRT, "terminate: 'std::bad_alloc'", False, OutOfMemory, "could get no more"),
        (1, "torch.OutOfMemoryError: CUDA out of memory.", False, OutOfMemory, "could get no more"),
        (1, "DefaultCPUAllocator: can't allocate memory", False, OutOfMemory, "could get no more"),
        (0, "out of memory was mended", False, Crashed, "exit code 0"),
        (3, "", False, Crashed, "exit code 3"),
        (-64, "", False, Crashed, "SIGRTMAX"),
        (-99, "", False, Crashed, "signal 99"),
    ],
)
def test_a_death_is_told_by_what_is_known_of_it(code, tail, starved, kind, words):
    """A crash is tried again; what ran out of memory would do so again."""
    error = last_words.died("it", code, tail, starved=starved)
    assert type(error) is kind
    assert words in error.message
    assert error.retryable is (kind is Crashed)
    assert error.detail == (tail or None)


def test_who_was_ended_by_us_was_not_killed_for_memory():
    """Whatever else happened on the machine meanwhile."""
    error = last_words.died("it", -signal.SIGKILL, "", starved=True, why="it was stubborn")
    assert (type(error), error.message) == (Crashed, "it was ended: it was stubborn")


@pytest.mark.parametrize(
    ("exc", "kind"),
    [
        (MemoryError(), OutOfMemory),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"), OutOfMemory),
        (OSError(12, "Cannot allocate memory"), OutOfMemory),
        (ValueError("a number"), Crashed),
        (KeyError(), Crashed),
    ],
)
def test_an_exception_is_one_error_of_ours(exc, kind):
    """With where it was raised."""
    try:
        raise exc
    except Exception as caught:
        error = last_words.broke("the backend x", caught)
    assert type(error) is kind
    assert isinstance(error, BackendError)
    assert not error.retryable
    assert "test_child_frames.py" in str(error.detail)


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ('File "/opt/imagen/lib/torch/nn.py", line 3', 'File "nn.py", line 3'),
        ("cannot open /home/me/models/flux.safetensors: no", "cannot open flux.safetensors: no"),
        ("step 3/4 of 10/20", "step 3/4 of 10/20"),
        ("see https://example.org/a/b/c", "see https://example.org/a/b/c"),
        ("https://me:pass@example.org/x", "https://me:***@example.org/x"),
        ("HF_TOKEN=abcdef token='x' in hf_abcdefghijklmnopq", "HF_TOKEN=*** token='***' in ***"),
        ("missing key: a.weight", "missing key: a.weight"),
        ("Authorization: Bearer abc.def", "Authorization: Bearer ***"),
    ],
)
def test_secrets_and_folders_do_not_get_out(said, shown):
    """What is told to a caller names files, and neither places nor keys."""
    assert last_words.masked(said) == shown


def test_this_system_counts_whom_it_killed():
    """Or says nothing, which is zero."""
    assert last_words.killed_for_memory() >= 0
