"""Requests read strictly: a body that is plain JSON, fields that are known, text that every database can hold."""

import json
import math
from collections.abc import Callable, Coroutine
from hashlib import sha256
from typing import Any, NoReturn

from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from imagen.core.errors import RequestError
from imagen.reading import maybe

MAX_INT = 2**63  # what both databases can store in one integer column
MAX_DEPTH = 32  # of lists and objects in each other; ours need three
MAX_QUERY = 8_000  # characters of one value; the longest are lists of ids


class StrictRoute(APIRoute):
    """A route that refuses what it does not know, in the address as well as in the body."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()
        known = [field.alias for field in self.dependant.query_params]
        field = self.body_field
        needs_body, has_body = field is not None and field.field_info.is_required(), field is not None

        async def strict(request: Request) -> Response:
            request = StrictRequest(request.scope, request.receive)
            _check_address(request, known)
            if needs_body or (has_body and await request.body()):
                # Read here, where an error of ours passes; the framework turns every error of a body into its own.
                said = await request.json()
                if said is None and not needs_body:
                    raise RequestError("the body is null", hint="send a JSON object, or nothing at all")
            return await handler(request)

        return strict


class StrictRequest(Request):
    """JSON as the standard has it, which Python's reader is wider than."""

    async def json(self) -> Any:
        if not hasattr(self, "_read"):
            self._read = await self._parsed()
        return self._read

    async def _parsed(self) -> Any:
        data = await self.body()
        if not data:
            raise RequestError("there is no body", hint="send a JSON object")
        kind = self.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise HTTPException(415)
        try:
            # Decoded here, because the reader would also take UTF-16 and halves of characters.
            value = json.loads(data.decode("utf-8"), parse_constant=_no_number, parse_float=_float, parse_int=_int)
        except UnicodeDecodeError as exc:
            raise RequestError("the body is not UTF-8", hint="encode it as UTF-8") from exc
        except json.JSONDecodeError as exc:
            where = f"line {exc.lineno}, column {exc.colno}"
            raise RequestError(f"the body is not JSON: {exc.msg} ({where})", hint="check quotes and commas") from exc
        except RecursionError as exc:
            raise _too_deep() from exc
        check_json(value)
        return value


async def body_hash(request: Request) -> str:
    """A short name for what was sent, whatever the order of its fields and the blanks between them."""
    canonical = json.dumps(await request.json(), sort_keys=True, separators=(",", ":"))
    return sha256(canonical.encode()).hexdigest()


def check_json(value: Any, where: str = "", depth: int = 0) -> None:
    """Refuse what a database cannot store, wherever in a body it stands."""
    if depth > MAX_DEPTH:
        raise _too_deep()
    match value:
        case str():
            _check_text(value, where)
        case int() if not -MAX_INT <= value < MAX_INT:
            raise RequestError(
                f"{where or 'the body'}: the number is too large", hint="give one of 64 bits", param=where or None
            )
        case list():
            for index, item in enumerate(value):
                check_json(item, f"{where}.{index}".lstrip("."), depth + 1)
        case dict():
            for key, item in value.items():
                _check_text(key, where)
                check_json(item, f"{where}.{key}".lstrip("."), depth + 1)
        case _:
            pass


def _check_address(request: Request, known: list[str]) -> None:
    for value in request.path_params.values():
        if isinstance(value, str) and not _storable(value):
            raise HTTPException(404)
    seen = set()
    for name, value in request.query_params.multi_items():
        if name not in known:
            hint = f"parameters: {', '.join(known)}" if known else "this address takes no parameters"
            raise RequestError(f"there is no parameter {name!r}{maybe(name, known)}", hint=hint, param=name)
        if name in seen:
            raise RequestError(f"{name} is given twice", hint="give it once", param=name)
        if len(value) > MAX_QUERY:
            hint = f"the limit is {MAX_QUERY:,} characters"
            raise RequestError(f"{name} has {len(value):,} characters", hint=hint, param=name)
        _check_text(value, name)
        seen.add(name)


def _check_text(text: str, where: str) -> None:
    if not _storable(text):
        raise RequestError(
            f"{where or 'the body'} holds a NUL or half a character",
            hint="remove it: no text of people has one",
            param=where or None,
        )


def _storable(text: str) -> bool:
    if text.isascii():
        return "\0" not in text
    return "\0" not in text and not any("\ud800" <= letter <= "\udfff" for letter in text)


def _no_number(name: str) -> NoReturn:
    raise RequestError(f"{name} is no number in JSON", hint="leave the field out, or give a finite number")


def _float(digits: str) -> float | int:
    number = float(digits)
    if not math.isfinite(number):
        _no_number(digits if len(digits) < 40 else "such a large exponent")
    # 7.0 and 7 are one number in JSON; some languages write every number with a point.
    return int(number) if number.is_integer() and abs(number) < MAX_INT else number


def _int(digits: str) -> int:
    # Python refuses to read thousands of digits with an error of its own; whatever has more than 20 is refused later.
    return int(digits) if len(digits) <= 20 else 2 * MAX_INT


def _too_deep() -> RequestError:
    return RequestError(f"the body is nested deeper than {MAX_DEPTH}", hint="send a flat object")
