"""Those who draw and store elsewhere: told of once by whoever draws, and by `imagen doctor`."""

import re
from typing import Any, cast

import pytest
from sqlalchemy import Row

from imagen.core.errors import SetupError
from imagen.engine.drawing.apart import Apart, check_places

HERE, THERE = "s3://pictures", "/home/ann/images"


class Worker(dict[str, Any]):
    """A row of the list of workers."""

    __getattr__ = dict.__getitem__


def workers(beat: int, **stores: str | None) -> list[Row[Any]]:
    """All of them having counted so far."""
    rows = [
        Worker(id=name, host=f"{name}:boot", pid=number, beat=beat, storage=place)
        for number, (name, place) in enumerate(stores.items(), 1)
    ]
    return cast(list[Row[Any]], rows)


def test_each_other_place_is_told_of_once() -> None:
    """By its first worker that counts up: one that does not is dead, or will tell later."""
    said: list[str] = []
    apart = Apart(HERE, said.append)
    apart.look(workers(1, a=HERE, b=THERE, c=THERE, old=None))
    apart.look(workers(1, a=HERE, b=THERE, c=THERE, old=None))
    assert said == []
    for beat in (2, 3):
        apart.look(workers(beat, a=HERE, b=THERE, c=THERE, old=None))
        (line,) = said
        assert f"stored in {HERE} here, and in {THERE} by the worker b" in line
        assert "same `storage`" in line
    apart.look(workers(4, d="s3://other"))
    apart.look(workers(5, d="s3://other"))
    assert len(said) == 2


def test_a_doctor_names_who_stores_where() -> None:
    """Also when all workers agree, and only whoever asks has another place."""
    rows = cast(list[dict[str, Any]], workers(1, a=HERE, b=THERE, old=None))
    with pytest.raises(
        SetupError, match=re.escape(f"2 places, and nobody reads all: {HERE}: this command, a 1; ")
    ) as e:
        check_places(rows, HERE)
    assert e.value.message.endswith(f"{THERE}: b 2")
    with pytest.raises(SetupError):
        check_places(rows[:1], THERE)
    many = cast(list[dict[str, Any]], workers(1, **{f"w{number}": THERE for number in range(9)}))
    with pytest.raises(SetupError, match="w4 5 and 4 more"):
        check_places(many, HERE)
    assert check_places(rows[:1], HERE) == HERE
    assert check_places([], HERE) == HERE
