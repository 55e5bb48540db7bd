"""The graphs that models are drawn by: a job carries a digest, the graph itself is kept once."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, select

from imagen.core.model import Model
from imagen.store.columns import upsert
from imagen.store.tables import templates

REMEMBERED = 64  # graphs that are not asked for again; a worker draws a handful of models

_read: dict[str, Mapping[str, Any]] = {}  # a digest stands for one graph, in whichever database it lies


def keep(connection: Connection, models: Iterable[Model]) -> None:
    """Make sure that the graphs of these models are there for whoever draws them, later and elsewhere."""
    graphs = {model.template: model.graph for model in models if model.template and model.graph is not None}
    if graphs:
        rows = [{"digest": digest, "graph": graph} for digest, graph in graphs.items()]
        connection.execute(upsert(connection, templates).values(rows).on_conflict_do_nothing())


def whole(connection: Connection, model: Model) -> Model:
    """A carried model with its graph."""
    if not model.template or model.graph is not None:
        return model
    graph = _read.get(model.template)
    if graph is None:
        found = select(templates.c.graph).where(templates.c.digest == model.template)
        graph = connection.execute(found).scalar_one_or_none()
        if graph is None:
            return model  # its backend says that it has none
        while len(_read) >= REMEMBERED:
            _read.pop(next(iter(_read)))
        _read[model.template] = graph
    # A copy of its own: whoever draws may do with it what he likes.
    return replace(model, graph=json.loads(json.dumps(graph)))
