"""One try to tell a receiver: whom it reaches, and what it makes of a receiver that misbehaves."""

import asyncio
import ssl
import subprocess
import time
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path

import pytest
from tests.webhook_kit import Receiver

from imagen.config import load_settings
from imagen.engine.webhooks.addresses import Address, Reach
from imagen.store.webhooks import Answer
from imagen.surfaces.webhooks.post import Post

HERE = ip_address("127.0.0.1")
NOBODY = ip_address("127.0.0.2")  # this machine, where nobody listens


async def send(
    url: str, home: Path, *addresses: Address, allow: str = "hook.test", answer_s: float = 10.0
) -> tuple[Answer, list[str]]:
    """The answer of a host of these addresses, and the names that were looked up."""
    asked: list[str] = []

    async def resolve(host: str, _port: int) -> Sequence[Address]:
        asked.append(host)
        return addresses or [HERE]

    reach = Reach(load_settings(home=home, environ={"IMAGEN_WEBHOOKS_ALLOW": allow}))
    post = Post(reach, resolve=resolve, answer_s=answer_s)
    try:
        return await post.send(url, "ann", {"webhook-id": "J"}, b'{"a":"b"}'), asked
    finally:
        post.close()


async def test_it_arrives(tmp_path: Path) -> None:
    """A POST of JSON to the path, with the name of the host; any status of success will do."""
    for status in (200, 202, 204):
        with Receiver(answers=[status]) as receiver:
            answer, asked = await send(f"http://hook.test:{receiver.port}/a?b=c", tmp_path)
        assert (answer.ok, answer.status, asked) == (True, status, ["hook.test"])
        (told,) = receiver.told
        assert (told.path, told.body) == ("/a?b=c", b'{"a":"b"}')
        assert told.headers["host"] == f"hook.test:{receiver.port}"
        assert told.headers["content-type"] == "application/json"
        assert told.id == "J"


async def test_only_what_was_resolved_is_asked(tmp_path: Path) -> None:
    """A name that changes its mind between looking and connecting gains nothing: it is looked up once."""
    answers = iter([[ip_address("93.184.216.34")], [HERE]])  # public when it is looked at, inner afterwards
    asked = []

    async def rebinding(host: str, _port: int) -> Sequence[Address]:
        asked.append(host)
        return next(answers)

    with Receiver() as receiver:
        post = Post(Reach(load_settings(home=tmp_path, environ={})), resolve=rebinding, answer_s=0.5)
        answer = await post.send(f"http://rebind.test:{receiver.port}/", "ann", {}, b"{}")
        post.close()
    assert not answer.ok
    assert asked == ["rebind.test"]
    assert receiver.told == []


@pytest.mark.parametrize("addresses", [[HERE], [ip_address("93.184.216.34"), HERE]], ids=["inner", "both"])
async def test_a_public_name_for_an_inner_address_is_refused(addresses: list[Address], tmp_path: Path) -> None:
    """Whoever owns a name may let it mean anything; nothing is sent, and trying again is no use."""
    with Receiver() as receiver:
        answer, _ = await send(f"http://evil.test:{receiver.port}/", tmp_path, *addresses)
    assert answer.final
    assert "no public address" in str(answer.said)
    assert receiver.told == []


async def test_numbers_that_look_like_names_are_seen_through(tmp_path: Path) -> None:
    """2130706433 and 0x7f.1 are 127.0.0.1 to the system: what counts is what it makes of them."""
    post = Post(Reach(load_settings(home=tmp_path, environ={})))
    with Receiver() as receiver:
        for host in ("2130706433", "0x7f.1", "127.1", "0"):
            answer = await post.send(f"http://{host}:{receiver.port}/", "ann", {}, b"{}")
            assert answer.final, host
    post.close()
    assert receiver.told == []


async def test_the_next_address_is_asked_when_one_takes_no_connection(tmp_path: Path) -> None:
    """A name may have several."""
    with Receiver() as receiver:
        answer, _ = await send(f"http://hook.test:{receiver.port}/", tmp_path, NOBODY, HERE)
    assert answer.ok
    assert len(receiver.told) == 1


