"""The forty prompts that never change, so that sheets of any time can be laid side by side.

python -m training.fixed docs/pictures         # draws them with the shipped files: needs the package, not torch
"""

import argparse
import asyncio
import io
import tempfile
from contextlib import aclosing
from pathlib import Path

from PIL import Image, ImageDraw

PROMPTS = (
    "a red apple", "a green apple", "a blue apple", "pizza", "a cat face", "dog", "rocket", "a blue car",
    "yellow house", "a purple heart", "banana", "sun", "moon", "tree", "rainbow", "soccer ball",
    "guitar", "camera", "a happy robot", "ghost", "pumpkin", "ice cream", "a hamburger", "cup of coffee",
    "fish", "butterfly", "penguin", "crying face", "kitten", "a wizard casting a spell", "automobile", "sailing ship",
    "crimson rose", "a red fox", "mountain", "key on a blue background", "owl on a black background", "a small frog",
    "two apples", "strawberry",
)  # fmt: skip
SEED = 1
STYLES = ("3d", "flat", "noto")
COLUMNS, SIDE, CAPTION = 8, 128, 14


def sheet(pictures: list[Image.Image], captions: tuple[str, ...]) -> Image.Image:
    """Pictures in rows, each under its caption."""
    rows = -(-len(pictures) // COLUMNS)
    page = Image.new("RGB", (COLUMNS * SIDE, rows * (SIDE + CAPTION)), "white")
    pen = ImageDraw.Draw(page)
    for i, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        x, y = i % COLUMNS * SIDE, i // COLUMNS * (SIDE + CAPTION)
        page.paste(picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS), (x, y + CAPTION))
        pen.text((x + 2, y + 1), caption[:24], fill="black")
    return page


async def shipped(style: str) -> list[Image.Image]:
    """Every prompt, one seed, the first try."""
    import imagen

    pictures = []
    with tempfile.TemporaryDirectory() as home:
        async with imagen.open(home=home) as app:
            for prompt in PROMPTS:
                async with aclosing(app.generate(prompt, model=f"tiny-{style}", seed=SEED, preview=False)) as events:
                    async for event in events:
                        if isinstance(event, imagen.Completed):
                            pictures.append(Image.open(io.BytesIO(await app.image_bytes(event.images[0]))))
    return pictures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    for style in STYLES:
        sheet(asyncio.run(shipped(style)), PROMPTS).save(folder / f"tiny-{style}.jpg", quality=88)


if __name__ == "__main__":
    main()
