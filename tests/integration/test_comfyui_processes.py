"""`imagen` and ComfyUI as programs that end at any moment: killed, stopped, started again, several at once."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.serve_kit import Until, ask, ended, shown
from tests.service_kit import House, free_port

from imagen.testing.comfyui import Fake

MODEL, OTHER = "flux1-schnell", "z-image-turbo"
SMALL = ("-m", MODEL, "--size", "64x64", "--steps", "4")


@pytest.fixture
def fake() -> Iterator[Fake]:
    server = Fake()
    with server.running():
        yield server


@pytest.fixture
def house(fake: Fake, tmp_path: Path) -> Iterator[House]:
    with House(folder=tmp_path) as made:
        settle(made, fake.url)
        yield made


def settle(house: House, url: str) -> None:
    """Tell a home where its ComfyUI is."""
    models = {name: {"backend": "comfyui", "workflow": name, "url": url} for name in (MODEL, OTHER)}
    (house.home / "config.yaml").write_text(json.dumps({"models": models}))


def asked(server: Any, **fields: Any) -> str:
    """A small job; its id."""
    status, job = ask(
        f"{server.url}/v1/jobs", {"prompt": "a fox", "model": MODEL, "width": 64, "height": 64, "steps": 4, **fields}
    )
    assert status == 202, job
    return str(job["id"])


class TestOurs:
    """imagen ends."""

    def test_killed_in_the_middle_it_finds_its_prompt_again(self, house: House, fake: Fake, until: Until) -> None:
        """kill -9 and start: the same prompt is listened to, and sampled once in all."""
        fake.hold("sampling", step=3)
        server = house.serve()
        job = asked(server)
        until(lambda: fake.held)
        server.kill()
        again = house.serve()
        until(lambda: fake.connections >= 2)
        fake.go_on()
        assert ended(again, job, until)["state"] == "completed"
        assert len(fake.samplings) == 1
        assert len(fake.prompts) == 1

    def test_killed_while_the_server_drew_on_it_finds_the_picture(self, house: House, fake: Fake, until: Until) -> None:
        """What was finished meanwhile is fetched, not drawn again."""
        fake.hold("sampling", step=3)
        server = house.serve()
        job = asked(server)
        until(lambda: fake.held)
        server.kill()
        fake.go_on()
        until(lambda: fake.idle)
        again = house.serve()
        assert ended(again, job, until)["state"] == "completed"
        assert len(fake.samplings) == 1

    def test_killed_and_the_server_restarted_it_is_drawn_once_more(
        self, house: House, fake: Fake, until: Until
    ) -> None:
        """Nobody has it any more: one picture, one end."""
        fake.hold("sampling", step=3)
        server = house.serve()
        job = asked(server)
        until(lambda: fake.held)
        server.kill()
        fake.do(fake.restart())
        fake.go_on()
        again = house.serve()
        assert ended(again, job, until)["state"] == "completed"
        assert len(fake.sampled) == 1

    def test_stopped_politely_it_takes_its_prompt_along(self, house: House, fake: Fake, until: Until) -> None:
        """SIGTERM without grace: the job goes back, the server's queue is empty, and the next start draws it."""
        fake.hold("sampling", step=3)
        server = house.serve("--grace", "0")
        job = asked(server)
        until(lambda: fake.held)
        assert server.stop() == 0
        assert fake.idle
        assert shown(house, job)["state"] == "queued"
        fake.go_on()
        assert ended(house.serve(), job, until)["state"] == "completed"
        assert len(fake.sampled) == 1

    def test_two_workers_of_one_database_share_a_server(self, house: House, fake: Fake, until: Until) -> None:
        """Every job is drawn once, and never two at a time are in the server's queue for long."""
        server = house.serve("--no-worker")
        workers = [house.start("worker") for _ in range(2)]
        jobs = [asked(server, seed=seed) for seed in range(8)]
        told = [ended(server, job, until) for job in jobs]
        assert [one["state"] for one in told] == ["completed"] * 8
        assert {one["attempt"] for one in told} == {1}
        assert len(fake.sampled) == len(set(fake.sampled)) == 8
        assert all(worker.alive for worker in workers)
        assert fake.idle

    def test_one_of_two_workers_is_killed(self, house: House, fake: Fake, until: Until) -> None:
        """The other finds the prompt at the server and finishes it: sampled once."""
        server = house.serve("--no-worker")
        first = house.start("worker")
        fake.hold("sampling", step=3)
        job = asked(server)
        until(lambda: fake.held)
        house.start("worker")
        first.kill()
        until(lambda: fake.connections >= 2)
        fake.go_on()
        assert ended(server, job, until)["state"] == "completed"
        assert len(fake.samplings) == 1


