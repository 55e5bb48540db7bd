"""Draws the mock backend's pictures: paper-cut landscapes out of a prompt, a seed and a palette.

The prompt chooses the scene, its colours and where things stand; the seed varies every outline. Geometry
is measured in fractions of the picture, so that a small preview shows what the full size will show.
"""

import hashlib
import re
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import numpy.typing as npt

from imagen.backends.mock_palette import COLOURS, NIGHT, PALETTES, SCENES

Floats = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]
Paint = Callable[[Floats, Floats], None]  # takes the canvas and its rows' heights, and paints over what is there
Rgb = tuple[float, ...]
Wave = tuple[float, float, float, float]  # how dense across and down, where it begins, how high

# Rows painted at once: the work fits the processor's cache, and a cancelled drawing stops between two bands.
BAND_ROWS = 64


class Drawing:
    """One picture, painted a band of rows at a time."""

    def __init__(
        self,
        prompt: str,
        seed: int,
        *,
        palette: str,
        grain: float,
        width: int,
        height: int,
        shown: tuple[int, int] | None = None,
    ) -> None:
        """Compose the picture of `width` x `height`, to be painted in `shown` pixels, or in its own."""
        self.width, self.height = shown or (width, height)
        self._palette = palette
        self._grain = grain
        self._words = re.findall(r"[^\W_]+", prompt.lower())
        told = " ".join(self._words) or prompt
        self._prompt = generator("prompt", told)
        self._seed = generator("seed", told, str(seed), palette)
        # Lengths are in short edges of the picture, whatever the number of pixels.
        self._wide, self._high = width / min(width, height), height / min(width, height)
        self._unit = self.width / self._wide
        self._x = _centres(0, self.width, self._wide / self.width)[None, :]
        self._paint = self._compose()

    def bands(self) -> Iterator[Callable[[], Pixels]]:
        """The picture from top to bottom: call each to paint it."""
        for first in range(0, self.height, BAND_ROWS):
            yield partial(self._band, first, min(first + BAND_ROWS, self.height))

    def whole(self) -> Floats:
        """The whole picture at once, 0 … 1, without grain: what a preview approaches."""
        rows = [self._light(first, min(first + BAND_ROWS, self.height)) for first in range(0, self.height, BAND_ROWS)]
        return np.concatenate(rows)

    def _band(self, first: int, last: int) -> Pixels:
        light = self._light(first, last) * np.float32(255)
        # Two bytes a pixel make a soft triangular grain; it also hides the steps of a slow gradient.
        noise = np.frombuffer(generator("grain", str(first)).bytes(2 * (last - first) * self.width), np.uint8)
        pair = noise.reshape(2, last - first, self.width).astype(np.float32)
        light += ((pair[0] + pair[1] - np.float32(255)) * np.float32(self._grain * 4.5 / 255))[:, :, None]
        light += np.float32(0.5)
        return np.clip(light, 0, 255, out=light).astype(np.uint8)

    def _light(self, first: int, last: int) -> Floats:
        y = _centres(first, last, self._high / self.height)[:, None]
        canvas = np.empty((3, last - first, self.width), np.float32)
        for paint in self._paint:
            paint(canvas, y)
        # A faint vignette ties the layers together.
        dx = (self._x / np.float32(self._wide) - np.float32(0.5)) ** 2
        dy = (y / np.float32(self._high) - np.float32(0.5)) ** 2
        canvas *= np.float32(1.03) - np.float32(0.26) * (dx + dy)
        return np.ascontiguousarray(np.clip(canvas, 0, 1).transpose(1, 2, 0))

    def _compose(self) -> list[Paint]:
        rng = self._prompt
        scenes = sorted(SCENES)
        scene = scenes[int(rng.integers(len(scenes)))]
        for name in scenes:
            if any(word in SCENES[name] or word.removesuffix("s") in SCENES[name] for word in self._words):
                scene = name
        family = PALETTES[self._palette]
        night = rng.random() < 0.15 or not NIGHT.isdisjoint(self._words)
        colours = family[-1] if night else family[int(rng.integers(len(family) - 1))]
        self._top, self._low, self._sun, self._far, self._near, self._accent = (
            _rgb(value) for value in (colours.top, colours.low, colours.sun, colours.far, colours.near, colours.accent)
        )
        asked = [COLOURS[word] for word in self._words if word in COLOURS]
        if asked:
            self._accent = _rgb(asked[0])
            self._sun = _mix(self._sun, self._accent, 0.75)
        match scene:
            case "sea":
                return self._sea(night)
            case "paper":
                return self._paper()
            case "ribbons":
                return self._ribbons(night)
            case _:
                return self._hills(night)

    def _hills(self, night: bool) -> list[Paint]:
        rng, vary = self._prompt, self._seed
        count = int(rng.integers(5, 8))
        horizon = rng.uniform(0.38, 0.5)
        paints = [self._sky(), *self._heavens(night, horizon)]
        for k in range(count):
            near = k / (count - 1)
            base = self._high * (horizon + (0.97 - horizon) * near**1.15)
            rough = 1.0 - 0.45 * near
            octaves = 5 if near < 0.5 else 3
            line = base + self._outline(vary, 0.13 * rough + 0.04, 1.1 + 1.2 * (1 - near), octaves=octaves)
            if k >= count - 2 and count % 2:
                line -= self._pines(vary, 0.05 + 0.05 * (k == count - 1))
            ink = _mix(_mix(self._far, self._low, 0.55), self._near, 0.06 + 0.94 * near**0.9)
            paints.append(self._layer(line, ink, mist=_mix(ink, self._low, 0.5 * (1 - near) + 0.08), depth=0.22))
        return paints

    def _sea(self, night: bool) -> list[Paint]:
        rng, vary = self._prompt, self._seed
        horizon = rng.uniform(0.5, 0.6)
        line = horizon * self._high
        disc_x = self._wide * (rng.uniform(0.28, 0.72) + vary.uniform(-0.06, 0.06))
        radius = rng.uniform(0.1, 0.16)
        disc_y = line - radius * rng.uniform(-0.2, 1.5)
        paints = [self._sky(), *([self._stars(0.9 * line)] if night else [self._clouds(line)])]
        paints.append(self._disc(disc_x, disc_y, radius))
        for side in (0, 1, 2)[: int(rng.integers(1, 4))]:
            centre = self._wide * vary.uniform(0.05, 0.95)
            shape = np.exp(-(((self._x - centre) / vary.uniform(0.12, 0.3)) ** 4))
            rise = (0.05 + 0.07 * vary.random()) * shape * (1.2 + self._outline(vary, 0.9, 3.0, octaves=5))
            ink = _mix(_mix(self._far, self._low, 0.35 - 0.15 * side), self._near, 0.15 + 0.2 * side)
            paints.append(self._layer(line + np.float32(0.002) - rise, ink, mist=_mix(ink, self._low, 0.45), depth=0.1))
        paints.append(self._water(line, disc_x, radius))
        paints.append(self._boat(self._wide * vary.uniform(0.15, 0.85), line + self._high * rng.uniform(0.06, 0.16)))
        front = self._high * rng.uniform(0.9, 0.97) + self._outline(vary, 0.05, 1.2, octaves=3)
        return [*paints, self._layer(front, self._near, mist=_mix(self._near, self._far, 0.3), depth=0.15)]

    def _ribbons(self, night: bool) -> list[Paint]:
        rng, vary = self._prompt, self._seed
        count = int(rng.integers(7, 11))
        lean = rng.uniform(-0.28, 0.28)
        accent = int(rng.integers(2, count - 2))
        paints = [self._sky(), *self._heavens(night, 0.3)]
        for k in range(count):
            near = k / (count - 1)
            base = self._high * (0.24 + 0.74 * near) + np.float32(lean) * (self._x - self._wide / 2)
            line = base + self._outline(vary, 0.2 - 0.05 * near, 0.75, octaves=2)
            ink = _mix(_mix(self._far, self._low, 0.4 * (1 - near)), self._near, near**1.3)
            if k == accent:
                ink = _mix(self._accent, ink, 0.15)
            paints.append(self._layer(line, _mix(ink, self._low, 0.3), mist=_mix(ink, self._near, 0.3), depth=0.16))
        return paints

    def _paper(self) -> list[Paint]:
        rng, vary = self._prompt, self._seed
        count = int(rng.integers(6, 10))
        cx, cy = self._wide * rng.uniform(0.36, 0.64), self._high * rng.uniform(0.38, 0.62)
        outer, inner = 0.62, rng.uniform(0.09, 0.13)
        paints: list[Paint] = [_flat(_mix(self._low, self._top, 0.15))]
        waves = [self._wave(vary, 5.0, 0.045), self._wave(vary, 8.0, 0.03), self._wave(vary, 14.0, 0.014)]
        for k in range(count):
            deep = k / (count - 1)
            radius = outer + (inner - outer) * deep**0.85
            ink = _mix(_mix(self._low, self._far, min(1.0, 1.6 * deep)), self._near, max(0.0, 1.5 * deep - 0.45))
            if k == count - 1:
                ink = self._accent
            own = self._wave(vary, 6.5, 0.03)
            paints.append(self._cut(cx, cy, radius, [*waves, own] if k < count - 1 else [], ink))
        return paints

    def _sky(self) -> Paint:
        def paint(canvas: Floats, y: Floats) -> None:
            fall = np.clip(y / np.float32(0.72 * self._high), 0, 1)
            fall = fall * (np.float32(1.6) - np.float32(0.6) * fall)
            for channel in range(3):
                canvas[channel] = self._top[channel] + (self._low[channel] - self._top[channel]) * fall

        return paint

    def _heavens(self, night: bool, horizon: float) -> list[Paint]:
        rng, vary = self._prompt, self._seed
        x = self._wide * (rng.uniform(0.2, 0.8) + vary.uniform(-0.08, 0.08))
        y = self._high * rng.uniform(0.18, max(0.2, horizon - 0.08))
        disc = self._disc(x, y, rng.uniform(0.07, 0.14))
        return [self._stars(self._high * horizon), disc] if night else [self._clouds(self._high * horizon), disc]

    def _disc(self, cx: float, cy: float, radius: float) -> Paint:
        def paint(canvas: Floats, y: Floats) -> None:
            away = np.sqrt((self._x - np.float32(cx)) ** 2 + (y - np.float32(cy)) ** 2)
            glow = np.float32(0.55) / (1 + (away / np.float32(1.9 * radius)) ** 2) ** 2
            rings = np.float32(0.1) * self._cover(np.float32(1.75 * radius) - away)
            rings += np.float32(0.08) * self._cover(np.float32(2.7 * radius) - away)
            share = np.maximum(np.clip(glow + rings, 0, 1), self._cover(np.float32(radius) - away))
            _blend(canvas, self._sun, share)

        return paint

    def _stars(self, floor: float) -> Paint:
        count = int(70 * self._wide)
        xs = self._seed.random(count) * self._wide
        ys = self._seed.random(count) ** 1.3 * floor
        sizes = 0.0009 + 0.0022 * self._seed.random(count) ** 4

        def paint(canvas: Floats, y: Floats) -> None:
            for cx, cy, size in zip(xs, ys, sizes, strict=True):
                # A star narrower than a pixel would flicker from size to size: keep a pixel, dim its light.
                radius = max(float(size), 0.8 / self._unit)
                top, bottom = _span(y[:, 0], cy, 3 * radius)
                left, right = _span(self._x[0], cx, 3 * radius)
                if top >= bottom or left >= right:
                    continue
                away = (self._x[:, left:right] - np.float32(cx)) ** 2 + (y[top:bottom] - np.float32(cy)) ** 2
                share = np.exp(away * np.float32(-1 / radius**2)) * np.float32(min(1.0, float(size) / radius))
                _blend(canvas[:, top:bottom, left:right], self._sun, share)

        return paint

    def _clouds(self, floor: float) -> Paint:
        streaks = [
            (
                self._seed.uniform(0.12, 0.85) * floor,
                self._seed.uniform(-0.1, 1.1) * self._wide,
                self._seed.uniform(0.2, 0.45),
                self._seed.uniform(0.016, 0.034),
                0.006 * self._outline(self._seed, 1.0, 6.0, octaves=3),
            )
            for _ in range(int(self._prompt.integers(2, 6)))
        ]

        def paint(canvas: Floats, y: Floats) -> None:
            for base, centre, length, thick, ripple in streaks:
                along = np.clip(1 - ((self._x - np.float32(centre)) / np.float32(length)) ** 2, 0, 1)
                half = np.float32(thick) * along * along + ripple * along
                share = self._cover(half - np.abs(y - np.float32(base) + half * np.float32(0.4)))
                _blend(canvas, _mix(self._low, self._sun, 0.6), share * along * np.float32(0.5))

        return paint

    def _layer(self, line: Floats, ink: Rgb, *, mist: Rgb, depth: float) -> Paint:
        """One sheet of paper: everything below `line`, fading into `mist`, with a soft shadow on what lies behind."""
        line = line.astype(np.float32)
        slope = np.gradient(line[0]) * self._unit if line.shape[1] > 1 else np.zeros(1)
        # A steep edge crosses many rows within one column; without this it would look like stairs.
        sharp = np.float32(self._unit) / np.sqrt(1 + slope.astype(np.float32) ** 2)[None, :]
        highest, lowest = float(line.min()), float(line.max())

        def paint(canvas: Floats, y: Floats) -> None:
            if y[-1, 0] < highest - 0.08:
                return
            under = y - line
            if y[0, 0] < lowest:
                shade = np.exp(np.minimum(under, 0) * np.float32(55))
                canvas *= 1 - np.float32(0.2) * shade
                share = np.clip(under * sharp + np.float32(0.5), 0, 1)
            else:
                share = np.ones_like(under)
            fade = np.maximum(under, 0) * np.float32(1 / depth)
            fade = fade / (1 + fade)
            for channel in range(3):
                colour = ink[channel] + np.float32(mist[channel] - ink[channel]) * fade
                canvas[channel] += (colour - canvas[channel]) * share

        return paint

    def _cut(self, cx: float, cy: float, radius: float, waves: list[Wave], ink: Rgb) -> Paint:
        """A hole in a sheet of paper: what shows inside lies deeper and catches the edge's shadow from above."""

        def paint(canvas: Floats, y: Floats) -> None:
            away = np.sqrt((self._x - np.float32(cx)) ** 2 + (y - np.float32(cy)) ** 2)
            for across, down, phase, height in waves:
                # sin(a + b) as products of a row and a column: no sine per pixel.
                row, column = self._x * np.float32(across) + np.float32(phase), y * np.float32(down)
                away += np.float32(height) * (np.sin(row) * np.cos(column) + np.cos(row) * np.sin(column))
            inside = np.float32(radius) - away
            share = self._cover(inside)
            lean = np.clip(np.float32(1.1) - (y - np.float32(cy - radius)) / np.float32(2.2 * radius), 0, 1)
            shade = np.exp(np.maximum(inside, 0) * np.float32(-28)) * (np.float32(0.12) + np.float32(0.34) * lean)
            for channel in range(3):
                canvas[channel] += (np.float32(ink[channel]) * (1 - shade) - canvas[channel]) * share

        return paint

    def _water(self, line: float, disc_x: float, radius: float) -> Paint:
        phase = float(self._seed.uniform(0, 6))
        wobble = self._outline(self._seed, 1.0, 2.2, octaves=2)
        deep = _mix(self._near, self._far, 0.45)

        def paint(canvas: Floats, y: Floats) -> None:
            if y[-1, 0] < line - 0.01:
                return
            fall = np.clip((y - np.float32(line)) / np.float32(self._high - line), 0, 1)
            share = self._cover(y - np.float32(line))
            light = _mix(self._low, self._far, 0.45)
            for channel in range(3):
                colour = light[channel] + np.float32(deep[channel] - light[channel]) * fall**0.8
                canvas[channel] += (colour - canvas[channel]) * share
            # Waves grow towards the viewer; the path of light breaks into strips on them.
            near = np.log(np.maximum(fall, 0) + np.float32(0.035)) * np.float32(17)
            crest = np.sin(near + wobble * np.float32(1.7) + np.float32(phase))
            half = np.float32(radius) * (np.float32(0.85) + np.float32(1.5) * fall)
            path = np.clip(1 - np.abs(self._x - np.float32(disc_x)) / half + np.float32(0.45) * crest, 0, 1)
            _blend(canvas, self._sun, share * path * np.clip(crest * 3, 0, 1) * np.float32(0.75))
            _blend(canvas, self._near, share * np.clip(-crest - np.float32(0.55), 0, 1) * np.float32(0.35))

        return paint

    def _boat(self, cx: float, cy: float) -> Paint:
        size = 0.1

        def paint(canvas: Floats, y: Floats) -> None:
            if y[-1, 0] < cy - 1.3 * size or y[0, 0] > cy + 0.3 * size:
                return
            x, down = (self._x - np.float32(cx)) / np.float32(size), (y - np.float32(cy)) / np.float32(size)
            px = 1 / (self._unit * size)
            hull = np.minimum.reduce(np.broadcast_arrays(down, 0.16 - down, 0.52 - down * 0.9 - np.abs(x)))
            main = np.minimum.reduce(np.broadcast_arrays(-0.05 - down, x - 0.03, (down + 1.1) * 0.42 - x))
            jib = np.minimum.reduce(np.broadcast_arrays(-0.05 - down, -0.03 - x, (down + 0.85) * 0.46 + x))
            for shape, ink in ((hull, self._near), (main, self._accent), (jib, self._low)):
                _blend(canvas, ink, np.clip(shape / np.float32(px) + np.float32(0.5), 0, 1))

        return paint

    def _cover(self, inside: Floats) -> Floats:
        """How much of a pixel a shape covers, from its distance to the edge."""
        covered: Floats = np.clip(inside * np.float32(self._unit) + np.float32(0.5), 0, 1)
        return covered

    def _outline(self, rng: np.random.Generator, height: float, density: float, *, octaves: int) -> Floats:
        """A wandering line across the picture: smooth noise in octaves, -height … height or a little less."""
        line = np.zeros_like(self._x)
        for octave in range(octaves):
            lattice = rng.random(256).astype(np.float32) * 2 - 1
            at = self._x * np.float32(density * 2**octave) + np.float32(rng.random() * 16)
            cell = np.floor(at).astype(np.int64) % 255
            inner = at - np.floor(at)
            inner = inner * inner * (3 - 2 * inner)
            line += (lattice[cell] * (1 - inner) + lattice[cell + 1] * inner) * np.float32(0.52**octave)
        line *= np.float32(height * 0.75)
        return line

    def _pines(self, rng: np.random.Generator, height: float) -> Floats:
        """How far trees rise above their hill, along it."""
        rise = np.zeros_like(self._x)
        for _ in range(int(26 * self._wide)):
            tall = height * rng.uniform(0.5, 1.15)
            side = np.abs(self._x - np.float32(rng.uniform(0, self._wide))) / np.float32(tall * 0.24)
            # Branches: a cone whose flank steps in and out.
            cone = 1 - side + np.float32(0.09) * np.sin(side * np.float32(21))
            np.maximum(rise, np.float32(tall) * cone, out=rise)
        return rise

    def _wave(self, rng: np.random.Generator, density: float, height: float) -> Wave:
        turn = rng.uniform(0, 2 * np.pi)
        return density * float(np.cos(turn)), density * float(np.sin(turn)), float(rng.uniform(0, 6.3)), height


