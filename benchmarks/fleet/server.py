"""A PostgreSQL server as the kernel sees it: processor time of its processes, and its log. Linux only."""

import os
import statistics
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psycopg


def plain(address: str) -> str:
    """As the driver takes it, without SQLAlchemy's word for the driver."""
    return address.replace("+psycopg", "")


class Server:
    """What a PostgreSQL server has used so far, and what it keeps."""

    def __init__(self, address: str) -> None:
        self._connection = psycopg.connect(plain(address), autocommit=True)
        (pid,) = self._one("select pg_backend_pid()")
        self._us = pid
        self._parent = _parent(pid)

    def cpu_s(self) -> float:
        """Of all its processes but the one that asks."""
        return sum(cpu_s(pid) for pid in _children(self._parent) if pid != self._us)

    def wal_bytes(self) -> int:
        return int(self._one("select pg_current_wal_insert_lsn() - '0/0'")[0])

    def bytes_of(self, table: str) -> int:
        return int(self._one(f"select pg_total_relation_size('imagen.{table}')")[0])

    def connections(self, name: str = "imagen") -> int:
        return int(self._one(f"select count(*) from pg_stat_activity where application_name = '{name}'")[0])

    def close(self) -> None:
        self._connection.close()

    def _one(self, question: str) -> tuple[Any, ...]:
        row = self._connection.execute(question.encode()).fetchone()
        assert row is not None
        return row


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def _children(parent: int) -> list[int]:
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                if _parent(int(name)) == parent:
                    found.append(int(name))
            except OSError:
                continue  # it ended while we looked
    return found


def cpu_s(pid: int) -> float:
    """What a process has used so far, all its threads."""
    try:
        told = [(task / "schedstat").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
    except OSError:
        return 0.0
    return sum(int(one.split()[0]) for one in told) / 1e9


class Meter:
    """One line for each step."""

    def __init__(self, server: Server) -> None:
        self._server = server

    async def __call__(self, name: str, rounds: int, once: Callable[[int], Awaitable[object]]) -> None:
        for number in range(3):  # the first few prepare statements and fill caches
            await once(-1 - number)
        took = []
        cpu, wal = self._server.cpu_s(), self._server.wal_bytes()
        for number in range(rounds):
            begin = time.perf_counter()
            await once(number)
            took.append(time.perf_counter() - begin)
        cpu, wal = self._server.cpu_s() - cpu, self._server.wal_bytes() - wal
        print(
            f"  {name:<44} {cpu / rounds * 1000:7.3f} ms cpu {wal / rounds:8.0f} B log"
            f" {statistics.median(took) * 1000:7.2f} ms in all",
            flush=True,
        )
