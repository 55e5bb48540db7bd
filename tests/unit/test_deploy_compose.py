"""deploy/compose.yaml and deploy/Dockerfile: Docker's own tools take them, and what they say of imagen is true."""

import fnmatch
import re
import shutil
import stat
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from tests.deploy_kit import DEPLOY, HADOLINT, ROOT, compose, composed, grace_s

from imagen.config import load_settings
from imagen.config.secret_files import read_files
from imagen.engine.wiring import catalog_of
from imagen.surfaces.http import operations

RAW = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
OURS = ("upgrade", "server-1", "server-2", "worker", "worker-gpu")


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A copy of deploy/ in which secrets.sh ran."""
    folder = tmp_path / "deploy"
    shutil.copytree(DEPLOY, folder, ignore=shutil.ignore_patterns("secrets"))
    ran = subprocess.run(["sh", folder / "secrets.sh"], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    return folder


def secret(made: Path, name: str) -> str:
    file: str = RAW["secrets"][name]["file"]
    return (made / file).read_text()


def environment(made: Path, service: str) -> dict[str, str]:
    """The variables of a service, with the files of secrets where this machine has them."""
    said: dict[str, str] = composed(made)["services"][service]["environment"]
    files = {f"/run/secrets/{name}": str(made / told["file"]) for name, told in RAW["secrets"].items()}
    return {name: files.get(value, value) for name, value in said.items()}


@pytest.mark.needs_deploy_tools
class TestTools:
    """What only a tool made for it can say."""

    def test_compose_takes_it(self) -> None:
        """Every key is of the specification, and everything that is named is there."""
        assert set(OURS) <= set(composed()["services"])

    @pytest.mark.parametrize("wrong", ["restrat: always", "depends_on: [nobody]", "secrets: [unheard]"])
    def test_compose_would_not_take_just_anything(self, wrong: str, made: Path) -> None:
        """So that the claim above says something."""
        file = made / "compose.yaml"
        file.write_text(
            file.read_text().replace("  nginx:\n", f"  other:\n    image: other\n    {wrong}\n\n  nginx:\n")
        )
        assert compose("config", "--quiet", folder=made).returncode != 0

    def test_hadolint_has_nothing_to_say_of_the_dockerfile(self) -> None:
        """Neither of the shell in it."""
        ran = subprocess.run([HADOLINT, DEPLOY / "Dockerfile"], capture_output=True, text=True, check=False)
        assert (ran.returncode, ran.stdout) == (0, "")

    @pytest.mark.parametrize("service", OURS)
    def test_every_service_of_ours_reads_its_settings_without_a_complaint(self, service: str, made: Path) -> None:
        """Its variables are settings there are, and its files hold what they should."""
        given = environment(made, service)
        settings = load_settings(home=made / "config", environ=given)
        assert settings.problems == ()
        assert settings.database == secret(made, "database_url").strip()
        assert settings.provenance["database"] == "environment IMAGEN_DATABASE_FILE"
        assert settings.storage == "s3://pictures/imagen"
        unread = set(read_files(given, "IMAGEN_")[0]) - {"IMAGEN_DATABASE", "IMAGEN_WEBHOOKS_SECRET"}
        assert unread == {"AWS_SHARED_CREDENTIALS_FILE"}, "a variable that nobody reads"

    @pytest.mark.parametrize("service", OURS)
    def test_every_service_of_ours_does_something_there_is(self, service: str, made: Path) -> None:
        """Its words parse, and its models are in the box."""
        words = composed()["services"][service].get("command") or re.findall(r'"([^"]+)"', _last("CMD"))
        grace_s(words)
        if "--models" in words:
            models = catalog_of(load_settings(home=made / "config", environ={})).models
            assert set(words[words.index("--models") + 1].split(",")) <= set(models)

    @pytest.mark.parametrize("service", [name for name in OURS if name != "upgrade"])
    def test_nothing_is_killed_that_would_go_by_itself(self, service: str) -> None:
        """Docker waits longer than the program may take."""
        told = composed()["services"][service]
        minutes, seconds = re.fullmatch(r"(?:(\d+)m)?(?:(\d+)s)?", told["stop_grace_period"]).groups()  # type: ignore[union-attr] # it is a duration
        assert int(minutes or 0) * 60 + int(seconds or 0) > grace_s(told["command"])

    def test_the_servers_are_those_that_nginx_and_prometheus_ask(self, made: Path) -> None:
        """By the same names and the same port."""
        services = {
            name for name, told in composed()["services"].items() if told.get("command") == ["serve", "--no-worker"]
        }
        nginx = set(re.findall(r"^\s*server (\S+?):8450\b", (DEPLOY / "nginx.conf").read_text(), re.MULTILINE))
        watch = yaml.safe_load((DEPLOY / "prometheus/prometheus.yaml").read_text())
        targets = watch["scrape_configs"][0]["static_configs"][0]["targets"]
        settings = load_settings(home=made / "config", environ={})
        assert services == nginx == {target.removesuffix(":8450") for target in targets} == set(settings.server.hosts)
        assert settings.server.port == 8450
        assert settings.server.host == "0.0.0.0"

    def test_what_is_mounted_is_there(self) -> None:
        """No folder is made by a slip in a name."""
        binds = [
            Path(volume["source"])
            for told in composed()["services"].values()
            for volume in told.get("volumes", [])
            if volume["type"] == "bind"
        ]
        assert len(binds) >= len(OURS)
        assert all(path.exists() for path in binds)


class TestSecrets:
    """secrets.sh, and that nothing else has any."""

    def test_the_words_agree(self, made: Path) -> None:
        """Whoever asks says what whoever is asked expects."""
        assert f":{secret(made, 'postgres_password')}@database/imagen" in secret(made, "database_url")
        (identity,) = yaml.safe_load(secret(made, "s3_identities"))["identities"]
        (keys,) = identity["credentials"]
        credentials = secret(made, "aws_credentials")
        assert f"aws_access_key_id = {keys['accessKey']}\n" in credentials
        assert f"aws_secret_access_key = {keys['secretKey']}\n" in credentials
        assert len({secret(made, "postgres_password"), keys["secretKey"], secret(made, "webhooks_secret")}) == 3
        assert min(map(len, (secret(made, "postgres_password"), keys["secretKey"]))) >= 32

    def test_a_second_run_changes_nothing(self, made: Path) -> None:
        """The passwords are in use."""
        before = {file.name: file.read_text() for file in (made / "secrets").iterdir()}
        subprocess.run(["sh", made / "secrets.sh"], capture_output=True, check=True)
        assert {file.name: file.read_text() for file in (made / "secrets").iterdir()} == before

    def test_the_folder_is_closed_and_git_does_not_see_it(self, made: Path) -> None:
        """The files in it are open, because the users in the containers are others."""
        assert stat.S_IMODE((made / "secrets").stat().st_mode) == 0o700
        assert all(stat.S_IMODE(file.stat().st_mode) == 0o644 for file in (made / "secrets").iterdir())
        # The one at the top, which the maker of the source archive heeds too.
        unseen = (ROOT / ".gitignore").read_text().splitlines()
        assert {"/deploy/secrets/", "/deploy/kubernetes/secret.yaml"} <= set(unseen)
        assert {Path(told["file"]).parts[0] for told in RAW["secrets"].values()} == {"secrets"}

    def test_no_password_is_a_variable_or_a_setting(self) -> None:
        """They come as files."""
        said = [name for told in RAW["services"].values() for name in told.get("environment", {})]
        assert all(name.endswith("_FILE") for name in said if re.search("PASSWORD|SECRET|KEY|TOKEN|DATABASE", name))
        assert (
            "password"
            not in re.sub(r"^#.*", "", (DEPLOY / "config/config.yaml").read_text(), flags=re.MULTILINE).lower()
        )


class TestImage:
    """The Dockerfile."""

    def test_everything_it_copies_is_there_and_let_in(self) -> None:
        """And the wheel has its licences."""
        copied = [
            name for line in re.findall(r"^COPY (?!--)(.+)$", DOCKERFILE, re.MULTILINE) for name in line.split()[:-1]
        ]
        ignore = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
        assert ignore.index("*") < min(ignore.index(f"!{name}") for name in copied)
        assert all((ROOT / name).exists() for name in copied)
        told = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        needed = [told["readme"], *told["license-files"]]
        assert all(any(fnmatch.fnmatch(name, f"{one}*") for one in copied) for name in needed)

    def test_it_runs_as_nobody_who_matters_and_is_asked_whether_it_lives(self) -> None:
        """By a route that needs no key and no database."""
        assert re.search(r"^USER 10001:10001$", DOCKERFILE, re.MULTILINE)
        routes = {route.path for route in operations.router(None).routes}  # type: ignore[arg-type, attr-defined] # no app: nothing is asked
        (path,) = re.findall(r"127\.0\.0\.1:8450(/\w+)", DOCKERFILE)
        assert path == "/healthz"
        assert path in routes
        assert re.search(r'^ENTRYPOINT \["imagen"\]$', DOCKERFILE, re.MULTILINE)

    def test_its_settings_are_where_it_says(self, tmp_path: Path) -> None:
        """One folder mounted at /etc/imagen is all of them, and what it writes lies where its user may write."""
        said = dict(
            re.findall(
                r"\b([A-Z_]+)=([^\s\\]+)", DOCKERFILE[DOCKERFILE.index("ENV ") : DOCKERFILE.index("RUN useradd")]
            )
        )
        assert said.keys() == {"PATH", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "HF_HOME"}
        program = (
            "from imagen.config import load_settings as l; s = l(); print(s.config_file, s.data_folder, s.cache_folder)"
        )
        ran = subprocess.run(
            [HADOLINT.with_name("python"), "-c", program],
            env={"HOME": str(tmp_path)} | {name: value for name, value in said.items() if name.startswith("XDG")},
            capture_output=True,
            text=True,
            check=True,
        )
        config, data, cache = ran.stdout.split()
        assert config == "/etc/imagen/config.yaml"
        (owned,) = re.findall(r"chown imagen:imagen (.+)", DOCKERFILE)
        assert {data, cache, said["HF_HOME"]} == set(owned.split())


def _last(instruction: str) -> str:
    found: list[str] = re.findall(rf"^{instruction} (.+)$", DOCKERFILE, re.MULTILINE)
    return found[-1]
