"""One picture on its way from noise: a step at a time, each in a thread, so that nothing else waits for it."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from imagen.backends.onnx.network import Array, Network, as_bytes
from imagen.backends.onnx.paper import Pixels
from imagen.core.errors import BadConfig
from imagen.core.model import Model
from imagen.core.request import Request

COLOURS = 3


class Painting:
    """Noise in the beginning; `clean` is the network's present guess of what it will be."""

    def __init__(self, network: Network, model: Model, request: Request, rows: Sequence[Sequence[int]]) -> None:
        self._network, self._keys = network, model.keys
        self._guidance = 1.0 if request.guidance is None else request.guidance
        self._steps, self._done = request.steps, 0
        self._rows = rows  # what is asked for, then what it is held against
        self._further = {name: _number(model, request, name) for name in network.further}
        self._now = np.random.default_rng(request.seed).standard_normal(network.shape[-3:], np.float32)
        self.clean: Array = self._now

    def step(self) -> None:
        """Do the next step."""
        begun = self._done / self._steps
        self._done += 1
        guided = self._guidance != 1 and begun < self._keys["guided_until"]
        # What guidance aims at lies beyond what will be drawn; the guess itself comes nearer to that with every step.
        self.clean, *silent = self._clean(begun, self._rows if guided else self._rows[:1])
        aim = silent[0] + np.float32(self._guidance) * (self.clean - silent[0]) if guided else self.clean
        if bound := self._keys["held_within"]:
            aim = aim.clip(-bound, bound)
        self._now = self._now + np.float32(1 / self._steps / (1 - begun)) * (aim - self._now)

    def glimpse(self) -> Pixels:
        """The guess as pixels; where only a decoder can make them, by the decoder."""
        if self.clean.shape[0] == COLOURS:
            return as_bytes(self.clean)
        return self._network.pixels(self.clean)

    def pixels(self) -> Pixels:
        """The finished picture, as large as the decoder makes it."""
        return self._network.pixels(self._now)

    def _clean(self, share: float, rows: Sequence[Sequence[int]]) -> Array:
        """The guesses for `share` of the way, whatever the network itself is made to say."""
        noise_at = self._keys["noise_at"]
        said = self._network.guess(self._now, abs(noise_at - share), rows, self._further)
        if self._keys["predicts"] == "clean":
            return said
        # Velocity is the way that is left, from noise to picture or, where time runs down, back.
        return self._now + np.float32((1 - share) * (1 - 2 * noise_at)) * said


def _number(model: Model, request: Request, name: str) -> Any:
    """What an input of the model's own gets: the number of a choice, or the option itself."""
    option = model.options.get(name)
    if option is None:
        raise BadConfig(
            f"the network of {model.name} has an input {name!r}, and nothing fills it",
            hint=f"add an option of that name to {model.origin}, with a default",
            param="options",
        )
    value = request.options.get(name, option.default)
    return option.choices.index(value) if option.choices else value
