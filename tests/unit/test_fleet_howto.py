"""docs/howto/run-the-fleet.md: what it tells people to type exists, and no file of deploy/ is left unexplained."""

import re
import shlex
from pathlib import Path

import pytest
import yaml
from tests.deploy_kit import DEPLOY, ROOT, grace_s, resources

PAGE = (ROOT / "docs/howto/run-the-fleet.md").read_text()
LINES = [
    re.sub(r"\s+#.*", "", line)
    for block in re.findall(r"^```sh\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
]
COMPOSE = [line for line in LINES if line.startswith("docker compose ")]
KUBECTL = [line for line in LINES if line.startswith("kubectl ")]
SERVICES = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
TAKE_A_VALUE = ("--profile", "--entrypoint", "--scale")


def test_the_page_was_read() -> None:
    """So that the claims below are about something."""
    assert len(COMPOSE) > 15
    assert len(KUBECTL) > 5


@pytest.mark.parametrize("line", COMPOSE)
def test_a_line_for_compose_names_services_and_commands_there_are(line: str) -> None:
    """What is run in a container of ours is a command of imagen, of PostgreSQL or of the hub."""
    words = shlex.split(re.sub(r"\s[<>].*", "", line))[2:]
    while words[0].startswith("-"):
        words = words[2 if words[0] in TAKE_A_VALUE else 1 :]
    verb, *rest = words
    assert verb in ("build", "up", "run", "exec", "restart")
    while rest and rest[0].startswith("-"):
        rest = rest[2 if rest[0] in TAKE_A_VALUE else 1 :]
    if verb not in ("run", "exec"):
        assert set(rest) <= set(SERVICES)
        return
    service, *command = rest
    assert service in SERVICES
    if verb == "exec":
        assert command[0] in (["imagen"] if service != "database" else ["pg_dump", "pg_restore", "dropdb", "createdb"])
    if command[:1] == ["imagen"]:
        grace_s(command[1:])
    elif verb == "run":
        assert command == [] or "--entrypoint hf" in line


@pytest.mark.parametrize("line", KUBECTL)
def test_a_line_for_kubectl_names_files_and_things_there_are(line: str) -> None:
    """Also what is typed in the pod for it."""
    made = {f"{one['kind'].lower()}/{one['metadata']['name']}" for _, one in resources() if "metadata" in one}
    files = [word for word in re.findall(r"-f (\S+)", line) if word != "secret.yaml"]
    assert all((DEPLOY / "kubernetes" / file).exists() for file in files)
    assert set(re.findall(r"\bjob/\S+", line)) <= made
    for pod in re.findall(r"(?:exec|delete pod) (\S+)", line):
        assert f"pod/{pod}" in made
    if command := re.findall(r"-- imagen (.+)", line):
        grace_s(shlex.split(command[0]))
    assert "-n imagen" in line or "apply" in line


def test_every_file_of_deploy_is_explained_somewhere() -> None:
    """On this page, on that about services, or in the file that uses it."""
    pages = PAGE + (ROOT / "docs/howto/run-it-as-a-service.md").read_text()
    users = pages + "".join((DEPLOY / file).read_text() for file in ("compose.yaml", "kubernetes/kustomization.yaml"))
    files = [path for path in DEPLOY.rglob("*") if path.is_file() and not {"secrets", "__pycache__"} & set(path.parts)]
    left = {"Dockerfile.dockerignore", "alerts_test.yaml", "prometheus.yaml"}
    assert not [path.name for path in files if path.stem not in users and path.name not in left]


def test_numbers_on_the_page_are_those_of_the_program() -> None:
    """Connections of a daemon, the lease, and how long a stream may be silent."""
    from imagen.store import engines, presence

    said = re.search(r"up to nine connections to PostgreSQL: four that read, four that write, one that listens", PAGE)
    assert said is not None
    assert (engines.READERS, engines.WRITERS) == (4, 4)
    assert "twelve seconds later" in PAGE
    assert presence.LEASE_S == 12
    timeout = re.search(r"proxy_read_timeout (\d+)s;", (DEPLOY / "nginx.conf").read_text())
    assert timeout is not None
    assert f"alone for {timeout[1]} seconds" in PAGE


def test_compose_allows_the_connections_it_needs() -> None:
    """Every server and worker it may start at once, with some to spare."""
    command = shlex.join(SERVICES["database"]["command"])
    most = re.search(r"max_connections=(\d+)", command)
    assert most is not None
    daemons = [one for one in SERVICES.values() if Path(one.get("image", "")).name.startswith("imagen") or "<<" in one]
    replicas = sum(one.get("deploy", {}).get("replicas", 1) for one in daemons)
    assert replicas >= 5
    assert int(most[1]) > 9 * (replicas + 10)
