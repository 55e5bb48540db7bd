"""An S3 store of one's own: SeaweedFS, with its data in a private folder, on this machine's own address only.

A real one: it checks every signature, takes uploads in parts, and has after a restart what it had before.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

BUCKET = "pictures"
KEY, SECRET = "imagen-test", "a-secret-of-the-tests"
READER_KEY, READER_SECRET = "reader", "may-only-read"
PATIENCE_S = 60.0  # for a machine that is busy with other tests; a start takes three seconds
VOLUMES = ("-volume.max=100", "-master.volumeSizeLimitMB=64")


class S3:
    """One store with an empty bucket; `kill`, `start` and `restart` as often as a test likes."""

    keys: ClassVar = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}

    def __init__(self, *, room_mib: int | None = None, bucket: bool = True) -> None:
        """With `room_mib` its data lies on a disk of that size, which only root can make: see `may_mount`."""
        self.folder = Path(tempfile.mkdtemp(prefix="imagen-s3-"))
        self.data = self.folder / "data"
        self.data.mkdir()
        self._room_mib = room_mib
        self._server: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self._made = 0
        self._ports = _free_ports(8)
        if room_mib is not None:
            _mount("-t", "tmpfs", "-o", f"size={room_mib}m", "imagen-s3", str(self.data))
        callers = [("owner", KEY, SECRET, ["Admin", "Read", "Write", "List"])]
        callers += [("reader", READER_KEY, READER_SECRET, ["Read", "List"])]
        known = [
            {"name": name, "credentials": [{"accessKey": key, "secretKey": secret}], "actions": may}
            for name, key, secret, may in callers
        ]
        (self.folder / "s3.json").write_text(json.dumps({"identities": known}))
        try:
            self.start()
            if bucket:
                self.make_bucket(BUCKET)
        except BaseException:
            self.close()
            raise

    @property
    def endpoint(self) -> str:
        """Its address, as the setting `s3: {endpoint: …}` takes it."""
        return f"http://127.0.0.1:{self._ports[0]}"

    def settings(self, place: str, **more: Any) -> str:
        """A config.yaml with this place; the keys are in `keys`, for the environment."""
        s3 = {"endpoint": self.endpoint, "allow_http": True, "patience_s": 60} | more
        return json.dumps({"storage": place, "s3": s3})  # JSON is YAML

    def new_place(self) -> str:
        """One more empty folder, for a test that wants nobody else's pictures."""
        self._made += 1
        return f"s3://{BUCKET}/place-{os.getpid()}-{self._made}"

    def files(self, place: str) -> dict[str, int]:
        """What lies there, with how many bytes."""
        listed = self._client(place).list()
        return {one["path"]: one["size"] for page in listed for one in page}

    def read(self, url: str) -> bytes:
        """The bytes of an object by its `s3://` address."""
        place, _, name = url.rpartition("/")
        return bytes(self._client(place).get(name).bytes())

    def make_bucket(self, name: str) -> None:
        """An empty bucket."""
        import obstore

        self._until(lambda: self._put(obstore.sign(self._client(f"s3://{name}"), "PUT", "", timedelta(minutes=1))))

    def start(self) -> None:
        """Start, and return when it takes objects."""
        assert self._server is None, "it runs already"
        s3, s3_grpc, master, master_grpc, volume, volume_grpc, filer, filer_grpc = self._ports
        options = [
            f"-dir={self.data}",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            "-master.telemetry=false",
            f"-master.port={master}",
            f"-master.port.grpc={master_grpc}",
            "-master.electionTimeout=1s",
            f"-volume.port={volume}",
            f"-volume.port.grpc={volume_grpc}",
            "-volume.preStopSeconds=0",
            *VOLUMES,
            "-filer",
            f"-filer.port={filer}",
            f"-filer.port.grpc={filer_grpc}",
            f"-filer.localSocket={self.folder / 'filer.sock'}",
            "-s3",
            f"-s3.port={s3}",
            f"-s3.port.grpc={s3_grpc}",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            f"-s3.localSocket={self.folder / 's3.sock'}",
            f"-s3.config={self.folder / 's3.json'}",
            "-s3.autoCreateBucket=false",
        ]
        with (self.folder / "log").open("ab") as log:
            self._server = subprocess.Popen(
                [_program(), "-logtostderr=true", "server", *options],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={"PATH": os.environ["PATH"], "HOME": str(self.folder)},
                start_new_session=True,  # Ctrl-C is for the test; the server hears of its end from us
            )
        # Its pipe closes when this process ends, however it ends: then the server is ended too.
        order = f"read -r _; kill -KILL {self._server.pid}"
        self._guard = subprocess.Popen(
            ["sh", "-c", order], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
        )
        self._until(self._answers)

    @property
    def running(self) -> bool:
        """Whether it was started and not ended since."""
        return self._server is not None

    def kill(self) -> None:
        """End it without a goodbye, as a machine that loses its power; harmless when it is gone already."""
        if self._guard is not None:
            self._guard.kill()
            self._guard.wait()
            assert self._guard.stdin is not None
            self._guard.stdin.close()
            self._guard = None
        if self._server is not None:
            self._server.kill()
            self._server.wait(PATIENCE_S)
            self._server = None

    def grow(self, room_mib: int) -> None:
        """A larger disk, with all that is on it."""
        _mount("-o", f"remount,size={room_mib}m", str(self.data))

    def log(self) -> str:
        """The last words of the server."""
        return (self.folder / "log").read_text(errors="replace")[-4000:]

    def close(self) -> None:
        """End it, and leave nothing behind."""
        self.kill()
        if self._room_mib is not None:
            subprocess.run(["umount", "--lazy", self.data], check=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _client(self, place: str) -> Any:
        from obstore.store import S3Store

        bucket, _, prefix = place.removeprefix("s3://").partition("/")
        return S3Store(
            bucket,
            prefix=prefix or None,
            endpoint=self.endpoint,
            access_key_id=KEY,
            secret_access_key=SECRET,
            client_options={"allow_http": True},
        )

    def _answers(self) -> None:
        # Its parts find each other one after the other; the bucket's files are there when the last of them did.
        _ask(f"http://127.0.0.1:{self._ports[6]}/")
        _ask(self.endpoint, expected=403)

    def _put(self, url: str) -> None:
        with urllib.request.urlopen(urllib.request.Request(url, method="PUT"), timeout=5):
            pass

    def _until(self, do: Callable[[], None]) -> None:
        give_up = time.monotonic() + PATIENCE_S
        while True:
            try:
                do()
                return
            except OSError:
                assert self._server is not None
                assert self._server.poll() is None, self.log()
                assert time.monotonic() < give_up, self.log()
                time.sleep(0.05)


@contextmanager
def s3_store(*, room_mib: int | None = None) -> Iterator[S3]:
    """A store for as long as the block lasts."""
    with ExitStack() as stack:
        server = S3(room_mib=room_mib)
        stack.callback(server.close)
        yield server


def installed() -> bool:
    """Is the store's program on this machine?"""
    return _found() is not None


def may_mount() -> bool:
    """Can a disk of a certain size be made here? Tried where nobody sees it."""
    order = ["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"]
    return (
        shutil.which("unshare") is not None and subprocess.run(order, capture_output=True, check=False).returncode == 0
    )


def _program() -> str:
    found = _found()
    assert found is not None, "SeaweedFS is missing: make setup brings it on Linux"
    return found


def _found() -> str | None:
    here = Path(sys.executable).with_name("weed")
    return str(here) if here.exists() else shutil.which("weed")


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        taken = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in taken]


def _ask(url: str, expected: int = 200) -> None:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            assert answer.status == expected
    except urllib.error.HTTPError as refused:
        if refused.code != expected:
            raise


def _mount(*options: str) -> None:
    subprocess.run(["mount", *options], check=True)