class TestTheirs:
    """ComfyUI ends."""

    def test_killed_and_started_again_it_draws_what_it_lost(self, tmp_path: Path, until: Until) -> None:
        """kill -9 of the server in the middle: the job ends completed, once, drawn by the new one."""
        port, record = free_port(), tmp_path / "record.jsonl"
        with House(folder=tmp_path / "house") as house:
            settle(house, f"http://127.0.0.1:{port}")
            with _comfyui(port, record, "--step-s", "0.5") as first:
                server = house.serve()
                job = asked(server)
                until(lambda: "running" in _states(record))
                first.kill()
                first.wait()
                with _comfyui(port, record):
                    told = ended(server, job, until)
        assert told["state"] == "completed"
        assert _states(record) == ["pending", "running", "pending", "running", "completed"]


class TestTheCommandLine:
    """What a person sees."""

    def test_a_picture_comes_out(self, house: House, fake: Fake) -> None:
        """In a pipe, its path alone."""
        ran = house.run("generate", "a fox", *SMALL)
        assert ran.returncode == 0, ran.stderr
        assert Path(ran.stdout.strip()).read_bytes().startswith(b"\x89PNG")
        assert len(fake.sampled) == 1

    def test_a_missing_file_needs_the_owner(self, house: House, fake: Fake) -> None:
        """Exit code 3, the file, and the command that fetches it."""
        fake.remove_file("diffusion_models", "flux1-schnell.safetensors")
        ran = house.run("generate", "a fox", *SMALL)
        assert ran.returncode == 3, ran.stderr
        assert "flux1-schnell.safetensors" in ran.stderr
        assert "imagen models pull" in ran.stderr

    def test_out_of_memory_is_the_backends_failure(self, house: House, fake: Fake) -> None:
        """Exit code 1."""
        fake.out_of_memory(times=9)
        ran = house.run("generate", "a fox", *SMALL)
        assert ran.returncode == 1
        assert "memory" in ran.stderr
        assert "Traceback" not in ran.stderr

    def test_a_comparison_gives_memory_back_between_models(self, house: House, fake: Fake) -> None:
        """Each column on its own: /free before another model, and a figure for what it took."""
        fake.step_s = fake.load_s = 0.1  # what is over sooner is not measured
        ran = house.run(
            *("compare", "a fox", "--models", f"{MODEL},{OTHER}", "--seeds", "1,2", "--size", "128x128"),
            *("--steps", "2", "-o", str(house.folder / "out"), "--json"),
        )
        assert ran.returncode == 0, ran.stderr
        cells = json.loads((house.folder / "out" / "compare.json").read_text())["cells"]
        assert [cell["state"] for cell in cells] == ["completed"] * 4
        assert all(cell["vram_peak_mib"] and cell["vram_method"] for cell in cells)
        assert fake.freed
        assert fake.idle


def _comfyui(port: int, record: Path, *options: str) -> "_Running":
    arguments = ["-m", "imagen.testing.comfyui", "--port", str(port), "--record", str(record), *options]
    process = _Running([sys.executable, *arguments], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline()  # it listens
    return process


class _Running(subprocess.Popen[str]):
    """A program that ends with its block."""

    def __exit__(self, *raised: Any) -> None:
        self.kill()
        super().__exit__(*raised)


def _states(record: Path) -> list[str]:
    return [json.loads(line)["state"] for line in record.read_text().splitlines()] if record.exists() else []
