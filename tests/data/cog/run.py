"""A model for Cog that needs no weights: a picture that sharpens step by step, made of its prompt and its seed."""

import hashlib
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path as File

from cog import BaseRunner, Input, Path, streaming
from PIL import Image


class Clouds(BaseRunner):  # type: ignore[misc]  # Cog tells no types
    """Draws a few soft colours; every prompt that was begun is written down in `begun`."""

    def setup(self) -> None:
        """Nothing is loaded."""

    @streaming  # type: ignore[untyped-decorator]  # as above
    def run(
        self,
        prompt: str = Input(description="what to draw"),
        negative_prompt: str = Input(default=""),
        seed: int = Input(default=0),
        num_inference_steps: int = Input(default=4, ge=1, le=50),
        width: int = Input(default=64, ge=16, le=2048),
        height: int = Input(default=64, ge=16, le=2048),
        step_s: float = Input(default=0.05),
    ) -> Iterator[Path]:
        """The picture as it forms, and last as it is."""
        with File("begun").open("a") as begun:
            begun.write(f"{prompt}\n")
        if "[unsafe]" in prompt:
            raise ValueError("NSFW content detected")
        colours = hashlib.sha256(f"{prompt}|{negative_prompt}|{seed}".encode()).digest()[:27]
        whole = Image.frombytes("RGB", (3, 3), colours).resize((width, height), Image.Resampling.BICUBIC)
        for step in range(1, num_inference_steps + 1):
            time.sleep(step_s)
            done = step / num_inference_steps
            bar = "#" * round(10 * done)
            print(f"{round(100 * done):3}%|{bar:10}| {step}/{num_inference_steps} [00:00<00:00]", file=sys.stderr)
            file = File(tempfile.mkstemp(suffix=".png")[1])
            Image.blend(Image.new("RGB", whole.size, "grey"), whole, done).save(file)
            yield Path(file)
