"""What a server sends, as the values it was made of; a field that an older server does not send is empty."""

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from imagen.away.words import rebuilt
from imagen.core.device import Device, Pause
from imagen.core.events import Event, from_body
from imagen.core.job import Cell, Job, Series, State, StoredImage, Warned
from imagen.core.model import Model
from imagen.core.request import Draft, Request
from imagen.core.vote import Ballot, Choice, Hidden, Pair, Side, Vote
from imagen.core.webhook import Delivery, Webhook

if TYPE_CHECKING:
    from imagen.engine.states import ModelState
    from imagen.engine.voting.ratings import Ratings

Shape = Mapping[str, Any]

# What an event must have and an older server may not send.
USUAL: Shape = {
    **{"images": (), "error": None, "by": "", "request": {}, "worker": "", "device": "", "code": "", "message": ""},
    **{"phase": "", "step": 0, "total": 0, "reason": "", "mime": "", "width": 0, "height": 0, "method": ""},
    **{"target_width": 0, "target_height": 0, "estimate": False},
}
COMPLETE = ("model", "width", "height", "steps", "seed", "n")  # fields of a request that somebody has resolved


def job_of(shape: Shape, server: str) -> Job:
    """One job."""
    progress = shape.get("progress")
    return Job(
        id=shape["id"],
        state=State(shape["state"]),
        request=request_of(shape.get("request") or {}),
        attempt=shape.get("attempt", 0),
        priority=shape.get("priority", 0),
        phase=progress.get("phase") if progress else None,
        # A phase without steps is told in the same place.
        progress=progress if progress and progress.get("step") is not None else None,
        position=shape.get("position"),
        waits_for=shape.get("waits_for"),
        images=tuple(image_of(image, server) for image in shape.get("images", ())),
        warnings=tuple(Warned(code=one["code"], message=one["message"]) for one in shape.get("warnings", ())),
        error=rebuilt(shape["error"]) if shape.get("error") else None,
        timings=shape.get("timings") or {},
        facts=shape.get("facts") or {},
        series=shape.get("series"),
        cell=shape.get("cell"),
        retry_of=shape.get("retry_of"),
        worker=shape.get("worker"),
        device=shape.get("device"),
        created_at=moment_of(shape.get("created_at")) or datetime.now(UTC),
        started_at=moment_of(shape.get("started_at")),
        finished_at=moment_of(shape.get("finished_at")),
        **_webhook_of(shape),
    )


def request_of(shape: Shape) -> Request | Draft:
    """What was asked: complete, or as far as somebody has resolved it."""
    if all(shape.get(name) is not None for name in COMPLETE):
        return Request.from_dict(
            {**shape, "negative": shape.get("negative") or "", "options": shape.get("options") or {}}
        )
    known = {name: shape[name] for name in Draft.__dataclass_fields__ if shape.get(name) is not None}
    return Draft(**{"prompt": "", **known})


def image_of(shape: Shape, server: str) -> StoredImage:
    """One picture, with the whole address of it."""
    usual = {"index": 0, "width": 0, "height": 0, "seed": 0, "sha256": "", "pixels_sha256": ""}
    return StoredImage.from_dict({**usual, **shape, "url": _whole(str(shape.get("url", "")), server)})


def event_of(shape: Shape, server: str) -> Event | None:
    """One event; None for one of a later version, and for a preview that cannot be read."""
    body = {**USUAL, **shape}
    envelope: dict[str, Any] = {
        name: shape.get(name, usual) for name, usual in (("job", ""), ("seq", 0), ("attempt", 0))
    }
    envelope["at"] = moment_of(shape.get("at")) or datetime.now(UTC)
    body["images"] = [image_of(image, server).as_dict() for image in body["images"]]
    if body.get("error"):
        body["error"] = rebuilt(body["error"]).as_dict()
    match shape.get("type"):
        case "image":
            body |= image_of(shape, server).as_dict()
        case "preview":
            try:
                envelope["data"] = base64.b64decode(str(body.pop("data", "")), validate=True)
            except binascii.Error:
                return None
        case _:
            pass
    return from_body(str(shape.get("type")), body, **envelope)


