"""What is asked and answered about blind votes and ratings, for the checks at the door and for /openapi.json."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from imagen.surfaces.http.shapes import Asked, Said

MAX_ROUND = 1_000_000

BlindId = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$", description="the `id` of that side in the pair")]


class NewVote(Asked):
    """What is said of a pair."""

    left: BlindId
    right: BlindId
    round: Annotated[int, Field(ge=1, le=MAX_ROUND)] = Field(description="as the pair says")
    choice: Literal["left", "right", "tie", "skip"] = Field(
        description="which is better; `skip` says nothing: the pair comes back first in the next round"
    )

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"left": "0" * 32, "right": "f" * 32, "round": 1, "choice": "left"}]}
    )


class BlindPicture(Said):
    """One side of a pair, whose model is not told."""

    id: str = Field(description="of this picture in votes on this series; it is no picture's id elsewhere")
    url: str = Field(description="where it is fetched; add ?w=320 for a small copy")
    width: int
    height: int


class Pair(Said):
    """Two pictures of one prompt and seed by two models."""

    prompt: str
    round: int
    left: BlindPicture
    right: BlindPicture


class Ballot(Said):
    """Where a voter stands in a series."""

    series: str
    round: int = Field(description="it rises when each pair was voted on once more")
    done: int = Field(description="pairs that this voter has voted on in this round")
    waiting: int = Field(
        description="pairs that come before another round begins: of a round that is not begun, those skipped before"
    )
    total: int
    pair: Pair | None = Field(description="the next one; null where no two models have drawn the same yet")


class VotedSide(Said):
    """One side of a pair that was voted on."""

    model: str
    image: str = Field(description="the picture, as in GET /v1/images/{id}")


class Vote(Said):
    """What was said of a pair, with the names."""

    id: str
    series: str
    round: int
    choice: Literal["left", "right", "tie", "skip"]
    left: VotedSide
    right: VotedSide
    created_at: str


class Rating(Said):
    """One model, rated among those of its group."""

    model: str
    rating: float = Field(description="1000 is the mean of the group; 400 more are odds of ten to one")
    low: float = Field(description="the lower end of the interval")
    high: float
    votes: int
    wins: int
    losses: int
    ties: int
    prompts: int = Field(description="how many different prompts it was voted on with")
    best: int = Field(description="the best place in its group that the votes leave open")
    worst: int = Field(description="the worst one; with few votes every place is open")


class RatedGroup(Said):
    """Models that votes connect, best first; no vote compares those of two groups."""

    votes: int
    ties: int
    models: list[Rating]


class Meeting(Said):
    """What was said of two models against each other."""

    a: str
    b: str
    a_wins: int
    b_wins: int
    ties: int


class Sides(Said):
    """How often each side was said to be better; far apart, they tell of a habit and not of pictures."""

    left: int = 0
    right: int = 0
    tie: int = 0


class Ratings(Said):
    """How good models are by the votes, and how sure that is."""

    votes: int
    ties: int
    confidence: float = Field(description="how often such an interval holds the truth")
    sides: Sides
    groups: list[RatedGroup]
    pairs: list[Meeting]
