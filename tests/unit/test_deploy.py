"""The systemd units in deploy/: they start commands that exist, and give them the time they ask for."""

import os
import re
import shutil
import subprocess
from configparser import ConfigParser
from pathlib import Path

import pytest

from imagen.surfaces.cli import daemon
from imagen.surfaces.cli.main import COMMANDS

ROOT = Path(__file__).parents[2]
UNITS = sorted((ROOT / "deploy").glob("*.service"))
HOWTO = ROOT / "docs/howto/run-it-as-a-service.md"


def unit(file: Path) -> ConfigParser:
    parser = ConfigParser(interpolation=None, strict=True)
    parser.optionxform = str  # type: ignore[assignment, method-assign] # systemd's keys have capitals
    parser.read(file)
    return parser


def test_there_is_one_for_each_daemon() -> None:
    """Under the names that everything else speaks of."""
    assert [file.name for file in UNITS] == ["imagen-server.service", "imagen-worker.service"]
    assert all(file.stem in HOWTO.read_text() for file in UNITS)


@pytest.mark.parametrize("file", UNITS, ids=lambda file: file.stem)
class TestUnit:
    """Each of them."""

    def test_it_starts_a_command_there_is(self, file: Path) -> None:
        """From where `pipx` and `pip install --user` put it."""
        program, command = unit(file)["Service"]["ExecStart"].split()
        assert program == "%h/.local/bin/imagen"
        assert command in COMMANDS

    def test_it_waits_for_a_polite_stop(self, file: Path) -> None:
        """Longer than the grace and the leaving after it, so that nothing is killed that would go by itself."""
        assert float(unit(file)["Service"]["TimeoutStopSec"]) > daemon.GRACE_S + daemon.LEAVE_S
        assert unit(file)["Service"]["KillSignal"] == "SIGTERM"
        assert f"{daemon.GRACE_S:.0f} s (--grace)" in file.read_text()

    def test_it_comes_back_after_a_crash(self, file: Path) -> None:
        """But a wrong command line is not tried for ever."""
        assert unit(file)["Service"]["Restart"] == "on-failure"
        assert unit(file)["Service"]["RestartPreventExitStatus"] == "2"

    def test_it_belongs_to_a_user(self, file: Path) -> None:
        """Nothing in it needs root."""
        assert unit(file)["Install"]["WantedBy"] == "default.target"
        assert not {"User", "Group", "DynamicUser"} & set(unit(file)["Service"])

    @pytest.mark.skipif(
        shutil.which("systemd-analyze") is None, reason="no systemd here; get it with: apt install systemd"
    )
    def test_systemd_takes_it(self, file: Path, tmp_path: Path) -> None:
        """No key it does not know, no program that is not there."""
        program = tmp_path / ".local/bin/imagen"
        program.parent.mkdir(parents=True)
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
        runtime = tmp_path / "run"
        runtime.mkdir(mode=0o700)
        ran = subprocess.run(
            ["systemd-analyze", "--user", "verify", str(file)],
            env={**os.environ, "HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(runtime)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (ran.returncode, ran.stderr) == (0, "")


def test_the_howto_names_only_commands_there_are() -> None:
    """What it tells people to type exists."""
    named = set(re.findall(r"(?:^|`)imagen ([a-z]+)", HOWTO.read_text(), re.MULTILINE))
    assert {"serve", "worker", "doctor", "db"} <= named
    assert named <= set(COMMANDS)
