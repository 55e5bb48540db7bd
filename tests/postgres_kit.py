"""A PostgreSQL server of one's own: in a private folder, on a private socket, never as root.

Never on the network either, but for one whose room is a namespace that nobody else is in.
"""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from tests.netns_kit import Room

USER = "imagen"
DATABASE = "imagen"
PATIENCE_S = 60.0  # for a machine that is busy with other tests; a start takes well under a second
STOP = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT}  # immediate: no goodbye, the log is replayed at the start
IN_A_HURRY = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")


class Postgres:
    """One server with an empty database `imagen`; `restart` and `stop` as often as a test likes."""

    def __init__(self, *, durable: bool = True, settings: tuple[str, ...] = (), room: Room | None = None) -> None:
        """`durable=False` never waits for the disk: fast, and good for everything but the end of the machine."""
        self._room = room
        # Not pytest's folder: that one is closed to the server's user, and a socket's path is short (107 letters).
        self.folder = Path(tempfile.mkdtemp(prefix="imagen-pg-"))
        self._as = _servers_user()
        self._settings = (*settings, *(() if durable else IN_A_HURRY))
        self._server: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self._made = 0
        if self._as:
            shutil.chown(self.folder, self._as["user"], self._as["group"])
        make = ["--pgdata", str(self.folder / "data"), "--username", USER, "--auth", "trust", "--no-sync"]
        made = self._run("initdb", *make, "--encoding", "UTF8", "--locale", "C")
        try:
            assert made.returncode == 0, made.stdout
            if room is not None:
                with (self.folder / "data/pg_hba.conf").open("a") as hba:
                    hba.write(f"host all all {room.network} trust\n")
            self.start()
            self._ask("postgres", f"create database {DATABASE}")
        except BaseException:
            self.close()
            raise

    @property
    def url(self) -> str:
        """Where the database is, as imagen's settings take it."""
        return self._url(DATABASE)

    @property
    def address(self) -> str:
        """The same over the network, for those in other rooms."""
        assert self._room is not None, "it is on no network"
        return f"postgresql://{USER}@{self._room.address}/{DATABASE}"

    def new_database(self) -> str:
        """The address of one more empty database on the same server, for a test that wants nobody else's rows."""
        self._made += 1
        name = f"{DATABASE}_{self._made}"
        self._ask("postgres", f"create database {name}")
        return self._url(name)

    def start(self) -> None:
        """Start, and return when it answers."""
        assert self._server is None, "it runs already"
        given = [f"listen_addresses={self._room.address if self._room else ''}", "max_connections=200"]
        given += [f"unix_socket_directories={self.folder}", *self._settings]
        command = [str(_program("postgres")), "-D", f"{self.folder}/data", *(f"--{setting}" for setting in given)]
        become = self._as
        if self._room is not None:  # which only root may enter; it becomes the other user inside
            command, become = self._room.command(*command, user=self._as["user"], group=self._as["group"]), {}
        with (self.folder / "log").open("ab") as log:
            self._server = subprocess.Popen(
                command,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=_environment(),
                start_new_session=True,  # Ctrl-C is for the test; the server hears of its end from us
                **become,
            )
        # Its pipe closes when this process ends, however it ends: then the server is asked to stop.
        order = f"read -r _; kill -INT {self._server.pid}"
        self._guard = subprocess.Popen(
            ["sh", "-c", order], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True, **self._as
        )
        give_up = time.monotonic() + PATIENCE_S
        while not self._answers():
            assert self._server.poll() is None, self.log()
            assert time.monotonic() < give_up, self.log()
            time.sleep(0.02)

    def stop(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """Stop, and return when it is gone; harmless when it is gone already."""
        if self._guard is not None:
            self._guard.kill()
            self._guard.wait()
            assert self._guard.stdin is not None
            self._guard.stdin.close()
            self._guard = None
        if self._server is not None:
            self._server.send_signal(STOP[mode])
            self._server.wait(PATIENCE_S)
            self._server = None

    def restart(self, mode: Literal["fast", "immediate"] = "fast", *, away_s: float = 0.0) -> None:
        """Stop, stay away for a while, start."""
        self.stop(mode)
        time.sleep(away_s)
        self.start()

    def log(self) -> str:
        """The last words of the server."""
        return (self.folder / "log").read_text(errors="replace")[-4000:]

    def close(self) -> None:
        """Stop, and leave nothing behind."""
        self.stop("immediate")
        shutil.rmtree(self.folder, ignore_errors=True)

    def _url(self, database: str) -> str:
        return f"postgresql:///{database}?host={self.folder}&user={USER}"

    def _answers(self) -> bool:
        import psycopg

        try:
            psycopg.connect(self._url("postgres")).close()
        except psycopg.OperationalError:
            return False
        return True

    def _ask(self, database: str, statement: str) -> None:
        import psycopg

        with psycopg.connect(self._url(database), autocommit=True) as connection:
            connection.execute(statement.encode())

    def _run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [_program(program), *arguments],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=_environment(),
            check=False,
            **self._as,
        )


@contextmanager
def postgres(*, durable: bool = True, settings: tuple[str, ...] = (), room: Room | None = None) -> Iterator[Postgres]:
    """A server for as long as the block lasts."""
    server = Postgres(durable=durable, settings=settings, room=room)
    try:
        yield server
    finally:
        server.close()


def installed() -> bool:
    """Are PostgreSQL's server programs on this machine?"""
    return _folder() is not None


def _program(name: str) -> Path:
    folder = _folder()
    assert folder is not None, "PostgreSQL's server programs are missing: sudo apt install postgresql"
    return folder / name


def _folder() -> Path | None:
    """Debian keeps initdb and postgres off the PATH; of several versions the newest is taken."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    folders = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    return max((file.parent for file in folders), key=lambda folder: float(folder.parent.name), default=None)


def _servers_user() -> dict[str, Any]:
    """PostgreSQL refuses to run as root; then it runs as a user who owns nothing else of ours."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    raise AssertionError("as root, the PostgreSQL server needs another user to run as: there is no `nobody` here")


def _environment() -> dict[str, str]:
    """No setting of the person who runs the tests reaches the server."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")} | {"LC_ALL": "C"}
