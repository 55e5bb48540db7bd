"""Pictures over HTTP, from a real server: whole, in part, as a copy, unchanged, deleted, and somebody else's."""

import hashlib
import http.client
import io
import json
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
from PIL import Image
from tests import http_kit
from tests.service_kit import House

ASKED = {"prompt": "a red fox", "model": "mock", "width": 640, "height": 480, "steps": 2, "options": {"slow": 0}}
LONG = {"Prefer": "wait=60"}
LARGE = 64 * 2**20  # bytes, far more than any buffer on the way holds


class Door:
    """A running server, and one connection for each request."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.program = house.serve()
        self.url = self.program.url

    def ask(
        self, method: str, path: str, headers: dict[str, str] | None = None
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        at = urlsplit(self.url)
        connection = http.client.HTTPConnection(at.hostname or "", at.port, timeout=60)
        try:
            connection.request(method, path, headers=headers or {})
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> tuple[int, http.client.HTTPMessage, bytes]:
        return self.ask("GET", path, {name.replace("_", "-"): value for name, value in headers.items()})

    def drawn(self, key: str | None = None, **changes: Any) -> dict[str, Any]:
        """A finished job."""
        headers = LONG | ({"Authorization": f"Bearer {key}"} if key else {})
        job: dict[str, Any] = http_kit.post(f"{self.url}/v1/jobs", ASKED | changes, headers)
        assert job["state"] == "completed", job
        return job


@pytest.fixture(scope="module")
def door() -> Iterator[Door]:
    with House() as house:
        yield Door(house)


@pytest.fixture(scope="module")
def image(door: Door) -> dict[str, Any]:
    """One picture that all tests look at and none deletes."""
    picture: dict[str, Any] = door.drawn()["images"][0]
    return picture


@pytest.fixture(scope="module")
def data(door: Door, image: dict[str, Any]) -> bytes:
    (file,) = (door.house.home / "images").rglob(f"{image['id']}.png")
    return file.read_bytes()


def error(body: bytes) -> dict[str, Any]:
    shape: dict[str, Any] = json.loads(body)["error"]
    assert shape["hint"]
    return shape


def test_a_picture_arrives_byte_for_byte(door: Door, image: dict[str, Any], data: bytes) -> None:
    """With what a browser and a cache have to know about it."""
    status, headers, body = door.get(image["url"])
    assert (status, body) == (200, data)
    assert hashlib.sha256(body).hexdigest() == image["sha256"]
    assert headers["ETag"] == f'"{image["sha256"]}"'
    assert headers["Content-Type"] == "image/png"
    assert headers["Content-Length"] == str(len(data))
    assert headers["Accept-Ranges"] == "bytes"
    assert headers["Cache-Control"] == "private, max-age=31536000, immutable"
    assert headers["Content-Disposition"] == f'inline; filename="{image["id"]}.png"'
    assert headers["X-Content-Type-Options"] == "nosniff"


def test_a_head_says_the_same_without_the_bytes(door: Door, image: dict[str, Any]) -> None:
    """For the picture and for its copies, and 304 likewise."""
    for path in (image["url"], f"{image['url']}?w=100"):
        status, headers, body = door.ask("HEAD", path)
        _, told, _ = door.get(path)
        assert (status, body) == (200, b"")
        for name in ("ETag", "Content-Type", "Content-Length", "Accept-Ranges", "Cache-Control", "Content-Disposition"):
            assert headers[name] == told[name]
        assert door.ask("HEAD", path, {"If-None-Match": told["ETag"]})[0] == 304


@pytest.mark.parametrize("form", ["{}", "W/{}", '"other", {}', '"other",W/{}', "*", " {} "])
def test_what_the_client_has_is_not_sent_again(door: Door, image: dict[str, Any], form: str) -> None:
    """In every way a client may say that it has it."""
    tag = f'"{image["sha256"]}"'
    status, headers, body = door.get(image["url"], If_None_Match=form.format(tag))
    assert (status, body) == (304, b"")
    assert headers["ETag"] == tag
    assert headers["Cache-Control"]


@pytest.mark.parametrize("named", ['"other"', "other", '""', '"{}-cell"', "{}"])
def test_what_the_client_does_not_have_is_sent(door: Door, image: dict[str, Any], data: bytes, named: str) -> None:
    """The tag of another picture, or of another copy, is another one; a bare word is none."""
    status, _, body = door.get(image["url"], If_None_Match=named.format(image["sha256"]))
    assert (status, body) == (200, data)


@pytest.mark.parametrize(
    ("asked", "part"),
    [
        ("bytes=0-0", slice(0, 1)),
        ("bytes=0-99", slice(0, 100)),
        ("bytes=100-", slice(100, None)),
        ("bytes=-7", slice(-7, None)),
        ("bytes=10-999999999999999", slice(10, None)),
        ("bytes=-999999999", slice(0, None)),
        ("Bytes = 5 - 6", slice(5, 7)),
    ],
)
def test_a_part_can_be_asked_for(door: Door, image: dict[str, Any], data: bytes, asked: str, part: slice) -> None:
    """Exactly that part comes, and says which it is."""
    status, headers, body = door.get(image["url"], Range=asked)
    start, end, _ = part.indices(len(data))
    assert (status, body) == (206, data[part])
    assert headers["Content-Range"] == f"bytes {start}-{end - 1}/{len(data)}"
    assert headers["Content-Length"] == str(end - start)
    assert headers["ETag"] == f'"{image["sha256"]}"'


@pytest.mark.parametrize("asked", ["bytes=0-1,5-6", "bytes=9-3", "bytes=", "bytes=-", "bytes=a-b", "lines=0-1", "0-1"])
def test_what_is_no_single_range_gets_everything(door: Door, image: dict[str, Any], data: bytes, asked: str) -> None:
    """Several ranges are not cut out, and nonsense is not an error."""
    status, headers, body = door.get(image["url"], Range=asked)
    assert (status, body) == (200, data)
    assert headers["Content-Range"] is None


@pytest.mark.parametrize("asked", ["bytes=99999999-", "bytes=99999999-999999999", "bytes=-0"])
def test_a_part_that_is_not_there_is_refused(door: Door, image: dict[str, Any], data: bytes, asked: str) -> None:
    """And the answer says how much there is."""
    status, headers, body = door.get(image["url"], Range=asked)
    assert status == 416
    assert headers["Content-Range"] == f"bytes */{len(data)}"
    assert error(body)["code"] == "range_not_satisfiable"
    assert door.get(image["url"], Range=f"bytes={len(data)}-")[0] == 416


def test_a_part_is_only_of_the_picture_that_is_meant(door: Door, image: dict[str, Any], data: bytes) -> None:
    """If-Range with another tag, a weak one or a date gets everything."""
    tag = f'"{image["sha256"]}"'
    assert door.get(image["url"], Range="bytes=0-9", If_Range=tag)[0] == 206
    for other in ('"other"', f"W/{tag}", "Wed, 21 Oct 2015 07:28:00 GMT"):
        status, _, body = door.get(image["url"], Range="bytes=0-9", If_Range=other)
        assert (status, body) == (200, data)


@pytest.mark.parametrize(
    ("wanted", "size", "mime"),
    [
        (1, (320, 240), "image/webp"),
        (320, (320, 240), "image/webp"),
        (321, (512, 384), "image/webp"),
        (512, (512, 384), "image/webp"),
        (513, (640, 480), "image/png"),
        (65535, (640, 480), "image/png"),
    ],
)
def test_a_width_gets_the_smallest_copy_that_is_wide_enough(
    door: Door, image: dict[str, Any], wanted: int, size: tuple[int, int], mime: str
) -> None:
    """Each with a tag of its own, so that caches keep them apart."""
    status, headers, body = door.get(f"{image['url']}?w={wanted}")
    assert (status, headers["Content-Type"], headers["Content-Length"]) == (200, mime, str(len(body)))
    with Image.open(io.BytesIO(body)) as picture:
        assert picture.size == size
    assert (headers["ETag"] == f'"{image["sha256"]}"') is (mime == "image/png")
    assert door.get(f"{image['url']}?w={wanted}", If_None_Match=headers["ETag"])[0] == 304
    assert door.get(f"{image['url']}?w={wanted}", Range="bytes=0-3")[2] == body[:4]


@pytest.mark.parametrize("asked", ["w=0", "w=-5", "w=wide", "w=", "w=1.5", "w=99999999", "w=1&w=2", "width=3"])
def test_a_width_that_cannot_be_is_refused(door: Door, image: dict[str, Any], asked: str) -> None:
    """The error names the parameter."""
    status, _, body = door.get(f"{image['url']}?{asked}")
    assert status == 400
    assert error(body)["param"] == asked.split("=")[0]


def test_an_id_that_is_none_is_unknown(door: Door, image: dict[str, Any]) -> None:
    """Whatever stands in its place; no name in a request leads to a file."""
    (file,) = (door.house.home / "images").rglob(f"{image['id']}.png")
    path = f"{file.parent.parent.name}/{file.parent.name}/{file.name}"
    for name in ("x", image["id"][:-1], image["id"].lower(), f"{image['id']}.png", "..", "../imagen.db", path, "%00"):
        for method in ("GET", "DELETE", "HEAD"):
            status, _, body = door.ask(method, f"/v1/images/{quote(name, safe='%')}")
            assert status in (400, 404), (method, name)  # 400: an address that climbs is refused at the door
            if method != "HEAD":
                error(body)


def test_a_deleted_picture_is_gone(door: Door) -> None:
    """410 with the way on; the job says so and keeps the hash; deleting it again changes nothing."""
    job = door.drawn(n=2)
    first, second = job["images"]
    for _ in range(2):
        status, _, body = door.ask("DELETE", first["url"])
        assert (status, body) == (204, b"")
    for path in (first["url"], f"{first['url']}?w=100"):
        status, headers, body = door.get(path, If_None_Match=f'"{first["sha256"]}"')
        assert status == 410
        assert error(body)["code"] == "gone"
        assert "immutable" not in headers.get("Cache-Control", "")
        assert door.ask("HEAD", path)[0] == 410
    images = http_kit.get(f"{door.url}/v1/jobs/{job['id']}")["images"]
    assert [(one["state"], one["sha256"]) for one in images] == [
        ("deleted", first["sha256"]),
        ("stored", second["sha256"]),
    ]
    assert not list((door.house.home / "images").rglob(f"{first['id']}*"))
    assert door.get(second["url"])[0] == 200


def test_deleting_a_job_deletes_its_pictures(door: Door) -> None:
    """Once it has ended."""
    running = http_kit.post(f"{door.url}/v1/jobs", ASKED | {"options": {"slow": 60}})
    status, _, body = door.ask("DELETE", f"/v1/jobs/{running['id']}")
    assert status == 409
    assert "cancel" in error(body)["hint"]
    http_kit.post(f"{door.url}/v1/jobs/{running['id']}/cancel")
    job = door.drawn(n=2)
    assert door.ask("DELETE", f"/v1/jobs/{job['id']}")[0] in (200, 204)
    for one in job["images"]:
        assert door.get(one["url"])[0] == 410


def test_a_picture_lost_outside_imagen_is_its_owners_turn(door: Door) -> None:
    """404 with a hint, before the first byte, and without a path of the server."""
    job = door.drawn()
    (file,) = (door.house.home / "images").rglob(f"{job['images'][0]['id']}.png")
    file.unlink()
    status, _, body = door.get(job["images"][0]["url"])
    assert (status, error(body)["code"]) == (404, "missing_picture")
    assert "imagen doctor" in error(body)["hint"]
    assert str(door.house.home) not in body.decode()
    report = json.loads(door.house.run("gc", "--json").stdout)
    assert report["missing"]["names"] == [job["images"][0]["id"]]


def test_slow_readers_cost_little_and_may_leave(door: Door) -> None:
    """A picture is never in memory as a whole, however large it is and whoever stops reading in the middle."""
    (image,) = door.drawn()["images"]
    (file,) = (door.house.home / "images").rglob(f"{image['id']}.png")
    file.write_bytes(b"x" * LARGE)
    before = door.program.peak_kib()
    at = urlsplit(door.url)
    readers = []
    for _ in range(8):
        reader = socket.create_connection((at.hostname or "", at.port or 0), timeout=60)
        reader.sendall(f"GET {image['url']} HTTP/1.1\r\nHost: {at.netloc}\r\n\r\n".encode())
        assert reader.recv(12) == b"HTTP/1.1 200"
        readers.append(reader)
    status, headers, body = door.get(image["url"])
    assert (status, len(body), headers["Content-Length"]) == (200, LARGE, str(LARGE))
    for reader in readers:
        reader.close()
    assert door.get(image["url"], Range="bytes=0-0")[2] == b"x"
    assert (door.program.peak_kib() - before) * 1024 < LARGE / 2
    assert "Traceback" not in door.program.said()


def test_gc_tells_first_and_removes_then(door: Door) -> None:
    """Beside a running server; copies made with -o stay."""
    copy = door.house.folder / "copy.png"
    drawn = door.house.run(
        "generate", "a fox", "-m", "mock", "--size", "64x64", "--steps", "2", "--set", "slow=0", "-o", str(copy)
    )
    assert drawn.returncode == 0, drawn.stderr
    left = door.drawn()["images"][0]
    (file,) = (door.house.home / "images").rglob(f"{left['id']}.png")
    kept = file.read_bytes()
    assert door.ask("DELETE", left["url"])[0] == 204
    file.write_bytes(kept)  # as if the server had been killed in between
    told = door.house.run("gc")
    assert told.returncode == 0, told.stderr
    assert "files of deleted pictures" in told.stdout
    assert "imagen gc --yes" in told.stderr
    assert file.exists()
    done = door.house.run("gc", "--yes")
    assert "are free again" in done.stderr
    assert not file.exists()
    assert door.house.run("gc", "--older-than", "1h", "--yes").returncode == 0
    assert copy.exists()
    assert door.house.run("gc", "--older-than", "soon").returncode == 2


def test_nobody_sees_or_deletes_anothers_picture() -> None:
    """A key sees its own; an admin's key sees all."""
    with House() as house:
        keys = {}
        for name, more in (("ann", ()), ("bob", ()), ("root", ("--admin",))):
            made = house.run("keys", "add", name, *more)
            assert made.returncode == 0, made.stderr
            keys[name] = made.stdout.split()[-1]
        door = Door(house)
        bearer = {name: {"Authorization": f"Bearer {key}"} for name, key in keys.items()}
        image = door.drawn(keys["ann"])["images"][0]
        assert door.ask("GET", image["url"])[0] == 401
        assert door.ask("DELETE", image["url"])[0] == 401
        for method in ("GET", "HEAD", "DELETE"):
            assert door.ask(method, image["url"], bearer["bob"])[0] == 404
        assert door.ask("GET", image["url"], bearer["ann"])[0] == 200
        assert door.ask("GET", image["url"], bearer["root"])[0] == 200
        assert door.ask("DELETE", image["url"], bearer["root"])[0] == 204
        assert door.ask("GET", image["url"], bearer["ann"])[0] == 410
        assert door.ask("GET", image["url"], bearer["bob"])[0] == 404


def test_a_series_can_be_seen_as_a_sheet(door: Door) -> None:
    """As PNG and in the shape of compare.json; a deleted cell stays deleted in both."""
    asked = {"prompts": ["a fox"], "models": ["mock", "mock-warm"], "seeds": [1], "width": 64, "height": 64, "steps": 2}
    series = http_kit.post(f"{door.url}/v1/series", asked | {"options": {"slow": 0}})
    for cell in series["cells"]:
        door.get(f"/v1/jobs/{cell['job']['id']}/events")  # ends with the job
    before = door.get(f"/v1/series/{series['id']}/sheet.png")
    with Image.open(io.BytesIO(before[2])) as sheet:
        assert sheet.format == "PNG"
    assert door.ask("DELETE", f"/v1/jobs/{series['cells'][0]['job']['id']}")[0] in (200, 204)
    assert door.get(f"/v1/series/{series['id']}/sheet.png")[2] != before[2]
    told = http_kit.get(f"{door.url}/v1/series/{series['id']}/sidecar.json")
    assert [cell["deleted"] for cell in told["cells"]] == [True, False]
    assert door.get(f"/v1/images/{told['cells'][1]['image']}")[0] == 200
