"""What deploy/ asks a running fleet: every number is really told, and KEDA counts the jobs that need a worker."""

import re
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.deploy_kit import DEPLOY, alerts, asked, names_in, prometheus, resources
from tests.postgres_kit import Postgres
from tests.serve_kit import Until, ask, drawing, ended, endless, submit
from tests.service_kit import House, Program, free_port

pytestmark = [pytest.mark.needs_postgres, pytest.mark.timeout(240)]

# Empty where no card is shared.
MAY_BE_EMPTY = ("imagen_device_vram_taken_mib",)


@pytest.fixture
def house(postgres: Postgres, tmp_path: Path) -> Iterator[House]:
    with House(postgres.new_database(), folder=tmp_path) as made:
        yield made


@pytest.fixture
def server(house: House) -> Program:
    """One that draws too, on two devices."""
    house.model("elsewhere", device="another")
    return house.serve()


def told_by(server: Program) -> dict[str, set[str]]:
    """Every metric of a server with its labels."""
    with urllib.request.urlopen(f"{server.url}/metrics") as answer:
        text = answer.read().decode()
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        found.setdefault(family.name, set())
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


@pytest.mark.needs_deploy_tools
def test_every_number_that_is_asked_for_is_told(server: Program, until: Until) -> None:
    """Each expression of the dashboard has an answer from a real Prometheus, and no alarm names what is not there."""
    with prometheus([server.url.removeprefix("http://")], port=free_port()) as watching:
        ended(server, submit(server, preview={"count": 2}), until)
        ended(server, submit(server, prompt="[fail:rejected]"), until)
        draws, waits = endless(server), endless(server)
        drawing(server, draws, until)
        told = told_by(server)
        for expression in [*asked(), *(rule["expr"] for rule in alerts())]:
            for name, labels in names_in(expression).items():
                assert name in told, f"{name} of: {expression}"
                # `instance` and `job` are Prometheus's own, `le` is of a histogram's buckets.
                known = told[name] | {"instance", "job"}
                assert name in MAY_BE_EMPTY or labels <= known | _added(expression, told), (
                    f"{labels - known}: {expression}"
                )
        # An increase is seen only between two looks: another job ends while somebody looks.
        until(lambda: watching.ask("imagen_jobs_running > 0"))
        ended(server, submit(server, model="elsewhere", preview={"count": 2}), until)
        for expression in asked():
            if not any(name in expression for name in MAY_BE_EMPTY):
                until(partial(watching.ask, expression))
        firing = {one["metric"]["alertname"] for one in watching.ask("ALERTS")}
        assert firing <= {"ImagenJobsFail"}, "one of three failed; nothing else is wrong"
        for job in (draws, waits):
            ask(f"{server.url}/v1/jobs/{job}/cancel", method="POST")


def _added(expression: str, told: dict[str, set[str]]) -> set[str]:
    """In an expression of two metrics each may have a label that the other has not."""
    return {label for name in names_in(expression) for label in told.get(name, ())}


def test_keda_counts_the_jobs_that_need_a_worker(house: House, until: Until) -> None:
    """As a role that may see nothing else: those that wait and those that are drawn, of one model."""
    house.model("slow-one")
    server = house.serve()
    (scaled,) = [one for _, one in resources() if one["kind"] == "ScaledObject"]
    (trigger,) = scaled["spec"]["triggers"]
    query = re.sub(r"model = '[^']*'", "model = 'slow-one'", trigger["metadata"]["query"])
    assert house.address is not None
    with psycopg.connect(house.address, autocommit=True) as owner:
        # One server for all tests of this process: another test may have made the role.
        owner.execute("DROP OWNED BY imagen_keda" if _has_role(owner) else "SELECT 1")
        owner.execute("DROP ROLE IF EXISTS imagen_keda")
        owner.execute((DEPLOY / "kubernetes/keda-role.sql").read_text().encode())
    keda = re.sub(r"user=\w+", "user=imagen_keda", house.address)

    def counted() -> Any:
        with psycopg.connect(keda) as connection:
            rows = connection.execute(query.encode()).fetchall()
        assert len(rows) == len(rows[0]) == 1, "one number"
        return rows[0][0]

    assert counted() == 0
    jobs = [submit(server, model="slow-one", slow=600, steps=500) for _ in range(3)]
    others = [submit(server, model="mock-warm", slow=600, steps=500) for _ in range(2)]
    drawing(server, jobs[0], until)
    assert counted() == 3, "one is drawn and two wait; those of another model are not meant"
    ask(f"{server.url}/v1/jobs/{jobs[2]}/cancel", method="POST")
    assert counted() == 2
    with psycopg.connect(house.address) as sql:  # nobody else sees these, so that nobody takes them
        for count, due in ((2, "1 h"), (3, "20 s")):
            sql.execute(
                f"INSERT INTO imagen.jobs (prompt, run_after) VALUES ('a fox', now() + interval '{due}')".encode()
            )
            counts = sql.execute(query.encode()).fetchall()
            assert counts == [(count,)], "any worker would do for it, once its time comes"
        sql.rollback()
    for job in [*jobs[:2], *others]:
        ask(f"{server.url}/v1/jobs/{job}/cancel", method="POST")
    ended(server, jobs[0], until)
    assert counted() == 0
    with psycopg.connect(keda) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute("SELECT prompt FROM imagen.jobs")


def _has_role(connection: psycopg.Connection[Any]) -> bool:
    return connection.execute("SELECT 1 FROM pg_roles WHERE rolname = 'imagen_keda'").fetchone() is not None
