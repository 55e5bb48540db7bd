"""The backup that docs/howto/run-the-fleet.md tells people to make is a whole fleet when it is restored."""

import re
import subprocess
import urllib.request
from hashlib import sha256
from pathlib import Path

import pytest
from tests.deploy_kit import ROOT
from tests.postgres_kit import Postgres
from tests.serve_kit import Until, ask, drawing, ended, endless, job_of, submit
from tests.service_kit import House

PAGE = (ROOT / "docs/howto/run-the-fleet.md").read_text()


def told(program: str) -> list[str]:
    """The options of a program on the page that are not about where the database is."""
    (line,) = re.findall(rf"{program} (.+?) (?:imagen )?[<>]", PAGE)
    return [word for word in line.split() if word.startswith("--") and not word.startswith("--dbname")]


@pytest.mark.needs_postgres
@pytest.mark.timeout(240)
def test_a_restored_backup_goes_on(postgres: Postgres, tmp_path: Path, until: Until) -> None:
    """Pictures are found, what waited is drawn, and what ran is drawn again."""
    before, after = postgres.new_database(), postgres.new_database()
    dump = tmp_path / "imagen.dump"
    with House(before, folder=tmp_path / "house") as house:
        server = house.serve()
        drawn = ended(server, submit(server), until)
        runs, waits = endless(server), submit(server)
        drawing(server, runs, until)
        options = told("pg_dump")
        assert options == ["--format=custom"]
        subprocess.run(["pg_dump", *options, f"--file={dump}", before], check=True)
    subprocess.run(["pg_restore", "--exit-on-error", *told("pg_restore"), f"--dbname={after}", dump], check=True)
    with House(after, folder=tmp_path / "house") as house:
        server = house.serve()
        (picture,) = drawn["images"]
        with urllib.request.urlopen(f"{server.url}/v1/images/{picture['id']}") as answer:
            assert sha256(answer.read()).hexdigest() == picture["sha256"]
        assert ended(server, waits, until)["state"] == "completed"
        until(lambda: (job := job_of(server, runs))["state"] == "running" and job["attempt"] == 2)
        ask(f"{server.url}/v1/jobs/{runs}/cancel", method="POST")
        assert ended(server, submit(server), until)["state"] == "completed", "numbers and triggers came along"
