"""What real clients send, against a real server in front of every backend; and the page that tells of it."""

from pathlib import Path

import pytest
from tests import conftest
from tests.clients_kit import LITELLM, OPEN_WEBUI
from tests.replay_kit import BACKENDS, replayed
from tools.clients import PAGE, merged, outcomes, page

from imagen.testing.clients import load


@pytest.mark.timeout(600)
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_client_works_and_the_page_says_so(backend: str, tmp_path: Path) -> None:
    """Nothing that a client does fails, and docs/reference/clients.md tells what happens today; `make matrix`."""
    verdicts = replayed(backend, tmp_path)
    wrong = [one for one in verdicts if one.outcome == "fails"]
    assert not wrong, "\n".join(f"{one.client}: {one.verb}: {one.said} ({one.hint})" for one in wrong)
    told = outcomes(PAGE.read_text(encoding="utf-8"))
    written = {key: row.get(backend) for key, row in told.items()}
    assert written == {key: row[backend] for key, row in merged({}, backend, verdicts).items()}


def test_the_page_has_a_column_for_each_backend_and_a_line_for_each_verb() -> None:
    """Written anew from its own outcomes it is the same, so that neither clients nor words drift from it."""
    text = PAGE.read_text(encoding="utf-8")
    told = outcomes(text)
    assert set(told) == {(client.name, verb) for client in load() for verb in client.verbs}
    assert all(list(row) == list(BACKENDS) for row in told.values())
    assert text == page(load(), told), "run `python -m tools.clients --read` and read the difference"


def test_every_door_and_every_picture_is_replayed() -> None:
    """Both doors have clients, recorded from the programs themselves, and each client draws."""
    clients = load()
    assert {client.door for client in clients if client.recorded == "from the program"} == {"openai", "a1111"}
    assert all("generate" in client.verbs for client in clients)


def test_what_runs_for_real_is_what_was_recorded() -> None:
    """One version of each program everywhere: in the recording, in what is installed, and in what is looked for."""
    installing = (Path(__file__).parents[2] / "tools" / "clients.sh").read_text(encoding="utf-8")
    versions = {
        client.name: client.version for client in load(["litellm", "open-webui-openai", "open-webui-automatic1111"])
    }
    assert {LITELLM.name, OPEN_WEBUI.name} == set(conftest.OTHERS)
    assert f"litellm-{versions['litellm']}" == LITELLM.name
    for name in ("open-webui-openai", "open-webui-automatic1111"):
        assert f"open-webui-{versions[name]}" == OPEN_WEBUI.name
    for folder in conftest.OTHERS:
        program, _, version = folder.rpartition("-")
        assert f"{program}=={version}" in installing
        assert f".venv/clients/{folder}/made" in installing
