"""Write docs/reference/clients.md: the recorded clients, replayed against every backend. `make matrix` runs it.

python -m tools.clients            replay all of it, a few minutes, and write the page
python -m tools.clients onnx       only in front of this backend; of the others the page is right
python -m tools.clients --read     write the page anew with the outcomes that stand in it
"""

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from tools.source import table

from imagen.testing.clients import VERBS, Client, Verdict, load

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reference" / "clients.md"

# Client and verb -> backend -> outcome.
Outcomes = Mapping[tuple[str, str], Mapping[str, str]]

HEAD = """<!-- Written by `make matrix` from a run of the recorded clients. Change those, not this page. -->

# Clients

What programs that exist already can do with this server, in front of each kind of backend. Each line was replayed: the
requests are the program's own, recorded **from the program** as it ran, **from its own code**, of which the part that
asks was run by itself, or put together **from its source**. The answers were held against what the program reads in
them. The test-suite replays all of it and fails where this page says something else. A server of your own is asked the
same with

```sh
imagen doctor --clients http://127.0.0.1:8450
```

`works`: the program goes on as it should. `refused`: the server says that it cannot, in a way that the program shows.
`FAILS`: neither. The backends: `mock`; `onnx`, the model in the box; `comfyui`, `openai` and `replicate` against honest
fakes of those services (`imagen.testing`). How to set each program up: [connect](../howto/connect/README.md)."""

TAIL = """## Not through these doors

* Open WebUI's engine **ComfyUI** and SillyTavern's source **ComfyUI** speak to a ComfyUI server, with workflows of
  their own. This server is a client of ComfyUI and no ComfyUI; choose one of the engines above.
* LobeChat's models whose names end in `:image`, and every other program that asks for pictures through chat
  completions: there is no chat here."""

_WORDS = {"works": "works", "refused": "refused", "busy": "busy", "fails": "FAILS"}
_ROW = re.compile(r"^\| `(\w+)` [^|]*\|(.*)\|$")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--read", action="store_true", help="replay nothing")
    parser.add_argument("backends", nargs="*", metavar="BACKEND", help="replay in front of these only")
    asked = parser.parse_args(arguments)
    kept = asked.read or asked.backends
    found = outcomes(PAGE.read_text(encoding="utf-8")) if kept else {}
    if not asked.read:
        from tests.replay_kit import BACKENDS, replayed

        for backend in asked.backends or BACKENDS:
            found = merged(found, backend, replayed(backend))
            print(f"replayed in front of {backend}")
    PAGE.write_text(page(load(), found), encoding="utf-8")
    print(f"wrote {PAGE.name}")


def merged(found: Outcomes, backend: str, verdicts: Sequence[Verdict]) -> Outcomes:
    """With what another run told."""
    more: Outcomes = {(one.client, one.verb): {backend: _WORDS[one.outcome]} for one in verdicts}
    keys = dict.fromkeys([*found, *more])
    return {key: {**found.get(key, {}), **more.get(key, {})} for key in keys}


def page(clients: Sequence[Client], found: Outcomes) -> str:
    """The whole page."""
    backends = list(dict.fromkeys(backend for told in found.values() for backend in told))
    parts = [HEAD, _overview(clients, found), *(_section(client, found, backends) for client in clients), TAIL]
    return "\n\n".join(parts) + "\n"


def outcomes(text: str) -> Outcomes:
    """What a page says, read back."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    names = {client.title: client.name for client in load()}
    client, backends = "", [""]
    for line in text.splitlines():
        if line.startswith("## "):
            client = names.get(line[3:].rsplit(" ", 1)[0], "") or names.get(line[3:], "")
        elif line.startswith("| verb"):
            backends = [cell.strip() for cell in line.strip("|").split("|")][1:]
        elif client and (row := _ROW.match(line)):
            cells = [cell.strip() for cell in row[2].split("|")]
            found[client, row[1]] = {name: cell for name, cell in zip(backends, cells, strict=True) if cell}
    return found


def _overview(clients: Sequence[Client], found: Outcomes) -> str:
    """One line for each client: what is the same in front of all backends, and where it is not."""
    rows = []
    for client in clients:
        told = [set(found.get((client.name, verb), {}).values()) for verb in VERBS]
        cells = ["" if not one else one.pop() if len(one) == 1 else "see below" for one in told]
        rows.append((client.title, *cells))
    return "## At a glance\n\n" + table(("client", *(f"`{verb}`" for verb in VERBS)), rows)


def _section(client: Client, found: Outcomes, backends: Sequence[str]) -> str:
    told = "; ".join(f"**{name}** {_shown(value)}" for name, value in client.settings.items())
    parts = [f"## {client.title}", f"`{client.name}`, {client.version}, {client.recorded}: {client.source}."]
    parts += [f"Settings: {told}.", *([client.notes.strip()] if client.notes else [])]
    rows = [
        (f"`{verb}` {meaning}", *(found.get((client.name, verb), {}).get(backend, "") for backend in backends))
        for verb, meaning in VERBS.items()
        if verb in client.verbs
    ]
    return "\n\n".join([*parts, table(("verb", *backends), rows)])


def _shown(value: str) -> str:
    return value.replace("${url}", "http://127.0.0.1:8450").replace("${key}", "KEY")


if __name__ == "__main__":
    main()
