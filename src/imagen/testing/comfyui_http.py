"""The routes of the fake ComfyUI: each plain and under /api, as the real server has them."""

import json
import platform
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from imagen.testing import comfyui_jobs as jobs
from imagen.testing import comfyui_paint as paints
from imagen.testing.comfyui_check import validate
from imagen.testing.comfyui_faults import ROOT
from imagen.testing.comfyui_jobs import Json
from imagen.testing.comfyui_voice import Item

if TYPE_CHECKING:
    from imagen.testing.comfyui import Fake

Handler = Callable[[Request], Awaitable[Response]]

MIB = 1024 * 1024


class Client:
    """A websocket, and what its client said about itself."""

    def __init__(self, socket: WebSocket, fake: "Fake") -> None:
        self.socket = socket
        self.flags: dict[str, Any] = {}
        self._fake = fake

    async def text(self, message: str) -> None:
        """Send a text frame."""
        await self._send({"type": "websocket.send", "text": message})

    async def binary(self, message: bytes) -> None:
        """Send a binary frame."""
        await self._send({"type": "websocket.send", "bytes": message})

    async def _send(self, message: dict[str, Any]) -> None:
        try:
            await self.socket.send(message)
        except (WebSocketDisconnect, RuntimeError, OSError):
            return  # it is gone; the real server only logs it
        self._fake.delivered()


