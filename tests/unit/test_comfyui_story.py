"""What a server tells becomes steps, phases and previews, whatever is missing of it."""

from typing import Any

import pytest

from imagen.backends.comfyui.line import Cut, Frame, Message, Told
from imagen.backends.comfyui.story import Story
from imagen.backends.comfyui.workflow import Drawing
from imagen.core.signals import Notice, Phase, Preview, Signal, Step
from imagen.testing.signals import Nobody, Watching

JPEG = bytes.fromhex("ffd8ffe000104a46494600010100000100010000ffc0001108002000300301220002110103110100ffd9")
DRAWING = Drawing(
    graph={name: {} for name in "123456"},
    phases={"1": "loading", "2": "encoding", "4": "sampling", "5": "decoding"},
    planned={"4": 4},
    outputs=("6",),
    weights="",
)


def told(kind: str, **data: Any) -> Told:
    return Told(type=kind, data={"prompt_id": "x", **data})


def at(node: str | None) -> Told:
    return told("executing", node=node, display_node=node)


def step(value: float, most: float = 4, node: str = "4") -> Told:
    return told("progress", value=value, max=most, node=node)


def frame(node: str | None = "4", *, early: bool = True) -> Frame:
    return Frame(data=JPEG, mime="image/jpeg", node=node, early=early)


RUN = [told("execution_start"), told("execution_cached", nodes=[])]
GOOD_END = [
    told("executed", node="6", display_node="6", output={"images": [{"filename": "a.png"}]}),
    told("execution_success"),
    at(None),
]


def heard(story: Story, *messages: Message) -> list[Signal]:
    """A second passes between two messages."""
    return [signal for number, message in enumerate(messages) for signal in story.hear(message, float(number))]


def steps(said: list[Signal]) -> list[int]:
    return [signal.step for signal in said if isinstance(signal, Step)]


def phases(said: list[Signal]) -> list[str]:
    return [signal.name for signal in said if isinstance(signal, Phase)]


def test_a_whole_run() -> None:
    """Phases in order, every step once, and the end."""
    story = Story(DRAWING, Nobody(), loaded=True)
    said = heard(story, *RUN, at("1"), at("2"), at("4"), step(1), step(2), step(3), step(4), at("5"), *GOOD_END)
    assert phases(said) == ["loading", "encoding", "sampling", "decoding"]
    assert steps(said) == [1, 2, 3, 4]
    assert (story.over, story.whole, story.failure, story.stopped) == (True, True, None, False)
    assert story.outputs["6"] == {"images": [{"filename": "a.png"}]}


def test_a_sampler_that_has_to_get_its_weights_first_is_loading() -> None:
    """Until its first step: sampling that does not move would look like a hang."""
    said = heard(Story(DRAWING, Nobody()), *RUN, at("4"), step(1))
    assert phases(said) == ["loading", "sampling"]


def test_a_second_sampler_has_its_weights() -> None:
    """What was loaded for the first is there."""
    drawing = Drawing(
        graph=DRAWING.graph, phases={"3": "sampling", "4": "sampling"}, planned={"3": 2, "4": 2}, outputs=(), weights=""
    )
    said = heard(Story(drawing, Nobody()), *RUN, at("3"), step(2, 2, "3"), at("4"), step(1, 2))
    assert phases(said) == ["loading", "sampling"]
    assert steps(said) == [2, 3]


def test_a_sampler_that_counts_otherwise_is_put_on_its_share() -> None:
    """The total was said before, and stays."""
    said = heard(Story(DRAWING, Nobody()), *RUN, at("4"), *(step(value, 10) for value in range(1, 11)))
    assert steps(said) == [1, 2, 3, 4]


def test_steps_go_on_from_picture_to_picture() -> None:
    """The second of two begins where the first ended."""
    said = heard(Story(DRAWING, Nobody(), index=1, n=2), *RUN, at("4"), step(1))
    assert [(signal.step, signal.total, signal.image) for signal in said if isinstance(signal, Step)] == [(5, 8, 1)]


def test_progress_of_other_nodes_is_no_step() -> None:
    """A decoder in tiles and a download have bars too."""
    assert steps(heard(Story(DRAWING, Nobody()), *RUN, at("5"), step(1, node="5"))) == []


def test_a_node_that_grew_out_of_one_of_ours_counts_as_that_one() -> None:
    """Some nodes run as graphs of their own."""
    message = told("progress", node="4.0.0.1", display_node="4", value=2, max=4)
    assert steps(heard(Story(DRAWING, Nobody()), *RUN, message)) == [2]


@pytest.mark.parametrize("value", [None, "two", [], float("nan")])
@pytest.mark.parametrize("most", [None, 0, -1, 4])
def test_nonsense_is_not_believed(value: Any, most: Any) -> None:
    """A custom node may send what it likes."""
    assert steps(heard(Story(DRAWING, Nobody()), *RUN, told("progress", node="4", value=value, max=most))) == []


