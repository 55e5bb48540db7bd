"""What a webhook is, who may be asked, and how it is signed."""

import base64
import json
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from standardwebhooks import Webhook as Verifier
from standardwebhooks.webhooks import WebhookVerificationError
from tests.cli_kit import imagen

from imagen.config import Settings, load_settings
from imagen.core.errors import Forbidden, RequestError
from imagen.core.request import drafted
from imagen.core.webhook import JOB_ENDS, SERIES_ENDS, Delivery, Webhook, webhook_of
from imagen.core.webhook import SECRET as SECRET_MARK
from imagen.engine.webhooks.addresses import Reach
from imagen.store.webhooks import wish_of
from imagen.surfaces.webhooks.signing import signed
from imagen.surfaces.wire import webhook_json

SECRET = "whsec_" + base64.b64encode(b"k" * 32).decode()
OTHER = "whsec_" + base64.b64encode(b"o" * 32).decode()
URL = "https://hook.example/a/secret/path?token=1"


def settings(home: Path, **environ: str) -> Settings:
    return load_settings(home=home, environ={f"IMAGEN_{name.upper()}": value for name, value in environ.items()})


def test_an_address_is_enough() -> None:
    """A text is an address; a mapping says more."""
    assert webhook_of(URL) == Webhook(url=URL)
    said = {"url": URL, "events": ["failed"], "secret": SECRET}
    assert webhook_of(said) == Webhook(url=URL, events=("failed",), secret=SECRET)
    assert drafted("a fox", {"webhook": URL}).webhook == Webhook(url=URL)


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "hook.example",
        "ftp://hook.example/",
        "https://",
        "https:///x",
        "https://user:password@hook.example/",
        "https://hook.example:0/",
        "https://hook.example:99999/",
        "https://hook.example/a b",
        "https://hook.example\\@10.0.0.1/",
        "https://hook.example/\r\nx: y",
        "https://höhle.example/",
        "http://[::1/",
        "https://hook.example/" + "x" * 2000,
        {},
        {"url": 7},
        {"url": URL, "event": "failed"},
        {"url": URL, "events": "failed"},
        {"url": URL, "events": ["partial"]},
        {"url": URL, "events": []},
        {"url": URL, "secret": "short"},
        {"url": URL, "secret": "whsec_c2hvcnQ="},
        {"url": URL, "each": 1},
        {"url": URL, "events": 5},
        {"url": URL, "events": {"failed": 1}},
        {"url": URL, "secret": "whsec_é"},
        "https://hook.example:65536/",
        "https://hook.example:70000/",
        7,
    ],
    ids=str,
)
def test_what_is_no_webhook_is_refused(wrong: object) -> None:
    """With the reason, what to do, and the field that is meant."""
    with pytest.raises(RequestError) as caught:
        webhook_of(wrong)
    assert str(caught.value.param).startswith("webhook")
    assert caught.value.hint


def test_it_is_kept_as_it_was_said() -> None:
    """Written to a column and read again; an address alone stays one, as people write it in SQL."""
    for hook in (Webhook(url=URL), Webhook(url=URL, events=("failed",), secret=SECRET, each=True)):
        assert Webhook.from_text(hook.as_text()) == hook
    assert Webhook(url=URL).as_text() == URL


def test_nothing_that_is_shown_tells_address_or_secret() -> None:
    """Neither its text in Python nor its JSON: the path of an address is often the only password it has."""
    hook = Webhook(url=URL, secret=SECRET)
    shown = repr(hook) + json.dumps(webhook_json(hook, Delivery(id="J", state="failed"), end="failed"))
    assert "secret" not in shown.replace("'secret'", "")
    assert SECRET not in shown
    assert "token" not in shown
    assert '"origin": "https://hook.example"' in shown


def test_the_state_before_and_without_a_delivery() -> None:
    """`set` until the end, `unwanted` where the end was none that was asked for, `forgotten` where it was."""
    hook = Webhook(url=URL, events=("failed",))
    assert webhook_json(None, None, end="failed") is None
    for end, state in ((None, "set"), ("completed", "unwanted"), ("failed", "forgotten")):
        told = webhook_json(hook, None, end=end)
        assert told is not None
        assert told["state"] == state
    for end, state in (("completed", "unwanted"), ("failed", "waiting")):
        told = webhook_json(hook, Delivery(id="J", state="waiting"), end=end)
        assert told is not None
        assert told["state"] == state, "what nobody asked for is not tried, whoever has not sorted it out yet"


