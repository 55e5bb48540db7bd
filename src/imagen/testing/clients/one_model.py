"""A client whose every picture is one of the model that was asked for, whichever name it insists on.

What is recorded names models as the program does: `gpt-image-1`, or none at all, and then the server chooses. Where
pictures cost money or minutes nobody wants those of another model, so this name stands in place of theirs.
"""

import dataclasses
from collections.abc import Sequence

from imagen.testing.clients.recording import Client, Exchange

MODEL = "${model}"
IMAGES = "/v1/images/"
TXT2IMG = "/sdapi/v1/txt2img"


def pinned(client: Client) -> Client:
    """The same client, drawing with no other model than the one of the replay."""
    verbs = {verb: [_pinned(exchange) for exchange in steps] for verb, steps in client.verbs.items()}
    return dataclasses.replace(client, verbs=verbs)


def insisted(clients: Sequence[Client]) -> list[str]:
    """The names of models that these clients send whatever was chosen."""
    steps = [exchange for client in clients for steps in client.verbs.values() for exchange in steps]
    names = [_name(exchange) for exchange in steps if exchange.path.startswith(IMAGES)]
    return list(dict.fromkeys(name for name in names if name and name != MODEL))


def _pinned(exchange: Exchange) -> Exchange:
    if exchange.path == TXT2IMG:
        # For this one picture: the checkpoint that the caller has chosen stays what it is.
        once = {**exchange.json.get("override_settings", {}), "sd_model_checkpoint": MODEL}
        return dataclasses.replace(exchange, json={**exchange.json, "override_settings": once})
    if not exchange.path.startswith(IMAGES) or exchange.method != "POST":
        return exchange
    if exchange.json is not None:
        return dataclasses.replace(exchange, json={**exchange.json, "model": MODEL})
    fields = [(name, text) for name, text in exchange.form if name != "model"]
    return dataclasses.replace(exchange, form=[("model", MODEL), *fields])


def _name(exchange: Exchange) -> str | None:
    name = exchange.json.get("model") if exchange.json is not None else dict(exchange.form).get("model")
    return str(name) if name else None
