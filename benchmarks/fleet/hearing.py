"""What NOTIFY costs a PostgreSQL server: for those who hear it, for those who listen to another channel, at the commit.

PostgreSQL wakes all who listen in a database, whatever they listen to; each looks by itself whether it is meant.
"""

import asyncio
import os
import selectors
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection as Pipe

import psycopg
from benchmarks.fleet.server import Server, plain
from sqlalchemy import Connection

from imagen.store.bell import JOBS, WORK, queue_of, touch
from imagen.store.db import Database

CLIENTS = 8
LISTENERS = (0, 160, 640)
HEARD, GAP_S = 5_000, 0.0005
SETTLE_S = 1.5  # until nothing of what was asked is under way any more


async def fan_out(address: str, rounds: int, seconds: float) -> None:
    """Processor time for each notification, by how many listen. Where many come, listeners take several at once."""
    print("a notification in a transaction of its own: one by one / in a stream / from eight at once")
    db = Database(address)
    await db.open()
    server = Server(address)
    # Workers listen to WORK alone: of a queue they hear, of a job they are only woken.
    ways = ((WORK, "who listen to it", queue_of("a")), (JOBS, "who listen to another", "job"))
    for channel, who, topic in ways:
        seen: list[tuple[int, list[float]]] = []
        for listeners in LISTENERS:
            with listening(address, listeners):
                costs = [await _said(db, server, rounds, gap_s, topic) for gap_s in (0.003, 0.0)]
                cpu = server.cpu_s()
                words = [f"select pg_notify('{channel}', '{topic}')"] * CLIENTS
                said = await asyncio.to_thread(crowd, address, seconds, words.__getitem__)
                await asyncio.sleep(SETTLE_S)
                costs.append((server.cpu_s() - cpu) / said * 1000)
                seen.append((listeners, costs))
                told = " / ".join(f"{cost:7.3f}" for cost in costs)
                print(f"  {listeners:4} {who}: {told} ms cpu; {said / seconds:,.0f} a second from eight", flush=True)
        (few, low), *more = seen
        for many, high in more:
            each = " / ".join(f"{(b - a) / (many - few) * 1000:.1f}" for a, b in zip(low, high, strict=True))
            print(f"  for each of {many} {who}: {each} us cpu")
    server.close()
    await db.close()


def turns(address: str, rounds: int) -> None:
    """What it costs to begin to listen and to leave it again, as a worker does around a job."""
    print("one that begins to listen, and leaves it again")
    server = Server(address)
    for listeners in LISTENERS:
        with listening(address, listeners), psycopg.connect(plain(address), autocommit=True) as connection:
            time.sleep(SETTLE_S)
            cpu = server.cpu_s()
            for _ in range(rounds):
                connection.execute(f"listen {WORK}".encode())
                connection.execute(f"unlisten {WORK}".encode())
            print(
                f"  beside {listeners:4} who listen: {(server.cpu_s() - cpu) / rounds * 1000:7.3f} ms cpu", flush=True
            )
    server.close()


async def _said(db: Database, server: Server, rounds: int, gap_s: float, topic: str) -> float:
    await asyncio.sleep(SETTLE_S)
    cpu = server.cpu_s()
    for _ in range(rounds):
        await db.write(_say, topic)
        if gap_s:
            await asyncio.sleep(gap_s)
    await asyncio.sleep(SETTLE_S)
    return (server.cpu_s() - cpu) / rounds * 1000


def _say(connection: Connection, topic: str) -> None:
    touch(connection, topic)


@contextmanager
def listening(address: str, listeners: int) -> Iterator[None]:
    """So many that listen as workers do. In a process of their own: a server waits for one who does not read."""
    if not listeners:
        yield
        return
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_listen, args=(plain(address), listeners, theirs), daemon=True)
    process.start()
    ours.recv()
    try:
        yield
    finally:
        ours.send(None)
        process.join()


def _listen(address: str, listeners: int, parent: Pipe) -> None:
    with ExitStack() as stack, selectors.DefaultSelector() as ready:
        for _ in range(listeners):
            ear = stack.enter_context(psycopg.connect(address, autocommit=True))
            ear.execute(f"listen {WORK}".encode())
            ready.register(ear.fileno(), selectors.EVENT_READ)
        ready.register(parent, selectors.EVENT_READ)
        parent.send(None)
        while True:
            for key, _ in ready.select():
                if key.fileobj is parent:
                    return
                os.read(key.fd, 65536)


def commits(address: str, seconds: float) -> None:
    """How many transactions a second eight clients commit: with NOTIFY in them they wait for each other's disk."""
    with psycopg.connect(plain(address), autocommit=True) as connection:
        for kind in ("", "unlogged"):
            make = f"create {kind} table t{kind} as select g as id, 0 as n from generate_series(1, {CLIENTS}) g"
            connection.execute(make.encode())
    print("transactions a second, eight clients, one small update each")
    for name, table in (("logged", "t"), ("unlogged", "tunlogged")):
        for how, order_ in (
            ("", "update {table} set n = n + 1 where id = {number}"),
            (
                ", with NOTIFY",
                "begin; update {table} set n = n + 1 where id = {number}; select pg_notify('x', 'y'); commit",
            ),
            (
                ", NOTIFY behind it",
                "begin; update {table} set n = n + 1 where id = {number}; commit; select pg_notify('x', 'y')",
            ),
        ):

            def said(number: int, order_: str = order_, table: str = table) -> str:
                return order_.format(table=table, number=number + 1)

            print(f"  {name + how:<24} {crowd(address, seconds, said) / seconds:8.0f}")


def crowd(address: str, seconds: float, said: Callable[[int], str]) -> int:
    """Eight clients that say it again and again; how often they did."""
    done = [0] * CLIENTS
    until = time.monotonic() + seconds

    def client(number: int) -> None:
        with psycopg.connect(plain(address), autocommit=True) as connection:
            while time.monotonic() < until:
                connection.execute(said(number).encode(), prepare=False)
                done[number] += 1

    threads = [threading.Thread(target=client, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(done)


async def heard(address: str) -> None:
    """What one notification costs a worker that has nothing to do with it, from the socket to the bell."""
    db = Database(address)
    await db.open()
    mark = db.mark()
    waiting = asyncio.ensure_future(db.changed(mark, 600, frozenset({queue_of("a")})))
    await asyncio.sleep(SETTLE_S)
    speaker = get_context("spawn").Process(target=_speak, args=(plain(address),), daemon=True)
    begin = time.process_time()
    speaker.start()
    await asyncio.to_thread(speaker.join)
    took = time.process_time() - begin
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await db.close()
    print(f"one that hears what is not for it: {took / HEARD * 1e6:.0f} us cpu of its own")


def _speak(address: str) -> None:
    with psycopg.connect(address, autocommit=True) as connection:
        for _ in range(HEARD):
            connection.execute("select pg_notify(%s, %s)", (WORK, queue_of("b")))
            time.sleep(GAP_S)
