"""The backend: predictions in Replicate's cloud or in a container of one's own, and what would go wrong with them."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from imagen.backends.base import Previews
from imagen.backends.remote.address import Address
from imagen.backends.remote.http import Http
from imagen.backends.remote.settings import hosts, seconds
from imagen.backends.remote.token import read_token, remedy
from imagen.backends.replicate import USUAL, errors, inputs
from imagen.backends.replicate import paid as costs_money
from imagen.backends.replicate.cloud import HOSTS, Cloud
from imagen.backends.replicate.cog import Container, Drawing
from imagen.backends.replicate.hosted import Hosted, Pace
from imagen.backends.replicate.inputs import Schema
from imagen.core.errors import BadConfig, Check, ImagenError, NotConfigured
from imagen.core.model import Model
from imagen.core.request import Request
from imagen.core.signals import Signal

OWN = ("api.replicate.com", "REPLICATE_API_TOKEN")  # its own tools expect the token there, and it is sent nowhere else
# Replicate's token is not sent to a container.
CONTAINER_REMEDY = "for a container only the model's own counts: `token_env: NAME_OF_A_VARIABLE` that holds its token"
PATIENCE_S = 60.0  # with a service that is away or asks for some
LOADING_S = 600.0  # how long a container may load its model


class Replicate:
    """Has predictions made; a model says which, and where."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = settings
        self._clouds: dict[str, Cloud] = {}
        self._containers: dict[tuple[Address, str, str], Container] = {}

    async def check(self, model: Model) -> Sequence[Check]:
        """Is the service there, does it take the token, does the model have the inputs? Costs nothing."""
        checks: list[Check] = []
        try:
            if self._url(model):
                container = self._container(model)
                health = await container.health()
                if error := errors.unready(container.http, health):
                    raise error
                checks.append(Check.passed("server", note=f"{container.http.address.url}: {health.get('status')}"))
                schema = await container.schema()
            else:
                cloud = self._cloud(model)
                who = await cloud.account() if cloud.http.signed else ""
                checks.append(Check.passed("token", note=f"the account {who} pays" if who else "none is needed"))
                schema = await cloud.schema(model)
            checks.append(_inputs(model, schema))
        except ImagenError as error:
            return [*checks, Check.failed("server", error)]
        return checks

    async def generate(
        self, request: Request, model: Model, previews: Previews, resume: str | None = None
    ) -> AsyncGenerator[Signal]:
        """Have `request.n` pictures made, each by a prediction of its own with the seed of its own."""
        call: Drawing | Hosted
        if self._url(model):
            pace = self._pace(model, LOADING_S)
            call = Drawing(self._container(model), request, model, previews, pace, paid=self._paid(model))
        else:
            cloud = self._cloud(model)
            call = Hosted(cloud, request, model, previews, self._pace(model), paid=self._paid(model))
        async with aclosing(call.signals(resume)) as signals:
            async for signal in signals:
                yield signal

    async def aclose(self) -> None:
        """Close every connection."""
        clients = [one.http for one in self._clouds.values()] + [one.http for one in self._containers.values()]
        self._clouds, self._containers = {}, {}
        for http in clients:
            await http.aclose()

    def _cloud(self, model: Model) -> Cloud:
        """The service as an account sees it. What costs money needs a token."""
        if bool(model.keys.get("model")) == bool(model.keys.get("deployment")):
            raise BadConfig(
                f"{model.name} must say `model`, `deployment` or `url`, and only one of them",
                hint="write for instance `model: black-forest-labs/flux-schnell`",
                param="model",
            )
        address = Address.of(str(self._settings.get("api") or USUAL))
        token = read_token(self._settings, variable=OWN[1] if address.host == OWN[0] else None)
        if not token and self._paid(model):
            raise NotConfigured("there is no token for Replicate", hint=errors.TOKEN, param="token")
        if token not in self._clouds:
            pace = self._pace(model)
            http = Http(address, "Replicate", token=token)
            allowed = (*HOSTS, *hosts(self._settings))
            self._clouds[token] = Cloud(http=http, hosts=allowed, look_s=min(0.2, pace.poll_s))
        return self._clouds[token]

    def _container(self, model: Model) -> Container:
        address = Address.of(self._url(model))
        named = model.keys.get("token_env")
        token = read_token({}, variable=named)
        missing = remedy(token, named=named, usual=CONTAINER_REMEDY)
        place = (address, token, missing)
        if place not in self._containers:
            name = f"the container at {address.place('localhost')}"
            self._containers[place] = Container(http=Http(address, name, token=token, remedy=missing))
        return self._containers[place]

    def _url(self, model: Model) -> str:
        return str(model.keys.get("url") or self._settings.get("url") or "")

    def _paid(self, model: Model) -> bool:
        return costs_money({**self._settings, **{k: v for k, v in model.keys.items() if v is not None}})

    def _pace(self, model: Model, patience_s: float = PATIENCE_S) -> Pace:
        keys, settings = model.keys, self._settings
        return Pace(
            poll_s=seconds({}, settings, "poll_s", 0.5),
            patience_s=seconds({}, settings, "patience_s", patience_s),
            timeout_s=seconds(keys, settings, "timeout_s", 1800.0),
            lost_s=min(1.0, 2 * seconds({}, settings, "poll_s", 0.5)),
        )


def _inputs(model: Model, schema: Schema) -> Check:
    """Whether the model's file and the model itself speak of the same inputs."""
    wrong = inputs.unknown(model, schema)
    if wrong:
        error = BadConfig(
            f"{model.name} has no input {wrong[0]!r}",
            hint=f"it has: {', '.join(sorted(schema.inputs))}; see `inputs`, `extra` and `options` of its YAML",
            param="inputs",
        )
        return Check.failed("inputs", error)
    told = inputs.names(model, schema)
    return Check.passed("inputs", note=", ".join(sorted(told)) if schema.known else "it does not say which it has")