def test_who_knows_the_secret_believes_it() -> None:
    """The library of the specification verifies the headers; with another secret it refuses."""
    body = '{"type":"job.completed","prompt":"füchse"}'.encode()
    headers = signed("J", int(datetime.now(UTC).timestamp()), body, [SECRET])
    assert Verifier(SECRET).verify(body, headers)["type"] == "job.completed"
    for secret, told in ((OTHER, body), (SECRET, body + b" ")):
        with pytest.raises(WebhookVerificationError):
            Verifier(secret).verify(told, headers)


def test_an_old_message_is_not_believed() -> None:
    """The moment is signed too: what was written down yesterday is of no use today."""
    yesterday = int((datetime.now(UTC) - timedelta(days=1)).timestamp())
    headers = signed("J", yesterday, b"{}", [SECRET])
    with pytest.raises(WebhookVerificationError, match="too old"):
        Verifier(SECRET).verify(b"{}", headers)
    headers["webhook-timestamp"] = str(int(datetime.now(UTC).timestamp()))
    with pytest.raises(WebhookVerificationError, match="signature"):
        Verifier(SECRET).verify(b"{}", headers)


def test_while_a_secret_is_changed_both_hold() -> None:
    """Two secrets, two signatures: whoever knows one of them believes it."""
    headers = signed("J", int(datetime.now(UTC).timestamp()), b"{}", [SECRET, OTHER])
    for secret in (SECRET, OTHER):
        Verifier(secret).verify(b"{}", headers)


INNER = [
    "127.0.0.1",
    "127.8.8.8",
    "0.0.0.0",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "100.64.0.1",
    "169.254.169.254",
    "224.0.0.1",
    "255.255.255.255",
    "192.0.2.1",
    "::",
    "::1",
    "fe80::1",
    "fd00::1",
    "ff02::1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "2002:7f00:1::",
    "64:ff9b::a00:1",
    "2001:db8::1",
]


@pytest.mark.parametrize("address", INNER)
def test_inner_addresses_are_not_asked(address: str, tmp_path: Path) -> None:
    """Private, loopback, link-local, shared, reserved, multicast, and those in other clothes."""
    reach = Reach(settings(tmp_path))
    with pytest.raises(Forbidden) as caught:
        reach.permit("hook.example", [ip_address("93.184.216.34"), ip_address(address)], "ann")
    assert "webhooks" in caught.value.hint


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946", "::ffff:93.184.216.34"])
def test_public_addresses_are_asked(address: str, tmp_path: Path) -> None:
    """Whoever asks for it."""
    Reach(settings(tmp_path)).permit("hook.example", [ip_address(address)], "ann")


@pytest.mark.parametrize(
    ("allow", "host", "address"),
    [
        ("hook.lan", "hook.lan", "10.0.0.7"),
        ("hook.lan", "HOOK.lan.", "10.0.0.7"),
        ("*.lan", "a.hook.lan", "10.0.0.7"),
        ("10.0.0.0/8", "whatever.example", "10.0.0.7"),
        ("10.0.0.7", "10.0.0.7", "10.0.0.7"),
        ("fd00::/8", "whatever.example", "fd00::7"),
    ],
)
def test_the_owner_allows_more(allow: str, host: str, address: str, tmp_path: Path) -> None:
    """By name, by the end of a name, by network."""
    reach = Reach(settings(tmp_path, webhooks_allow=f"other.lan, {allow}"))
    reach.permit(host, [ip_address(address)], "ann")
    for elsewhere, other in (("hook.lan.evil.example", "10.200.0.1"), ("evil-lan", "192.168.0.1")):
        if not allow.startswith("10."):
            with pytest.raises(Forbidden):
                reach.permit(elsewhere, [ip_address(other)], "ann")


