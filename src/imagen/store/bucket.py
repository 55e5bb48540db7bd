"""A bucket for pictures: opened by its address with the keys of the usual chain, and its refusals in our words."""

import os
import re
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

from imagen.core.errors import BadConfig, MissingPicture, NotConfigured, SetupError, StorageAway, Unwritable
from imagen.store.credentials import how, profile
from imagen.store.objects import library

SCHEMES = ("s3", "gs", "az")
ELSEWHERE = {"gs": "https://storage.googleapis.com", "az": "https://*.blob.core.windows.net"}
REGION = "us-east-1"  # what stores that know no regions expect
CONNECT_S = 5
# Of one request; a part of an upload is the longest, and takes half a minute where a line sends 2 Mbit/s.
REQUEST_S = 60
# What is tried again at once: a dropped connection, an answer of 5xx. Whoever holds a picture waits longer: see
# `patience_s`; whoever asks for one wants to hear soon that it cannot be had.
RETRY_S = 10
QUICK_S = 3  # for a look, whose answer somebody waits for
AWAY = "see whether the store runs, and whether its address (`imagen config show`) can be reached from here"
UNWILLING = "see its log and its disk: it may be full or read-only, or busy for a moment"
GONE = "it was deleted or moved outside imagen, or the worker that drew it has another `storage`: `imagen doctor`"
NO_S3 = "see `s3: endpoint` in config.yaml: the address and port of the store's S3 side, not of its console"

