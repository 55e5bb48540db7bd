"""`imagen serve` and `imagen worker` as they are run: started, asked, stopped politely, killed, and started again."""

import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import NullPool, create_engine, text
from tests.postgres_kit import Postgres
from tests.postgres_kit import postgres as private
from tests.serve_kit import Until, ask, drawing, ended, endless, job_of, shown, submit, told
from tests.service_kit import PATIENCE_S, House


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with House(folder=tmp_path) as made:
        yield made


class TestStart:
    """From the command to the first answer."""

    def test_it_says_where_it_is_and_answers(self, house: House) -> None:
        """One line with the address and the models; alive and ready from then on."""
        server = house.serve()
        (line,) = [line for line in told(server) if "serving on" in line["event"]]
        assert re.match(
            r"imagen: serving on http://127\.0\.0\.1:\d+ \(models: flux1-schnell, .* more; stop with Ctrl-C\)",
            line["event"],
        )
        assert ask(f"{server.url}/healthz") == (200, {"status": "ok"})
        assert ask(f"{server.url}/readyz")[0] == 200
        assert server.stop() == 0

    def test_a_job_sent_to_it_is_drawn(self, house: House, until: Until) -> None:
        """The worker is built in."""
        server = house.serve()
        job = ended(server, submit(server, seed=7), until)
        assert (job["state"], job["attempt"], len(job["images"])) == ("completed", 1, 1)

    def test_a_taken_port_is_said_with_a_way_out(self, house: House) -> None:
        """Exit code 3, as for everything that needs the owner."""
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            ran = house.run("serve", "--port", str(port))
        assert ran.returncode == 3
        assert f"cannot listen on 127.0.0.1 port {port}" in ran.stderr
        assert "--port 0" in ran.stderr

    @pytest.mark.parametrize("host", ["no-such-host.invalid", "203.0.113.1"])
    def test_an_address_that_is_not_ours_is_refused(self, house: House, host: str) -> None:
        """In words, with what to write instead; before that, strangers need a key."""
        assert "imagen keys add" in house.run("serve", "--host", host).stderr
        assert house.run("keys", "add", "ann").returncode == 0
        ran = house.run("serve", "--host", host)
        assert ran.returncode == 3
        assert "cannot listen" in ran.stderr
        assert "--host" in ran.stderr

    def test_settings_that_are_broken_are_refused(self, house: House) -> None:
        """A server does not start on half of what its owner wrote."""
        (house.home / "config.yaml").write_text("stroage: local\n")
        ran = house.run("serve", "--port", "0")
        assert ran.returncode == 3
        assert "config.yaml:1" in ran.stderr


class TestStop:
    """SIGTERM and Ctrl-C, once and twice."""

    def test_what_is_nearly_done_is_finished_first(self, house: House, until: Until) -> None:
        """The grace is long enough for it; exit code 0."""
        server = house.serve()
        job = submit(server, slow=1)
        drawing(server, job, until)
        assert server.stop() == 0
        assert (shown(house, job)["state"], shown(house, job)["attempt"]) == ("completed", 1)

    def test_what_is_not_goes_back_and_is_drawn_after_the_next_start(self, house: House, until: Until) -> None:
        """Without being counted as a failure, and without the hand of anybody."""
        server = house.serve("--grace", "0")
        job = submit(server, slow=3)
        drawing(server, job, until)
        assert server.stop() == 0
        assert shown(house, job)["state"] == "queued"
        again = house.serve()
        assert ended(again, job, until)["state"] == "completed"
        assert job_of(again, job)["attempt"] == 2

    def test_asked_twice_it_does_not_wait_for_the_grace(self, house: House, until: Until) -> None:
        """The job still goes back."""
        server = house.serve("--grace", "3600")
        job = endless(server)
        drawing(server, job, until)
        server.process.terminate()
        until(lambda: "stopping" in server.said())
        assert server.stop() == 0
        assert shown(house, job)["state"] == "queued"

    @pytest.mark.parametrize("command", ["serve", "worker"])
    def test_ctrl_c_is_130(self, house: House, command: str, until: Until) -> None:
        """What shells expect; without a traceback."""
        program = house.start(command, *(["--port", "0"] if command == "serve" else []))
        until(lambda: "stop with Ctrl-C" in program.said())
        program.process.send_signal(signal.SIGINT)
        assert program.process.wait(PATIENCE_S) == 130
        assert "Traceback" not in program.said()

    def test_open_streams_do_not_hold_it_up(self, house: House, until: Until) -> None:
        """A hundred watchers are let go, each after a whole frame, and nothing is torn down by force."""
        server = house.serve("--grace", "0")
        job = endless(server)
        drawing(server, job, until)
        port = int(server.url.rpartition(":")[2])
        watchers = []
        for number in range(100):
            watcher = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
            path = "/v1/events" if number % 2 else f"/v1/jobs/{job}/events"
            watcher.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
            assert watcher.recv(12) == b"HTTP/1.1 200"
            watchers.append(watcher)
        assert server.stop() == 0
        for watcher in watchers:
            received = b""
            while chunk := watcher.recv(65536):
                received += chunk
            watcher.close()
            assert received.endswith(b"\n\n\r\n0\r\n\r\n"), received[-80:]
        assert [line["event"] for line in told(server) if line["level"] != "info"] == []


