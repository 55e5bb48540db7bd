"""What every image store promises, a folder and a bucket alike; and what a bucket says when it refuses."""

import asyncio
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from tests.album_kit import drawn
from tests.s3_kit import KEY, READER_KEY, READER_SECRET, S3, SECRET
from tests.store_kit import database

from imagen.core.errors import MissingPicture, NotConfigured, SetupError, StorageAway, Unwritable
from imagen.core.ids import new_id
from imagen.engine.pictures import album
from imagen.engine.pictures.gc import YOUNG_S, gc
from imagen.store.bucket import Bucket
from imagen.store.db import Database
from imagen.store.images import PART, ImageStore

NOBODY = "http://127.0.0.1:9"  # the port where nothing listens


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.needs_s3)])
def images(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ImageStore:
    """An empty image store, once of each kind."""
    if request.param == "local":
        return ImageStore("local", tmp_path / "images")
    return bucket(request.getfixturevalue("s3"), monkeypatch)


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[Database]:
    async with database(tmp_path) as db:
        yield db


def bucket(s3: S3, monkeypatch: pytest.MonkeyPatch, place: str | None = None, **told: Any) -> ImageStore:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    told = {"endpoint": s3.endpoint, "allow_http": True} | told
    return ImageStore(place or s3.new_place(), Path("unused"), **told)


async def names(images: ImageStore) -> set[str]:
    return {file.path async for page in images.listed() for file in page}


async def test_a_picture_comes_back_as_it_went(images: ImageStore) -> None:
    """Whole, in a part, a little at a time; also one that is sent in parts."""
    for size in (0, 1, 100_000, PART + 12_345):
        path = images.path_of(new_id(), "png", datetime.now(UTC))
        data = (path.encode() * (size // len(path) + 1))[:size]
        await images.put(path, data)
        assert await images.get(path) == data
        assert await asyncio.to_thread(images.read, path) == data
        assert await images.size_of(path) == size
        assert b"".join([chunk async for chunk in images.chunks(path)]) == data
        assert b"".join([chunk async for chunk in images.chunks(path, 7, size - 7)]) == data[7:-7]


async def test_a_picture_is_replaced_whole(images: ImageStore) -> None:
    """No reader sees half of one and half of the other, however many write."""
    many = [bytes([letter]) * 300_000 for letter in b"abcdef"]
    await asyncio.gather(*(images.put("2026/11/one.png", data) for data in many))
    assert await images.get("2026/11/one.png") in many


async def test_what_is_not_there_is_missing(images: ImageStore) -> None:
    """Asked for in any way. Deleting it is fine."""
    for asked in (images.get("2026/11/no.png"), images.size_of("2026/11/no.png")):
        with pytest.raises(MissingPicture):
            await asked
    with pytest.raises(MissingPicture):
        images.read("2026/11/no.png")
    await images.put("2026/11/yes.png", b"yes")
    assert await images.sizes(["2026/11/yes.png", "2026/11/no.png"]) == [3, None]
    await images.delete("2026/11/no.png")
    await images.delete_all(["2026/11/no.png", "2026/11/yes.png", "2026/11/never.png"])
    assert await names(images) == set()


async def test_a_listing_has_all_its_pages(images: ImageStore) -> None:
    """More files than fit on one; and none of another place."""
    wanted = {f"2026/11/{number:05}.json" for number in range(1100)}
    turn = asyncio.Semaphore(20)

    async def put(path: str) -> None:
        async with turn:
            await images.put(path, b"{}")

    await asyncio.gather(*map(put, wanted))
    pages = [page async for page in images.listed()]
    assert len(pages) > 1
    assert {file.path for page in pages for file in page} == wanted
    assert {file.size for page in pages for file in page} == {2}
    await images.delete_all(wanted)
    assert await names(images) == set()


@pytest.mark.parametrize("quick", [False, True])
async def test_it_can_be_asked_whether_it_takes_pictures(images: ImageStore, quick: bool) -> None:
    """Nothing of the question stays, and the answer is the time there."""
    at = await images.writable(quick=quick)
    assert abs(at - datetime.now(UTC)) < timedelta(seconds=30)
    assert await names(images) == set()


async def test_a_job_is_drawn_into_it(db: Database, images: ImageStore) -> None:
    """Every picture with its copies and its sidecar; deleted, nothing of it is left."""
    job = await drawn(db, images, n=2)
    assert len(await names(images)) == 2 * 4
    for image in job.images:
        file = await album.find(db, images, image.id)
        assert image.url == images.url_of(file.path)
        assert b"".join([chunk async for chunk in album.chunks(images, file)])[:4] == b"\x89PNG"
    await album.delete_job(db, images, job.id)
    assert await names(images) == set()


async def test_gc_takes_strays_old_pictures_and_nothing_else(db: Database, images: ImageStore) -> None:
    """As in a folder, so in a bucket."""
    await drawn(db, images)
    kept = await names(images)
    await asyncio.sleep(1.0)  # a bucket tells times by the second, and what is older than the database is not ours
    stray = f"2026/11/{new_id()}.png"
    await images.put(stray, b"never recorded")
    await images.put("notes/mine.txt", b"not ours")
    later = datetime.now(UTC) + timedelta(seconds=YOUNG_S + 60)
    told = await gc(db, images, now=later)
    assert (told.strays.names, told.foreign.names, told.missing.count) == ((stray,), ("notes/mine.txt",), 0)
    await gc(db, images, dry_run=False, now=later)
    assert await names(images) == kept | {"notes/mine.txt"}
    done = await gc(db, images, dry_run=False, older_than_s=60, now=later)
    assert done.old.count == 1
    assert await names(images) == {"notes/mine.txt"}


@pytest.mark.needs_s3
async def test_what_a_bucket_refuses_is_said_with_what_to_do(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key it does not know, a wrong secret, one that may only read, a bucket that is not there, nobody there."""
    cases: list[tuple[dict[str, Any], type[SetupError], str, str]] = [
        ({"AWS_ACCESS_KEY_ID": "stranger"}, Unwritable, "does not know these keys (InvalidAccessKeyId)", "AWS_ACC"),
        ({"AWS_SECRET_ACCESS_KEY": "guess"}, Unwritable, "does not know these keys (SignatureDoesNotMatch)", "AWS_ACC"),
        (
            {"AWS_ACCESS_KEY_ID": READER_KEY, "AWS_SECRET_ACCESS_KEY": READER_SECRET},
            Unwritable,
            "access is denied",
            "put, get and delete",
        ),
        ({"place": "s3://nowhere/here"}, NotConfigured, "there is no bucket 'nowhere'", "create it"),
        ({"endpoint": NOBODY}, StorageAway, "does not answer (Connection refused)", "whether the store runs"),
        ({"endpoint": "http://store.invalid"}, StorageAway, "does not answer (failed to lookup", "whether the store"),
        ({"AWS_ACCESS_KEY_ID": ""}, NotConfigured, "there are no keys for the bucket", "set AWS_ACCESS_KEY_ID"),
    ]
    for told, kind, message, hint in cases:
        with monkeypatch.context() as patch:
            options = {key: value for key, value in told.items() if not key.startswith("AWS_")}
            images = bucket(s3, patch, **options)
            for name in told.keys() - options.keys():
                patch.setenv(name, told[name])
            with pytest.raises(kind) as refused:
                await images.writable(quick=True)
            assert message in refused.value.message, told
            assert hint in refused.value.hint, told
            assert type(refused.value) is kind
            assert s3.endpoint not in refused.value.message
            assert not images.proven


@pytest.mark.needs_s3
async def test_a_signed_address_holds_for_a_while(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until then it opens without a key; after that the store itself refuses it."""
    images = bucket(s3, monkeypatch, reads="presigned", presign_s=1)
    await images.put("2026/11/a.png", b"\x89PNG")
    signed = await images.signed_url("2026/11/a.png")
    assert signed is not None
    url, holds_s = signed
    assert holds_s == 1
    assert url.startswith(f"{images.signed_origin}/")

    def fetch() -> tuple[int, str | None, bytes]:
        try:
            with urllib.request.urlopen(url) as answer:
                return answer.status, answer.headers["content-type"], answer.read()
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.code, None, b""

    assert await asyncio.to_thread(fetch) == (200, "image/png", b"\x89PNG")
    while (await asyncio.to_thread(fetch))[0] == 200:
        await asyncio.sleep(0.2)
    assert (await asyncio.to_thread(fetch))[0] == 403
    assert await bucket(s3, monkeypatch).signed_url("2026/11/a.png") is None


@pytest.mark.needs_s3
async def test_keys_come_from_a_profile_too(s3: S3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The one that is named, and again when the file changes; one without keys says what to do."""
    file = tmp_path / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    (tmp_path / "config").write_text("[profile work]\nregion = eu-west-1\n[profile sso]\nsso_session = corp\n")
    file.write_text(f"[work]\naws_access_key_id = {KEY}\naws_secret_access_key = {SECRET}\n")
    told: dict[str, Any] = {"endpoint": s3.endpoint, "allow_http": True}
    named = ImageStore(s3.new_place(), tmp_path, profile="work", **told)
    await named.writable()
    monkeypatch.setenv("AWS_PROFILE", "work")
    await ImageStore(s3.new_place(), tmp_path, **told).writable()
    with pytest.raises(NotConfigured, match="there is no profile 'home'"):
        await ImageStore(s3.new_place(), tmp_path, profile="home", **told).writable()
    with pytest.raises(NotConfigured, match="only sso_session") as refused:
        await ImageStore(s3.new_place(), tmp_path, profile="sso", **told).writable()
    assert "aws configure export-credentials --profile sso" in refused.value.hint


@pytest.mark.parametrize(
    ("told", "site"),
    [
        ({}, "https://s3.us-east-1.amazonaws.com"),
        ({"region": "eu-west-1", "path_style": False}, "https://pictures.s3.eu-west-1.amazonaws.com"),
        ({"endpoint": "https://minio.lan:9000"}, "https://minio.lan:9000"),
        (
            {"endpoint": "https://minio.lan:9000", "public_endpoint": "https://pictures.example"},
            "https://pictures.example",
        ),
        ({"endpoint": "https://oss.example", "path_style": False}, "https://pictures.oss.example"),
    ],
)
async def test_signed_addresses_lead_to_the_site_that_the_page_may_load(
    monkeypatch: pytest.MonkeyPatch, told: dict[str, Any], site: str
) -> None:
    """What the policy names is where the address leads, for every kind of address."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    images = ImageStore("s3://pictures/here", Path("unused"), reads="presigned", **told)
    assert images.signed_origin == site
    signed = await images.signed_url("2026/11/a.png")
    assert signed is not None
    assert signed[0].startswith(f"{site}/")


class NoStore(BaseHTTPRequestHandler):
    """A web server that has never heard of S3, and takes what it is sent."""

    def do_PUT(self) -> None:
        """As some do: 200, whatever it was."""
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(int(self.path.split("/")[1]))
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


@pytest.mark.parametrize(
    ("scheme", "name", "message", "hint"),
    [
        ("http", "200", "what answers at the bucket's address is no S3 store", "see `s3: endpoint`"),
        ("http", "404", "what answers at the bucket's address is no S3 store", "see `s3: endpoint`"),
        ("http", "501", "what answers at the bucket's address is no S3 store", "see `s3: endpoint`"),
        ("https", "200", "what answers speaks no TLS", "is it http?"),
    ],
)
async def test_an_address_that_is_another_servers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, scheme: str, name: str, message: str, hint: str
) -> None:
    """A wrong port is said to be one, not that the picture was deleted."""
    for variable, value in S3.keys.items():
        monkeypatch.setenv(variable, value)
    with ThreadingHTTPServer(("127.0.0.1", 0), NoStore) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        endpoint = f"{scheme}://127.0.0.1:{server.server_port}"
        images = ImageStore(f"s3://{name}", tmp_path, endpoint=endpoint, allow_http=True)
        with pytest.raises(SetupError) as refused:
            await images.writable(quick=True)
        server.shutdown()
    assert message in refused.value.message
    assert hint in refused.value.hint


def answer(status: int, code: str = "") -> Exception:
    """What obstore raises for an answer like this."""
    body = f"<Error><Code>{code}</Code></Error>" if code else ""
    return Exception(f"Generic S3 error: Error performing PUT http://secret.lan/b/x - status code: {status} : {body}")


@pytest.mark.parametrize(
    ("exc", "kind", "message"),
    [
        (answer(503, "SlowDown"), StorageAway, "does not take it now (503 SlowDown)"),
        (answer(507, "XMinioStorageFull"), StorageAway, "the bucket is full (XMinioStorageFull)"),
        (answer(403, "QuotaExceeded"), StorageAway, "the bucket is full (QuotaExceeded)"),
        (answer(403, "RequestTimeTooSkewed"), SetupError, "the clocks of this machine and of the bucket differ"),
        (answer(400, "AuthorizationHeaderMalformed"), NotConfigured, "another region"),
        (answer(405), NotConfigured, "is no S3 store"),
        (answer(404), NotConfigured, "is no S3 store"),
        (answer(404, "NoSuchBucket"), NotConfigured, "there is no bucket 'b'"),
        (FileNotFoundError("Error performing GET http://secret.lan/b/x status code: 404"), MissingPicture, "not there"),
        (answer(500, "InternalError"), StorageAway, "does not take it now (500 InternalError)"),
        (answer(400, "EntityTooLarge"), SetupError, "refuses it (400 EntityTooLarge)"),
        (Exception("HTTP error: request or response body error"), StorageAway, "does not answer (the connection broke"),
        (Exception("inner: BareRedirect"), NotConfigured, "another region"),
        (Exception("PUT http://169.254.169.254/latest/api/token HttpError"), NotConfigured, "no keys"),
        (Exception("Unable to read http://secret.lan/x"), SetupError, "Unable to read …"),
    ],
)
def test_other_answers_have_words_too(exc: Exception, kind: type[SetupError], message: str) -> None:
    """Those that the store of the tests does not give; none repeats an address."""
    error = Bucket("s3://b").explain(exc, "cannot store the picture x")
    assert type(error) is kind
    assert message in error.message
    assert "secret.lan" not in error.message
