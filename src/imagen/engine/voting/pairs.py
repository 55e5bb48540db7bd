"""Blind pairs of a series: which comes next, on which side each picture stands, and whether a vote may be taken.

Nothing is kept but the votes: the order and the sides are dice seeded with the series, the voter, the round and the
pair. Who asks again sees the same pair on the same sides, and no two voters go the same way.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from hashlib import sha256
from itertools import combinations

from imagen.core.errors import Conflict, UnknownImage, Unsupported
from imagen.core.ids import new_id
from imagen.core.job import Series, State, StoredImage
from imagen.core.vote import Ballot, Choice, Hidden, Pair, Side, Vote, pair_name
from imagen.store.album import STORED

BLIND_CHARS = 32


def blind_id(series_id: str, image_id: str) -> str:
    """Another name for a picture: its own begins with the time, and so tells which model drew first.

    It keeps a secret from whoever looks, not from whoever knows the names already and wants to find them again.
    """
    return sha256(f"{series_id}/{image_id}".encode()).hexdigest()[:BLIND_CHARS]


def picture_of(series: Series, blind: str) -> StoredImage:
    """The picture behind such a name."""
    for _, _, image in _pictures(series):
        if blind_id(series.id, image.id) == blind:
            return image
    raise UnknownImage(
        f"there is no picture {blind[:80]!r} to vote on in this series",
        hint=f"ask for the next pair: GET /v1/series/{series.id}/pairs",
    )


def ballot(series: Series, cast: Sequence[Vote], voter: str) -> Ballot:
    """Where this voter stands, and the next pair. `cast` are the votes of this voter in this series."""
    gallery = _Gallery(series)
    seen = gallery.seen(cast)
    round_ = gallery.round(seen)
    passed = {name for name, times in seen.items() if times >= round_}
    skipped = gallery.skipped(cast, round_ - 1)
    begun = round_ == 1 or not passed <= skipped
    back = skipped - passed
    shown = Counter(gallery.models_of(name) for name in passed)
    waiting = [(pair, shared) for pair, shared in gallery.shared.items() if len(shared) > shown[pair]]
    standing = Ballot(
        series=series.id,
        round=round_,
        done=len(passed),
        waiting=gallery.total - len(passed) if begun else len(back),
        total=gallery.total,
        pair=None,
    )
    if not waiting:
        return standing

    def dice(name: str) -> bytes:
        return sha256(f"{series.id}/{voter}/{round_}/{name}".encode()).digest()

    # The two models that were shown together least come first: who stops early still compared all of them.
    models, shared = min(waiting, key=lambda one: (shown[one[0]], dice("/".join(one[0]))))
    names = {pair_name(*(image.id for image in gallery.images(models, place))) for place in shared}
    # What was skipped the last time comes back before anything comes again.
    name = min(back or names - passed, key=dice)
    models, place = gallery.origin(name)
    images = sorted(gallery.images(models, place), key=lambda image: image.id)
    if dice(name)[-1] & 1:  # not the byte that decides the order
        images.reverse()
    left, right = (
        Hidden(id=blind_id(series.id, image.id), image=image.id, width=image.width, height=image.height)
        for image in images
    )
    return replace(standing, pair=Pair(prompt=place.prompt, left=left, right=right))


def new_vote(
    series: Series,
    cast: Sequence[Vote],
    *,
    voter: str,
    round_: int,
    left: str,
    right: str,
    choice: Choice,
    now: datetime,
) -> Vote:
    """The vote to record, or the very same one from before; raises what keeps it from being taken."""
    images = picture_of(series, left), picture_of(series, right)
    gallery = _Gallery(series)
    name = pair_name(images[0].id, images[1].id)
    if not gallery.is_pair(name):
        raise Unsupported(
            "these two pictures are no pair",
            hint="a pair is one prompt and one seed by two models; ask for the next pair",
            param="right",
        )
    before = next((vote for vote in cast if vote.pair == name and vote.round == round_), None)
    if before is not None:
        if _winner(before.choice, before.left.image, before.right.image) == _winner(choice, images[0].id, images[1].id):
            return before
        raise Conflict(
            "this pair has been voted on, and the names were told",
            hint="a vote is final; the pair comes again when all others are done",
            param="choice",
        )
    seen = gallery.seen(cast)
    open_round = gallery.round(seen)
    if round_ != open_round or seen[name] >= open_round:
        raise Conflict(
            f"this pair is not open in round {round_}",
            hint=f"round {open_round} is going on; ask for the next pair",
            param="round",
        )
    sides = [Side(image=image.id, model=gallery.model_of(image.id)) for image in images]
    return Vote(
        id=new_id(),
        series=series.id,
        voter=voter,
        round=round_,
        left=sides[0],
        right=sides[1],
        choice=choice,
        created_at=now,
    )


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class _Place:
    """What two pictures have to have in common: one prompt, one seed, and the same place among several."""

    prompt: str
    seed: int
    index: int


Models = tuple[str, str]


class _Gallery:
    """The finished pictures of a series by model and place.

    Pairs are counted and not listed: two hundred models that drew five pictures each make a hundred thousand.
    """

    def __init__(self, series: Series) -> None:
        self._by_model: dict[str, dict[_Place, StoredImage]] = {}
        self._origin: dict[str, tuple[str, _Place]] = {}
        for place, model, image in _pictures(series):
            self._by_model.setdefault(model, {})[place] = image
            self._origin[image.id] = model, place
        self.shared: dict[Models, list[_Place]] = {
            (one, other): [place for place in self._by_model[one] if place in self._by_model[other]]
            for one, other in combinations(sorted(self._by_model), 2)
        }
        self.total = sum(len(places) for places in self.shared.values())

    def images(self, models: Models, place: _Place) -> tuple[StoredImage, StoredImage]:
        return self._by_model[models[0]][place], self._by_model[models[1]][place]

    def model_of(self, image_id: str) -> str:
        return self._origin[image_id][0]

    def models_of(self, pair: str) -> Models:
        one, other = sorted(self.model_of(image) for image in pair.split("+"))
        return one, other

    def origin(self, pair: str) -> tuple[Models, _Place]:
        return self.models_of(pair), self._origin[pair.split("+")[0]][1]

    def is_pair(self, name: str) -> bool:
        """Whether these two differ in nothing but the model; a picture that is gone is in no pair."""
        origins = [self._origin.get(image) for image in name.split("+")]
        return (
            None not in origins
            and len({origin[0] for origin in origins if origin}) == 2
            and len({origin[1] for origin in origins if origin}) == 1
        )

    def seen(self, cast: Iterable[Vote]) -> Counter[str]:
        """How often each pair was voted on."""
        return Counter(vote.pair for vote in cast if self.is_pair(vote.pair))

    def skipped(self, cast: Iterable[Vote], round_: int) -> set[str]:
        """The pairs that this voter had nothing to say of in a round."""
        return {
            vote.pair
            for vote in cast
            if vote.round == round_ and vote.choice is Choice.SKIP and self.is_pair(vote.pair)
        }

    def round(self, seen: Counter[str]) -> int:
        """A round ends when each pair was seen once more; a picture that comes later is caught up on first."""
        if not self.total or len(seen) < self.total:
            return 1
        return min(seen.values()) + 1


def _pictures(series: Series) -> Iterable[tuple[_Place, str, StoredImage]]:
    for cell in series.cells:
        if cell.job is not None and cell.job.state is State.COMPLETED:
            for image in cell.job.images:
                if image.state == STORED:
                    yield _Place(prompt=cell.prompt, seed=cell.seed, index=image.index), cell.model, image


def _winner(choice: Choice, left: str, right: str) -> str:
    """What was said, whichever side was which."""
    match choice:
        case Choice.LEFT:
            return left
        case Choice.RIGHT:
            return right
        case _:
            return choice.value