class TestKill:
    """kill -9, the power cut of processes."""

    def test_what_it_drew_is_drawn_again_after_the_next_start(self, house: House, until: Until) -> None:
        """By itself, as the second attempt."""
        server = house.serve()
        job = submit(server, slow=2)
        drawing(server, job, until)
        server.kill()
        again = house.serve()
        shape = ended(again, job, until)
        assert (shape["state"], shape["attempt"], len(shape["images"])) == ("completed", 2, 1)


class TestWorker:
    """Drawing apart from serving."""

    def test_a_worker_draws_what_a_server_without_one_took(self, house: House, until: Until) -> None:
        """Two processes, one database."""
        server = house.serve("--no-worker")
        job = submit(server)
        assert "imagen worker" in server.said()
        assert job_of(server, job)["state"] == "queued"
        worker = house.start("worker")
        shape = ended(server, job, until)
        assert shape["state"] == "completed"
        assert worker.stop() == 0
        (line,) = [line for line in told(worker) if "draws" in line["event"]]
        assert re.match(
            r"imagen: worker draws flux1-schnell, .* on comfyui@\S+, cpu@\S+ \(stop with Ctrl-C\)", line["event"]
        )
        assert f"-{worker.pid}-" in line["worker"]

    def test_it_draws_only_the_models_it_was_told(self, house: House, until: Until) -> None:
        """The others wait for somebody else."""
        server = house.serve("--no-worker")
        other, mine = submit(server, model="mock"), submit(server, model="mock-warm")
        worker = house.start("worker", "--models", "mock-warm, mock-cool")
        assert ended(server, mine, until)["state"] == "completed"
        assert job_of(server, other)["state"] == "queued"
        assert "draws mock-warm, mock-cool on" in worker.said()

    def test_it_carries_no_web_server(self, house: House, until: Until) -> None:
        """Memory is for models."""
        worker = house.start("worker")
        until(lambda: "stop with Ctrl-C" in worker.said())
        assert "httptools" not in Path(f"/proc/{worker.pid}/maps").read_text()

    @pytest.mark.parametrize("names", ["mock,mokc", "mokc", ",", ""])
    def test_a_model_that_is_not_known_is_refused(self, house: House, names: str) -> None:
        """Exit code 2, before anything is drawn."""
        ran = house.run("worker", "--models", names)
        assert ran.returncode == 2, ran.stderr
        assert ("did you mean 'mock'" if "mokc" in names else "leave it out") in ran.stderr

    def test_stopped_it_gives_back(self, house: House, until: Until) -> None:
        """And a server that serves without a worker tells of it."""
        server, worker = house.serve("--no-worker"), house.start("worker", "--grace", "0")
        job = endless(server)
        drawing(server, job, until)
        assert worker.stop() == 0
        assert job_of(server, job)["state"] == "queued"


