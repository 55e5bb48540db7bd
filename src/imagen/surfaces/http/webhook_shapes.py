"""What is asked and answered about webhooks, for the checks at the door and for /openapi.json."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from imagen.core.webhook import JOB_ENDS, MAX_URL, SERIES_ENDS, URL, Webhook, webhook_of

Url = Annotated[
    str,
    Field(
        max_length=MAX_URL,
        pattern=f"^{URL}$",
        description="told by POST when it has ended; public, or allowed by the owner of this server",
    ),
]
_THREE, _ONE = "[A-Za-z0-9+/]{4}", "[A-Za-z0-9+/][AQgw]=="  # bytes, as base64 writes them
_TWO = "[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]="
Secret = Annotated[
    str,
    Field(
        pattern=f"^whsec_(({_THREE}){{8,20}}({_TWO}|{_ONE})?|({_THREE}){{21}}({_ONE})?)$",  # 24 to 64 bytes
        description="signs the messages; absent: the secret of this key, `GET /v1/webhooks/secret`",
    ),
]


_JobEnd = Literal[JOB_ENDS]  # type: ignore[valid-type]  # the names live in core, once
_SeriesEnd = Literal[SERIES_ENDS]  # type: ignore[valid-type]  # as above


class _Asked(BaseModel):
    url: Url
    secret: Secret | None = None

    model_config = ConfigDict(extra="forbid", strict=True)


class JobWebhook(_Asked):
    """Whom to tell of the end of a job."""

    events: list[_JobEnd] | None = Field(None, min_length=1, description="only of these ends; absent: of every one")


class SeriesWebhook(_Asked):
    """Whom to tell of the end of a series."""

    events: list[_SeriesEnd] | None = Field(None, min_length=1, description="only of these ends; absent: of every one")
    each: bool = Field(False, description="tell of the end of each of its jobs too")


def _kind(value: Any) -> str | None:
    if isinstance(value, str):
        return "address"
    return "hook" if isinstance(value, dict | _Asked) else None


_WHICH = Discriminator(
    _kind,
    custom_error_type="webhook",
    custom_error_message='webhook is an address, or {"url": …, "events": […], "secret": …}',
)
OfJob = Annotated[Annotated[Url, Tag("address")] | Annotated[JobWebhook, Tag("hook")], _WHICH]
OfSeries = Annotated[Annotated[Url, Tag("address")] | Annotated[SeriesWebhook, Tag("hook")], _WHICH]


class WebhookState(BaseModel):
    """Who is told of the end, and whether that worked."""

    origin: str = Field(description="as much of the address as is nobody's secret")
    state: Literal["set", "unwanted", "waiting", "delivered", "failed", "forgotten"] = Field(
        description="set: it has not ended; unwanted: it ended in a way that was not asked for; waiting: it is tried; "
        "forgotten: told or given up, long ago"
    )
    tries: int
    status: int | None = Field(description="of the receiver's last answer")
    said: str | None = Field(description="why the last try failed")
    next_at: str | None = Field(description="when it is tried next")
    ended_at: str | None = Field(description="when it was delivered or given up")


class WebhookSecret(BaseModel):
    """What a receiver checks signatures with."""

    secret: str


def asked_webhook(asked: str | JobWebhook | SeriesWebhook | None) -> Webhook | None:
    """The webhook that a body says; RequestError when its address cannot be one."""
    if asked is None or isinstance(asked, str):
        return None if asked is None else webhook_of(asked)
    return webhook_of(asked.model_dump(), (*JOB_ENDS, *SERIES_ENDS))
