"""The event that a worker records with its claim; what it says of previews the database may have to know before."""

import json
from collections.abc import Callable

from imagen.core.events import Started
from imagen.core.request import PREVIEW_METHODS, PreviewPolicy
from imagen.store.queue import Claim


def started(claim: Claim, watched: bool, policy: PreviewPolicy) -> Started:
    """The event of the claim itself: what exactly will be drawn, where, and whether previews will be made."""
    return Started(
        job=claim.job,
        attempt=claim.attempt,
        request=claim.request.as_dict(),
        worker=claim.worker,
        device=claim.model.device,
        preview=_previews(policy, asked=claim.preview is not None, watched=watched),
    )


def previews_by(policy: Callable[[PreviewPolicy | None], PreviewPolicy]) -> str:
    """What `started` says of the previews of a job whose model has no wish of its own, as `order.Wish` has it.

    `policy` is the one in force for what a job asks.
    """
    wishes = {"": None} | {method: PreviewPolicy(method=method) for method in PREVIEW_METHODS}
    told = {
        name: {
            str(watched).lower(): _previews(policy(wish), asked=wish is not None, watched=watched)
            for watched in (False, True)
        }
        for name, wish in wishes.items()
    }
    return json.dumps(told)


def _previews(policy: PreviewPolicy, *, asked: bool, watched: bool) -> dict[str, str]:
    if policy.off:
        return {"method": "off", "why": "switched off"}
    if asked or watched:
        return {"method": policy.method, "why": "requested" if asked else "somebody watches"}
    return {"method": "off", "why": "unwatched_at_start"}
