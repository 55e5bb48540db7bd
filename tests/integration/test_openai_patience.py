"""Clients of the OpenAI door that leave, lose patience, ask again or come in crowds, with OpenAI's own library."""

import asyncio
import json
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from tests.http_kit import get
from tests.openai_kit import AT_ONCE, LONG_S, SMALL, Clients, clients, extra, jobs, picture, slow
from tests.service_kit import House, Program

Until = Callable[[Callable[[], Any]], Any]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with House(folder=tmp_path_factory.mktemp("openai")) as home:
        yield home


@pytest.fixture(scope="module")
def server(house: House) -> Program:
    return house.serve()


@pytest.fixture
def impatient(tmp_path: Path) -> Iterator[House]:
    """A home whose server begins to answer after a second."""
    with House(folder=tmp_path / "impatient") as home:
        (home.home / "config.yaml").write_text("openai:\n  hold_s: 1\n")
        yield home


@pytest.fixture
def client() -> Iterator[Clients]:
    with clients() as made:
        yield made


# Leaving


def test_closing_a_stream_cancels_the_job(client: Clients, server: Program, until: Until) -> None:
    """Whoever closes a stream wants no picture any more."""
    prompt = "closed stream"
    stream = client(server).images.generate(
        **SMALL | {"prompt": prompt}, stream=True, partial_images=3, extra_body=slow(60)
    )
    until(lambda: jobs(server, prompt)[0]["state"] == "running")
    stream.close()
    until(lambda: jobs(server, prompt)[0]["state"] == "cancelled")


async def test_leaving_the_loop_of_the_async_client_cancels_the_job(server: Program, until: Until) -> None:
    """After the first partial image, as somebody would who does not like it."""
    prompt = "left loop"
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="x") as asking:
        stream = await asking.images.generate(
            **SMALL | {"prompt": prompt}, stream=True, partial_images=3, extra_body=slow(20, steps=100)
        )
        async with stream:
            async for event in stream:
                assert event.type == "image_generation.partial_image"
                break
    await asyncio.to_thread(until, lambda: jobs(server, prompt)[0]["state"] == "cancelled")


def test_a_client_chooses_what_leaving_means(client: Clients, server: Program, until: Until) -> None:
    """`on_disconnect`: a stream whose job is kept, and a plain request whose job is cancelled."""
    stream = client(server).images.generate(
        **SMALL | {"prompt": "kept stream"}, stream=True, extra_body=slow(2, on_disconnect="keep")
    )
    until(lambda: jobs(server, "kept stream"))
    stream.close()
    with pytest.raises(openai.APITimeoutError):
        client(server, timeout=1.0, max_retries=0).images.generate(
            **SMALL | {"prompt": "dropped request"}, extra_body=slow(60, on_disconnect="cancel")
        )
    until(lambda: jobs(server, "dropped request")[0]["state"] == "cancelled")
    until(lambda: jobs(server, "kept stream")[0]["state"] == "completed")


# Time, and asking again


def test_a_long_job_outlasts_an_impatient_client(client: Clients, impatient: House) -> None:
    """Blanks before the JSON keep a plain request alive; a server that stays silent loses the client."""
    server = impatient.serve()
    begun = time.monotonic()
    told = client(server, timeout=2.5, max_retries=0).images.generate(**SMALL, extra_body=slow(LONG_S))
    assert time.monotonic() - begun >= LONG_S
    assert told.data
    assert picture(told.data[0].b64_json).size == (128, 128)
    silent = impatient.start("serve", "--port", "0", environment={"IMAGEN_OPENAI_HOLD_S": "60"})
    silent.ready()
    with pytest.raises(openai.APITimeoutError):
        client(silent, timeout=2.5, max_retries=0).images.generate(**SMALL, extra_body=slow(LONG_S))


def test_a_retry_after_a_time_out_takes_up_the_same_job(client: Clients, server: Program) -> None:
    """The library gives up several times and asks again; one job is drawn, and the last answer brings it."""
    told = client(server, timeout=1.0, max_retries=20).images.generate(
        **SMALL | {"prompt": "many retries"}, extra_body=slow(LONG_S)
    )
    assert told.data
    (job,) = jobs(server, "many retries")
    assert extra(told)["job_id"] == job["id"]
    assert job["attempt"] == 1


def test_the_same_words_again_are_another_job(client: Clients, server: Program) -> None:
    """Only what says that it is a retry is one; and whose answer was given is owed nothing."""
    for _ in range(2):
        client(server).images.generate(**SMALL | {"prompt": "same words"}, extra_body=AT_ONCE)
    client(server).images.generate(
        **SMALL | {"prompt": "same words"}, extra_body=AT_ONCE, extra_headers={"x-stainless-retry-count": "1"}
    )
    assert len(jobs(server, "same words")) == 3


