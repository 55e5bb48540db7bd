"""Everything at once, in small; `benchmarks/chaos.py` is the same with ten times as much of it."""

import asyncio
from pathlib import Path

import pytest
from tests.chaos_kit import Chaos, Plan, Told
from tests.postgres_kit import Postgres, postgres
from tests.service_kit import House


def _sound(told: Told, plan: Plan) -> None:
    assert told.verdict.faults == [], f"seed {plan.seed}\n{told}"
    assert told.verdict.states.total() == plan.jobs
    assert told.kills.total() == plan.kills


def _chaos(plan: Plan, folder: Path, server: Postgres | None = None) -> Told:
    with House(server.url if server else None, folder=folder) as house:
        return asyncio.run(Chaos(plan, house, server).run())


@pytest.mark.timeout(300)
def test_nothing_is_lost_on_sqlite_while_workers_and_servers_are_killed(tmp_path: Path) -> None:
    """40 jobs, 6 SIGKILLs, a worker that sleeps longer than its lease: each job ends exactly once."""
    plan = Plan(seed=11, jobs=40, over_s=20.0, kills=6, pauses=1, workers=3)
    _sound(_chaos(plan, tmp_path), plan)


@pytest.mark.needs_postgres
@pytest.mark.timeout(300)
def test_nothing_is_lost_on_postgresql_when_it_crashes_too(tmp_path: Path) -> None:
    """The same, and PostgreSQL restarts without a goodbye in the middle."""
    plan = Plan(seed=12, jobs=40, over_s=20.0, kills=6, restarts=1, workers=3)
    with postgres() as server:  # with its log on disk: what it confirmed has to be there afterwards
        told = _chaos(plan, tmp_path, server)
    _sound(told, plan)
    assert told.restarts["immediate"] == 1
