"""Between two steps: a scheduler that says when it begins, what the clean picture would be now, and stops when asked.

Every pipeline hands its guess to `scheduler.step`, whatever else it calls things, so that is the one place to look.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any


@contextmanager
def watched(
    scheduler: Any,
    *,
    begun: Callable[[int], None],
    stepped: Callable[[int, int, Callable[[], tuple[Any, bool]]], None],
    listening: Callable[[], object],
) -> Iterator[None]:
    """Watch one call of a pipeline.

    `begun` hears how many steps there will be, once the prompt is encoded. `stepped` hears which step is done, of
    how many, and gets a function that computes the clean picture as it is guessed now, and whether it is one.
    `listening` is called before and after every step, the last time before the picture is decoded, and raises to
    leave it all: a pipeline's own way to be interrupted would decode the half-done picture first.
    """
    set_timesteps, step = scheduler.set_timesteps, scheduler.step
    done = 0

    @wraps(set_timesteps)  # diffusers looks at its arguments' names
    def begins(*args: Any, **kwargs: Any) -> Any:
        nonlocal done
        listening()
        result = set_timesteps(*args, **kwargs)
        done = 0
        begun(len(scheduler.timesteps))
        return result

    @wraps(step)
    def steps(model_output: Any, timestep: Any, sample: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal done
        listening()
        sigma = _sigma(scheduler)
        result = step(model_output, timestep, sample, *args, **kwargs)
        done += 1
        stepped(done, len(scheduler.timesteps), lambda: _clean(scheduler, sigma, model_output, sample, result))
        listening()
        return result

    scheduler.set_timesteps, scheduler.step = begins, steps
    try:
        yield
    finally:
        # Found on the instance before those of its class, and gone with it.
        del scheduler.set_timesteps, scheduler.step


def _sigma(scheduler: Any) -> Any:
    """How much noise there is before this step, for those that flow from noise to picture in a straight line."""
    config = scheduler.config
    if "FlowMatch" not in type(scheduler).__name__ and config.get("prediction_type") != "flow_prediction":
        return None
    index = scheduler.step_index
    if index is None:  # it finds out in its first step
        index = scheduler.begin_index or 0
    return scheduler.sigmas[index]


def _clean(scheduler: Any, sigma: Any, guess: Any, sample: Any, result: Any) -> tuple[Any, bool]:
    """The estimate of the clean latents, or what there is now, and which of the two it is."""
    if sigma is not None:
        return sample.float() - sigma.to(sample.device) * guess.float(), True
    if not isinstance(result, tuple):
        result = (result.prev_sample, getattr(result, "pred_original_sample", None))
    if len(result) > 1 and getattr(result[1], "shape", None) == sample.shape:
        return result[1], True
    return result[0], False