def test_what_was_missed_is_made_good_at_the_end() -> None:
    """With the picture every step is done."""
    story = Story(DRAWING, Nobody())
    heard(story, *RUN, at("4"), step(1), Cut())
    assert steps(story.finish()) == [4]
    assert not story.finish()


def test_a_picture_from_the_servers_memory_is_told() -> None:
    """It was not drawn now, so its time means nothing."""
    said = heard(Story(DRAWING, Nobody()), told("execution_cached", nodes=["1", "4"]))
    assert [signal.code for signal in said if isinstance(signal, Notice)] == ["cached"]


class TestPreviews:
    def test_a_frame_with_a_name_comes_before_its_step(self) -> None:
        """It shows the step that is told next."""
        said = heard(Story(DRAWING, Watching()), *RUN, at("4"), frame(), step(1), frame(), step(2))
        shown = [signal for signal in said if isinstance(signal, Preview)]
        assert [(one.step, one.total, one.width, one.height) for one in shown] == [(1, 4, 48, 32), (2, 4, 48, 32)]
        assert all(one.data == JPEG for one in shown)

    def test_a_frame_without_a_name_comes_after_its_step(self) -> None:
        """So do the frames of old servers."""
        said = heard(Story(DRAWING, Watching()), *RUN, at("4"), step(1), frame(None, early=False))
        assert [signal.step for signal in said if isinstance(signal, Preview)] == [1]

    def test_a_frame_without_a_name_is_ours_only_while_our_sampler_runs(self) -> None:
        """Those of people without a name are told to everybody."""
        said = heard(Story(DRAWING, Watching()), frame(None, early=False), *RUN, at("5"), frame(None, early=False))
        assert not [signal for signal in said if isinstance(signal, Preview)]

    def test_the_last_step_has_none(self) -> None:
        """The picture itself comes next."""
        said = heard(Story(DRAWING, Watching()), *RUN, at("4"), step(3), frame())
        assert not [signal for signal in said if isinstance(signal, Preview)]

    def test_only_what_is_wanted_is_passed_on(self) -> None:
        """The sink is asked, step by step."""
        sink = Watching(stride=2)
        said = heard(Story(DRAWING, sink), *RUN, at("4"), frame(), step(1), frame(), step(2), frame())
        assert [signal.step for signal in said if isinstance(signal, Preview)] == [2]
        assert sink.asked == [1, 2, 3]

    def test_a_frame_that_is_no_picture_is_dropped(self) -> None:
        """It costs nothing but itself."""
        broken = Frame(data=b"\xff\xd8oops", mime="image/jpeg", node="4", early=True)
        assert not heard(Story(DRAWING, Watching(), loaded=True), *RUN, broken)


class TestTimings:
    def test_are_split_by_what_each_node_does(self) -> None:
        """By the time between two messages: here a second each."""
        story = Story(DRAWING, Nobody())
        heard(story, *RUN, at("1"), at("2"), at("4"), step(1), step(2), step(3), step(4), at("5"), at("6"), at(None))
        assert story.timings() == {"load": 1.0, "encode": 1.0, "sample": 5.0, "decode": 1.0}

    def test_a_slow_first_step_began_with_loading(self) -> None:
        """What it took beyond the others is not sampling."""
        story = Story(DRAWING, Nobody())
        for message, now in [(at("4"), 0.0), (step(1), 9.0), (step(2), 10.0), (step(4), 12.0), (at("5"), 12.0)]:
            story.hear(message, now)
        assert story.timings() == {"load": 8.0, "encode": 0.0, "sample": 4.0, "decode": 0.0}

    def test_a_first_step_like_the_others_is_sampling(self) -> None:
        """A little slower is usual."""
        story = Story(DRAWING, Nobody())
        for message, now in [(at("4"), 0.0), (step(1), 1.4), (step(2), 2.4), (at("5"), 4.4)]:
            story.hear(message, now)
        assert story.timings()["load"] == 0.0

    def test_what_was_not_seen_counts_as_sampling(self) -> None:
        """The server's own figure says how much that is; nothing counts twice, and nothing is negative."""
        story = Story(DRAWING, Nobody())
        heard(story, *RUN, at("1"), at("2"), Cut())
        story.took_s = 10.0
        assert story.timings() == {"load": 1.0, "encode": 1.0, "sample": 8.0, "decode": 0.0}
        story.took_s = 0.5
        assert story.timings()["sample"] == 0.0

    def test_a_run_that_was_not_heard_whole_says_so(self) -> None:
        """Then the history is asked."""
        for missed in ([at("4"), *GOOD_END], [*RUN, at("4"), Cut(), *GOOD_END]):
            story = Story(DRAWING, Nobody())
            heard(story, *missed)
            assert story.over
            assert not story.whole


def test_an_error_and_an_interruption_are_kept() -> None:
    """The end itself comes after them."""
    story = Story(DRAWING, Nobody())
    heard(story, *RUN, told("execution_error", exception_type="RuntimeError"))
    assert story.failure is not None
    assert not story.over
    heard(story, told("execution_interrupted"), at(None))
    assert story.stopped
    assert story.over
