"""What is written into a picture and beside it: enough to draw it again, and the story of how it was drawn.

Inside the file stands only what reproduces it, so that the same request gives the same bytes. Times,
ids and costs stand in the sidecar, under `run`.
"""

import hashlib
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from imagen.core.errors import Crashed, RequestError
from imagen.core.job import StoredImage
from imagen.core.model import Model
from imagen.core.request import Request
from imagen.core.signals import RAW_RGB, Output
from imagen.previews.decode import PNG, Unreadable, decode, kind_of, shrink
from imagen.previews.encode import PNG_SIGNATURE, encode_png, encode_small, png_chunk, raw_rgb
from imagen.store.images import CELL, COPIES, THUMBNAIL

SCHEMA = 1
QUALITY = 85
# What a PNG is shown by; all other chunks are words or numbers about it.
PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"cICP", b"sBIT", b"IDAT", b"IEND")
MAX_TEXT = 4 * 2**20  # of one text chunk, unpacked: a few bytes of hostile zTXt can claim a gigabyte
MAX_TEXTS = 16 * 2**20  # of all of them together: many small bombs make a large one
MAX_JSON = 16 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A picture as it is stored, with its small copies."""

    data: bytes = field(repr=False)
    mime: str
    extension: str
    width: int
    height: int
    sha256: str
    pixels_sha256: str
    thumbnail: bytes = field(repr=False)
    cell: bytes = field(repr=False)


def finish(output: Output, request: Request, model: Model, index: int) -> Finished:
    """Everything that costs time between a backend's picture and the store; pixels are never encoded twice."""
    if output.seed is not None:
        request = replace(request, seed=output.seed - index)  # the recipe must tell the seed that was really used
    if output.mime == RAW_RGB:
        image = raw_rgb(output.data, output.width, output.height)
        kind, data = PNG, encode_png(output.data, output.width, output.height)
    else:
        found = kind_of(output.data)
        try:
            image = decode(output.data)
        except Unreadable as exc:
            raise Crashed(
                f"the backend {model.backend} gave something that is no picture: {exc}",
                hint="look at the backend's own log; this request can be tried again with `imagen jobs retry`",
            ) from exc
        assert found is not None  # or decode would have raised
        kind, data = found, output.data
    if kind is PNG:
        texts = {
            "imagen": _line(recipe(request, model, index)),
            "parameters": parameters_text(request, model, index),
        }
        try:
            data = with_text(data, texts)
        except RequestError as exc:  # Pillow forgives a missing end; here it is the backend's fault, not the caller's
            raise Crashed(
                f"the backend {model.backend} gave a PNG that is cut off",
                hint="look at the backend's own log; this request can be tried again with `imagen jobs retry`",
            ) from exc
    cell = _small(image, CELL)
    thumbnail = _small(cell, THUMBNAIL)  # from the copy that is small already
    cell_bytes = encode_small(cell, "webp", QUALITY)
    return Finished(
        data=data,
        mime=kind.mime,
        extension=kind.extension,
        width=image.width,
        height=image.height,
        sha256=hashlib.sha256(data).hexdigest(),
        pixels_sha256=_pixels_sha256(image),
        thumbnail=cell_bytes if thumbnail.size == cell.size else encode_small(thumbnail, "webp", QUALITY),
        cell=cell_bytes,
    )


def recipe(request: Request, model: Model, index: int) -> dict[str, Any]:
    """What reproduces picture `index`, and nothing else."""
    return {
        "schema": SCHEMA,
        "request": request.part(index, 1).as_dict(),
        "model": {
            "name": model.name,
            "backend": model.backend,
            "digest": model.digest(),
            "workflow": model.workflow,
            "files": [{"path": file.path, "sha256": file.sha256} for file in model.files],
        },
        "engine": {"imagen": version("imagen-platform"), "backend": model.backend},
    }


def parameters_text(request: Request, model: Model, index: int) -> str:
    """The same in the form that other programs look for under `parameters`."""
    one = request.part(index, 1)
    fields: dict[str, Any] = {"Steps": one.steps}
    if one.options.get("sampler"):
        fields["Sampler"] = one.options["sampler"]
    if one.guidance is not None:
        fields["CFG scale"] = f"{one.guidance:g}"
    fields |= {
        "Seed": one.seed,
        "Size": f"{one.width}x{one.height}",
        "Model": model.name,
        "Version": f"imagen {version('imagen-platform')}",
    }
    lines = [one.prompt]
    if one.negative:
        lines.append(f"Negative prompt: {one.negative}")
    lines.append(", ".join(f"{name}: {_quoted(str(value))}" for name, value in fields.items()))
    return "\n".join(lines)


