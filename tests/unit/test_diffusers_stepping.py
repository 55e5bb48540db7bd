"""Between two steps: the estimate of the clean picture from schedulers of several kinds, and leaving in good time."""

import inspect
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    UniPCMultistepScheduler,
)
from tests import inprocess_kit as kit

from imagen.backends.diffusers.stepping import watched

STEPS = 6

# Some schedulers of diffusers 0.42 call numpy 2 the old way.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


class Left(Exception):
    """What the caller raises."""


def driven(scheduler: Any, clean: torch.Tensor, *, predict: str) -> list[tuple[int, int, Any, bool]]:
    """Run a scheduler with a network that knows the clean picture; what `stepped` heard."""
    heard: list[tuple[int, int, Any, bool]] = []
    begun: list[int] = []
    with watched(
        scheduler,
        begun=begun.append,
        stepped=lambda done, total, show: heard.append((done, total, *show())),
        listening=lambda: None,
    ):
        scheduler.set_timesteps(STEPS)
        torch.manual_seed(1)
        noise = torch.randn_like(clean)
        sample = noise * getattr(scheduler, "init_noise_sigma", 1.0)
        for timestep in scheduler.timesteps:
            given = scheduler.scale_model_input(sample, timestep) if hasattr(scheduler, "scale_model_input") else sample
            guess = _guess(scheduler, given, sample, clean, timestep, predict)
            sample = scheduler.step(guess, timestep, sample, return_dict=False)[0]
    assert begun == [len(scheduler.timesteps)]
    return heard


def _guess(scheduler: Any, given: Any, sample: Any, clean: Any, timestep: Any, predict: str) -> Any:
    if predict == "flow":
        index = scheduler.step_index or 0
        return (sample - clean) / scheduler.sigmas[index]
    if hasattr(scheduler, "sigmas") and "Euler" in type(scheduler).__name__:
        return (sample - clean) / scheduler.sigmas[scheduler.step_index or 0]
    share = scheduler.alphas_cumprod[int(timestep)]
    return (given - share.sqrt() * clean) / (1 - share).sqrt()


@pytest.mark.parametrize(
    ("kind", "config", "predict"),
    [
        (FlowMatchEulerDiscreteScheduler, {"shift": 3.0}, "flow"),
        (FlowMatchEulerDiscreteScheduler, {"stochastic_sampling": True}, "flow"),
        (FlowMatchHeunDiscreteScheduler, {}, "flow"),
        (UniPCMultistepScheduler, {"prediction_type": "flow_prediction", "use_flow_sigmas": True}, "flow"),
        (DPMSolverMultistepScheduler, {"prediction_type": "flow_prediction", "use_flow_sigmas": True}, "flow"),
        (EulerDiscreteScheduler, {}, "noise"),
        (EulerAncestralDiscreteScheduler, {}, "noise"),
        (DDIMScheduler, {"clip_sample": False, "set_alpha_to_one": False}, "noise"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_the_estimate_is_the_clean_picture_from_the_first_step_on(kind: Any, config: Any, predict: str) -> None:
    """With a network that is always right, every estimate is what it knows; steps are counted from 1."""
    torch.manual_seed(3)
    clean = torch.randn(1, 4, 8, 8)
    heard = driven(kind(**config), clean, predict=predict)
    assert [(done, total) for done, total, _, _ in heard] == [(n, len(heard)) for n in range(1, len(heard) + 1)]
    assert all(estimate for *_, estimate in heard)
    for _, _, seen, _ in heard[:STEPS]:
        assert torch.allclose(seen.float(), clean, atol=2e-3)


def test_a_scheduler_that_tells_no_estimate_shows_what_there_is() -> None:
    """And says that it is none."""
    heard = driven(DPMSolverMultistepScheduler(), torch.zeros(1, 4, 8, 8), predict="noise")
    assert len(heard) == STEPS
    assert not any(estimate for *_, estimate in heard)


def test_nothing_is_left_on_the_scheduler() -> None:
    """Also not after an error; and its arguments can be looked at meanwhile, as diffusers does."""
    scheduler = FlowMatchEulerDiscreteScheduler()

    def leave() -> None:
        with watched(scheduler, begun=_nothing, stepped=_nothing, listening=lambda: None):
            assert "sigmas" in inspect.signature(scheduler.set_timesteps).parameters
            raise Left

    with pytest.raises(Left):
        leave()
    assert not {"set_timesteps", "step"} & set(vars(scheduler))


@pytest.mark.parametrize("family", kit.FAMILIES)
@pytest.mark.parametrize("at", [0, 1, 3, 4])
def test_it_is_left_before_the_next_thing_that_takes_long(family: str, at: int) -> None:
    """Before the first step, in the middle, and after the last one, before the picture is decoded; then all works."""
    from diffusers import DiffusionPipeline

    pipeline = DiffusionPipeline.from_pretrained(kit.tiny(family), local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    done = {"steps": 0, "decodes": 0}
    pipeline.vae.decoder.register_forward_hook(lambda *_: done.update(decodes=done["decodes"] + 1))
    more = {"text_encoder_out_layers": (1, 2, 3)} if family == "klein" else {}

    def call() -> Any:
        return pipeline(prompt="a fox", width=64, height=64, num_inference_steps=4, **more)

    def listening() -> None:
        if done["steps"] >= at:
            raise Left

    def stepped(*_: Any) -> None:
        done["steps"] += 1

    with pytest.raises(Left), watched(pipeline.scheduler, begun=_nothing, stepped=stepped, listening=listening):
        call()
    assert done == {"steps": at, "decodes": 0}
    pipeline.maybe_free_model_hooks()
    assert call().images[0].size == (64, 64)


def _nothing(*_: Any) -> None:
    pass
