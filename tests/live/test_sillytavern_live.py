"""The A1111 door with SillyTavern's own routes, by hand: `pytest -m live tests/live/test_sillytavern_live.py`.

npm fetches SillyTavern, about 300 MiB. Its pages are not run: what they ask its routes for is in `drive.mjs`.
"""

import base64
import io
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests.http_kit import get
from tests.service_kit import House

pytestmark = [pytest.mark.live, pytest.mark.needs_node, pytest.mark.timeout(900)]

FOLDER = Path(__file__).with_name("sillytavern")
INSTALL = ("npm", "install", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts", "--prefer-offline")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("node") / "sillytavern"
    shutil.copytree(FOLDER, folder)
    subprocess.run(INSTALL, cwd=folder, check=True, capture_output=True)
    return folder


@pytest.mark.parametrize("locked", [False, True], ids=["open", "locked"])
def test_its_routes_draw_here(folder: Path, tmp_path: Path, locked: bool) -> None:
    """Every menu, a switch of the model, a picture, one that is stopped, and its two other sources."""
    with House(folder=tmp_path / "house") as house:
        (house.home / "config.yaml").write_text("default_model: mock\n")
        house.model("slower", device="cpu@slower")
        key = house.run("keys", "add", "tavern").stdout.split()[-1] if locked else ""
        server = house.serve()
        auth = f"user:{key}" if key else ""
        ran = subprocess.run(
            ["node", "drive.mjs", server.url, auth],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert ran.returncode == 0, ran.stderr
        told = [json.loads(line) for line in ran.stdout.splitlines()]
        assert [one for one in told if one["status"] not in (200, 0)] == []
        by_route: dict[str, list[Any]] = {}
        for one in told:
            by_route.setdefault(one["route"], []).append(one["told"])
        assert by_route["upscalers"] == [["None"]]
        assert by_route["samplers"] == [["Automatic"]]
        assert "slower" in [one["value"] for one in by_route["models"][0]]
        assert by_route["get-model"] == ["mock", "slower"]
        (drawn,) = by_route["generate"]
        assert json.loads(drawn["info"])["sd_model_name"] == "slower"
        assert Image.open(io.BytesIO(base64.b64decode(drawn["images"][0]))).size == (512, 512)
        assert by_route["stopped"] == ["AbortError"]
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        (stopped,) = get(f"{server.url}/v1/jobs?q=stopped", headers)["jobs"]
        assert stopped["state"] == "cancelled"
        if not locked:
            assert "slower" in [one["id"] for one in by_route["sdcpp/models"][0]["data"]]
            assert json.loads(by_route["sdcpp/generate"][0]["info"])["sd_model_name"] == "slower"
            assert by_route["drawthings/get-model"] == ["mock"]
        assert json.loads(by_route["drawthings/generate"][0]["info"])["seed"] == 5
