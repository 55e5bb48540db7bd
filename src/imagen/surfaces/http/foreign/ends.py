"""Why there is no picture to give: of a job that ended without one, of a client or a server that goes."""

from imagen.core.errors import BackendError, Conflict, DatabaseAway, ImagenError, Unauthorized
from imagen.core.events import Cancelled, Failed
from imagen.core.job import Job, State
from imagen.surfaces.http.refusals import RETRY_AFTER_S


def error_of(job: Job) -> ImagenError:
    """Why a job that ended has no picture to give."""
    if job.error is not None:
        return job.error
    return _cancelled("somebody") if job.state is State.CANCELLED else _nothing(job.id)


def error_of_end(event: Failed | Cancelled) -> ImagenError:
    """The same, from its last event."""
    return event.error if isinstance(event, Failed) else _cancelled(event.by)


def server_stops() -> ImagenError:
    """What a client is told that waits just then: the job goes on with whoever serves next."""
    hint = "the job is safe: see `GET /v1/jobs/{id}` in a moment"
    return DatabaseAway("this server stops now", hint=hint, retry_after_s=RETRY_AFTER_S)


def key_is_gone() -> ImagenError:
    """What a client is told whose key was taken away while it waited."""
    return Unauthorized("this key is no longer good", hint="ask the owner of this server for another one")


def _cancelled(by: str) -> ImagenError:
    return Conflict(f"the job was cancelled by {by}", hint="ask again if that was not meant")


def _nothing(job_id: str) -> ImagenError:
    return BackendError(f"job {job_id} ended without an error and without a picture", hint="see the server's log")
