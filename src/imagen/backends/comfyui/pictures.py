"""Pictures as bytes: what they are, how large, and without the texts that others wrote into them."""

import struct

PNG = b"\x89PNG\r\n\x1a\n"
_TEXTS = frozenset({b"tEXt", b"zTXt", b"iTXt"})
_SIZED = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})  # the JPEG segments that tell a size


def mime_of(data: bytes) -> str | None:
    """The kind of picture, or None for something else."""
    if data.startswith(PNG):
        return "image/png"
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return None


def size_of(data: bytes) -> tuple[int, int] | None:
    """Width and height of a JPEG or PNG, read from its head; None for what is neither, or cut off."""
    try:
        if data.startswith(PNG):
            width, height = struct.unpack_from(">II", data, 16)
            return width, height
        if not data.startswith(b"\xff\xd8"):
            return None
        at = 2
        while data[at] == 0xFF:
            marker, (length,) = data[at + 1], struct.unpack_from(">H", data, at + 2)
            if marker in _SIZED:
                height, width = struct.unpack_from(">HH", data, at + 5)
                return width, height
            at += 2 + length
    except (struct.error, IndexError):
        pass
    return None


def without_texts(data: bytes) -> bytes:
    """A PNG without its text chunks, the pixels untouched; anything else as it is.

    The server writes the whole graph into each picture, with an id that is never the same twice.
    """
    if not data.startswith(PNG):
        return data
    kept, at = [PNG], len(PNG)
    view = memoryview(data)
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        if data[at + 4 : at + 8] not in _TEXTS:
            kept.append(bytes(view[at : at + 12 + length]))
        at += 12 + length
    return b"".join(kept)
