"""The files of the page as they are served: safe, cached for ever, small, and knowing no model by name."""

import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest
from fastapi import FastAPI

import imagen
from imagen.backends.registry import registrations
from imagen.surfaces.web import pages

MOST_BYTES = 150 * 1024
MOST_LINES = 400
BUNDLED = Path(imagen.__file__).parent / "models"


@pytest.fixture
async def client() -> AsyncIterator[httpx2.AsyncClient]:
    server = FastAPI()
    server.include_router(pages.router())
    transport = httpx2.ASGITransport(app=server)
    async with httpx2.AsyncClient(transport=transport, base_url="http://here") as client:
        yield client


def _addresses(page: str) -> list[str]:
    return re.findall(r'(?:href|src)="(/imagine/static/[^"]+)"', page)


async def test_every_view_is_the_page(client: httpx2.AsyncClient) -> None:
    """A view that was bookmarked opens."""
    for path in ("/imagine", "/imagine/gallery", "/imagine/ratings", "/imagine/series/01J"):
        answer = await client.get(path)
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert pages.HERE not in answer.text
        assert (await client.get(f"{path}/")).text == answer.text


async def test_what_is_not_there(client: httpx2.AsyncClient) -> None:
    """404: as the page for who has a browser, which says so; plainly for a program."""
    browser = await client.get("/imagine/nowhere", headers={"accept": "text/html,*/*"})
    assert (browser.status_code, browser.headers["content-type"]) == (404, "text/html; charset=utf-8")
    assert (await client.get("/imagine/nowhere")).headers["content-type"] == "application/json"


async def test_the_policy_lets_nothing_but_its_own_files_run(client: httpx2.AsyncClient) -> None:
    """No inline script or style, nothing from elsewhere, and no text that turns into markup."""
    answer = await client.get("/imagine")
    policy = answer.headers["content-security-policy"]
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy
    assert "require-trusted-types-for 'script'" in policy
    assert not re.search(r"<style|\sstyle=|<script(?![^>]*\ssrc=)|\son\w+=", answer.text)


async def test_files_change_address_with_their_content(client: httpx2.AsyncClient) -> None:
    """What has a hash in its address is kept for ever; the page itself is asked for again, and is often unchanged."""
    page = await client.get("/imagine")
    assert page.headers["cache-control"] == "no-cache"
    again = await client.get("/imagine", headers={"if-none-match": page.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    found = _addresses(page.text)
    assert len(found) >= 3
    for address in found:
        answer = await client.get(address)
        assert answer.status_code == 200, address
        assert "immutable" in answer.headers["cache-control"]
        old = address.replace(pages.version(), "0" * 16)
        assert (await client.get(old)).status_code == 404
    assert (await client.get(f"/imagine/static/{pages.version()}/index.html")).status_code == 404


def test_every_file_is_reached() -> None:
    """By the page or by a module; an import of what is not there would be a white page."""
    files = {name: data.decode() for name, data in pages.statics().items()}
    wanted = set(re.findall(re.escape(pages.HERE) + r'/([\w.]+)"', files["index.html"]))
    for text in (text for name, text in files.items() if name.endswith(".js")):
        wanted |= set(re.findall(r'from "\./([\w.]+)"', text))
    assert wanted | {"index.html"} == set(files)


def test_it_is_small() -> None:
    """150 KiB in all, and no file longer than a head can hold."""
    files = pages.statics()
    assert sum(map(len, files.values())) <= MOST_BYTES
    assert {name: lines for name, data in files.items() if (lines := data.count(b"\n")) > MOST_LINES} == {}


def test_it_knows_no_model_and_no_backend() -> None:
    """The promise: models come and go, and no file of the page changes."""
    models = {folder.name for folder in BUNDLED.iterdir() if (folder / "model.yaml").exists()}
    backends = set(registrations())
    families = {re.split(r"[\d-]", name)[0] for name in models} - {"z"}
    for file, data in pages.statics().items():
        text = data.decode().lower()
        for name in models | families | backends:
            assert not re.search(rf"\b{re.escape(name)}\b", text), f"{file} says {name}"


def test_it_asks_nobody_else() -> None:
    """No address but those of this server; the name of a namespace is no address."""
    for file, data in pages.statics().items():
        found = [
            url for url in re.findall(r"https?://[^\s\"'`)]+", data.decode()) if url != "http://www.w3.org/2000/svg"
        ]
        assert found == [], file