def test_two_who_wait_for_the_same_words_are_not_mixed_up(client: Clients, server: Program) -> None:
    """A retry takes up the job that lost its client, not one that somebody still waits for."""
    asked = {**SMALL, "prompt": "two wait", "extra_body": slow(LONG_S)}
    waiting = threading.Thread(target=lambda: client(server).images.generate(**asked))
    waiting.start()
    told = client(server, timeout=1.0, max_retries=20).images.generate(**asked)
    waiting.join()
    assert len(jobs(server, "two wait")) == 2
    assert told.data


@pytest.mark.parametrize(("how", "hold_s"), [(signal.SIGKILL, 1), (signal.SIGTERM, 1), (signal.SIGTERM, 45)])
def test_a_server_that_goes_away_costs_no_second_job(
    client: Clients, tmp_path: Path, how: signal.Signals, hold_s: int
) -> None:
    """Killed or stopped in the middle, before or after the first blank: the retry finds the job again."""
    with House(folder=tmp_path / "house") as house:
        (house.home / "config.yaml").write_text(f"openai:\n  hold_s: {hold_s}\n")
        first = house.serve("--grace", "0")
        port = int(first.url.rpartition(":")[2])

        def restart() -> None:
            time.sleep(2.5)
            first.process.send_signal(how)
            first.process.wait()
            house.serve(port=port)

        restarting = threading.Thread(target=restart)
        restarting.start()
        told = client(first, max_retries=20).images.generate(
            **SMALL | {"prompt": "lost server"}, extra_body=slow(LONG_S)
        )
        restarting.join()
        assert told.data
        (job,) = jobs(house.processes[-1], "lost server")
        assert job["id"] == extra(told)["job_id"]


def test_a_server_that_stops_answers_whom_it_still_draws_for(client: Clients, tmp_path: Path, until: Until) -> None:
    """It finishes what is nearly done anyway; to refuse that picture would be to lose it for who waits."""
    with House(folder=tmp_path / "house") as house:
        server = house.serve()

        def stop() -> None:
            until(lambda: any(job["state"] == "running" for job in jobs(server, "nearly done")))
            server.process.send_signal(signal.SIGTERM)

        stopping = threading.Thread(target=stop)
        stopping.start()
        told = client(server, max_retries=0).images.generate(
            **SMALL | {"prompt": "nearly done"}, extra_body=slow(LONG_S / 2)
        )
        stopping.join()
        assert told.data
        assert server.process.wait(20) == 0


def test_a_failure_after_the_first_blank_is_still_a_typed_exception(client: Clients, impatient: House) -> None:
    """The answer is cut, the library asks again, and is told the error of the very same job."""
    server = impatient.serve()
    asked = {**SMALL, "prompt": "late failure [fail:rejected@18]", "extra_body": slow(3)}
    with pytest.raises(openai.InternalServerError) as failed:
        client(server).images.generate(**asked)
    assert (failed.value.status_code, failed.value.code) == (502, "rejected")
    assert len(jobs(server, "late failure")) == 1
    with pytest.raises(openai.APIConnectionError):
        client(server, max_retries=0).images.generate(**asked)


def test_a_failure_after_the_first_blank_tells_why_to_who_reads_on(impatient: House) -> None:
    """The error stands in the body, and the body has no end, so that nobody takes it for a picture."""
    server = impatient.serve()
    body = json.dumps({**SMALL, "prompt": "late failure [fail:rejected@18]", **slow(3)}).encode()
    host, port = server.url.removeprefix("http://").split(":")
    head = f"POST /v1/images/generations HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
    with socket.create_connection((host, int(port)), 30) as wire:
        wire.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        text = b"".join(iter(lambda: wire.recv(65536), b""))
    head_, _, chunks = text.partition(b"\r\n\r\n")
    assert head_.startswith(b"HTTP/1.1 200")
    assert b"transfer-encoding: chunked" in head_.lower()
    assert not chunks.endswith(b"0\r\n\r\n")
    sizes_and_pieces = chunks.split(b"\r\n")
    assert sizes_and_pieces[:2] == [b"1", b" "]
    assert json.loads(sizes_and_pieces[-2])["error"]["code"] == "rejected"


# The server goes, or the key


def test_a_stream_that_the_server_ends_is_an_exception_and_no_loop_that_just_ends(
    client: Clients, house: House
) -> None:
    """It names the job, which whoever serves next draws to its end."""
    server = house.serve()
    stream = client(server).images.generate(
        **SMALL | {"prompt": "stopped server"}, stream=True, partial_images=3, extra_body=slow(LONG_S)
    )
    assert next(iter(stream)).type == "image_generation.partial_image"
    server.process.send_signal(signal.SIGTERM)
    with pytest.raises(openai.APIError) as stopped:
        list(stream)
    assert stopped.value.code == "database_away"
    assert isinstance(stopped.value.body, dict)
    assert stopped.value.body["retryable"]
    next_one = house.serve()
    job = get(f"{next_one.url}/v1/jobs/{stopped.value.body['job_id']}")
    assert job["request"]["prompt"] == "stopped server"
    assert job["state"] != "cancelled"


