"""What a server says, in the words of this side: its errors as ours, its hints as commands, and what is in the way."""

import re
from collections.abc import Mapping
from typing import Any

from imagen.core.errors import (
    BackendError,
    BadConfig,
    DatabaseAway,
    DiskFull,
    Gone,
    ImagenError,
    NotConfigured,
    RequestError,
    ServerAway,
    SetupError,
    StorageAway,
    Unauthorized,
    Unwritable,
    WrongDatabase,
)

_OLDER = ("not_found", "method_not_allowed")  # how a server says that it has no such address
_NO_FIELD = re.compile(r"there is no (field|parameter) ('\w+')")
_STORE_CODE = re.compile(r"<Code>(\w{1,60})</Code>")
# The other way round than `without_commands`: over HTTP a server names addresses, because its callers have no commands.
_ADDRESS = re.compile(r"`?\b(GET|POST) /v1/(jobs|series|models)(?:/([^\s/`]+))?(?:/(events|cancel|retry))?(?![\w/])`?")
# What is wrong with the server itself: nothing that is asked for here can mend it.
_ITS_OWN = (BadConfig, DatabaseAway, DiskFull, StorageAway, Unwritable, WrongDatabase)
_TYPES: Mapping[str, type[ImagenError]] = {kind.type: kind for kind in (RequestError, SetupError, BackendError)}
# What the client library says where a connection that was there is gone, and what that is to a person.
_BROKE_OFF = re.compile(
    r"peer closed connection|incomplete|server disconnected|reset by peer|broken pipe|"
    r"^(Read|Write|Close|RemoteProtocol)Error$",
    re.IGNORECASE,
)
_SELF_SIGNED = re.compile(r"CERTIFICATE_VERIFY_FAILED\S*(?: certificate verify failed:)? ?([^(]*)", re.IGNORECASE)


def error_of(shape: Mapping[str, Any], server: str, asked: str) -> ImagenError | None:
    """The error that a server answered with; None when it is none of ours."""
    if not isinstance(shape.get("message"), str) or not isinstance(shape.get("hint"), str):
        return None
    if shape.get("code") in _OLDER:
        return too_old(server, asked)
    if found := _NO_FIELD.match(shape["message"]):  # we ask for nothing that this version does not have
        return too_old(server, f"{found[1]} {found[2]} in {asked}")
    error = rebuilt(shape)
    if isinstance(error, Unauthorized):
        return Unauthorized(
            f"{server}: {error.message}",
            hint="give one in IMAGEN_KEY, or under `servers:` in config.yaml; its owner makes one with "
            "`imagen keys add NAME`",
        )
    if isinstance(error, _ITS_OWN):
        return type(error)(
            f"the server {server}: {error.message}",
            hint="its owner sees there what to do, with `imagen doctor`; jobs that it has accepted are kept",
            retryable=error.retryable,
            retry_after_s=error.retry_after_s,
            detail=error.detail,
        )
    return error


def rebuilt(shape: Mapping[str, Any]) -> ImagenError:
    """An error as it was before it was sent."""
    error = ImagenError.from_dict({**shape, "hint": with_commands(str(shape.get("hint") or ""))})
    kind = _TYPES.get(str(shape.get("type")))
    if type(error) is ImagenError and kind is not None:
        # A code of a later version, or of its own: whose turn it is stays what it is.
        return kind(error.message, hint=error.hint, param=error.param, detail=error.detail)
    return error


def with_commands(hint: str) -> str:
    """The hint with each address about jobs, series and models replaced by the command that does the same."""
    return _ADDRESS.sub(_command, hint)


def _command(address: re.Match[str]) -> str:
    method, noun, name, verb = address.groups()
    name = {None: "", "{id}": " ID"}.get(name, f" {name}")
    match method, verb:
        case "GET", None:
            what = f"{noun} show{name}" if name else noun
        case "GET", "events":
            what = f"{noun} watch{name}"
        case "POST", "cancel" | "retry":
            what = f"{noun} {verb}{name}"
        case _:
            return address[0]
    if noun == "models" and not name:
        what = "models"
    elif not name:
        what = f"{noun} list"
    return f"`imagen {what}`"


def away(server: str, why: str, *, was_there: bool) -> ImagenError:
    """It could not be asked; `why` is what the client library says."""
    if found := _SELF_SIGNED.search(why):
        return NotConfigured(
            f"the certificate of {server} is not trusted here: {found[1].strip(' ]') or 'it cannot be checked'}",
            hint="set SSL_CERT_FILE to the certificate of whoever signed it; the name in the address has to be in it",
            param="server",
        )
    if "WRONG_VERSION_NUMBER" in why.upper().replace(" ", "_") or "RECORD_LAYER_FAILURE" in why.upper():
        return NotConfigured(
            f"{server} does not speak TLS", hint="write http:// in place of https://, or ask its owner", param="server"
        )
    if _BROKE_OFF.search(why):
        why = "the connection broke off"
    if was_there:
        hint = "what was submitted is kept there: see `imagen jobs list` when it is back"
        return ServerAway(f"{server} does not answer any more: {why}", hint=hint)
    return ServerAway(
        f"{server} does not answer: {why}",
        hint="see whether the address is right, and whether `imagen serve` runs there and can be reached from here",
        param="server",
    )


def no_server(server: str, found: str) -> ImagenError:
    """Something answers, and it is not imagen."""
    return NotConfigured(
        f"what answers at {server} is not an imagen server: {found}",
        hint="see whether the port is that of `imagen serve`, and give the root of its address",
        param="server",
    )


def too_old(server: str, what: str) -> ImagenError:
    """The server is of a version that cannot do this."""
    return NotConfigured(
        f"the imagen at {server} is too old for this: it has no {what}",
        hint="update imagen there; where it is new, give the root of its address, with nothing behind the port",
        param="server",
    )


def store_refused(server: str, store: str, status: int, said: str) -> ImagenError:
    """The server answers, and the store of its pictures, to which it sends us, gives us nothing."""
    code = _STORE_CODE.search(said)
    why = f"HTTP {status}" + (f" ({code[1]})" if code else "")
    if status in (404, 410):
        return Gone(
            f"the picture is not at {store} any more: {why}",
            hint=f"it may have been deleted there; the owner of {server} sees what is missing with `imagen gc`",
        )
    return NotConfigured(
        f"{store}, where {server} keeps its pictures, does not give them: {why}",
        hint="the server works, its pictures cannot be read from here: its owner sets the rights and the clock of the "
        "bucket, or `s3: {reads: proxied}`",
        param="server",
    )


def store_away(store: str, why: str) -> ImagenError:
    """The server answers, and the store of its pictures does not."""
    return StorageAway(
        f"{store}, where the server keeps its pictures, does not answer: {why}",
        hint="see whether it can be reached from here; else its owner sets `s3: {reads: proxied}`",
    )
