"""The error tree: what happened, whose turn it is, and what to do next.

ImagenError                    whose turn     exit   HTTP
├─ RequestError                yours          2      400
│  ├─ UnknownModel · UnknownJob · UnknownSeries · UnknownImage · UnknownDevice   404
│  ├─ Gone                     it was deleted            410
│  ├─ Unsupported              the model cannot do that  422
│  ├─ TooLarge                 a limit was passed
│  │  └─ BodyTooLarge                                   413
│  ├─ TooMany                  not now, but later        429
│  ├─ Unauthorized             who are you     3         401: a key is a part of the set-up
│  ├─ Forbidden                not you                   403
│  └─ Conflict                 409
├─ SetupError                  the owner's    3      503
│  ├─ BadConfig · NotConfigured · MissingExtra
│  ├─ MissingFile
│  │  └─ MissingPicture        its record is there, its bytes are not  404
│  ├─ Unwritable · DiskFull
│  ├─ WrongDatabase            older or newer than this program
│  ├─ DevicePaused · HookFailed  a device is not to be had now
│  ├─ NobodyDraws              no worker that lives can draw the model now
│  └─ DatabaseAway · StorageAway · ServerAway  it does not answer now
└─ BackendError                the backend's  1      502
   ├─ Unreachable (503) · RateLimited (429) · TimedOut (504)
   └─ Rejected · OutOfMemory (503) · Crashed
"""

import re
from dataclasses import dataclass
from typing import Any, ClassVar, Self


class ImagenError(Exception):
    """Base of every error this package raises on purpose."""

    exit_code: ClassVar[int] = 1
    http_status: ClassVar[int] = 500
    retryable: bool = False  # of this kind; one error may know better
    type: ClassVar[str] = "imagen_error"

    def __init__(
        self,
        message: str,
        *,
        hint: str,
        param: str | None = None,
        retryable: bool | None = None,
        retry_after_s: float | None = None,
        detail: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.param = param
        if retryable is not None:
            self.retryable = retryable
        self.retry_after_s = retry_after_s
        self.detail = detail

    @property
    def code(self) -> str:
        """The stable name programs switch on: the class name in snake_case."""
        return code_of(type(self))

    def as_dict(self) -> dict[str, Any]:
        """The shape in which an error is stored and sent."""
        shape: dict[str, Any] = {
            "type": type(self).type,
            "code": self.code,
            "message": self.message,
            "hint": self.hint,
            "param": self.param,
            "retryable": self.retryable,
        }
        if self.retry_after_s is not None:
            shape["retry_after_s"] = self.retry_after_s
        if self.detail is not None:
            shape["detail"] = self.detail
        return shape

    @staticmethod
    def from_dict(shape: dict[str, Any]) -> "ImagenError":
        """Rebuild a stored error; a code of a later version becomes a plain ImagenError."""
        kind = BY_CODE.get(shape.get("code", ""), ImagenError)
        return kind(
            shape.get("message", "unknown error"),
            hint=shape.get("hint") or "see `imagen jobs show` for the whole record",
            param=shape.get("param"),
            retryable=shape.get("retryable"),
            retry_after_s=shape.get("retry_after_s"),
            detail=shape.get("detail"),
        )


class RequestError(ImagenError):
    """The request was wrong: the caller's turn."""

    exit_code = 2
    http_status = 400
    type = "invalid_request_error"


class UnknownModel(RequestError):
    """No model of that name."""

    http_status = 404


class UnknownJob(RequestError):
    """No job of that id."""

    http_status = 404


class UnknownSeries(RequestError):
    """No series of that id."""

    http_status = 404


class UnknownImage(RequestError):
    """No picture of that id."""

    http_status = 404


class UnknownDevice(RequestError):
    """No device of that name."""

    http_status = 404


class Gone(RequestError):
    """It was there and was deleted."""

    http_status = 410


class Unsupported(RequestError):
    """The model cannot do what was asked."""

    http_status = 422


class TooLarge(RequestError):
    """A limit was passed; the message names it."""


class BodyTooLarge(TooLarge):
    """More bytes than are read."""

    http_status = 413


class TooMany(RequestError):
    """A limit on what may be open or waiting at once; the message names it. Later it may be possible."""

    http_status = 429
    retryable = True


class Unauthorized(RequestError):
    """No key, or one that is not known."""

    exit_code = 3  # the same words with another key do it: what is wrong is the set-up of whoever asks
    http_status = 401
    type = "authentication_error"


class Forbidden(RequestError):
    """The key is good but may not do this, or the request comes from where none may come."""

    http_status = 403
    type = "permission_error"


class Conflict(RequestError):
    """The request contradicts an earlier one."""

    http_status = 409


class SetupError(ImagenError):
    """The set-up is not complete: the owner's turn."""

    exit_code = 3
    http_status = 503
    type = "setup_error"


class BadConfig(SetupError):
    """A settings or model file is wrong; the message names file and line."""


class NotConfigured(SetupError):
    """Something needed was never configured."""


class MissingFile(SetupError):
    """A file that should be there is not."""


class MissingPicture(MissingFile):
    """The bytes of a picture are not where they were stored; its record is."""

    http_status = 404


class MissingExtra(SetupError):
    """An optional package is not installed."""


class Unwritable(SetupError):
    """A place to write to refuses."""


class DiskFull(SetupError):
    """No room left where pictures or the database live."""


class WrongDatabase(SetupError):
    """The database is older or newer than this program."""


class DevicePaused(SetupError):
    """Nothing is begun now on any device that draws this model; later it may be."""

    retryable = True


class NobodyDraws(SetupError):
    """The workers that know this model lack what it takes to draw it now; later they may have it."""

    retryable = True


class HookFailed(SetupError):
    """What the owner wants done before a device is used did not succeed; nothing is wrong with what was asked."""

    retryable = True


class DatabaseAway(SetupError):
    """The database does not answer; nothing is wrong with what was asked."""

    retryable = True


class StorageAway(SetupError):
    """The place of the pictures does not take or give them now; nothing is wrong with what was asked."""

    retryable = True


class ServerAway(SetupError):
    """The imagen server that was asked does not answer; what it has accepted is kept there."""

    retryable = True


class BackendError(ImagenError):
    """The backend failed: its turn."""

    exit_code = 1
    http_status = 502
    type = "backend_error"


class Unreachable(BackendError):
    """The backend does not answer."""

    http_status = 503
    retryable = True


class RateLimited(BackendError):
    """The backend asks for patience."""

    http_status = 429
    retryable = True


class TimedOut(BackendError):
    """The backend took too long."""

    http_status = 504
    retryable = True


class Rejected(BackendError):
    """The backend refused this request and would refuse it again."""


class OutOfMemory(BackendError):
    """The device has too little memory for this request."""

    http_status = 503


class Crashed(BackendError):
    """The backend broke while drawing."""


def code_of(kind: type[ImagenError]) -> str:
    """`UnknownModel` -> `unknown_model`."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower()


def _tree(kind: type[ImagenError]) -> list[type[ImagenError]]:
    return [kind, *(leaf for child in kind.__subclasses__() for leaf in _tree(child))]


BY_CODE: dict[str, type[ImagenError]] = {code_of(kind): kind for kind in _tree(ImagenError)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing looked at before it is needed: fine, or the very error it would raise later."""

    name: str
    error: ImagenError | None = None
    note: str = ""

    @property
    def ok(self) -> bool:
        return self.error is None

    @classmethod
    def passed(cls, name: str, note: str = "") -> Self:
        return cls(name=name, note=note)

    @classmethod
    def failed(cls, name: str, error: ImagenError) -> Self:
        return cls(name=name, error=error)