def test_this_machine_may_be_asked_by_this_machine_only(tmp_path: Path) -> None:
    """Loopback, for jobs that needed no key, on a server that nobody else reaches; the network beside it not."""
    loopback = [ip_address("127.0.0.1")]
    Reach(settings(tmp_path)).permit("localhost", loopback, "local")
    with pytest.raises(Forbidden):
        Reach(settings(tmp_path)).permit("10.0.0.1", [ip_address("10.0.0.1")], "local")
    for reach, owner in (
        (Reach(settings(tmp_path)), "ann"),
        (Reach(settings(tmp_path, server_host="0.0.0.0")), "local"),
        (Reach(settings(tmp_path, server_public_url="https://draw.example")), "local"),
        (Reach(settings(tmp_path, server_hosts="draw.example")), "local"),
    ):
        with pytest.raises(Forbidden):
            reach.permit("localhost", loopback, owner)


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost/",
        "http://127.0.0.1:8450/",
        "http://[::1]/",
        "http://10.0.0.1/x",
        "http://0x0a.0.0.1/",
        "http://012.0.0.1/",
        "http://167772161/",
        "http://10.1/",
        "http://0x7f000001:8450/",
    ],
)
def test_an_address_that_says_so_itself_is_refused_at_once(url: str, tmp_path: Path) -> None:
    """No name has to be looked up for that."""
    reach = Reach(settings(tmp_path))
    with pytest.raises(Forbidden):
        reach.check(url, "ann")
    reach.check("https://hook.example/", "ann")


@pytest.mark.parametrize(
    "wrong",
    [
        {"IMAGEN_WEBHOOKS_SECRET": "short"},
        {"IMAGEN_WEBHOOKS_ALLOW": "10.0.0.0/64"},
        {"IMAGEN_WEBHOOKS_ALLOW": "https://hook.lan"},
    ],
    ids=str,
)
def test_settings_that_mean_nothing_are_a_problem(wrong: dict[str, str], tmp_path: Path) -> None:
    """A secret that can be guessed, a network that is none, an address in place of a name."""
    (problem,) = load_settings(home=tmp_path, environ=wrong).problems
    assert "webhooks" in problem.message


def test_the_secret_of_the_settings_is_never_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither as text nor as JSON, nor in the words of a problem with it."""
    monkeypatch.setenv("IMAGEN_HOME", str(tmp_path))
    for secret in ("a-long-text-of-more-than-24-letters", "too-short-secret"):
        monkeypatch.setenv("IMAGEN_WEBHOOKS_SECRET", secret)
        for command in (("config", "show"), ("config", "show", "--json"), ("config", "check")):
            ran = imagen(*command)
            assert secret[:12] not in ran.out + ran.err, command


@pytest.mark.parametrize("port", [1, 80, 9999, 10000, 59999, 60000, 64999, 65499, 65529, 65535])
def test_every_port_that_there_is_can_be_named(port: int) -> None:
    """Up to the last one."""
    assert Webhook(url=f"https://hook.example:{port}/x").origin == f"https://hook.example:{port}"


@pytest.mark.parametrize("field", ["events", "secret", "each"])
def test_the_field_that_is_wrong_is_named(field: str) -> None:
    """And no other one."""
    with pytest.raises(RequestError) as caught:
        webhook_of({"url": URL, field: 3})
    assert caught.value.param == f"webhook.{field}"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
NEARLY = st.fixed_dictionaries(
    {"url": st.just(URL) | JSON},
    optional={
        "events": st.lists(st.sampled_from([*JOB_ENDS, *SERIES_ENDS])) | JSON,
        "secret": st.text().map(SECRET_MARK.__add__) | JSON,
        "each": JSON,
        "more": JSON,
    },
)


@given((JSON | NEARLY).map(json.dumps) | st.text() | st.text().map("{".__add__))
@example('{"url": "https://hook.example/", "events": 5}')
@example('{"url": "https://hook.example/", "secret": "whsec_é"}')
@example('{"a":' * 100_000)
def test_nonsense_in_the_column_is_refused_and_never_more_than_that(text: str) -> None:
    """Whatever somebody wrote in SQL: one row holds up neither a list of jobs nor what others are told."""
    try:
        hook = Webhook.from_text(text)
    except RequestError:
        assert wish_of(text) is None
    else:
        assert wish_of(text) == (hook if text else None)
