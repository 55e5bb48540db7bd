"""Latents to small pictures: where each number lies, and which colour it becomes."""

from time import process_time

import numpy as np
import pytest

from imagen.previews import factors
from imagen.previews.latents import PIXELS, Array, Factors, Layout, layout_of, project, unpack

WIDTH, HEIGHT = 96, 64  # of the picture; its latents are 12 x 8


def plane(channels: int) -> Array:
    """Latents as a decoder wants them: each value says where it is."""
    return np.linspace(-1, 1, channels * 8 * 12, dtype=np.float32).reshape(channels, 8, 12)


def tokens(latents: Array) -> Array:
    """Packed as FLUX, FLUX.2 and Qwen-Image have it: 2 x 2 places to a token, a channel's four side by side."""
    channels = len(latents)
    apart = latents.reshape(channels, 4, 2, 6, 2).transpose(1, 3, 0, 2, 4)
    return apart.reshape(1, 24, channels * 4)


def patches(latents: Array) -> Array:
    """The same as planes: FLUX.2 before it makes a list of them."""
    channels = len(latents)
    return latents.reshape(channels, 4, 2, 6, 2).transpose(0, 2, 4, 1, 3).reshape(1, channels * 4, 4, 6)


SHAPES = {
    "planes": lambda latents: latents[None],
    "frames": lambda latents: latents[None, :, None],
    "tokens": tokens,
    "patches": patches,
    "places": lambda latents: latents.reshape(1, len(latents), -1).transpose(0, 2, 1),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("channels", [16, 32])
def test_latents_are_laid_out_as_the_decoder_wants_them(shape: str, channels: int) -> None:
    """Whatever order a pipeline keeps them in."""
    wanted = plane(channels)
    packed = SHAPES[shape](wanted)
    layout = layout_of(packed.shape, channels, WIDTH, HEIGHT)
    assert layout is not None
    assert (unpack(packed, layout) == wanted).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_a_preview_is_the_same_whatever_the_order(shape: str) -> None:
    """Mapping first and unpacking then gives what unpacking first gives."""
    latents = np.random.default_rng(1).standard_normal((16, 8, 12)).astype(np.float32)
    packed = SHAPES[shape](latents)
    layout = layout_of(packed.shape, 16, WIDTH, HEIGHT)
    assert layout is not None
    data, width, height = project(packed, layout, factors.FLUX, 256)
    mapped = np.einsum("chw,ck->hwk", latents, np.array(factors.FLUX.rows)) + np.array(factors.FLUX.bias)
    wanted = (mapped * 127.5 + 127.5).clip(0, 255)
    assert (width, height) == (12, 8)
    assert np.abs(np.frombuffer(data, np.uint8).reshape(8, 12, 3) - wanted).max() <= 0.51


@pytest.mark.parametrize(
    "shape", [(1, 25, 64), (1, 24, 65), (1, 17, 8, 12), (1, 16, 3, 8, 12), (16,), (1, 24, 0), (1, 0, 64)]
)
def test_a_shape_that_fits_nothing_is_unknown(shape: tuple[int, ...]) -> None:
    """Better no preview than one of noise."""
    assert layout_of(shape, 16, WIDTH, HEIGHT) is None
    assert layout_of(shape, 0, WIDTH, HEIGHT) is None


@pytest.mark.parametrize(
    ("size", "grid"), [((1024, 1024), (128, 128)), ((1360, 768), (170, 96)), ((16, 2048), (2, 256))]
)
def test_the_places_of_a_list_are_a_grid_of_the_pictures_shape(size: tuple[int, int], grid: tuple[int, int]) -> None:
    """Long and narrow ones too."""
    places = grid[0] // 2 * (grid[1] // 2)
    layout = layout_of((1, places, 64), 16, *size)
    assert layout == Layout(channels=16, rows=grid[1], columns=grid[0], patch=2, tokens=True)


def test_a_preview_is_as_small_as_asked_and_never_larger_than_its_latents() -> None:
    """Pixels that nobody knows yet are not made up here; whoever shows it makes it larger for nothing."""
    layout = layout_of((1, 16, 128, 96), 16, 768, 1024)
    assert layout is not None
    latents = np.zeros((16, 128, 96), np.float32)
    assert project(latents, layout, factors.SD3, 384)[1:] == (96, 128)
    data, *size = project(latents, layout, factors.SD3, 64)
    assert size == [48, 64]
    assert len(data) == 48 * 64 * 3


def test_black_is_black_and_white_is_white() -> None:
    """From -1 to 1, and no further."""
    layout = layout_of((1, 3, 1, 4), 3, 4, 1)
    assert layout is not None
    values = np.broadcast_to(np.array([-9, -1, 1, 9], np.float32), (3, 1, 4))
    assert project(values, layout, PIXELS, 16)[0] == bytes([0] * 6 + [255] * 6)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_latents_that_are_no_numbers_are_told(value: float) -> None:
    """The picture will be black; a black preview would hide it."""
    latents = np.zeros((1, 16, 8, 12), np.float32)
    latents[0, 3, 4, 5] = value
    layout = layout_of(latents.shape, 16, WIDTH, HEIGHT)
    assert layout is not None
    with pytest.raises(ValueError, match="no numbers"):
        project(latents, layout, factors.FLUX, 64)


def test_a_map_of_other_latents_is_refused() -> None:
    """Sixteen of thirty-two channels are no picture."""
    layout = layout_of((1, 32, 8, 12), 32, WIDTH, HEIGHT)
    assert layout is not None
    with pytest.raises(ValueError, match="32 channels"):
        project(np.zeros((32, 8, 12), np.float32), layout, factors.FLUX, 64)


@pytest.mark.parametrize(
    ("decoder", "config", "wanted"),
    [
        ("AutoencoderKL", {"latent_channels": 16, "scaling_factor": 0.3611}, factors.FLUX),
        ("AutoencoderKL", {"latent_channels": 16, "scaling_factor": 1.5305}, factors.SD3),
        ("AutoencoderKL", {"latent_channels": 4, "scaling_factor": 0.13025}, None),
        ("AutoencoderKLFlux2", {"latent_channels": 32}, factors.FLUX2),
        ("AutoencoderKLQwenImage", {"z_dim": 16}, factors.WAN21),
        ("AutoencoderKLWan", {"z_dim": 48}, None),
        ("AutoencoderDC", {}, None),
    ],
)
def test_a_decoder_is_told_by_its_class_and_numbers(
    decoder: str, config: dict[str, float], wanted: Factors | None
) -> None:
    """One that is not known has no published map, and is fitted."""
    assert factors.published(decoder, config) is wanted


@pytest.mark.parametrize(
    ("shape", "known"),
    [((1, 4096, 64), factors.FLUX), ((1, 4096, 128), factors.FLUX2), ((1, 16, 128, 128), factors.SD3)],
)
def test_a_preview_of_a_large_picture_takes_less_than_a_millisecond(shape: tuple[int, ...], known: Factors) -> None:
    """Of the processor, at 1024 pixels: the best of many, because other work on the machine is not ours."""
    latents = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    layout = layout_of(shape, known.channels, 1024, 1024)
    assert layout is not None
    taken = []
    for _ in range(40):
        began = process_time()
        project(latents, layout, known, 384)
        taken.append(process_time() - began)
    assert min(taken) < 0.001
