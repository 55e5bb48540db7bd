"""What the server tells about one prompt, understood: steps, phases, previews, its end, and where the time went.

Pure: messages and the time go in, signals come out. It believes nothing that is not about its prompt, and what was
missed while the line was down costs a step or a preview, never the picture.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import inf
from statistics import median
from typing import Any

from imagen.backends.base import Previews
from imagen.backends.comfyui import pictures
from imagen.backends.comfyui.line import Cut, Frame, Message, Told
from imagen.backends.comfyui.workflow import Drawing
from imagen.core.signals import Notice, Phase, PhaseName, Preview, Signal, Step

# A first step that takes this much longer than the others began with moving weights to the device.
SLOW_START = 1.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A node at work, from one moment to another; of a sampler also the moments of its steps."""

    node: str
    begun: float
    ended: float
    steps: tuple[tuple[float, float], ...] = ()  # when each was told, and which it was: some servers skip some


class Story:
    """One prompt, as far as it has been told."""

    def __init__(
        self, drawing: Drawing, previews: Previews, *, index: int = 0, n: int = 1, loaded: bool = False
    ) -> None:
        self.begun = False  # it no longer waits for others
        self.over = False
        self.whole = False  # it was told from its start to its good end
        self.took_s: float | None = None  # how long it ran, where the server had to be asked for it
        self.failure: Mapping[str, Any] | None = None  # what broke
        self.stopped = False  # somebody ended it
        self.outputs: dict[str, Mapping[str, Any]] = {}  # what each node gave
        self.heard_at: float | None = None
        self.frames = 0
        self._drawing = drawing
        self._previews = previews
        self._index = index
        self._total = drawing.steps * n
        self._loaded = loaded  # the weights are where they are needed
        self._phase: PhaseName | None = None
        self._done: dict[str, int] = {}  # steps of each sampler, as planned ones
        self._raw: dict[str, tuple[int, int]] = {}  # value and max of each sampler's last progress
        self._told = index * drawing.steps
        self._node: str | None = None
        self._since = 0.0
        self._steps: list[tuple[float, float]] = []
        self._spans: list[Span] = []
        self._started = False

    def hear(self, message: Message, now: float) -> list[Signal]:
        """Take in one message; what it means for whoever watches."""
        match message:
            case Told(type=kind, data=data):
                self.heard_at = now
                return list(self._told_of(kind, data, now))
            case Frame():
                self.heard_at = now
                return list(self._framed(message))
            case Cut(sudden=sudden):
                self._leave(now if sudden or self.heard_at is None else self.heard_at)
                self._started = False
                return []

    def finish(self) -> list[Signal]:
        """The picture is there: every step of it is done, whether it was told or not."""
        return list(self._reach((self._index + 1) * self._drawing.steps))

    def timings(self) -> dict[str, float]:
        """Seconds of loading, encoding, sampling and decoding; what was not seen counts as sampling."""
        spent: dict[PhaseName, float] = {"loading": 0.0, "encoding": 0.0, "sampling": 0.0, "decoding": 0.0}
        for span in self._spans:
            phase = self._drawing.phases.get(span.node)
            if phase is None:
                continue
            late = _late(span)
            spent["loading"] += late
            spent[phase] += span.ended - span.begun - late
        if self.took_s is not None:
            spent["sampling"] += max(0.0, self.took_s - sum(spent.values()))
        return {
            "load": spent["loading"],
            "encode": spent["encoding"],
            "sample": spent["sampling"],
            "decode": spent["decoding"],
        }

    def _told_of(self, kind: str, data: Mapping[str, Any], now: float) -> Iterator[Signal]:
        match kind:
            case "execution_start":
                self.begun = self._started = True
            case "execution_cached":
                self.begun = True
                if set(map(str, data.get("nodes") or ())) & self._drawing.planned.keys():
                    yield Notice(
                        code="cached", message="ComfyUI did not draw this anew: it had this very picture in its memory"
                    )
            case "executing":
                self.begun = True
                self._leave(now)
                node = self._known(data.get("node"), data.get("display_node"))
                if node is None and data.get("node") is None:
                    self.over = True
                elif node is not None:
                    yield from self._enter(node, now)
            case "progress":
                self.begun = True
                node = self._known(data.get("node"), data.get("display_node"))
                if node in self._drawing.planned:
                    yield from self._progress(str(node), data, now)
            case "executed":
                output = data.get("output")
                if isinstance(output, Mapping):
                    node = self._known(data.get("node"), data.get("display_node"))
                    self.outputs[str(node)] = output
            case "execution_success":
                self.whole = self._started
            case "execution_error":
                self.failure = data
            case "execution_interrupted":
                self.stopped = True
            case _:
                pass

    def _enter(self, node: str, now: float) -> Iterator[Signal]:
        self._node, self._since, self._steps = node, now, []
        phase = self._drawing.phases.get(node)
        if phase == "sampling" and not self._loaded and not self._done:
            phase = "loading"  # the sampler begins with getting the weights to the device
        if phase is not None:
            yield from self._say(phase)

    def _progress(self, node: str, data: Mapping[str, Any], now: float) -> Iterator[Signal]:
        value, most = data.get("value"), data.get("max")
        if not isinstance(value, int | float) or not isinstance(most, int | float):
            return
        if not (0 <= value < inf and 0 < most < inf):
            return
        self._raw[node] = (int(value), int(most))
        if node != self._node:  # the line was down when it began
            self._leave(now)
            self._node, self._since, self._steps = node, now, []
        self._steps.append((now, value))
        self._done[node] = max(self._done.get(node, 0), self._share(node, value, most))
        yield from self._reach(self._here())

    def _framed(self, frame: Frame) -> Iterator[Signal]:
        node = frame.node if frame.node is not None else self._node
        if node not in self._drawing.planned or node is None:
            return
        self.frames += 1
        value, most = self._raw.get(node, (0, self._drawing.planned[node]))
        ahead = dict(self._done)
        if frame.early:
            ahead[node] = max(ahead.get(node, 0), self._share(node, value + 1, most))
        step = self._here(ahead)
        if not 0 < step < self._total or not self._previews.wants(step, self._total):
            return
        size = pictures.size_of(frame.data)
        if size is not None:
            width, height = size
            yield Preview(
                step=step,
                total=self._total,
                data=frame.data,
                mime=frame.mime,
                width=width,
                height=height,
                image=self._index,
            )

    def _share(self, node: str, value: float, most: float) -> int:
        """Steps of a sampler as the plan has them, whatever it counts itself."""
        return min(self._drawing.planned[node], int(value * self._drawing.planned[node] / most))

    def _here(self, done: Mapping[str, int] | None = None) -> int:
        return self._index * self._drawing.steps + sum((self._done if done is None else done).values())

    def _reach(self, step: int) -> Iterator[Signal]:
        if step > self._told:
            self._told = step
            yield from self._say("sampling")
            yield Step(step=step, total=self._total, image=self._index)

    def _say(self, phase: PhaseName) -> Iterator[Signal]:
        if phase != self._phase:
            self._phase = phase
            yield Phase(name=phase)

    def _leave(self, now: float) -> None:
        if self._node is not None:
            self._spans.append(Span(node=self._node, begun=self._since, ended=now, steps=tuple(self._steps)))
            self._node = None

    def _known(self, *names: Any) -> str | None:
        """The node of ours that is meant: an expanded one goes by the node it came from."""
        return next((str(name) for name in names if name is not None and str(name) in self._drawing.graph), None)


def _late(span: Span) -> float:
    """The seconds before its first step in which a sampler was not sampling yet."""
    paces = [(t2 - t1) / (n2 - n1) for (t1, n1), (t2, n2) in pairwise(span.steps) if n2 > n1]
    if not paces:
        return 0.0
    at, number = span.steps[0]
    took, usual = at - span.begun, median(paces) * number
    return took - usual if took > SLOW_START * usual else 0.0
