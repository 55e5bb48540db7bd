"""A worker that was given another `storage` than the others: its jobs are done, and nobody finds their pictures."""

import json
from pathlib import Path

from tests.serve_kit import Until
from tests.service_kit import House


def test_another_storage_is_told_by_those_who_draw_and_by_the_doctor(tmp_path: Path, until: Until) -> None:
    """Both places are named; the same place is nothing to talk about."""
    with House(folder=tmp_path) as house:
        server = house.serve()
        fine = house.run("doctor", "mock")
        assert f"ok    storage: {tmp_path / 'home/images'}" in fine.stdout, fine.stdout
        other = {"IMAGEN_STORAGE": "s3://elsewhere/pictures", "IMAGEN_S3_ENDPOINT": "https://127.0.0.1:1"}
        keys = {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any"}
        worker = house.start("worker", environment=other | keys)
        for program, here, there in (
            (worker, "s3://elsewhere/pictures", str(tmp_path / "home/images")),
            (server, str(tmp_path / "home/images"), "s3://elsewhere/pictures"),
        ):
            said = f"pictures are stored in {here} here, and in {there} by the worker"
            until(lambda program=program, said=said: said in program.said())  # type: ignore[misc]
            (line,) = [json.loads(line) for line in program.said().splitlines() if said in line]
            assert line["level"] == "warning"
        told = house.run("doctor", "mock")
        assert told.returncode == 3, told.stdout
        (line,) = [line for line in told.stdout.splitlines() if line.startswith("FAIL  storage:")]
        assert "s3://elsewhere/pictures: " in line
        assert str(worker.pid) in line
        assert str(server.pid) in line
