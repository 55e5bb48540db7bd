"""deploy/kubernetes: every field is known, the parts find each other, and what is said of imagen is true."""

import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from tests.deploy_kit import DEPLOY, grace_s, resources

from imagen.config import load_settings
from imagen.config.secret_files import read_files
from imagen.engine.wiring import catalog_of
from imagen.surfaces.http import operations

FOLDER = DEPLOY / "kubernetes"
ALL = resources()
KEDA = [one for _, one in ALL if one["apiVersion"].startswith("keda.sh/")]
KUBERNETES = [one for _, one in ALL if not re.match(r"(keda\.sh|kustomize\.config)", one["apiVersion"])]
BY_HAND = {"secret.example.yaml", "shell.yaml", "kustomization.yaml"}  # not applied with the rest
MODEL = "imagen/model"


def name_of(one: dict[str, Any]) -> str:
    return f"{one['kind']} {one.get('metadata', {}).get('name', '')}"


def found(kind: str, name: str | None = None) -> dict[str, Any]:
    """The one resource of a kind, and of a name."""
    (one,) = [one for _, one in ALL if one["kind"] == kind and name in (None, one.get("metadata", {}).get("name"))]
    return one


def pod(one: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = one["spec"] if one["kind"] == "Pod" else one["spec"]["template"]["spec"]
    return spec


PODS = [one for one in KUBERNETES if one["kind"] in ("Pod", "Deployment", "StatefulSet", "Job")]
DAEMONS = [one for one in PODS if one["kind"] in ("Deployment", "StatefulSet")]


@pytest.mark.parametrize("one", KUBERNETES, ids=name_of)
def test_kubernetes_knows_every_field(one: dict[str, Any]) -> None:
    """By its own schemas, and nothing else stands there."""
    kubernetes_validate.validate(one, kubernetes_validate.latest_version(), strict=True)


def test_kubernetes_would_not_take_just_anything() -> None:
    """A field that is misspelt is found, at any depth."""
    one = yaml.safe_load(yaml.safe_dump(found("Deployment")))
    pod(one)["terminationGraceSeconds"] = 3
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(one, kubernetes_validate.latest_version(), strict=True)


@pytest.mark.parametrize("one", KEDA, ids=name_of)
def test_keda_knows_every_field(one: dict[str, Any]) -> None:
    """Read as its own definition of the resource says, nothing is refused and nothing is lost."""
    assert _read_by_keda(one) == one


def test_keda_would_not_take_just_anything() -> None:
    """A field that is misspelt is found, and one of the wrong kind is refused."""
    one = yaml.safe_load(yaml.safe_dump(found("ScaledObject")))
    one["spec"]["maxReplicas"] = 3
    assert _read_by_keda(one) != one
    one["spec"] = {"scaleTargetRef": "imagen"}
    with pytest.raises(ValueError, match="scaleTargetRef"):
        _read_by_keda(one)


def test_one_command_applies_all_of_it_but_what_is_done_by_hand() -> None:
    """The list in kustomization.yaml, and the images it names."""
    told = found("Kustomization")
    assert set(told["resources"]) == {file.name for file, _ in ALL} - BY_HAND
    images = {container["image"] for one in PODS for container in pod(one)["containers"]}
    assert images == {f"{image['name']}:{image['newTag']}" for image in told["images"]}


@pytest.mark.parametrize("one", PODS, ids=name_of)
class TestPod:
    """Whatever runs imagen."""

    def test_its_files_are_there(self, one: dict[str, Any]) -> None:
        """Every variable that names a file names one of the secret, in a folder that is mounted."""
        (container,) = pod(one)["containers"]
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert set(mounts) == {volume["name"] for volume in pod(one)["volumes"]}
        assert mounts["config"] == "/etc/imagen"
        keys = found("Secret")["stringData"]
        for variable in container["env"]:
            folder, _, key = variable["value"].rpartition("/")
            assert folder == mounts["secret"]
            assert key in keys
        assert {"name": "secret", "secret": {"secretName": "imagen", "defaultMode": 0o440}} in pod(one)["volumes"]

    def test_its_variables_are_settings(self, one: dict[str, Any], tmp_path: Path) -> None:
        """No one of them is read by nobody, and together with the config map they are complete."""
        (container,) = pod(one)["containers"]
        environ = {}
        for variable in container["env"]:
            key = variable["value"].rpartition("/")[2]
            (tmp_path / key).write_text(
                found("Secret")["stringData"][key].replace("CHANGE-ME", "a-long-word-of-your-own-choice")
            )
            environ[variable["name"]] = str(tmp_path / key)
        for name, text in found("ConfigMap")["data"].items():
            (tmp_path / name).write_text(text)
        settings = load_settings(home=tmp_path, environ=environ)
        assert settings.problems == ()
        assert settings.database.startswith("postgresql://imagen:")
        left = set(read_files(environ, "IMAGEN_")[0]) - {"IMAGEN_DATABASE", "IMAGEN_WEBHOOKS_SECRET"}
        assert left <= {"AWS_SHARED_CREDENTIALS_FILE"}

    def test_it_is_nobody_who_matters(self, one: dict[str, Any]) -> None:
        """The user of the image, who may read the secret by his group."""
        person = pod(one)["securityContext"]
        user = re.search(r"^USER (\d+):(\d+)$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
        assert user is not None
        assert (person["runAsUser"], person["runAsGroup"], person["fsGroup"]) == (
            int(user[1]),
            int(user[2]),
            int(user[2]),
        )
        assert person["runAsNonRoot"] is True
        (container,) = pod(one)["containers"]
        assert container["securityContext"]["allowPrivilegeEscalation"] is False

    def test_it_does_something_there_is(self, one: dict[str, Any]) -> None:
        """Its words parse."""
        (container,) = pod(one)["containers"]
        assert container.get("command") == ["sleep", "86400"] or grace_s(container["args"])


@pytest.mark.parametrize("one", DAEMONS, ids=name_of)
def test_nothing_is_killed_that_would_go_by_itself(one: dict[str, Any]) -> None:
    """A pod is given longer than the program may take, and than it waits before it is told."""
    (container,) = pod(one)["containers"]
    before = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    assert pod(one)["terminationGracePeriodSeconds"] > before + grace_s(container["args"])


@pytest.mark.parametrize("one", DAEMONS, ids=name_of)
def test_it_finds_its_own_pods(one: dict[str, Any]) -> None:
    """And nobody else's."""
    chosen = one["spec"]["selector"]["matchLabels"]
    assert chosen == one["spec"]["template"]["metadata"]["labels"]
    assert [
        other for other in DAEMONS if chosen.items() <= other["spec"]["template"]["metadata"]["labels"].items()
    ] == [one]


def test_the_probes_ask_what_is_there_and_wait_for_the_answer() -> None:
    """Alive is not ready; the answer to readiness may take its time."""
    (container,) = pod(found("Deployment"))["containers"]
    assert container["startupProbe"]["httpGet"]["path"] == container["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz?pictures=no"
    assert container["readinessProbe"]["timeoutSeconds"] > operations.PROMPT_S
    routes = {route.path for route in operations.router(None).routes}  # type: ignore[arg-type, attr-defined] # no app: nothing is asked
    assert {"/healthz", "/readyz"} <= routes
    (port,) = container["ports"]
    assert port["containerPort"] == load_settings(environ={}).server.port
    service = found("Service", "imagen")
    assert service["spec"]["ports"][0]["targetPort"] == port["name"]
    labels = found("Deployment")["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    assert found("PodDisruptionBudget")["spec"]["selector"]["matchLabels"].items() <= labels.items()


@pytest.mark.parametrize("scaled", [one for one in KEDA if one["kind"] == "ScaledObject"], ids=name_of)
def test_a_model_is_drawn_and_counted_by_one_name(scaled: dict[str, Any]) -> None:
    """The workers that are scaled draw the model whose jobs are counted, and it is in the box."""
    workers = found("StatefulSet", scaled["spec"]["scaleTargetRef"]["name"])
    assert "replicas" not in workers["spec"], "each apply would undo what KEDA said"
    model = workers["metadata"]["labels"][MODEL]
    (container,) = pod(workers)["containers"]
    assert container["args"][container["args"].index("--models") + 1] == model
    (trigger,) = scaled["spec"]["triggers"]
    assert set(re.findall(r"model = '([^']*)'", trigger["metadata"]["query"])) == {model}
    assert trigger["type"] == "postgresql"
    asked = found("TriggerAuthentication", trigger["authenticationRef"]["name"])
    (reference,) = asked["spec"]["secretTargetRef"]
    assert reference["parameter"] == "connection"
    assert reference["key"] in found("Secret")["stringData"]
    assert catalog_of(load_settings(environ={})).models[model].backend == "diffusers"


def _read_by_keda(one: dict[str, Any]) -> Any:
    from cloudcoil.models.keda import v1alpha1

    read = getattr(v1alpha1, one["kind"]).model_validate(one)
    return read.model_dump(by_alias=True, exclude_unset=True, mode="json")
