"""A map fitted to a decoder: how near it comes, where it is kept, and what it is not fitted to."""

import json
import time
from pathlib import Path

import numpy as np
import pytest

from imagen.previews import factors, fitting
from imagen.previews.latents import Array, Factors, layout_of, project

PUBLISHED = {"flux": factors.FLUX, "flux2": factors.FLUX2, "sd3": factors.SD3, "wan21": factors.WAN21}


def decoded(latents: Array, known: Factors, *, bend: float = 0.0, texture: float = 0.0) -> Array:
    """What a decoder makes of latents whose map is known: bent towards black and white, with texture in each place."""
    dice = np.random.default_rng(5)
    flat = np.einsum("nchw,ck->nkhw", latents, np.array(known.rows)) + np.array(known.bias)[:, None, None]
    flat = np.tanh(flat * (1 + bend)) / (1 + bend) if bend else flat
    large = flat.repeat(8, axis=2).repeat(8, axis=3)
    made: Array = (large + texture * dice.standard_normal(large.shape)).astype(np.float32)
    return made


def apart(one: Factors, other: Factors, latents: Array) -> float:
    """How far the previews of two maps are apart, in steps of 1/255."""
    layout = layout_of(latents.shape, one.channels, latents.shape[3] * 8, latents.shape[2] * 8)
    assert layout is not None
    seen = [
        np.frombuffer(project(picture, layout, known, 4096)[0], np.uint8).astype(float)
        for known in (one, other)
        for picture in latents
    ]
    first, second = np.stack(seen[: len(latents)]), np.stack(seen[len(latents) :])
    return float(np.sqrt(((first - second) ** 2).mean()))


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_linear_decoder_is_found_again(name: str) -> None:
    """With each of the published maps as the truth: the previews of both are alike."""
    known = PUBLISHED[name]
    latents = fitting.noise(16, known.channels, 16, 16)
    fitted = fitting.fit(latents, decoded(latents, known))
    fresh = fitting.noise(4, known.channels, 32, 32, seed=9)
    assert apart(fitted, known, fresh) < 0.5


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_decoder_that_is_not_linear_is_met_as_near_as_a_line_can(name: str) -> None:
    """Bent and textured: the same colours in the same places, a few steps of 255 off, and the fit says how many."""
    known = PUBLISHED[name]
    latents = fitting.noise(16, known.channels, 16, 16)
    fitted = fitting.fit(latents, decoded(latents, known, bend=0.5, texture=0.1))
    assert fitted.rmse is not None
    # Random latents drive the map of Wan 2.1 far beyond black and white, where a line cannot follow.
    assert fitted.rmse < (20 if name == "wan21" else 6)
    assert np.corrcoef(np.ravel(fitted.rows), np.ravel(known.rows))[0, 1] > 0.99


def test_the_error_is_of_pictures_that_were_not_fitted_to() -> None:
    """Noise cannot be learned by heart: what is told of it is how large it is."""
    latents = fitting.noise(8, 16, 4, 4)
    pictures = np.random.default_rng(3).uniform(-1, 1, (8, 3, 4, 4)).astype(np.float32)
    rmse = fitting.fit(latents, pictures).rmse
    assert rmse is not None
    assert rmse > 127.5 / np.sqrt(3)


def test_pictures_to_encode_have_all_colours_and_are_always_the_same() -> None:
    """A map that never saw white guesses it."""
    pictures = fitting.swatches()
    assert pictures.shape == (fitting.SWATCHES, 3, fitting.SIDE, fitting.SIDE)
    assert pictures.dtype == np.float32
    assert (pictures == fitting.swatches()).all()
    seen = set(map(tuple, (pictures.transpose(0, 2, 3, 1).reshape(-1, 3) > 0).tolist()))
    assert len(seen) == 8, "every corner of the cube of colours"
    assert pictures.min() == -1
    assert pictures.max() == 1


