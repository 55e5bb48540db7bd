"""Programs of others, as they are: Open WebUI as a server, and scripts that run with LiteLLM."""

import json
import os
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from imagen.testing.served import Served
from tests.service_kit import PATIENCE_S, free_port

CLIENTS = Path(__file__).parents[1] / ".venv" / "clients"
LITELLM = CLIENTS / "litellm-1.106.2"
OPEN_WEBUI = CLIENTS / "open-webui-0.12.4"
STARTS_S = 180.0  # it migrates its database and loads most of what is installed
TALKER = "talker"
PASSWORD = "correct horse battery staple"

# Nothing is fetched, and no model of its own is looked for.
_ALONE = {
    "USE_SLIM_DOCKER": "true",
    "OFFLINE_MODE": "true",
    "HF_HUB_OFFLINE": "1",
    "ENABLE_OLLAMA_API": "false",
    "ENABLE_OPENAI_API": "false",
    "ENABLE_VERSION_UPDATE_CHECK": "false",
    "ANONYMIZED_TELEMETRY": "false",
    "DO_NOT_TRACK": "true",
    "SCARF_NO_ANALYTICS": "true",
    "WEBUI_SECRET_KEY": "only-for-this-test-0123456789abcdef",
}


class OpenWebUI:
    """An Open WebUI that runs, seen as its administrator's browser sees it."""

    def __init__(self, http: httpx2.Client) -> None:
        """Whoever signs up first is the administrator."""
        self.http = http
        person = {"name": "Ada", "email": "ada@example.org", "password": PASSWORD}
        self.token: str = self.http.post("/api/v1/auths/signup", json=person).raise_for_status().json()["token"]
        self.http.headers["authorization"] = f"Bearer {self.token}"

    def settle(self, **changed: Any) -> None:
        """Save the page of settings for images, as it is apart from what is changed."""
        settings = self.http.get("/api/v1/images/config").raise_for_status().json()
        saved = self.http.post(
            "/api/v1/images/config/update", json={**settings, "ENABLE_IMAGE_GENERATION": True, **changed}
        )
        assert saved.status_code == 200, saved.text

    def verify(self, url: str, key: str = "") -> bool:
        """The button beside the address of Automatic1111."""
        form = {"engine": "automatic1111", "url": url, "key": key}
        return self.http.post("/api/v1/images/verify", json=form).status_code == 200

    def models(self) -> list[str]:
        """What its menu of models shows."""
        return [one["id"] for one in self.http.get("/api/v1/images/models").raise_for_status().json()]

    def ask(self, **form: Any) -> httpx2.Response:
        """What a chat asks for when somebody wants a picture."""
        return self.http.post("/api/v1/images/generations", json={"prompt": "a red fox", **form})

    def pictures(self, **form: Any) -> list[bytes]:
        """The pictures that the chat shows then."""
        answer = self.ask(**form)
        assert answer.status_code == 200, answer.text
        return [self.http.get(one["url"]).raise_for_status().content for one in answer.json()]

    def chat(self, words: str, talker: str) -> str:
        """A chat with the model at this address, with the button for pictures pressed; the path of its page."""
        told = {"ENABLE_OPENAI_API": True, "OPENAI_API_BASE_URLS": [f"{talker}/v1"], "OPENAI_API_KEYS": ["x"]}
        self._posted("/openai/config/update", {**told, "OPENAI_API_CONFIGS": {}})
        self.http.get("/api/models").raise_for_status()  # as the page does first: it looks which models there are
        asked, said = str(uuid.uuid4()), str(uuid.uuid4())
        question = {"id": asked, "parentId": None, "childrenIds": [said], "role": "user", "content": words}
        answer = {"id": said, "parentId": asked, "childrenIds": [], "role": "assistant", "content": "", "model": TALKER}
        history = {"messages": {asked: question, said: answer}, "currentId": said}
        page = {"title": words, "models": [TALKER], "messages": [question, answer], "history": history}
        chat = self._posted("/api/v1/chats/new", {"chat": page})["id"]
        self._posted(
            "/api/chat/completions",
            {
                "model": TALKER,
                "stream": True,
                "messages": [{"role": "user", "content": words}],
                "features": {"image_generation": True},
                # Otherwise the language model would have to ask for the picture with a tool.
                "params": {"function_calling": "legacy"},
                **{"chat_id": chat, "id": said, "parent_id": asked, "user_message": question, "session_id": "test"},
            },
        )
        give_up = time.monotonic() + PATIENCE_S
        while not self.http.get(f"/api/v1/chats/{chat}").json()["chat"]["history"]["messages"][said].get("done"):
            assert time.monotonic() < give_up, "the chat never ended"
            time.sleep(0.1)
        return f"/c/{chat}"

    def _posted(self, path: str, body: Any) -> Any:
        answer = self.http.post(path, json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()


class Talker(Served):
    """A language model with one thing to say, for chats that need one."""

    def make_app(self) -> Starlette:
        return Starlette(
            routes=[Route("/v1/models", self._models), Route("/v1/chat/completions", self._said, methods=["POST"])]
        )

    async def _models(self, _request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": TALKER, "object": "model"}]})

    async def _said(self, request: Request) -> Response:
        told = {"id": "1", "created": 1, "model": TALKER}
        said = {"role": "assistant", "content": "Here it is."}
        if not (await request.json()).get("stream"):
            return JSONResponse({**told, "choices": [{"index": 0, "message": said, "finish_reason": "stop"}]})
        parts = [{"index": 0, "delta": said, "finish_reason": None}, {"index": 0, "delta": {}, "finish_reason": "stop"}]
        lines = [json.dumps({**told, "object": "chat.completion.chunk", "choices": [part]}) for part in parts]
        text = "".join(f"data: {line}\n\n" for line in [*lines, "[DONE]"])
        return Response(text, media_type="text/event-stream")


@contextmanager
def open_webui(folder: Path) -> Iterator[OpenWebUI]:
    """Open WebUI on a data folder of its own, with its first person signed up."""
    port = free_port()
    (folder / "data").mkdir(parents=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("IMAGEN_", "OPENAI_", "WEBUI_"))}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [OPEN_WEBUI / "bin" / "open-webui", "serve", "--host", "127.0.0.1", "--port", str(port)],
            cwd=folder,
            env=kept | _ALONE | {"HOME": str(folder), "DATA_DIR": str(folder / "data")},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        _until_ready(process, f"http://127.0.0.1:{port}", folder / "log")
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_S, trust_env=False) as http:
            yield OpenWebUI(http)
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def litellm(script: str, url: str, **words: Any) -> list[Mapping[str, Any]]:
    """What a script prints that has `litellm`, `url` and `say`, a function for one line of JSON."""
    before = "import json, sys, warnings\nwarnings.simplefilter('ignore')\nimport litellm\n"
    before += "url, words = sys.argv[1], json.loads(sys.argv[2])\ndef say(**told): print('TOLD', json.dumps(told))\n"
    ran = subprocess.run(
        [LITELLM / "bin" / "python", "-c", before + script, url, json.dumps(words)],
        env={name: value for name, value in os.environ.items() if not name.startswith(("IMAGEN_", "OPENAI_"))}
        | {"LITELLM_LOCAL_MODEL_COST_MAP": "true"},  # its prices are in the package; it would fetch newer ones
        capture_output=True,
        text=True,
        timeout=STARTS_S,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    return [json.loads(line.removeprefix("TOLD ")) for line in ran.stdout.splitlines() if line.startswith("TOLD ")]


def _until_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    give_up = time.monotonic() + STARTS_S
    while True:
        assert process.poll() is None, log.read_text(errors="replace")[-2000:]
        assert time.monotonic() < give_up, log.read_text(errors="replace")[-2000:]
        try:
            if httpx2.get(f"{url}/health", timeout=5, trust_env=False).status_code == 200:
                return
        except httpx2.HTTPError:
            pass
        time.sleep(0.2)