@pytest.mark.parametrize(
    ("misbehaves", "status", "said"),
    [
        (500, 500, "answered 500"),
        (404, 404, "answered 404"),
        (410, 410, "answered 410"),
        ("redirects", 307, "redirects are not followed"),
        ("drops", None, "the connection broke"),
        ("slow", None, "no answer within"),
        ("dripping", None, "no answer within"),
    ],
)
async def test_what_went_wrong_is_said(misbehaves: int | str, status: int | None, said: str, tmp_path: Path) -> None:
    """In words, in bounded time; only 410 is final."""
    began = time.monotonic()
    with Receiver(answers=[misbehaves]) as receiver:
        answer, _ = await send(f"http://hook.test:{receiver.port}/", tmp_path, answer_s=1.0)
    assert not answer.ok
    assert answer.status == status
    assert said in str(answer.said)
    assert answer.final == (misbehaves == 410)
    assert len(receiver.told) == 1, "a redirect is not followed, and nothing is sent twice"
    assert time.monotonic() - began < 20


async def test_an_endless_answer_is_not_read(tmp_path: Path) -> None:
    """Its status says enough."""
    began = time.monotonic()
    with Receiver(answers=["endless"]) as receiver:
        answer, _ = await send(f"http://hook.test:{receiver.port}/", tmp_path)
    assert answer.ok
    assert time.monotonic() - began < 5


async def test_a_receiver_may_ask_for_patience(tmp_path: Path) -> None:
    """`Retry-After` in seconds is passed on."""
    with Receiver(answers=[429], headers={"retry-after": "120"}) as receiver:
        answer, _ = await send(f"http://hook.test:{receiver.port}/", tmp_path)
    assert answer.retry_after_s == 120


async def test_nobody_there_and_no_such_name(tmp_path: Path) -> None:
    """Each has its own words."""
    with Receiver() as receiver:
        port = receiver.port
    answer, _ = await send(f"http://hook.test:{port}/", tmp_path)
    assert answer.said == "the receiver does not take connections"
    post = Post(Reach(load_settings(home=tmp_path, environ={})))
    answer = await post.send("http://no-such-name.invalid/", "ann", {}, b"{}")
    post.close()
    assert answer.said == "the name no-such-name.invalid is not found"
    assert not answer.final


async def test_no_proxy_of_the_environment_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would look the name up anew."""
    with Receiver() as proxy, Receiver() as receiver:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        answer, _ = await send(f"http://hook.test:{receiver.port}/", tmp_path)
    assert answer.ok
    assert proxy.told == []


async def test_a_certificate_has_to_be_that_of_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though an address is connected to: the right name passes, another one or an unknown authority does not."""
    authority, certificate, key = certificates(tmp_path, "hook.test")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    with Receiver(tls=tls) as receiver:
        unknown, _ = await send(f"https://hook.test:{receiver.port}/", tmp_path)
        monkeypatch.setenv("SSL_CERT_FILE", str(authority))
        right, _ = await send(f"https://hook.test:{receiver.port}/", tmp_path)
        wrong, _ = await send(f"https://other.test:{receiver.port}/", tmp_path, allow="other.test")
    assert right.ok, right.said
    assert "certificate" in str(unknown.said)
    assert "certificate" in str(wrong.said)
    assert len(receiver.told) == 1


async def test_others_go_on_while_a_receiver_hangs(tmp_path: Path) -> None:
    """Nothing of one try holds up another."""
    with Receiver(answers=["slow"]) as hangs, Receiver() as fine:
        hanging = asyncio.create_task(send(f"http://hook.test:{hangs.port}/", tmp_path, answer_s=5.0))
        await asyncio.to_thread(hangs.until, 1)
        began = time.monotonic()
        answer, _ = await send(f"http://hook.test:{fine.port}/", tmp_path)
        assert answer.ok
        assert time.monotonic() - began < 4
        hanging.cancel()
        await asyncio.gather(hanging, return_exceptions=True)


def certificates(folder: Path, name: str) -> tuple[Path, Path, Path]:
    """An authority, and a certificate of it for this name with its key, made by openssl."""
    authority, certificate, key = (folder / file for file in ("authority.pem", "certificate.pem", "key.pem"))
    subject = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-x509"]
    usage = ["-addext", "keyUsage=critical,digitalSignature,keyCertSign"]
    root = ["-keyout", str(folder / "root.pem"), "-out", str(authority), "-subj", "/CN=a test's authority"]
    leaf = ["-keyout", str(key), "-out", str(certificate), "-subj", f"/CN={name}", "-CA", str(authority)]
    leaf += ["-CAkey", str(folder / "root.pem"), "-addext", f"subjectAltName=DNS:{name}"]
    for more in ([*root, *usage], [*leaf, "-addext", "basicConstraints=critical,CA:FALSE"]):
        subprocess.run(["openssl", "req", *subject, *more], check=True, capture_output=True, cwd=folder)
    return authority, certificate, key
