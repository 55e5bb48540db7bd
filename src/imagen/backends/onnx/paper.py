"""From what a network draws to the size that was asked for: made larger, and laid in the middle of its own paper."""

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]  # rows, columns, colours


def laid(drawn: Pixels, width: int, height: int) -> Pixels:
    """The drawing as large as fits; what is left is the colour that runs around it."""
    from PIL import Image

    rows, columns = drawn.shape[:2]
    scale = min(width / columns, height / rows)
    size = max(1, round(columns * scale)), max(1, round(rows * scale))
    image = Image.fromarray(drawn)
    if image.size != size:
        image = image.resize(size, Image.Resampling.LANCZOS)
    if size == (width, height):
        return np.asarray(image)
    sheet = Image.new("RGB", (width, height), _paper(drawn))
    sheet.paste(image, ((width - size[0]) // 2, (height - size[1]) // 2))
    return np.asarray(sheet)


def shown(drawn: Pixels, width: int, height: int, max_size: int) -> Pixels:
    """The same for a preview, no larger than asked and no larger than there is anything to see."""
    scale = min(max_size / max(width, height), max(drawn.shape[:2]) / min(width, height), 1)
    return laid(drawn, max(1, round(width * scale)), max(1, round(height * scale)))


def _paper(drawn: Pixels) -> tuple[int, int, int]:
    edge = np.concatenate([drawn[0], drawn[-1], drawn[:, 0], drawn[:, -1]])
    red, green, blue = np.median(edge, axis=0).astype(int).tolist()
    return red, green, blue
