"""What the latents of a loaded pipeline look like: by a linear map, a tiny decoder, or its own decoder on request."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from imagen.backends.diffusers import finding
from imagen.core.model import Model
from imagen.previews import factors, fitting
from imagen.previews.latents import PIXELS, Factors, Layout, layout_of, project, unpack

Array = npt.NDArray[Any]

# Makes the pixels: bytes, width, height. What it costs is not the drawing thread's.
Finish = Callable[[], tuple[bytes, int, int]]


class Unknown(Exception):
    """The latents lie in no order that is known."""


class Showing:
    """Previews of one loaded pipeline; its maps and decoders are made when the first preview is wanted."""

    def __init__(self, pipe: Any, model: Model, device: str, kept: Path, decoder: "Lock | None" = None) -> None:
        self._pipe = pipe
        self._model = model
        self._device = device
        self._kept = kept  # a folder for fitted maps
        self._decoder = decoder or Lock()  # some decoders keep notes while they decode: one at a time
        self._vae = getattr(pipe, "vae", None)
        self._factors: dict[bool, Factors] = {}
        self._tiny: Any = None

    def methods(self, asked: str) -> list[str]:
        """What to try, best first; `asked` is the request's word, and `auto` leaves it to the model."""
        said = self._model.keys["preview_method"] if asked in ("auto", "backend") else asked
        if said == "auto":
            # A tiny decoder takes a tenth of a step or more where a processor draws.
            said = "tiny" if self._model.keys["preview_decoder"] and self._device != "cpu" else "latent_rgb"
        if said == "tiny" and not self._model.keys["preview_decoder"]:
            said = "latent_rgb"
        return {"off": [], "latent_rgb": ["latent_rgb"], "fitted": ["fitted"]}.get(said, [said, "latent_rgb"])

    def captured(self, clean: Any, index: int, size: tuple[int, int], method: str, max_size: int) -> Finish:
        """Copy what is needed of one picture's clean latents, so that drawing can go on; pixels come later."""
        channels = self._channels
        layout = layout_of(clean.shape, channels=channels, width=size[0], height=size[1])
        if layout is None:
            raise Unknown(f"latents of the shape {tuple(clean.shape)} for a decoder of {channels} channels")
        one = clean[index : index + 1].float().cpu().numpy()
        if method in ("latent_rgb", "fitted"):
            mapped = self._mapped(fitted=method == "fitted")
            return lambda: project(one, layout, mapped, max_size)
        picture = self._decoded(unpack(one, layout), layout, method, max_size)
        return lambda: _small(picture, max_size)

    @property
    def _channels(self) -> int:
        if self._vae is None:
            return PIXELS.channels
        config = self._vae.config
        return int(config.get("latent_channels") or config.get("z_dim") or 0)

    def _mapped(self, *, fitted: bool) -> Factors:
        if fitted not in self._factors:
            self._factors[fitted] = self._found(fitted=fitted)
        return self._factors[fitted]

    def _found(self, *, fitted: bool) -> Factors:
        """The map that was published for this decoder, or the one that is fitted to it."""
        if self._vae is None:
            return PIXELS
        published = None if fitted else factors.published(type(self._vae).__name__, self._vae.config)
        return published or fitting.kept(self._kept, _digest(self._vae), self._fitted)

    def _fitted(self) -> Factors:
        import torch

        with torch.no_grad(), self._decoder:
            seen = torch.from_numpy(fitting.swatches())
            latents = torch.cat([encoded(self._vae, one[None], self._device) for one in seen])
            pictures = torch.cat([decoded(self._vae, one[None], self._device) for one in latents])
        return fitting.fit(_array(latents), _array(pictures), source=f"fitted to {type(self._vae).__name__}")

    def _decoded(self, latents: Array, layout: Layout, method: str, max_size: int) -> Array:
        """A picture of about the size that is shown: latents are made smaller first, so that it costs no more."""
        import torch

        scale = self._pipe.vae_scale_factor if hasattr(self._pipe, "vae_scale_factor") else 8
        fold = max(1, scale * max(layout.rows, layout.columns) // max_size)
        even = 2 * fold  # some decoders take their latents two by two
        latents = latents[:, : layout.rows // even * even, : layout.columns // even * even]
        channels, rows, columns = latents.shape
        small: Array = latents.reshape(channels, rows // fold, fold, columns // fold, fold).mean((2, 4))
        with torch.no_grad():
            given = torch.from_numpy(np.ascontiguousarray(small))[None]
            if method == "vae":
                with self._decoder:
                    return _array(decoded(self._vae, given, self._device)[0])
            tiny = self._tiny_decoder()
            config = tiny.config
            given = given / config.scaling_factor + config.get("shift_factor", 0.0)
            return _array(tiny.decode(given.to(self._device, tiny.dtype), return_dict=False)[0][0])

    def _tiny_decoder(self) -> Any:
        if self._tiny is None:
            from diffusers import AutoencoderTiny

            place = finding.part(self._model.keys["preview_decoder"], self._model)
            dtype = self._vae.dtype if self._vae is not None else None
            tiny = AutoencoderTiny.from_pretrained(place, dtype=dtype, use_safetensors=True, local_files_only=True)
            self._tiny = tiny.to(self._device)
        return self._tiny


def decoded(vae: Any, latents: Any, device: str) -> Any:
    """Pictures (n, 3, rows, columns; -1 to 1) of latents as the pipelines have them (n, channels, rows, columns)."""
    given = latents.to(device, vae.dtype)
    config = vae.config
    if hasattr(vae, "bn"):
        mean, deviation = _norm(vae, given)
        given = _unfolded(_folded(given) * deviation + mean)
    elif config.get("latents_mean") and config.get("latents_std"):
        mean, deviation = (_column(config[name], given) for name in ("latents_mean", "latents_std"))
        given = given * deviation + mean
    else:
        given = given / config.get("scaling_factor", 1.0) + (config.get("shift_factor") or 0.0)
    if _has_frames(vae):
        return vae.decode(given.unsqueeze(2), return_dict=False)[0][:, :, 0]
    return vae.decode(given, return_dict=False)[0]


def encoded(vae: Any, pictures: Any, device: str) -> Any:
    """The other way round."""
    given = pictures.to(device, vae.dtype)
    if _has_frames(vae):
        latents = vae.encode(given.unsqueeze(2)).latent_dist.mode().squeeze(2)
    else:
        latents = vae.encode(given).latent_dist.mode()
    config = vae.config
    if hasattr(vae, "bn"):
        mean, deviation = _norm(vae, latents)
        return _unfolded((_folded(latents) - mean) / deviation)
    if config.get("latents_mean") and config.get("latents_std"):
        mean, deviation = (_column(config[name], latents) for name in ("latents_mean", "latents_std"))
        return (latents - mean) / deviation
    return (latents - (config.get("shift_factor") or 0.0)) * config.get("scaling_factor", 1.0)


def _has_frames(vae: Any) -> bool:
    """Was it made for video, of which a picture is one frame?"""
    return hasattr(vae, "temperal_downsample")


def _norm(vae: Any, like: Any) -> tuple[Any, Any]:
    """What FLUX.2 brings its latents to, two by two."""
    import torch

    variance = vae.bn.running_var.view(1, -1, 1, 1).to(like)
    return vae.bn.running_mean.view(1, -1, 1, 1).to(like), torch.sqrt(variance + vae.config.batch_norm_eps)


def _folded(latents: Any) -> Any:
    n, channels, rows, columns = latents.shape
    apart = latents.reshape(n, channels, rows // 2, 2, columns // 2, 2)
    return apart.permute(0, 1, 3, 5, 2, 4).reshape(n, channels * 4, rows // 2, columns // 2)


def _unfolded(latents: Any) -> Any:
    n, channels, rows, columns = latents.shape
    apart = latents.reshape(n, channels // 4, 2, 2, rows, columns)
    return apart.permute(0, 1, 4, 2, 5, 3).reshape(n, channels // 4, rows * 2, columns * 2)


def _column(values: Any, like: Any) -> Any:
    import torch

    return torch.tensor(values).to(like).view(1, -1, 1, 1)


def _digest(vae: Any) -> str:
    """A name for exactly this decoder: how it is built, and the numbers of its ends, which no two trainings share."""
    config = {name: value for name, value in vae.config.items() if not name.startswith("_")}  # those say where it lay
    told = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for layer in (vae.decoder.conv_in, vae.decoder.conv_out):
        told.update(layer.weight.detach().float().cpu().numpy().tobytes())
    return told.hexdigest()


def _array(tensor: Any) -> Array:
    array: Array = tensor.float().cpu().numpy()
    return array


def _small(picture: Array, max_size: int) -> tuple[bytes, int, int]:
    from PIL import Image

    if not np.isfinite(picture).all():
        raise ValueError("the decoder gives values that are no numbers")
    pixels = ((picture.transpose(1, 2, 0).clip(-1, 1) * 0.5 + 0.5) * 255 + 0.5).astype(np.uint8)
    image = Image.fromarray(pixels)
    image.thumbnail((max_size, max_size), Image.Resampling.BOX)
    return image.tobytes(), image.width, image.height
