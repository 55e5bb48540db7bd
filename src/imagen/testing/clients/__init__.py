"""What programs that exist already send to a server of pictures, and what each needs of the answer.

Every file beside this one that ends in `.yaml` is a client: its requests as they were recorded from the program
itself, or read in its source where `recorded` says so. They are replayed against any server, ours or not:

    from imagen.testing.clients import load, replay

    async for verdict in replay(load(), "http://127.0.0.1:8450", model="tiny-3d"):
        print(verdict.client, verdict.verb, verdict.outcome, verdict.said, verdict.hint)

Nothing is left changed behind them. `pinned(client)` is the same client drawing with that one model only.

Read on in this order: `recording.py` (what a client is), one of the `.yaml` files, `needs.py` (what an answer is held
against), `replaying.py`, `seat.py` (what a replay leaves alone). `imagen doctor --clients` is this, as a table.
"""

from imagen.testing.clients.one_model import insisted, pinned
from imagen.testing.clients.recording import VERBS, Client, load
from imagen.testing.clients.replaying import Outcome, Verdict, replay

__all__ = ["VERBS", "Client", "Outcome", "Verdict", "insisted", "load", "pinned", "replay"]
