"""Open WebUI in a browser: the chat shows the picture that was drawn here."""

from pathlib import Path
from typing import Any

import pytest
from tests.browser_kit import chromium
from tests.clients_kit import Talker, open_webui
from tests.http_kit import get
from tests.service_kit import PATIENCE_S, House

SHOWN = """
new Promise(done => {
  const look = () => {
    const found = [...document.images].filter(image => image.src.includes('/files/') && image.naturalWidth);
    if (found.length || Date.now() > until) {
      done(found.map(image => [image.naturalWidth, image.naturalHeight, image.getBoundingClientRect().width]));
    } else setTimeout(look, 100);
  };
  const until = Date.now() + PATIENCE_MS;
  look();
})
""".replace("PATIENCE_MS", str(PATIENCE_S * 1000))


@pytest.mark.needs_browser
@pytest.mark.needs_clients
@pytest.mark.timeout(300)
def test_the_chat_shows_the_picture(tmp_path: Path) -> None:
    """With either engine: a person asks in a chat, and the page shows a picture of the size that was asked."""
    with (
        House(folder=tmp_path / "house") as house,
        Talker().running() as talker,
        open_webui(tmp_path / "webui") as webui,
    ):
        house.model("quick", options={"slow": {"type": "float", "default": 0.0}})
        server = house.start("serve", "--port", "0", environment={"IMAGEN_DEFAULT_MODEL": "quick"})
        server.ready()
        address: dict[str, Any] = {
            "IMAGES_OPENAI_API_BASE_URL": f"{server.url}/v1",
            "AUTOMATIC1111_BASE_URL": server.url,
        }
        with chromium() as browser:
            for engine, model, size in (("openai", "gpt-image-1", 320), ("automatic1111", "quick", 384)):
                webui.settle(
                    IMAGE_GENERATION_ENGINE=engine,
                    IMAGE_GENERATION_MODEL=model,
                    IMAGE_SIZE=f"{size}x{size}",
                    IMAGE_STEPS=4,
                    ENABLE_IMAGE_PROMPT_GENERATION=False,
                    **address,
                )
                page = webui.chat("a red fox", talker)
                tab = browser.tab(str(webui.http.base_url))
                tab.run(f"localStorage.setItem('token', '{webui.token}')")
                tab.open(f"{webui.http.base_url}{page}")
                ((width, height, seen),) = tab.run(SHOWN)
                assert (width, height) == (size, size)
                assert seen > 100, "it is there, but too small to be seen"
                drawn = get(f"{server.url}/v1/jobs?limit=1")["jobs"][0]["request"]
                assert (drawn["prompt"], drawn["width"]) == ("a red fox", size)
