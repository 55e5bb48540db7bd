"""The fleet of deploy/compose.yaml as processes of this machine: the same words, files, variables and order.

Only what the network of containers gives is put in its place: addresses, ports and folders.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from tests import NOWHERE
from tests.deploy_kit import DEPLOY, PATIENCE_S, composed
from tests.nginx_kit import nginx
from tests.postgres_kit import Postgres
from tests.serve_kit import Until, ask
from tests.service_kit import free_port

BIN = Path(sys.executable).parent

pytestmark = [
    pytest.mark.needs_postgres,
    pytest.mark.needs_s3,
    pytest.mark.needs_nginx,
    pytest.mark.needs_deploy_tools,
    pytest.mark.timeout(300),
]


class Fleet:
    """Its services, each started as Compose would start it."""

    def __init__(self, folder: Path, database: str) -> None:
        self.folder = folder / "deploy"
        shutil.copytree(DEPLOY, self.folder, ignore=shutil.ignore_patterns("secrets"))
        subprocess.run(["sh", self.folder / "secrets.sh"], capture_output=True, check=True)
        told = composed(self.folder)
        self.services: dict[str, Any] = told["services"]
        self._secrets = {f"/run/secrets/{name}": one["file"] for name, one in told["secrets"].items()}
        (self.folder / "secrets/database_url").write_text(database)
        self.logs = folder / "logs"
        self.logs.mkdir()
        self.started: list[subprocess.Popen[bytes]] = []
        with ExitStack() as stack:
            names = ("s3", "master", "volume", "filer", "s3-grpc", "master-grpc", "volume-grpc", "filer-grpc")
            taken = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in names]
            self.ports = dict(zip(names, (one.getsockname()[1] for one in taken), strict=True))
        config = self.folder / "config/config.yaml"
        config.write_text(config.read_text().replace("http://pictures:8333", f"http://127.0.0.1:{self.ports['s3']}"))

    def environment(self, service: str, more: Mapping[str, str] | None = None) -> dict[str, str]:
        """The variables of the image and of the service; nothing of the person who runs this."""
        said = self.services[service].get("environment") or {}
        return {
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "HOME": str(self.folder),
            "NO_COLOR": "1",
            "XDG_CONFIG_HOME": self._config(),
            "XDG_DATA_HOME": str(self.folder / "var"),
            "XDG_CACHE_HOME": str(self.folder / "var/cache"),
            "IMAGEN_COMFYUI_URL": NOWHERE,
            **{name: self._secrets.get(value, value) for name, value in said.items()},
            **(more or {}),
        }

    def imagen(self, service: str, *words: str) -> subprocess.CompletedProcess[str]:
        """`docker compose run --rm SERVICE WORDS`; without words those of the service."""
        return subprocess.run(
            [BIN / "imagen", *(words or self.services[service]["command"])],
            env=self.environment(service),
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )

    def start(self, service: str, *, port: int = 0) -> subprocess.Popen[bytes]:
        """A service of ours, beside us; the port is the container's own."""
        more = {"IMAGEN_SERVER_PORT": str(port)} if port else {}
        command = [str(BIN / "imagen"), *self.services[service]["command"]]
        return self._begin(service, command, self.environment(service, more))

    def pictures(self) -> None:
        """The store, and its bucket made."""
        store, bucket = self.services["pictures"], self.services["bucket"]
        data = self.folder / "data"
        data.mkdir()
        here = {
            "-dir=/data": f"-dir={data}",
            "-ip=pictures": "-ip=127.0.0.1",
            "-s3.port=8333": f"-s3.port={self.ports['s3']}",
        }
        here |= {"-volume.max=0": "-volume.max=50", "-master.volumeSizeLimitMB=1024": "-master.volumeSizeLimitMB=64"}
        words = [here.pop(word, word) for word in store["command"]]
        assert not here, "the words to be replaced are there"
        words = [re.sub(r"/run/secrets/\w+", lambda found: self._secrets[found[0]], word) for word in words]
        for part in ("master", "volume", "filer"):
            words += [f"-{part}.port={self.ports[part]}", f"-{part}.port.grpc={self.ports[f'{part}-grpc']}"]
        words += [f"-s3.port.grpc={self.ports['s3-grpc']}", "-s3.port.iceberg=0", "-s3.port.lance=0"]
        words += [f"-filer.localSocket={self.folder / 'filer.sock'}", f"-s3.localSocket={self.folder / 's3.sock'}"]
        environment = {"PATH": f"{BIN}:{os.environ['PATH']}", "HOME": str(self.folder)}
        self._begin("pictures", [*store["entrypoint"], *words], environment)
        (script,) = bucket["command"]
        assert script.count("pictures:9333") == 2
        script = script.replace("pictures:9333", f"127.0.0.1:{self.ports['master']}.{self.ports['master-grpc']}")
        made = subprocess.run(
            [*bucket["entrypoint"], script], env=environment, capture_output=True, timeout=120, check=False
        )
        assert made.returncode == 0, made.stderr.decode()

    def said(self, process: subprocess.Popen[bytes]) -> str:
        return (self.logs / str(process.pid)).read_text()

    def close(self) -> None:
        for process in reversed(self.started):
            process.kill()
            process.wait(PATIENCE_S)

    def _config(self) -> str:
        """The folder that has `imagen/config.yaml`, as /etc has it in a container."""
        link = self.folder / "etc/imagen"
        if not link.exists():
            link.parent.mkdir()
            link.symlink_to(self.folder / "config")
        return str(link.parent)

    def _begin(self, name: str, command: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
        file = self.logs / name
        with file.open("ab") as log:
            process = subprocess.Popen(
                command, env=environment, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        (self.logs / str(process.pid)).symlink_to(file)
        self.started.append(process)
        return process


@pytest.fixture
def fleet(tmp_path: Path, postgres: Postgres) -> Iterator[Fleet]:
    made = Fleet(tmp_path, postgres.new_database())
    yield made
    made.close()


def test_the_fleet_starts_in_its_order_and_draws(fleet: Fleet, until: Until) -> None:
    """A store with its bucket, the tables, a key, two servers behind nginx, a worker; then a picture that is kept."""
    fleet.pictures()
    upgraded = fleet.imagen("upgrade")
    assert upgraded.returncode == 0, upgraded.stderr
    ports = [free_port(), free_port()]
    refused = fleet.start("server-1", port=ports[0])
    assert refused.wait(PATIENCE_S) == 3, "strangers could reach it, and there is no key"
    assert "imagen keys add" in fleet.said(refused)
    key = re.search(r"imagen_\S+", fleet.imagen("server-1", "keys", "add", "me", "--admin").stdout)
    assert key is not None

    servers = [fleet.start(name, port=port) for name, port in zip(("server-1", "server-2"), ports, strict=True)]
    fleet.start("worker")
    with nginx([f"127.0.0.1:{port}" for port in ports]) as front:
        until(lambda: all(_answers(f"http://127.0.0.1:{port}/readyz") for port in ports))
        status, job = ask(f"{front.url}/v1/jobs", {"prompt": "a red apple"}, key=key[0])
        assert status == 202, job
        assert job["request"]["model"] == "tiny-3d"

        def ended() -> Any:
            told = ask(f"{front.url}/v1/jobs/{job['id']}", key=key[0])[1]
            return told if told["state"] not in ("queued", "running") else None

        done = until(ended)
        assert done["state"] == "completed", done["error"]
        (picture,) = done["images"]
        doctor = fleet.imagen("worker", "doctor")
        assert "s3://pictures/imagen" in doctor.stdout
        # Whichever server is asked, the other one may be dead.
        servers[0].kill()
        servers[0].wait(PATIENCE_S)
        request = urllib.request.Request(
            f"{front.url}/v1/images/{picture['id']}", headers={"Authorization": f"Bearer {key[0]}"}
        )
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            assert sha256(answer.read()).hexdigest() == picture["sha256"]
        servers[1].terminate()
        assert servers[1].wait(PATIENCE_S) == 0, "it goes by itself"


def _answers(url: str) -> bool:
    try:
        return ask(url)[0] == 200
    except OSError:
        return False