def test_a_key_that_is_taken_away_ends_what_it_waits_for(client: Clients, tmp_path: Path, until: Until) -> None:
    """A stream with one of the next events, a plain request when it would be given its picture."""
    found: dict[str, Exception] = {}
    with House(folder=tmp_path / "keys") as house:
        key = house.run("keys", "add", "ada").stdout.strip()
        admin = house.run("keys", "add", "--admin", "root").stdout.strip()
        house.model("other", device="another")  # one job does not wait for the other
        server = house.serve()

        def ask(kind: str, **more: Any) -> None:
            try:
                told = client(server, api_key=key).images.generate(**SMALL | {"prompt": kind} | more)
                list(told)
            except openai.APIError as error:
                found[kind] = error

        asking = [
            threading.Thread(
                target=ask, args=("stream",), kwargs={"stream": True, "partial_images": 3, "extra_body": slow(9)}
            ),
            threading.Thread(target=ask, args=("plain",), kwargs={"model": "other", "extra_body": slow(12)}),
        ]
        for one in asking:
            one.start()
        headers = {"authorization": f"Bearer {admin}"}
        until(lambda: len(get(f"{server.url}/v1/jobs?state=running", headers)["jobs"]) == 2)
        assert house.run("keys", "remove", "ada").returncode == 0
        for one in asking:
            one.join(60)
    assert isinstance(found["plain"], openai.AuthenticationError)
    assert found["stream"].code == found["plain"].code == "unauthorized"  # type: ignore[attr-defined]


# Many at once


async def test_a_crowd_is_given_each_its_own_picture(server: Program, until: Until) -> None:
    """Streams and plain requests of forty clients, half of whom ask for the same: as many jobs, nothing mixed up."""
    crowd = 40

    async def ask(asking: openai.AsyncOpenAI, number: int) -> tuple[str, int]:
        body = {**SMALL, "prompt": "a crowd", "extra_body": {"options": {"slow": 0.02}, "seed": number // 2}}
        if number % 4 < 2:
            told = await asking.images.generate(**body)
            assert told.data
            return extra(told)["job_id"], extra(told.data[0])["seed"]
        *_, final = [event async for event in await asking.images.generate(**body, stream=True, partial_images=2)]
        picture(final.b64_json)
        return extra(final)["job_id"], extra(final)["seed"]

    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0) as asking:
        told = await asyncio.gather(*(ask(asking, number) for number in range(crowd)))
    assert [seed for _, seed in told] == [number // 2 for number in range(crowd)]
    assert len({job for job, _ in told}) == crowd == len(await asyncio.to_thread(jobs, server, "a crowd"))


def test_a_full_queue_is_waited_for_and_nothing_is_drawn_twice(client: Clients, tmp_path: Path) -> None:
    """Whoever is refused asks again by itself, with the same words as another who was not, and gets its own job."""
    with House(folder=tmp_path / "full") as house:
        server = house.start("serve", "--port", "0", environment={"IMAGEN_LIMITS_QUEUED": "1"})
        server.ready()
        given: list[str] = []

        def ask() -> None:
            told = client(server, max_retries=20).images.generate(**SMALL, extra_body=slow(2))
            given.append(extra(told)["job_id"])

        asking = [threading.Thread(target=ask) for _ in range(3)]
        for one in asking:
            one.start()
        for one in asking:
            one.join()
        assert len(set(given)) == 3 == len(jobs(server, "a red fox"))
        refused = [line for line in server.said().splitlines() if "429" in line]
        assert refused, "nobody was ever refused, so nobody had to wait"


def test_clients_that_vanish_leave_nothing_behind(house: House, client: Clients, until: Until) -> None:
    """Their connection is reset at any moment: streams are cancelled, other jobs drawn, and the server is as before."""
    server = house.serve()
    host, port = server.url.removeprefix("http://").split(":")
    for number in range(24):
        stream = number % 2 == 0
        body = json.dumps(
            {**SMALL, "prompt": f"vanished {'stream' if stream else 'plain'}", "stream": stream, "partial_images": 2}
            | slow(0.3)
        ).encode()
        head = f"POST /v1/images/generations HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        wire = socket.create_connection((host, int(port)), 30)
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close is a reset
        whole = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
        wire.sendall(whole if number % 8 < 6 else whole[:-5])
        time.sleep((0, 0.01, 0.05, 0.2)[number // 2 % 4])
        wire.close()
    until(lambda: all(job["finished_at"] for job in jobs(server, "vanished")))
    assert {job["state"] for job in jobs(server, "vanished plain")} == {"completed"}
    assert "cancelled" in {job["state"] for job in jobs(server, "vanished stream")}
    assert client(server).images.generate(**SMALL, extra_body=AT_ONCE).data
    assert "Traceback" not in server.said()
    assert server.stop() == 0