_CODE = re.compile(r"<Code>(\w+)</Code>")
_STATUS = re.compile(r"status(?: code)?: (\d{3})")
_URL = re.compile(r"\w+://\S+")
_WHY = re.compile(r'(?:message|error): "([^"\n]+)"')
_KEYS = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "TokenRefreshRequired"}
_FULL = {"XMinioStorageFull", "QuotaExceeded", "QuotaExceededException", "InsufficientStorage"}
_REGION = {"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}
_CLOCK = {"RequestTimeTooSkewed", "RequestExpired"}


class Bucket:
    """Where it is and how it is asked. Nothing is opened before `open`."""

    def __init__(
        self,
        storage: str,
        *,
        endpoint: str | None = None,
        region: str | None = None,
        path_style: bool = True,
        allow_http: bool = False,
        profile: str | None = None,
        reads: str = "proxied",
        presign_s: int = 600,
        public_endpoint: str | None = None,
        patience_s: float = 120,
    ) -> None:
        self.url = storage.rstrip("/")
        self.scheme, _, place = self.url.partition("://")
        self.name, _, self._prefix = place.partition("/")
        if self.scheme not in SCHEMES or not self.name:
            raise SetupError(
                f"the storage {self.scheme!r} is not known",
                hint="use `storage: local` in config.yaml, or a bucket: `storage: s3://bucket/folder`",
                param="storage",
            )
        self._endpoint, self._public_endpoint = endpoint, public_endpoint or endpoint
        self._region, self._path_style, self._allow_http, self._profile = region, path_style, allow_http, profile
        self.presigned = reads == "presigned"
        self.presign_s = presign_s
        self.patience_s = patience_s

    @property
    def public_origin(self) -> str:
        """The site of signed addresses: scheme, host and port."""
        given = (os.environ.get(name) for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"))
        if self.scheme != "s3":
            return ELSEWHERE[self.scheme]
        region = self._where(profile(self._profile).region)
        url = self._public_endpoint or next(filter(None, given), None) or f"https://s3.{region}.amazonaws.com"
        parts = urlsplit(url if self._path_style else _named(url, self.name))
        return f"{parts.scheme}://{parts.netloc}"

    def open(self, *, quick: bool = False, public: bool = False) -> Any:
        """The bucket as obstore gives it: `quick` does not try for long, `public` has the address browsers see."""
        shared: dict[str, Any] = {
            "client_options": {
                "allow_http": self._allow_http,
                "connect_timeout": timedelta(seconds=QUICK_S if quick else CONNECT_S),
                "timeout": timedelta(seconds=QUICK_S if quick else REQUEST_S),
            },
            "retry_config": {
                "max_retries": 1 if quick else 10,
                "retry_timeout": timedelta(seconds=QUICK_S if quick else RETRY_S),
                "backoff": {"init_backoff": timedelta(seconds=0.1), "max_backoff": timedelta(seconds=2), "base": 2},
            },
        }
        try:
            if self.scheme != "s3":
                return library().from_url(self.url, **shared)
            told = profile(self._profile)
            if told.provider is not None:
                shared["credential_provider"] = told.provider
            shared["region"] = self._where(told.region)
            if endpoint := self._public_endpoint if public else self._endpoint:
                shared["endpoint"] = endpoint if self._path_style else _named(endpoint, self.name)
            return library().S3Store(
                self.name, prefix=self._prefix or None, virtual_hosted_style_request=not self._path_style, **shared
            )
        except Exception as exc:
            raise self.explain(exc, f"cannot use {self.url}") from exc

    def _where(self, profile_region: str | None) -> str:
        given = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        return self._region or given or profile_region or REGION

    def explain(self, exc: Exception, what: str) -> SetupError:
        """What the bucket said, as the error whose hint helps. Addresses and keys are not repeated."""
        if isinstance(exc, SetupError):
            return exc
        said = str(exc)
        status = int(match[1]) if (match := _STATUS.search(said)) else 0
        code = match[1] if (match := _CODE.search(said)) else ""
        if code == "NoSuchBucket":
            return NotConfigured(
                f"{what}: there is no bucket {self.name!r}", hint="create it, or correct `storage` in config.yaml"
            )
        if self.scheme == "s3" and not code and _is_no_s3(said, status):
            return NotConfigured(f"{what}: what answers at the bucket's address is no S3 store", hint=NO_S3)
        if isinstance(exc, FileNotFoundError):
            return MissingPicture(f"{what}: it is not there", hint=GONE)
        if "latest/api/token" in said or "latest/meta-data" in said or type(exc).__name__ == "UnauthenticatedError":
            return NotConfigured(f"{what}: there are no keys for the bucket {self.name!r}", hint=how())
        if code in _CLOCK:
            hint = "set the clock of this machine, as NTP does; the store refuses what is signed in another time"
            return SetupError(f"{what}: the clocks of this machine and of the bucket differ", hint=hint)
        if code in _KEYS or status == 401:
            return Unwritable(
                f"{what}: the bucket does not know these keys ({code or status})", hint=f"correct them: {_keys_from()}"
            )
        if code in _REGION or "BareRedirect" in said:
            return NotConfigured(f"{what}: the bucket is in another region", hint="name it: `s3: {region: …}`")
        if code in _FULL or status == 507:
            return StorageAway(
                f"{what}: the bucket is full ({code or status})", hint="make room there, or allow it more"
            )
        if status == 403:
            return Unwritable(
                f"{what}: access is denied",
                hint=f"these keys need to list {self.name!r}, and to put, get and delete objects in it",
            )
        if status >= 500 or status == 429:
            why = f"{status} {code}".strip()
            return StorageAway(f"{what}: the bucket does not take it now ({why})", hint=UNWILLING)
        if "HttpError" in said or "HTTP error" in said:
            if "builder error" in said:
                return BadConfig(
                    f"{what}: its address has no TLS", hint="on a network you trust: `s3: {allow_http: true}`"
                )
            if "InvalidContentType" in said:
                hint = "is it http? see `s3: endpoint`, and on a network you trust `s3: {allow_http: true}`"
                return StorageAway(f"{what}: the bucket does not answer (what answers speaks no TLS)", hint=hint)
            why = match[1] if (match := _WHY.search(said)) else "the connection broke off"
            why = "timed out" if "kind: Timeout" in said else why
            return StorageAway(f"{what}: the bucket does not answer ({why})", hint=AWAY)
        words = f"the bucket refuses it ({status} {code})".replace(" )", ")") if status else _first_line(said)
        return SetupError(
            f"{what}: {words}",
            hint="see `storage:` and `s3:` in config.yaml, and the log of the store for what it refused",
        )


def _keys_from() -> str:
    if os.environ.get("AWS_ACCESS_KEY_ID"):
        return "they are AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY of the environment, which go before any file"
    return how()


def _is_no_s3(said: str, status: int) -> bool:
    """A store says its refusals in XML, in answer to an upload too, and gives each object an ETag."""
    if "ETag Header missing" in said or (status in (405, 501) and "performing PUT" in said):
        return True
    return status == 404 and ("performing PUT" in said or "<html" in said.lower())


def _first_line(said: str) -> str:
    return _URL.sub("…", said.partition("\n")[0]) or "it said nothing more"


def _named(endpoint: str, bucket: str) -> str:
    scheme, _, rest = endpoint.partition("://")
    return f"{scheme}://{bucket}.{rest}"
