"""The many lists that clients of the A1111 API fill their menus from; those of things that are not here are empty.

A list that is missing leaves some clients without a menu and others without a connection, so all of them are there.
"""

import os
import resource
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from imagen.core.model import Model
from imagen.models.catalog import Catalog
from imagen.surfaces.http.a1111.request import SPOKEN

HASH = 10  # letters of the short hash
ANY = "Automatic"  # the one sampler of a model that has no choice of them
STATM = Path("/proc/self/statm")

# Paths under /sdapi/v1 whose answer is always the same.
FIXED: Mapping[str, Any] = {
    "upscalers": [{"name": "None", "model_name": None, "model_path": None, "model_url": None, "scale": 4.0}],
    "latent-upscale-modes": [],
    "sd-vae": [],
    "sd-modules": [],
    "hypernetworks": [],
    "face-restorers": [],
    "realesrgan-models": [],
    "prompt-styles": [],
    "loras": [],
    "embeddings": {"loaded": {}, "skipped": {}},
    "scripts": {"txt2img": [], "img2img": []},
    "script-info": [],
    "extensions": [],
    # Without the paths that stand there otherwise: they are nobody's business.
    "cmd-flags": {"api": True, "nowebui": True, "api_auth": None, "ckpt_dir": None, "lora_dir": None, "listen": False},
}

# Settings that clients look for; the checkpoint comes first. None of the others changes anything here.
SETTINGS: Mapping[str, Any] = {
    "samples_save": True,
    "samples_format": "png",
    "grid_save": False,
    "return_grid": False,
    "enable_pnginfo": True,
    "save_images_add_number": True,
    "sd_vae": ANY,
    "CLIP_stop_at_last_layers": 1,
    "eta_noise_seed_delta": 0,
    "face_restoration_model": None,
    "upscaler_for_img2img": None,
    "sd_lora": "None",
    "live_previews_enable": True,
    "live_preview_refresh_period": 1000,
    "live_previews_image_format": "jpeg",
    "show_progress_every_n_steps": 1,
    "show_progress_type": "Full",
    "jpeg_quality": 95,
}


def options(model: Model) -> dict[str, Any]:
    """The settings as this caller has them."""
    return {"sd_model_checkpoint": model.name, "sd_checkpoint_hash": model.digest(), **SETTINGS}


def checkpoints(catalog: Catalog) -> list[dict[str, Any]]:
    """Every model that can be asked for, the default first. The title is what clients show, and send back."""
    enabled = [model for model in catalog.models.values() if model.enabled]
    return [_checkpoint(model) for model in sorted(enabled, key=lambda model: model.name != catalog.default)]


def samplers(model: Model) -> list[dict[str, Any]]:
    """How this model takes a step, by the names that clients know; ours are understood as well."""
    return [{"name": name, "aliases": [own], "options": {}} for name, own in _choices(model, "sampler")]


def schedulers(model: Model) -> list[dict[str, Any]]:
    """How this model spreads its steps."""
    return [
        {"name": own, "label": name, "aliases": None, "default_rho": -1, "need_inner_model": False}
        for name, own in _choices(model, "scheduler")
    ]


def memory() -> dict[str, Any]:
    """What this process takes of the machine; whoever draws may be another process, and knows its own card."""
    page, total = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_PHYS_PAGES")
    try:
        used = int(STATM.read_text().split()[1]) * page
    except (OSError, ValueError, IndexError):  # only Linux has it; elsewhere the most it ever was
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        used = peak if sys.platform == "darwin" else peak * 1024
    ram = {"free": total * page - used, "used": used, "total": total * page}
    return {"ram": ram, "cuda": {"error": "unavailable"}}


def _checkpoint(model: Model) -> dict[str, Any]:
    digest = model.digest()
    return {
        "title": model.name,
        "model_name": model.name,
        "hash": digest[:HASH],
        "sha256": next((file.sha256 for file in model.files if file.sha256), None),
        "filename": model.name,  # where its files lie is nobody's business
        "config": None,
    }


def _choices(model: Model, option: str) -> Iterator[tuple[str, str]]:
    """Each choice of an option: its name there, and ours."""
    if option not in model.options or not model.options[option].choices:
        yield ANY, ANY.lower()
        return
    names = {own: name for name, own in SPOKEN[option].items()}
    choices = model.options[option].choices
    default = model.options[option].default
    for choice in sorted(map(str, choices), key=lambda choice: choice != default):
        yield names.get(choice, choice), choice
