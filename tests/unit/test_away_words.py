"""What a server says, in the words of this side."""

import pytest

from imagen.away.words import away, error_of, rebuilt, with_commands
from imagen.core.errors import (
    BY_CODE,
    BackendError,
    DatabaseAway,
    ImagenError,
    NotConfigured,
    RequestError,
    ServerAway,
    SetupError,
    Unauthorized,
)
from imagen.surfaces.wire import error_json, without_commands

SERVER = "http://gpu.example:8450"


@pytest.mark.parametrize(
    "why",
    [
        "peer closed connection without sending complete message body (incomplete chunked read)",
        "Server disconnected without sending a response.",
        "[Errno 104] Connection reset by peer",
        "ReadError",
    ],
)
@pytest.mark.parametrize("was_there", [True, False])
def test_a_connection_that_broke_off_is_told_in_words(why: str, was_there: bool) -> None:
    """Not in those of the client library."""
    told = away(SERVER, why, was_there=was_there)
    assert told.message.endswith(": the connection broke off")


@pytest.mark.parametrize(
    "hint",
    [
        "see `imagen jobs list`",
        "see `imagen jobs show 01ABC` for it",
        "follow it with `imagen jobs watch 01ABC`",
        "cancel it first: `imagen jobs cancel 01ABC`",
        "`imagen jobs retry 01ABC` draws it again",
        "see `imagen series list`",
        "see `imagen series show 01ABC`",
        "see `imagen models` for the names",
        "nothing about commands, and /v1/other is no address of ours",
    ],
)
def test_a_hint_comes_back_as_it_was_sent(hint: str) -> None:
    """A server puts addresses in place of commands; here they are commands again."""
    assert with_commands(without_commands(hint)) == hint


@pytest.mark.parametrize(
    ("told", "read"),
    [
        ("GET /v1/models says what each one lacks", "`imagen models` says what each one lacks"),
        (
            "follow the job's events instead: GET /v1/jobs/{id}/events",
            "follow the job's events instead: `imagen jobs watch ID`",
        ),
        ("DELETE /v1/jobs/{id}", "DELETE /v1/jobs/{id}"),
        ("GET /v1/jobs/01ABC/preview shows it", "GET /v1/jobs/01ABC/preview shows it"),
    ],
)
def test_bare_addresses_become_commands_where_there_is_one(told: str, read: str) -> None:
    """And stay what they are where there is none."""
    assert with_commands(told) == read


@pytest.mark.parametrize("code", sorted(BY_CODE))
def test_every_error_of_ours_survives_the_way(code: str) -> None:
    """Message, hint, exit code and whether it passes are the same here and there."""
    error = BY_CODE[code]("it went wrong", hint="do something", param="prompt", retry_after_s=3, detail="why")
    back = rebuilt(error_json(error, reader="http"))
    assert type(back) is type(error)
    assert back.as_dict() == error.as_dict()


@pytest.mark.parametrize("kind", [RequestError, SetupError, BackendError])
def test_an_error_of_a_later_version_keeps_whose_turn_it_is(kind: type[ImagenError]) -> None:
    """Its code is not known here, its exit code is."""
    back = rebuilt({"type": kind.type, "code": "of_tomorrow", "message": "m", "hint": "h"})
    assert back.exit_code == kind.exit_code
    assert back.message == "m"


def test_a_key_that_is_wrong_is_told_with_where_to_put_one() -> None:
    """The hint over HTTP is about headers, which nobody types here."""
    error = error_of(
        Unauthorized("this key is not known here", hint="send `Authorization`").as_dict(), SERVER, "GET /v1/jobs"
    )
    assert isinstance(error, Unauthorized)
    assert "IMAGEN_KEY" in error.hint
    assert SERVER in error.message


def test_errors_of_others_are_none_of_ours() -> None:
    """They have no hint."""
    assert error_of({"message": "Not found", "code": "model_not_found"}, SERVER, "GET /v1/jobs") is None
    assert error_of({}, SERVER, "GET /v1/jobs") is None


def test_what_is_in_the_way_is_told_apart() -> None:
    """A certificate, the wrong protocol, nobody there, and somebody who was there a moment ago."""
    cert = "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed certificate (_ssl.c:1006)"
    told = away(SERVER, cert, was_there=False)
    assert isinstance(told, NotConfigured)
    assert "self-signed certificate" in told.message
    assert "SSL_CERT_FILE" in told.hint
    told = away(SERVER, "[SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:1006)", was_there=False)
    assert isinstance(told, NotConfigured)
    assert "http://" in told.hint
    assert away(SERVER, "refused", was_there=False).param == "server"
    gone = away(SERVER, "refused", was_there=True)
    assert isinstance(gone, ServerAway)
    assert gone.exit_code == 3
    assert "imagen jobs list" in gone.hint


def test_what_is_wrong_with_the_server_is_not_said_of_who_asks_it() -> None:
    """Whose database it is, and nothing to do that only its owner could do here."""
    hint = "see whether PostgreSQL runs, and whether `database:` of config.yaml has its address: `imagen config show`"
    told = DatabaseAway("the database does not answer", hint=hint, retry_after_s=5)
    error = error_of(told.as_dict(), SERVER, "POST /v1/jobs")
    assert isinstance(error, DatabaseAway)
    assert error.message == f"the server {SERVER}: the database does not answer"
    assert (error.retryable, error.retry_after_s) == (True, 5)
    assert "config.yaml" not in error.hint
    assert "its owner" in error.hint
