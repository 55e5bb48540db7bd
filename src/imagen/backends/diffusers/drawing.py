"""One request on a loaded pipeline, all of it in the one thread that draws: its signals come out as they arise."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextlib import ExitStack
from time import perf_counter
from typing import Any

import numpy as np

from imagen.backends.aside import Say, Stopped
from imagen.backends.base import Previews, PreviewWishes
from imagen.backends.diffusers import beside
from imagen.backends.diffusers.calling import arguments
from imagen.backends.diffusers.loading import Loaded
from imagen.backends.diffusers.showing import Finish, Showing, Unknown
from imagen.backends.diffusers.stepping import watched
from imagen.core.errors import Crashed
from imagen.core.model import Model
from imagen.core.request import Request
from imagen.core.signals import Notice, Output, Phase, Preview, Step

WAITING = 8  # previews that are being made at once; only a projecting thread that is starved ever has so many


class Drawing:
    """A request on its way; `draw` is called once."""

    def __init__(
        self,
        loaded: Loaded,
        request: Request,
        model: Model,
        previews: Previews,
        *,
        showing: Showing,
        projecting: Executor,
        say: Say,
        load_s: float,
        passes: Callable[[], None] = lambda: None,
    ) -> None:
        """`passes` is called as soon as the next request may be drawn beside the rest of this one."""
        self._loaded = loaded
        self._request = request
        self._model = model
        self._previews = previews
        self._showing = showing
        self._projecting = projecting
        self._say = say
        self._spent = {"load": load_s, "encode": 0.0, "sample": 0.0, "decode": 0.0}
        self._since = perf_counter()
        self._phase = "encode"
        self._said: set[str] = set()  # codes of notices: each once
        self._pending: deque[Future[None]] = deque()
        self._first = self._count = 0  # the pictures of the present call
        self._passes = passes
        self._own: Any = None  # the pipeline object of a call that may pass its turn on when it comes to decoding
        self.held = ExitStack()  # what is kept from others while they draw; whoever made this closes it
        self.passed = False
        self._peaks: list[int] = []
        # Asked once, of a sink that says it.
        self._methods = showing.methods(previews.method if isinstance(previews, PreviewWishes) else "auto")

    def draw(self) -> None:
        """Draw all pictures, some at once where the model says so; raises Stopped when nobody listens any more."""
        _measure_from_here(self._loaded.device)
        for first in range(0, self._request.n, self._model.keys["batch"]):
            self._first = first
            self._count = min(self._model.keys["batch"], self._request.n - first)
            last = first + self._count == self._request.n
            if last and beside.possible(self._model.keys, self._loaded):
                self._own = beside.own(self._loaded.pipe)
            drawn = self._call()
            self._peaks.append(_peak(self._loaded.device))
            if last:
                self._say(Phase(name="decoding", device_free=True))  # what is left is no work of the device
            for index, pixels in enumerate(drawn):
                self._say(self._output(first + index, pixels))

    def _call(self) -> Any:
        """One call of the pipeline: its pictures as bytes from 0 to 255."""
        self._enter("encode")
        pipe = self._own or self._loaded.pipe
        told, notices = arguments(type(pipe).__call__, self._request, self._model, self._generators())
        for notice in notices:
            self._notice(notice.code, notice.message)
        self._say.listening()
        watching = watched(pipe.scheduler, begun=self._begun, stepped=self._stepped, listening=self._say.listening)
        try:
            with watching:
                drawn = pipe(**told).images
        except BaseException:
            # It ends its own calls with this: parts go back to where they wait, caches are emptied.
            pipe.maybe_free_model_hooks()
            raise
        finally:
            self._settle_previews()
        self._say.listening()
        return _bytes(drawn, self._model)

    def _generators(self) -> list[Any]:
        """One for each picture, on the processor: the same noise on every device, and for a picture drawn alone."""
        import torch

        seed = self._request.seed + self._first
        return [torch.Generator("cpu").manual_seed(seed + index) for index in range(self._count)]

    def _begun(self, steps: int) -> None:
        if self._phase == "encode":
            self._enter("sample")

    def _stepped(self, step: int, steps: int, clean: Callable[[], tuple[Any, bool]]) -> None:
        calls = -(-self._request.n // self._model.keys["batch"])
        done, total = self._first // self._model.keys["batch"] * steps + step, calls * steps
        self._say(Step(step=done, total=total, image=self._first))
        if step == steps:
            self._enter("decode")
            if self._own is not None:
                self._pass_on(clean)
            return
        try:
            if self._methods and self._previews.wants(done, total):
                self._show(done, total, *clean())
        except Unknown as unknown:
            self._methods = []
            self._notice("preview_failed", f"no previews of {type(self._loaded.pipe).__name__}: {unknown}")
        except Exception as exc:  # a preview that fails is never the job's failure
            self._notice("preview_failed", f"a preview could not be made: {type(exc).__name__}: {exc}")

    def _pass_on(self, last: object) -> None:
        """Let the next request begin; `last` holds the latents of the last step."""
        if not beside.room(self._loaded, self._request, self._count):
            return
        self.held.enter_context(beside.decoding(self._loaded, self._say.listening))
        # The pipeline drops these before the decoder's stream has read them, and the other stream would write there.
        self.held.callback(lambda _latents: None, last)
        beside.done(self._own)
        self._peaks.append(_peak(self._loaded.device))  # the next request counts anew
        self.passed = True
        self._passes()
        self._say(Phase(name="decoding", device_free=True))

    def _show(self, step: int, total: int, clean: Any, estimate: bool) -> None:
        """Hand the present pictures to the projecting thread."""
        for index in range(self._count):
            begun = perf_counter()
            method, finish = self._captured(clean, index)
            copied_s = perf_counter() - begun

            def project(
                index: int = index, method: str = method, finish: Finish = finish, copied_s: float = copied_s
            ) -> None:
                begun = perf_counter()
                data, width, height = finish()
                took_ms = (perf_counter() - begun + copied_s) * 1000
                name = "latent_rgb" if method == "fitted" else method
                self._say(
                    Preview(
                        step=step, total=total, image=self._first + index, data=data, width=width, height=height,
                        method=name, estimate=estimate, decode_ms=took_ms,
                    )
                )  # fmt: skip

            self._pending.append(self._projecting.submit(project))
            while len(self._pending) > WAITING:
                self._settle(self._pending.popleft())

    def _captured(self, clean: Any, index: int) -> tuple[str, Finish]:
        """By the first method that works; what does not is said once, and tried again with the next frame."""
        size = self._request.width, self._request.height
        for method in self._methods[:-1]:
            try:
                return method, self._showing.captured(clean, index, size, method, self._previews.max_size)
            except Unknown:
                raise
            except Exception as exc:
                self._notice("preview_method", f"no preview by {method}: {type(exc).__name__}: {exc}")
        method = self._methods[-1]
        return method, self._showing.captured(clean, index, size, method, self._previews.max_size)

    def _settle_previews(self) -> None:
        """The picture comes after all of its previews, and nothing goes on behind it."""
        while self._pending:
            self._settle(self._pending.popleft())

    def _settle(self, future: "Future[None]") -> None:
        failed = future.exception()
        if failed is not None and not isinstance(failed, Stopped):
            self._notice("preview_failed", f"a preview could not be made: {type(failed).__name__}: {failed}")

    def _output(self, index: int, pixels: Any) -> Output:
        self._enter("decode")
        height, width, _ = pixels.shape
        facts: dict[str, Any] = {
            # Not of loading: that began before this process did, and is measured from outside.
            "timings": {name: round(seconds, 4) for name, seconds in self._spent.items() if name != "load"},
            "drawn": self._loaded.words + (", decoded beside the next job" if self.passed else ""),
            "files": [*self._loaded.files],
        }
        if peak := max(self._peaks):
            facts |= {"vram_peak_mib": peak // 2**20, "vram_method": "torch.cuda.max_memory_allocated"}
        return Output(
            data=pixels.tobytes(),
            width=width,
            height=height,
            index=index,
            seed=self._request.seed + index,
            facts=facts,
        )

    def _enter(self, phase: str) -> None:
        """From now on time is spent on this; what a card still has to do belongs to what came before."""
        _synchronise(self._loaded.device)
        now = perf_counter()
        self._spent[self._phase] += now - self._since
        self._since = now
        if phase != self._phase or phase == "encode":
            names = {"encode": "encoding", "sample": "sampling", "decode": "decoding"}
            self._say(Phase(name=names[phase]))  # type: ignore[arg-type]  # the names are those of PhaseName
        self._phase = phase

    def _notice(self, code: str, message: str) -> None:
        if code not in self._said:
            self._said.add(code)
            self._say(Notice(code=code, message=" ".join(message.split())[:500]))


def _bytes(drawn: Any, model: Model) -> Any:
    """Pictures of numbers from 0 to 1 as bytes; what is no number would be a black picture that nobody explains."""
    if not np.isfinite(drawn).all():
        raise Crashed(
            f"{model.name} drew values that are no numbers: its numbers ran out of range",
            hint="set `dtype: bfloat16`, or `dtype: float32` where there is the memory for it",
        )
    return (drawn * 255).round().astype(np.uint8)


def _synchronise(device: str) -> None:
    if device == "cpu":
        return
    import torch

    kind = device.partition(":")[0]
    if kind == "mps":
        torch.mps.synchronize()  # there is one
    else:
        # Not all of the device: what another call does there is none of our time.
        getattr(torch, kind).current_stream(device).synchronize()


def _measure_from_here(device: str) -> None:
    if device.startswith("cuda"):
        import torch

        torch.cuda.reset_peak_memory_stats(device)


def _peak(device: str) -> int:
    if not device.startswith("cuda"):
        return 0
    import torch

    return int(torch.cuda.max_memory_allocated(device))
