"""A graph is kept once, however many jobs are drawn by it, and is there for whoever claims one."""

import json
from dataclasses import replace

from sqlalchemy import Connection, func, select
from tests.store_kit import MODEL, database, new, take

from imagen.core.model import Model
from imagen.core.template import Template
from imagen.store import history, intake
from imagen.store import templates as kept
from imagen.store.tables import jobs, templates

TEMPLATE = Template({"1": {"class_type": "Draw", "inputs": {"cfg": 1.0, "text": "${prompt}", "of": ["2", 0]}}})
DRAWN_BY_IT = replace(MODEL, template=TEMPLATE.digest, graph=TEMPLATE.graph)


def _count(connection: Connection) -> int:
    return connection.execute(select(func.count()).select_from(templates)).scalar_one()


def _records(connection: Connection) -> list[str]:
    return [json.dumps(record) for record in connection.execute(select(jobs.c.record)).scalars()]


async def test_a_thousand_jobs_keep_one_graph(place: str) -> None:
    """The jobs carry its digest, and the worker that claims one has the whole of it."""
    async with database(place) as db:
        await db.write(intake.submit, [new(DRAWN_BY_IT) for _ in range(20)])
        await db.write(intake.submit, [new(DRAWN_BY_IT)])
        assert await db.read(_count) == 1
        assert not any("class_type" in record for record in await db.read(_records))
        kept._read.clear()  # as in another process
        claim = await take(db)
        assert claim is not None
        assert claim.model.graph == TEMPLATE.graph


async def test_what_one_drawing_does_to_its_graph_harms_no_other(place: str) -> None:
    """Each claim has a copy of its own."""
    async with database(place) as db:
        await db.write(intake.submit, [new(DRAWN_BY_IT)])
        claim = await take(db)
        assert claim is not None
        assert isinstance(claim.model.graph, dict)
        claim.model.graph.clear()
        again = await db.read(kept.whole, replace(DRAWN_BY_IT, graph=None))
        assert again.graph == TEMPLATE.graph


async def test_a_job_by_sql_has_its_graph_too(place: str) -> None:
    """The worker that resolves the row keeps the graph with it."""
    async with database(place) as db:

        def insert(connection: Connection) -> None:
            connection.execute(jobs.insert().values(prompt="a fox", model="test"))

        await db.write(insert)
        claim = await take(db, resolve=lambda draft: new(DRAWN_BY_IT, prompt=draft.prompt))
        assert claim is not None
        assert claim.model.graph == TEMPLATE.graph
        assert await db.read(_count) == 1


async def test_a_model_that_left_can_be_drawn_once_more(place: str) -> None:
    """A retry goes by what the old job carries."""
    async with database(place) as db:
        (job,) = await db.write(intake.submit, [new(DRAWN_BY_IT)])
        record = await db.read(history.record, job)
        assert record is not None
        await db.write(intake.submit, [new(Model.from_dict(record))])
        await take(db)
        assert await db.read(_count) == 1