def generator(*words: str) -> np.random.Generator:
    """Random numbers that depend on these words and nothing else."""
    digest = hashlib.sha256("\0".join(words).encode("utf-8", "surrogatepass")).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16])))


def _centres(first: int, last: int, pixel: float) -> Floats:
    """Where the middles of these pixels lie."""
    return (np.arange(first, last, dtype=np.float32) + np.float32(0.5)) * np.float32(pixel)


def _rgb(value: str) -> Rgb:
    return tuple(int(value[k : k + 2], 16) / 255 for k in (0, 2, 4))


def _mix(first: Rgb, second: Rgb, share: float) -> Rgb:
    return tuple(a + (b - a) * share for a, b in zip(first, second, strict=True))


def _flat(ink: Rgb) -> Paint:
    def paint(canvas: Floats, y: Floats) -> None:
        canvas[:3] = np.array(ink[:3], np.float32).reshape(-1, 1, 1)

    return paint


def _blend(canvas: Floats, ink: Rgb, share: Floats) -> None:
    for channel in range(3):
        canvas[channel] += (np.float32(ink[channel]) - canvas[channel]) * share


def _span(line: Floats, centre: float, reach: float) -> tuple[int, int]:
    return int(np.searchsorted(line, centre - reach)), int(np.searchsorted(line, centre + reach))
