"""An nginx of one's own in front of imagen servers, with the very file that deploy/ gives people."""

import json
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.service_kit import free_port

SITE = Path(__file__).parents[1] / "deploy/nginx.conf"
NAMES = ("server-1:8450", "server-2:8450")  # as the file calls the servers
PATIENCE_S = 60.0
MAIN = """
daemon off;
worker_processes 2;
pid {folder}/pid;
error_log {folder}/log warn;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/site.conf;
}}
"""


class Nginx:
    """One nginx; `url` is the one address of all servers."""

    def __init__(self, servers: Sequence[str]) -> None:
        """`servers` are addresses `host:port`, one for each name in the file."""
        self.folder = Path(tempfile.mkdtemp(prefix="imagen-nginx-"))
        self.folder.chmod(0o755)  # as root its workers are somebody else
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        (self.folder / "site.conf").write_text(filled_in(SITE.read_text(), servers, f"127.0.0.1:{self.port}"))
        (self.folder / "nginx.conf").write_text(MAIN.format(folder=self.folder))
        self._command = [_program(), "-p", str(self.folder), "-c", str(self.folder / "nginx.conf")]
        self._command += ["-e", str(self.folder / "log")]
        self._server: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    def check(self) -> str:
        """What nginx says of its file."""
        told = subprocess.run([*self._command, "-t"], capture_output=True, text=True, check=False)
        return told.stderr if told.returncode else ""

    def start(self) -> None:
        """Start, and return when it takes connections."""
        self._server = subprocess.Popen(
            self._command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True
        )
        # Its pipe closes when this process ends, however it ends: then nginx is ended too.
        order = f"read -r _; kill -TERM {self._server.pid}"
        self._guard = subprocess.Popen(
            ["sh", "-c", order], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
        )
        give_up = time.monotonic() + PATIENCE_S
        while not (self.folder / "pid").exists():  # written once it listens
            assert self._server.poll() is None, self.log()
            assert time.monotonic() < give_up, self.log()
            time.sleep(0.01)

    def log(self) -> str:
        """What it complained of."""
        return (self.folder / "log").read_text(errors="replace")[-4000:]

    def close(self) -> None:
        """End it, and leave nothing behind."""
        if self._guard is not None:
            self._guard.kill()
            self._guard.communicate()
        if self._server is not None:
            self._server.terminate()
            self._server.wait(PATIENCE_S)
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def nginx(servers: Sequence[str]) -> Iterator[Nginx]:
    """In front of these servers, for as long as the block lasts."""
    made = Nginx(servers)
    try:
        made.start()
        yield made
    finally:
        made.close()


def filled_in(site: str, servers: Sequence[str], listens: str) -> str:
    """The file with other addresses in it, and nothing else changed."""
    for name, server in zip(NAMES, servers, strict=True):
        assert site.count(f"server {name} ") == 2, f"{name} does not stand twice in {SITE.name}"
        site = site.replace(f"server {name} ", f"server {server} ")
    site, changed = re.subn(r"(?m)^(\s*listen) 80;", rf"\1 {listens};", site)
    assert changed == 1, json.dumps(site)
    return site


def installed() -> bool:
    """Is nginx on this machine?"""
    return _found() is not None


def _program() -> str:
    found = _found()
    assert found is not None, "nginx is missing: sudo apt install nginx-light"
    return found


def _found() -> str | None:
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")  # off a user's PATH