@pytest.mark.parametrize(
    ("latents", "pictures", "words"),
    [
        (np.zeros((2, 4, 8, 8)), np.zeros((2, 3, 64, 64)), "too few"),
        (np.zeros((8, 4, 8, 8)), np.zeros((8, 3, 60, 64)), "does not belong"),
        (np.full((8, 4, 8, 8), np.nan), np.zeros((8, 3, 64, 64)), "no numbers"),
    ],
)
def test_what_cannot_be_fitted_is_told(latents: Array, pictures: Array, words: str) -> None:
    """As a ValueError, for one notice of the backend."""
    with pytest.raises(ValueError, match=words):
        fitting.fit(latents.astype(np.float32), pictures.astype(np.float32))


def test_channels_that_say_nothing_get_no_weight() -> None:
    """Some decoders have such, and a division by nothing would ruin the rest."""
    latents = fitting.noise(8, 16, 8, 8)
    latents[:, 5] = 0
    fitted = fitting.fit(latents, decoded(latents, factors.FLUX))
    assert np.abs(fitted.rows[5]).max() < 1e-6


def test_a_fit_is_made_once(tmp_path: Path) -> None:
    """And is read again after that; the folder need not be there."""
    made: list[Factors] = []

    def make() -> Factors:
        made.append(Factors(rows=((0.5, 0.25, -1.0),), bias=(0.0, 0.5, 1.0), source="fitted", rmse=3.5))
        return made[-1]

    folder = tmp_path / "maps"
    assert fitting.kept(folder, "ab12", make) == fitting.kept(folder, "ab12", make) == made[0]
    assert len(made) == 1
    assert [file.name for file in folder.iterdir()] == ["ab12.json"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"rows": [[1, 2]], "bias": [0, 0, 0]}', '{"rows": 3}'])
def test_a_damaged_file_is_made_again(tmp_path: Path, text: str) -> None:
    """Nobody should have to know that there are such files."""
    (tmp_path / "ab12.json").write_text(text)
    wanted = Factors(rows=((0.5, 0.25, -1.0),), source="fitted", rmse=1.0)
    assert fitting.kept(tmp_path, "ab12", lambda: wanted) == wanted
    assert json.loads((tmp_path / "ab12.json").read_text())["source"] == "fitted"


def test_a_folder_that_takes_no_files_costs_a_fit_and_no_job(tmp_path: Path) -> None:
    """Something else lies where the folder should be."""
    (tmp_path / "maps").write_text("no folder")
    wanted = Factors(rows=((0.5, 0.25, -1.0),), source="fitted")
    assert fitting.kept(tmp_path / "maps", "ab12", lambda: wanted) is wanted


def test_fitting_itself_takes_no_time() -> None:
    """What takes time is the decoder."""
    latents = fitting.noise(16, 32, 16, 16)
    pictures = decoded(latents, factors.FLUX2)
    began = time.process_time()
    fitting.fit(latents, pictures)
    assert time.process_time() - began < 1


@pytest.mark.parametrize("family", ["flux", "klein", "qwen"])
def test_a_decoder_of_diffusers_is_met_better_than_by_its_mean_colour(family: str) -> None:
    """Three classes of them, with random weights: nothing there is linear, and most of it is found all the same."""
    import tests.inprocess_kit as kit
    import torch
    from diffusers import AutoencoderKL, AutoencoderKLFlux2, AutoencoderKLQwenImage

    from imagen.backends.diffusers.showing import decoded as decode
    from imagen.backends.diffusers.showing import encoded as encode

    kinds = {"flux": AutoencoderKL, "klein": AutoencoderKLFlux2, "qwen": AutoencoderKLQwenImage}
    vae = kinds[family].from_pretrained(kit.tiny(family) / "vae", local_files_only=True)
    with torch.no_grad():
        latents = encode(vae, torch.from_numpy(fitting.swatches(8, 64)), "cpu")
        pictures = decode(vae, latents, "cpu")
    fitted = fitting.fit(latents.numpy(), pictures.numpy())
    spread = float((pictures - pictures.mean((0, 2, 3), keepdim=True)).std()) * 127.5
    assert fitted.rmse is not None
    assert 1 - (fitted.rmse / spread) ** 2 > 0.5