def series_of(shape: Shape, server: str) -> Series:
    """One series with its cells."""
    cells = tuple(
        Cell(
            index=cell["index"],
            prompt=cell["prompt"],
            model=cell["model"],
            seed=cell["seed"],
            job=job_of(cell["job"], server) if cell.get("job") else None,
        )
        for cell in shape.get("cells", ())
    )
    return Series(
        id=shape["id"],
        prompts=tuple(shape.get("prompts", ())),
        models=tuple(shape.get("models", ())),
        seeds=tuple(shape.get("seeds", ())),
        cells=cells,
        settings=shape.get("settings") or {},
        cancelled=shape.get("state") == "cancelled",
        created_at=moment_of(shape.get("created_at")) or datetime.now(UTC),
        **_webhook_of(shape),
    )


def model_of(shape: Shape) -> Model:
    """One model, as much of it as a server tells."""
    return Model.from_dict({**shape, "device": shape.get("device") or "elsewhere"})


def ballot_of(shape: Shape) -> Ballot:
    """Where we stand in a series. Which stored picture a side is, nobody is told."""
    pair = shape.get("pair")
    return Ballot(
        series=shape["series"],
        round=shape["round"],
        done=shape["done"],
        # A server that does not tell knows nothing of pairs that come back.
        waiting=shape.get("waiting", shape["total"] - shape["done"] if shape["round"] == 1 or shape["done"] else 0),
        total=shape["total"],
        pair=Pair(prompt=pair["prompt"], left=_hidden(pair["left"]), right=_hidden(pair["right"])) if pair else None,
    )


def vote_of(shape: Shape) -> Vote:
    """What was said of a pair, with the names."""
    return Vote(
        id=shape["id"],
        series=shape["series"],
        voter="",
        round=shape["round"],
        left=Side(image=shape["left"]["image"], model=shape["left"]["model"]),
        right=Side(image=shape["right"]["image"], model=shape["right"]["model"]),
        choice=Choice(shape["choice"]),
        created_at=moment_of(shape.get("created_at")) or datetime.now(UTC),
    )


def known(kind: Any, shapes: Sequence[Shape]) -> tuple[Any, ...]:
    """Values of a plain kind, without the fields of a later version."""
    return tuple(kind(**{name: one[name] for name in kind.__dataclass_fields__ if name in one}) for one in shapes)


def moment_of(text: Any) -> datetime | None:
    """A moment as it is sent."""
    try:
        return datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None


def device_of(shape: Shape) -> Device:
    """One device, and why it is paused."""
    why = shape.get("paused")
    paused = None
    if why:
        since, until = moment_of(why.get("since")), moment_of(why.get("until"))
        paused = Pause(reason=why["reason"], by=why["by"], since=since or datetime.now(UTC), until=until)
    device: Device = known(Device, [{**shape, "paused": paused}])[0]
    return replace(device, models=tuple(device.models), workers=tuple(device.workers))


def _webhook_of(shape: Shape) -> dict[str, Any]:
    """The fields `webhook` and `delivery`; of an address a server tells only whose it is."""
    told = shape.get("webhook")
    if not told:
        return {}
    delivery = Delivery(
        id=shape["id"],
        state=told["state"],
        tries=told.get("tries", 0),
        status=told.get("status"),
        said=told.get("said"),
        next_at=moment_of(told.get("next_at")),
        ended_at=moment_of(told.get("ended_at")),
    )
    known = None if delivery.state == "set" else delivery
    return {"webhook": Webhook(url=told["origin"], each=True), "delivery": known}


def ratings_of(shape: Shape) -> "Ratings":
    """What the votes say of the models."""
    from imagen.engine.voting.ratings import Group, Meeting, Rating, Ratings

    return Ratings(
        votes=shape["votes"],
        sides=shape.get("sides", {}),
        groups=tuple(
            Group(votes=one["votes"], ties=one["ties"], models=known(Rating, one["models"])) for one in shape["groups"]
        ),
        meetings=known(Meeting, shape.get("pairs", ())),
        confidence=shape["confidence"],
    )


def states_of(shape: Shape) -> "list[ModelState]":
    """Every model, and whether it is ready."""
    from imagen.engine.states import ModelState

    return [
        ModelState(
            model=model_of(one),
            available=one.get("available", False),
            error=rebuilt(one["error"]) if one.get("error") else None,
            loaded=one.get("loaded", False),
            default=one.get("default", False),
        )
        for one in shape["models"]
    ]


def _hidden(shape: Shape) -> Hidden:
    return Hidden(id=shape["id"], image="", width=shape.get("width", 0), height=shape.get("height", 0))


def _whole(url: str, server: str) -> str:
    return f"{server}{url}" if url.startswith("/") else url
