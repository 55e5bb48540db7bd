"""How a mock picture forms: estimates that come closer to it with every step."""

import numpy as np

from imagen.backends.mock_art import Floats, Pixels, generator

# Steps of blur between a first guess and the picture; each doubles the radius, so six reach across a preview.
BLUR_LEVELS = 6


class Forming:
    """A picture on its way, at a preview's size."""

    def __init__(self, picture: Floats) -> None:
        self._levels = [picture]
        for level in range(BLUR_LEVELS):
            self._levels.append(_blur(self._levels[-1], 2**level))
        height, width, _ = picture.shape
        noise = np.frombuffer(generator("noise").bytes(height * width * 3), np.uint8).reshape(picture.shape)
        self._noise = (noise.astype(np.float32) - np.float32(127.5)) / np.float32(255)

    def at(self, share: float) -> Pixels:
        """The estimate when `share` (0 … 1) of the work is done: blur and noise fall to nothing."""
        left = 1 - share
        level = BLUR_LEVELS * left
        below = min(int(level), BLUR_LEVELS - 1)
        part = np.float32(level - below)
        light = self._levels[below] * (1 - part) + self._levels[below + 1] * part
        light = light + self._noise * np.float32(0.22 * left)
        pixels: Pixels = np.clip(light * np.float32(255) + np.float32(0.5), 0, 255).astype(np.uint8)
        return pixels


def _blur(picture: Floats, reach: int) -> Floats:
    """A smooth blur with a kernel of five samples `reach` apart: its strength only ever lowers contrast."""
    for _ in range(2):
        size = picture.shape[0]
        wide = np.pad(picture, ((2 * reach, 2 * reach), (0, 0), (0, 0)), mode="symmetric")
        far = wide[:size] + wide[4 * reach :]
        near = wide[reach : reach + size] + wide[3 * reach : 3 * reach + size]
        near *= np.float32(4 / 16)
        near += far * np.float32(1 / 16)
        near += picture * np.float32(6 / 16)
        # The second turn blurs the other direction and turns the picture back.
        picture = np.ascontiguousarray(near.swapaxes(0, 1))
    return picture