def make_app(fake: "Fake") -> Starlette:
    """The ASGI application."""
    routes: list[BaseRoute] = []

    def add(path: str, handler: Handler, method: str = "GET") -> None:
        routes.append(Route(path, handler, methods=[method]))
        if not path.startswith(("/api/", "/internal/")):
            routes.append(Route(f"/api{path}", handler, methods=[method]))

    def json_body(handler: Callable[[Any], Awaitable[Response]]) -> Handler:
        async def read(request: Request) -> Response:
            try:
                body = json.loads(await request.body())
            except ValueError:
                return PlainTextResponse(
                    "500 Internal Server Error\n\nServer got itself in trouble", 500, {"Connection": "close"}
                )
            return await handler(body)

        return read

    async def post_prompt(body: Any) -> Response:
        return _submit(fake, body)

    async def get_prompt(_: Request) -> Response:
        return Json(fake.engine.exec_info())

    async def get_queue(_: Request) -> Response:
        running = fake.engine.running
        pending = [item.told() for item in fake.engine.queue]
        return Json({"queue_running": [running.told()] if running else [], "queue_pending": pending})

    async def post_queue(body: Any) -> Response:
        if body.get("clear"):
            fake.engine.clear()
        for prompt_id in body.get("delete", ()):
            fake.engine.delete(prompt_id)
        return Response()

    async def interrupt(request: Request) -> Response:
        try:
            body = json.loads(await request.body())
        except ValueError:
            body = {}
        fake.interrupted.append(body.get("prompt_id"))
        fake.engine.interrupt(body.get("prompt_id") if fake.has("interrupt_one") else None)
        return Response()

    async def free(body: Any) -> Response:
        fake.freed.append(body)
        fake.engine.free({name: bool(body[name]) for name in ("unload_models", "free_memory") if body.get(name)})
        return Response()

    async def history(request: Request) -> Response:
        limit = int(request.query_params.get("max_items", len(fake.engine.history)))
        newest = list(fake.engine.history.items())[-limit:] if limit else []
        return Json(dict(newest))

    async def history_of(request: Request) -> Response:
        prompt_id = request.path_params["prompt_id"]
        found = fake.engine.history.get(prompt_id)
        return Json({prompt_id: found} if found else {})

    async def post_history(body: Any) -> Response:
        if body.get("clear"):
            fake.engine.history.clear()
        for prompt_id in body.get("delete", ()):
            fake.engine.history.pop(prompt_id, None)
        return Response()

    async def view(request: Request) -> Response:
        query = request.query_params
        kind, folder, name = query.get("type", "output"), query.get("subfolder", ""), query.get("filename", "")
        if name and (name.startswith("/") or ".." in name):
            return Response(status_code=400)
        store = fake.engine.temporary if kind == "temp" else fake.saved
        data = store.get((kind, folder, name))
        if data is None:
            return Response(status_code=404)
        body, mime = paints.as_asked(data, dict(query))
        return Response(body, media_type=mime, headers={"Content-Disposition": f'filename="{name}"'})

    async def object_info(_: Request) -> Response:
        return Json({name: node.info(name, fake.files) for name, node in fake.known_nodes.items()})

    async def object_info_of(request: Request) -> Response:
        name = request.path_params["name"]
        node = fake.known_nodes.get(name)
        return Json({name: node.info(name, fake.files)} if node else {})

    async def system_stats(_: Request) -> Response:
        return Json(_stats(fake))

    async def features(_: Request) -> Response:
        return Json(fake.features)

    async def folders(_: Request) -> Response:
        return Json(list(fake.files))

    async def files(request: Request) -> Response:
        found = fake.files.get(request.path_params["folder"])
        return Response(status_code=404) if found is None else Json(list(found))

    async def embeddings(_: Request) -> Response:
        return Json([name.rpartition(".")[0] or name for name in fake.files.get("embeddings", ())])

    async def folder_paths(_: Request) -> Response:
        places = {name: [str(path) for path in paths] for name, paths in fake.folders.items()}
        return Json({name: [f"{ROOT}/models/{name}"] for name in fake.files} | places)

    async def upload(request: Request) -> Response:
        async with request.form() as form:
            sent: Any = form["image"]
            kind, folder = str(form.get("type", "input")), str(form.get("subfolder", ""))
            data, name = await sent.read(), sent.filename
            overwrite = form.get("overwrite") in ("true", "1")
        stem, dot, ending = name.rpartition(".")
        number = 0
        while not overwrite and fake.saved.get((kind, folder, name), data) != data:
            number += 1
            name = f"{stem} ({number}){dot}{ending}"
        fake.saved[kind, folder, name] = data
        fake.files.setdefault("input", [])
        if kind == "input" and name not in fake.files["input"]:
            fake.files["input"] = [*fake.files["input"], name]
        return Json({"name": name, "subfolder": folder, "type": kind})

    async def websocket(socket: WebSocket) -> None:
        await _listen(fake, socket)

    add("/prompt", get_prompt)
    add("/prompt", json_body(post_prompt), "POST")
    add("/queue", get_queue)
    add("/queue", json_body(post_queue), "POST")
    add("/interrupt", interrupt, "POST")
    add("/free", json_body(free), "POST")
    add("/history", history)
    add("/history", json_body(post_history), "POST")
    add("/history/{prompt_id}", history_of)
    add("/view", view)
    add("/object_info", object_info)
    add("/object_info/{name}", object_info_of)
    add("/system_stats", system_stats)
    add("/models", folders)
    add("/models/{folder}", files)
    add("/embeddings", embeddings)
    add("/internal/folder_paths", folder_paths)
    add("/upload/image", upload, "POST")
    if fake.has("flags"):
        add("/features", features)
    if fake.has("jobs"):
        routes += jobs.routes(fake)
    routes += [WebSocketRoute("/ws", websocket), WebSocketRoute("/api/ws", websocket)]
    routes.append(Route("/{rest:path}", _nothing, methods=["GET", "HEAD"]))
    return Starlette(routes=routes, exception_handlers={404: _refused, 405: _refused})


async def _nothing(_: Request) -> Response:
    return Response(status_code=404, media_type="application/octet-stream")


async def _refused(_: Request, __: Exception) -> Response:
    """A path that nobody has: the server looks for a file of that name, which only GET can do."""
    return PlainTextResponse("405: Method Not Allowed", 405, {"Allow": "GET,HEAD"})