def sidecar(request: Request, model: Model, image: StoredImage, run: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON beside a picture."""
    told = recipe(replace(request, seed=image.seed - image.index), model, image.index)
    # Where a picture lies may change; which one it is does not.
    described = {key: value for key, value in image.as_dict().items() if key not in ("url", "state")}
    return {**told, "image": described, "run": dict(run)}


def as_bytes(document: Mapping[str, Any]) -> bytes:
    """JSON for people: indented, in UTF-8."""
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()


def with_text(png: bytes, texts: Mapping[str, str]) -> bytes:
    """The same PNG with these texts in it, in place of older ones of the same names; no pixel is touched."""
    parts = [PNG_SIGNATURE]
    for kind, body in _chunks(png):
        if kind in (b"tEXt", b"iTXt", b"zTXt") and body.split(b"\0", 1)[0].decode("latin-1") in texts:
            continue
        parts.append(png_chunk(kind, body))
        if kind == b"IHDR":
            parts += [_text_chunk(name, text) for name, text in texts.items()]
    return b"".join(parts)


def without_text(png: bytes) -> bytes:
    """The same PNG with its pixels and colours alone: nothing in it tells what drew it."""
    return PNG_SIGNATURE + b"".join(png_chunk(kind, body) for kind, body in _chunks(png) if kind in PIXELS)


def text_chunks(png: bytes) -> dict[str, str]:
    """The texts inside a PNG. Hostile files are common: sizes are bounded, oddities skipped."""
    texts: dict[str, str] = {}
    room = MAX_TEXTS
    for kind, body in _chunks(png):
        name, _, rest = body.partition(b"\0")
        try:
            match kind:
                case b"tEXt":
                    text = rest.decode("latin-1")
                case b"zTXt":
                    text = _unpacked(rest[1:]).decode("latin-1")
                case b"iTXt":
                    packed, rest = rest[:1] == b"\1", rest[2:]
                    _language, _, rest = rest.partition(b"\0")
                    _translated, _, rest = rest.partition(b"\0")
                    text = (_unpacked(rest) if packed else rest).decode()
                case _:
                    continue
        except (UnicodeDecodeError, zlib.error):
            continue
        room -= len(text)
        if room < 0:
            break
        texts[name.decode("latin-1")] = text
    return texts


def read_recipe(path: Path) -> dict[str, Any]:
    """The recipe inside a PNG or in a sidecar."""
    hint = "give a PNG drawn by imagen, or the .json beside it"
    try:
        with path.open("rb") as stream:
            is_png = stream.read(len(PNG_SIGNATURE)) == PNG_SIGNATURE
            stream.seek(0)
            data = stream.read() if is_png else stream.read(MAX_JSON + 1)
    except OSError as exc:
        raise RequestError(f"cannot read {path}: {exc.strerror}", hint=hint, param="file") from exc
    if is_png:
        try:
            found = text_chunks(data).get("imagen")
        except RequestError as exc:
            raise RequestError(f"{path}: {exc.message}", hint=exc.hint, param="file") from exc
        if found is None:
            raise RequestError(f"{path} holds no recipe of imagen", hint=hint, param="file")
        data = found.encode()
    if len(data) > MAX_JSON:
        raise RequestError(f"{path} is too large for a sidecar", hint=hint, param="file")
    try:
        told = json.loads(data)
    except (ValueError, RecursionError) as exc:
        raise RequestError(f"{path} is neither a PNG nor a sidecar of imagen", hint=hint, param="file") from exc
    if not isinstance(told, dict) or not isinstance(told.get("request"), dict):
        raise RequestError(f"{path} is no sidecar of imagen: it has no request", hint=hint, param="file")
    if isinstance(told.get("schema"), int) and told["schema"] > SCHEMA:
        raise RequestError(
            f"{path} was written by a later imagen (schema {told['schema']}, this one reads {SCHEMA})",
            hint="install the newer imagen",
            param="file",
        )
    return told


def pixels_sha256(picture: bytes) -> str:
    """Equal for two files that show the same pixels, however they are packed."""
    try:
        return _pixels_sha256(decode(picture))
    except Unreadable as exc:
        raise RequestError(f"not a picture: {exc}", hint="give a PNG, JPEG or WebP file", param="file") from exc


def _small(image: Any, kind: str) -> Any:
    longest = COPIES[kind]
    return shrink(image, (longest, longest))


def _pixels_sha256(image: Any) -> str:
    if image.mode.startswith("I"):  # 16 bits of grey: in 8 bits nearly all of them would be the same white
        return hashlib.sha256(f"{image.mode} {image.width}x{image.height} ".encode() + image.tobytes()).hexdigest()
    plain = image if image.mode in ("RGB", "RGBA") else image.convert("RGBA" if image.has_transparency_data else "RGB")
    if plain.mode == "RGBA" and plain.getchannel("A").getextrema() == (255, 255):
        plain = plain.convert("RGB")  # nothing shows through: it looks the same as without the channel
    head = f"{plain.mode} {plain.width}x{plain.height} ".encode()
    return hashlib.sha256(head + plain.tobytes()).hexdigest()


def _line(document: Mapping[str, Any]) -> str:
    return json.dumps(document, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def _quoted(value: str) -> str:
    """As the readers of this format expect: in JSON's quotes where a comma, colon or line break would mislead them."""
    return json.dumps(value, ensure_ascii=False) if any(mark in value for mark in ",:\n") else value


def _text_chunk(name: str, text: str) -> bytes:
    try:
        return png_chunk(b"tEXt", name.encode("latin-1") + b"\0" + text.encode("latin-1"))
    except UnicodeEncodeError:
        return png_chunk(b"iTXt", name.encode("latin-1") + b"\0\0\0\0\0" + text.encode())


def _unpacked(packed: bytes) -> bytes:
    opener = zlib.decompressobj()
    text = opener.decompress(packed, MAX_TEXT)
    if opener.unconsumed_tail:
        raise zlib.error("too long")
    return text


def _chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    if not png.startswith(PNG_SIGNATURE):
        raise RequestError("not a PNG file", hint="give a PNG", param="file")
    place = len(PNG_SIGNATURE)
    while place + 12 <= len(png):
        length = int.from_bytes(png[place : place + 4])
        if place + 12 + length > len(png):
            break
        yield png[place + 4 : place + 8], png[place + 8 : place + 8 + length]
        place += 12 + length
        if png[place - 8 - length : place - 4 - length] == b"IEND":
            return  # what some programs leave behind the end is no part of the picture
    if place != len(png):
        raise RequestError("the PNG file is cut off", hint="fetch or copy it again", param="file")