@pytest.mark.needs_postgres
class TestPostgres:
    """The same on the database for several machines."""

    @pytest.fixture
    def house(self, tmp_path: Path, postgres: Postgres) -> Iterator[House]:
        with House(postgres.new_database(), folder=tmp_path) as made:
            yield made

    def test_servers_and_workers_share_the_queue(self, house: House, until: Until) -> None:
        """Given back by one that is stopped, drawn by another; killed in the middle, drawn again."""
        server, worker = house.serve("--no-worker"), house.start("worker", "--grace", "0")
        job = submit(server, slow=3)
        drawing(server, job, until)
        assert worker.stop() == 0
        assert job_of(server, job)["state"] == "queued"
        worker = house.start("worker")
        drawing(server, job, until)
        worker.kill()
        house.start("worker")
        shape = ended(server, job, until)
        assert (shape["state"], shape["attempt"]) == ("completed", 3)
        assert server.stop() == 0

    def test_a_worker_that_draws_does_not_listen(self, house: House, until: Until) -> None:
        """Each that listens costs the database at each word; whoever is busy can do nothing with it."""
        server, worker = house.serve("--no-worker"), house.start("worker", "--models", "mock")
        engine = create_engine(house.database_url, poolclass=NullPool)

        def last_said() -> list[str]:
            with engine.connect() as connection:
                said = "select query from pg_stat_activity where query like '%listen \"imagen\"' and datname = "
                return sorted(connection.execute(text(f"{said} current_database()")).scalars())

        listening = ['listen "imagen"', 'listen "imagen"']  # the server's courier does always
        until(lambda: last_said() == listening)
        long = endless(server)
        drawing(server, long, until)
        until(lambda: last_said() == ['listen "imagen"', 'unlisten "imagen"'])
        assert ask(f"{server.url}/v1/jobs/{long}/cancel", {})[0] == 200
        until(lambda: last_said() == listening)
        assert ended(server, submit(server), until)["state"] == "completed"
        assert worker.stop() == 0

    def test_without_its_database_it_is_not_ready_and_comes_back_by_itself(self, tmp_path: Path, until: Until) -> None:
        """503 while PostgreSQL is away; no restart needed, and the password is in no line."""
        with private(durable=False) as database, House(database.url, folder=tmp_path) as house:
            server = house.serve()
            until(lambda: ask(f"{server.url}/readyz")[0] == 200)
            database.stop()
            _, refused = until(lambda: (told := ask(f"{server.url}/readyz"))[0] == 503 and told)
            assert refused["error"]["hint"]
            assert ask(f"{server.url}/healthz")[0] == 200
            database.start()
            until(lambda: ask(f"{server.url}/readyz")[0] == 200)
            assert ended(server, submit(server), until)["state"] == "completed"
            assert server.stop() == 0


class TestReload:
    """Models come and change while it runs."""

    def test_a_new_model_is_taken_up_and_a_broken_file_keeps_the_last_good_version(
        self, house: House, until: Until
    ) -> None:
        """The log and `doctor` name the line that is wrong."""
        server = house.serve()
        house.model("late", defaults={"width": 48, "height": 32, "steps": 2})
        until(lambda: ask(f"{server.url}/v1/jobs", {"prompt": "x", "model": "late"})[0] == 202)
        until(lambda: any("late" in line.get("new", []) for line in told(server)))
        file = house.home / "models/late/model.yaml"
        file.write_text("backend: mock\nlicense: [\n")
        until(lambda: any("model.yaml:" in line["event"] for line in told(server) if line["level"] == "warning"))
        shape = ended(server, submit(server, model="late"), until)
        assert shape["state"] == "completed"
        doctor = house.run("doctor")
        assert doctor.returncode == 3
        assert "model.yaml:" in doctor.stdout
        file.unlink()
        file.parent.rmdir()
        until(lambda: ask(f"{server.url}/v1/jobs", {"prompt": "x", "model": "late"})[0] == 404)

    def test_a_changed_model_is_drawn_as_it_is_now(self, house: House, until: Until) -> None:
        """For jobs that are submitted from then on."""
        house.model("mine", defaults={"width": 48, "height": 32, "steps": 2})
        server = house.serve()
        ask_mine: dict[str, Any] = {"prompt": "x", "model": "mine", "options": {"slow": 0}}
        _, before = ask(f"{server.url}/v1/jobs", ask_mine)
        assert before["request"]["width"] == 48
        house.model("mine", defaults={"width": 80, "height": 32, "steps": 2})
        after = until(lambda: (told := ask(f"{server.url}/v1/jobs", ask_mine)[1])["request"]["width"] == 80 and told)
        assert ended(server, after["id"], until)["images"][0]["width"] == 80