def _submit(fake: "Fake", body: Any) -> Response:
    def refuse(kind: str, message: str, details: str) -> Response:
        error = {"type": kind, "message": message, "details": details, "extra_info": {}}
        return Json({"error": error, "node_errors": {}}, 400)

    engine = fake.engine
    if "number" in body:
        number = float(body["number"])
    else:
        number = -engine.number if body.get("front") else engine.number
        engine.number += 1
    if "prompt" not in body:
        return refuse("no_prompt", "No prompt provided", "No prompt provided")
    prompt_id = body.get("prompt_id") if fake.has("own_id") else None
    if prompt_id is None:
        prompt_id = str(uuid.uuid4())
    elif fake.has("strict_id") and not jobs.is_id(prompt_id):
        details = "prompt_id must be a UUID string in canonical lowercase hyphenated form; "
        return refuse(
            "invalid_prompt_id",
            "prompt_id must be a valid UUID",
            details + "omit it to let the server generate one",
        )
    graph = body["prompt"]
    verdict = validate(
        graph,
        nodes=fake.known_nodes,
        files=fake.files,
        targets=body.get("partial_execution_targets"),
        new_words=fake.has("new_words"),
    )
    if verdict.error is not None:
        fake.refused.append(verdict.error)
        return Json({"error": verdict.error, "node_errors": verdict.node_errors}, 400)
    extra = dict(body.get("extra_data") or {})
    if "client_id" in body:
        extra["client_id"] = body["client_id"]
    for name in ("auth_token_comfy_org", "api_key_comfy_org"):
        extra.pop(name, None)
    if fake.has("jobs"):
        extra["create_time"] = int(time.time() * 1000)
    item = Item(number=number, id=str(prompt_id), graph=graph, extra=extra, ends=verdict.outputs)
    fake.accept(item)
    return Json({"prompt_id": prompt_id, "number": number, "node_errors": verdict.node_errors})


async def _listen(fake: "Fake", socket: WebSocket) -> None:
    await socket.accept()
    engine = fake.engine
    sid = socket.query_params.get("clientId") or uuid.uuid4().hex
    client = engine.voice.sockets[sid] = Client(socket, fake)
    fake.connected(sid, socket)
    try:
        status: dict[str, Any] = {"status": engine.exec_info(), "sid": sid}
        await client.text(json.dumps({"type": "status", "data": status}))
        if engine.client == sid and engine.last_node is not None:
            await client.text(json.dumps({"type": "executing", "data": {"node": engine.last_node}}))
        if fake.deafens():
            engine.voice.sockets.pop(sid, None)
        first = True
        while True:
            message = await socket.receive()
            if message["type"] == "websocket.disconnect":
                return
            try:
                said = json.loads(message.get("text") or "")
            except ValueError:
                continue
            if first and said.get("type") == "feature_flags" and fake.has("flags"):
                client.flags = said.get("data", {})
                if sid in engine.voice.sockets:
                    await client.text(json.dumps({"type": "feature_flags", "data": fake.features}))
            first = False
    finally:
        # As the real server: whoever holds this name now goes too, also a newer socket of the same client.
        engine.voice.sockets.pop(sid, None)
        fake.disconnected(sid, socket)


def _stats(fake: "Fake") -> dict[str, Any]:
    total = fake.vram_total_mib * MIB
    free = max(0, fake.vram_total_mib - fake.engine.used_mib) * MIB
    ram = 64 * 1024 * MIB
    return {
        "system": {
            "os": "linux",
            "ram_total": ram,
            "ram_free": ram // 2,
            "comfyui_version": fake.version,
            "python_version": platform.python_version(),
            "pytorch_version": "2.13.0+cu130",
            "embedded_python": False,
            "argv": [f"{ROOT}/main.py", "--listen", "127.0.0.1"],
        },
        "devices": [
            {
                "name": "cuda:0 Fake GPU : native",
                "type": "cuda",
                "index": 0,
                "vram_total": total,
                "vram_free": free,
                "torch_vram_total": total - free,
                "torch_vram_free": 0,
            }
        ],
    }
