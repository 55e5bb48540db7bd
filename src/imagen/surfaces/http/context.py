"""What every route is handed: the app, who asks, and the open streams."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from fastapi import Depends, Request

from imagen.config import Limits, Settings
from imagen.surfaces.http.auth import LOCAL, Caller, caller
from imagen.surfaces.http.streams import Streams

if TYPE_CHECKING:
    from imagen.app import App


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """One request's view of the app."""

    app: "App"
    caller: Caller
    streams: Streams
    settings: Settings

    @property
    def limits(self) -> Limits:
        """How much one request may ask for."""
        return self.settings.limits

    @property
    def sees(self) -> str | None:
        """Whose jobs may be looked at; None: everybody's."""
        return self.caller.sees

    @property
    def queue_limit(self) -> int | None:
        """How many jobs of this caller may wait. An admin key may fill the queue; a runaway program here may not."""
        return None if self.caller.admin and self.caller.name != LOCAL.name else self.limits.queued


def context(request: Request, who: Annotated[Caller, Depends(caller)]) -> Context:
    """The dependency of every route that asks the app for something."""
    state = request.app.state
    return Context(app=state.app, caller=who, streams=state.streams, settings=state.settings)


ContextOf = Annotated[Context, Depends(context)]
