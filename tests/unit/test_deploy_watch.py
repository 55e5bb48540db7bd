"""deploy/prometheus and deploy/grafana: promtool takes the files, and each alarm is raised when it should be."""

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from tests.deploy_kit import DEPLOY, alerts, asked, panels, promtool

from imagen.surfaces.cli.main import COMMANDS

pytestmark = pytest.mark.needs_deploy_tools
CASES = DEPLOY / "prometheus/alerts_test.yaml"


def test_prometheus_takes_settings_and_rules() -> None:
    """Without looking for the key, which is no file of ours."""
    assert f"{len(alerts())} rules found" in promtool("check", "rules", "alerts.yaml")
    promtool("check", "config", "--syntax-only", "prometheus.yaml")


def test_each_alarm_is_raised_and_a_fleet_that_is_well_raises_none() -> None:
    """The cases in alerts_test.yaml, which cover every alarm."""
    promtool("test", "rules", CASES.name)
    text = CASES.read_text()
    assert not [rule["alert"] for rule in alerts() if f'alertname="{rule["alert"]}"' not in text]


def test_the_cases_would_notice_an_alarm_that_is_never_raised(tmp_path: Path) -> None:
    """So that the claim above says something: each alarm in turn is made to wait for ever."""
    (tmp_path / CASES.name).write_text(CASES.read_text())
    told = yaml.safe_load((DEPLOY / "prometheus/alerts.yaml").read_text())
    for rule in told["groups"][0]["rules"]:
        waits, rule["for"] = rule.get("for"), "90h"
        (tmp_path / "alerts.yaml").write_text(json.dumps(told))
        ran = subprocess.run(["promtool", "test", "rules", tmp_path / CASES.name], capture_output=True, check=False)
        assert ran.returncode != 0, rule["alert"]
        del rule["for"]
        if waits:
            rule["for"] = waits


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: str(rule["alert"]))
def test_an_alarm_says_what_is_wrong_and_what_to_do(rule: dict[str, dict[str, str]]) -> None:
    """As every error here does; the commands it names exist."""
    assert set(rule["annotations"]) == {"summary", "todo"}
    assert rule["labels"]["severity"] in ("info", "warning", "critical")
    named = re.findall(r"\bimagen ([a-z]+)", rule["annotations"]["todo"])
    assert set(named) <= set(COMMANDS)


def test_prometheus_could_ask_all_that_the_dashboard_asks(tmp_path: Path) -> None:
    """Its expressions are PromQL."""
    rules = [{"record": f"panel:{number}", "expr": expression} for number, expression in enumerate(asked())]
    (tmp_path / "rules.json").write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    assert f"{len(rules)} rules found" in promtool("check", "rules", tmp_path / "rules.json")


def test_the_dashboard_can_be_imported_and_lies_on_its_grid() -> None:
    """It asks for its data source, and no two panels overlap."""
    told = json.loads((DEPLOY / "grafana/dashboard.json").read_text())
    (source,) = told["templating"]["list"]
    uid = "${" + source["name"] + "}"
    assert (source["type"], source["query"]) == ("datasource", "prometheus")
    assert all(
        one["datasource"] == {"type": "prometheus", "uid": uid}
        for panel in panels()
        for one in [panel, *panel["targets"]]
    )
    assert len({panel["id"] for panel in panels()}) == len({panel["title"] for panel in panels()}) == len(panels())
    taken = [
        (x, y)
        for at in (panel["gridPos"] for panel in panels())
        for x in range(at["x"], at["x"] + at["w"])
        for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(taken) == len(set(taken))
    assert max(x for x, _ in taken) < 24
