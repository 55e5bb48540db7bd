"""The backends of one process: each made when it is first needed, and closed at the end."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from imagen.backends.base import Adopted, Backend, Prepares
from imagen.backends.registry import registration
from imagen.config import Settings
from imagen.core.model import Model
from imagen.engine.adopt import adopt
from imagen.engine.wiring import refuse_paid


class Backends:
    """Who draws here, by name."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._made: dict[str, Backend] = {}

    def of(self, model: Model) -> Backend:
        """The backend that draws this model; made once per process. A job may be older than the switch."""
        if self._settings.paid_calls == "forbidden":
            refuse_paid(self._settings, model)
        if model.backend not in self._made:
            self._made[model.backend] = registration(model.backend).create(self._settings.backend(model.backend))
        return self._made[model.backend]

    def prepare(self, model: Model) -> None:
        """Let its backend begin before there is a job, where the settings want that."""
        if self._settings.backend(model.backend).get("ready"):
            with suppress(Exception):  # whatever it is, the first job will say it to somebody who reads it
                backend = self.of(model)
                if isinstance(backend, Prepares):
                    backend.prepare()

    async def adopt(
        self, document: Mapping[str, Any], answers: Mapping[str, str], *, url: str | None = None
    ) -> Adopted:
        """What somebody's own workflow can be asked for; `answers` settle what is not certain."""
        settings = self._settings.backend("comfyui") | ({"url": url} if url else {})
        return await adopt(registration("comfyui").create(settings), document, answers)

    async def aclose(self) -> None:
        """Give back what they hold."""
        for backend in self._made.values():
            await backend.aclose()
