"""What the page is for: models come and go, servers get keys, people write as they write, and it stays the same."""

from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect
from tests.http_kit import get
from tests.page_kit import AWAY, PHONE, Person, violations
from tests.service_kit import House, free_port

pytestmark = pytest.mark.needs_browser

REFUSED = "the server responded with a status of 401"  # Chromium's own line about a key that is asked for


def test_a_model_that_is_added_appears_and_draws(browser: Browser, tmp_path: Path) -> None:
    """With the page open, a folder is put there; nothing is restarted or loaded again, neither page nor API changes.

    That no file of the page names a model or a backend: tests/unit/test_page_files.py. That the API is the one of the
    last release: tests/contract/test_wire_grows.py.
    """
    with House(folder=tmp_path) as house:
        person = Person(browser, house.serve().url)
        tab = person.opens()
        wire = get(f"{person.url}/openapi.json")
        page = tab.request.get(f"{person.url}/imagine")
        loaded = len([url for url in person.asked if "/static/" in url])
        tab.locator("[data-panel=model]").click()
        expect(tab.get_by_role("option", name="Fresh paint")).to_have_count(0)
        tab.keyboard.press("Escape")
        house.model("fresh-paint", title="Fresh paint", defaults={"width": 320, "height": 192, "steps": 5})
        tab.locator("[data-panel=model]").click()
        option = tab.get_by_role("option", name="Fresh paint")
        try:
            option.wait_for(timeout=4000)
        except Exception:  # the server looks at its folders now and then
            tab.keyboard.press("Escape")
            tab.locator("[data-panel=model]").click()
        option.click()
        expect(tab.locator("[data-panel=shape]")).to_contain_text("320 × 192")
        tab.get_by_label("What would you like to see?").fill("the first picture of a new model")
        tab.keyboard.press("Enter")
        tab.locator(".easel[data-state=completed] .layer.final").wait_for()
        assert get(f"{person.url}/openapi.json") == wire
        again = tab.request.get(f"{person.url}/imagine")
        assert (again.headers["etag"], again.text()) == (page.headers["etag"], page.text())
        assert len([url for url in person.asked if "/static/" in url]) == loaded > 10
        person.context.close()
        assert person.faults == []


def test_a_server_with_keys_asks_for_one_once(browser: Browser, tmp_path: Path) -> None:
    """A wrong key is said to be wrong; with a good one everything works, pictures too, and it is remembered."""
    with House(folder=tmp_path) as house:
        secret = house.run("keys", "add", "me").stdout.split()[-1]
        person = Person(browser, house.serve().url)
        tab = person.opens()
        tab.get_by_role("textbox", name="Key").wait_for()
        tab.keyboard.press("Escape")
        tab.get_by_role("button", name="Key", exact=True).click()  # not now, but now
        for told in ("wrong", "schlüssel🔑", secret):
            tab.get_by_role("textbox", name="Key").fill(told)
            tab.get_by_role("button", name="Go on").click()
            if told != secret:
                expect(tab.get_by_text("This key is not known here")).to_be_visible()
                assert violations(tab) == []
        expect(tab.locator("[data-panel=model]")).to_contain_text("Mock")
        expect(tab.locator(".toast")).to_have_count(0)
        tab.get_by_label("What would you like to see?").fill("behind a door [slow:2]")
        tab.keyboard.press("Enter")
        tab.locator(".easel .layer.in").first.wait_for()
        tab.locator(".easel[data-state=completed] .layer.final").wait_for()
        tab.reload()
        tab.locator(".easel[data-state=completed] .layer.final").wait_for()
        assert tab.locator("dialog").count() == 0
        tab.evaluate("localStorage.setItem('imagen.key', 'schlüssel🔑')")  # cannot be sent
        tab.reload()
        expect(tab.get_by_text("The server is away")).to_be_hidden()
        tab.get_by_role("textbox", name="Key").fill(secret)
        tab.keyboard.press("Enter")
        tab.locator(".easel[data-state=completed] .layer.final").wait_for()
        tab.get_by_role("button", name="Key", exact=True).click()
        assert violations(tab) == []
        tab.get_by_role("button", name="Forget the key").click()
        expect(tab.get_by_role("textbox", name="Key")).to_be_visible()
        assert tab.evaluate("localStorage.getItem('imagen.key')") is None
        person.context.close()
        assert [fault for fault in person.faults if REFUSED not in fault] == []


def test_words_of_any_kind_and_a_hundred_models(browser: Browser, tmp_path: Path) -> None:
    """Right to left, emoji and markup are words; a long list is searched; nothing is wider than a phone."""
    with House(folder=tmp_path) as house:
        for number in range(100):
            house.model(f"one-{number:03}", title=f"Model number {number:03} with a rather long name")
        person = Person(browser, house.serve().url, **PHONE)
        tab = person.opens()
        tab.locator("[data-panel=model]").click()
        tab.get_by_label("Find a model").fill("number 077")
        expect(tab.get_by_role("option")).to_have_count(1)
        tab.get_by_role("option").click()
        words = "قمر فوق الجبال 🌙 <b onclick=alert(1)>ليل</b> [slow:0]"
        tab.get_by_label("What would you like to see?").fill(words)
        tab.get_by_role("button", name="Draw", exact=True).click()
        tab.locator(".easel[data-state=completed] .layer.final").wait_for()
        tab.locator(".look").click()
        expect(tab.locator("dialog.viewer .prompt")).to_have_text(words)
        assert violations(tab) == []
        tab.keyboard.press("Escape")
        for width in (360, 390, 768, 1920):
            tab.set_viewport_size({"width": width, "height": 800})
            wider = tab.evaluate("document.documentElement.scrollWidth - innerWidth")
            assert wider <= 0, f"at {width} px it is {wider} px too wide"
        person.context.close()
        assert person.faults == []


def test_a_server_that_wants_a_key_from_now_on(browser: Browser, tmp_path: Path) -> None:
    """Restarted with keys: every open tab asks at once, and goes on when one of them was told."""
    port = free_port()
    with House(folder=tmp_path) as house:
        server = house.serve(port=port)
        person = Person(browser, server.url)
        tab = person.opens()
        other = person.opens("/imagine/gallery")
        expect(tab.get_by_text("Say what you would like to see")).to_be_visible()
        expect(other.get_by_text("Nothing was drawn yet")).to_be_visible()
        server.kill()
        secret = house.run("keys", "add", "me").stdout.split()[-1]
        house.serve(port=port)
        expect(other.get_by_role("textbox", name="Key")).to_be_visible()
        tab.get_by_role("textbox", name="Key").fill(secret)
        tab.keyboard.press("Enter")
        expect(other.locator("dialog")).to_have_count(0)
        expect(tab.get_by_text("The server is away")).to_be_hidden()
        tab.get_by_label("What would you like to see?").fill("with a key [slow:0]")
        tab.keyboard.press("Enter")
        tab.locator(".easel[data-state=completed] .layer.final").wait_for()
        other.locator(".print img.in").wait_for()
        person.context.close()
        assert [fault for fault in person.faults if REFUSED not in fault and not AWAY.search(fault)] == []


def test_numbers_that_the_model_does_not_take(browser: Browser, tmp_path: Path) -> None:
    """Said beside the field and at the end, whether the panel is open or not; nothing that was typed is changed."""
    with House(folder=tmp_path) as house:
        person = Person(browser, house.serve().url)
        tab = person.opens()
        words = tab.get_by_label("What would you like to see?")
        words.fill("counted [slow:0]")
        for panel, name, bad, good, allowed in (
            ("more", "Steps", "0", "4", "1 to 1000"),
            ("shape", "Width", "99999", "320", "16 to 2048"),
        ):
            field = tab.get_by_role("spinbutton", name=name)
            tab.locator(f"[data-panel={panel}]").click()
            field.fill(bad)
            tab.keyboard.press("Escape")
            expect(field).to_have_count(0)
            words.press("Enter")
            expect(field).to_be_focused()
            expect(field).to_have_value(bad)
            expect(tab.get_by_text(allowed)).to_be_visible()
            assert violations(tab) == []
            field.fill(good)
            expect(tab.locator(".panel").get_by_text(allowed)).to_have_count(0)
            expect(tab.locator(".tile[aria-pressed=true]")).to_have_count(0)
            tab.keyboard.press("Escape")
        assert get(f"{person.url}/v1/jobs")["jobs"] == []
        words.press("Enter")
        tab.locator(".easel[data-state=completed] .layer.final").wait_for()
        (job,) = get(f"{person.url}/v1/jobs")["jobs"]
        assert (job["request"]["steps"], job["request"]["width"]) == (4, 320)
        # What is said while a dialog is open can be seen and closed above it.
        tab.locator(".look").click()
        tab.get_by_role("button", name="Copy words").click()
        tab.get_by_role("button", name="Close this message").click()
        tab.keyboard.press("Escape")
        expect(tab.locator("body > #toasts")).to_have_count(1)
        person.context.close()
        assert person.faults == []


def test_on_a_small_phone(browser: Browser, tmp_path: Path) -> None:
    """Every control of the form is large enough for a finger, in two rows; a page that is not there says so."""
    with House(folder=tmp_path) as house:
        person = Person(browser, house.serve().url, **PHONE | {"viewport": {"width": 360, "height": 740}})
        tab = person.opens()
        expect(tab.locator("[data-panel=model]")).to_contain_text("Mock")
        for several in (False, True):
            if several:
                tab.locator("[data-panel=model]").tap()
                tab.get_by_role("button", name="Compare several").tap()
                tab.keyboard.press("Escape")
            boxes = [box.bounding_box() for box in tab.locator(".chips button").all()]
            assert min(box["height"] for box in boxes if box) >= 36
            chips = tab.locator(".chips").bounding_box()
            assert chips is not None
            assert chips["height"] < 90
        answer = tab.goto(f"{person.url}/imagine/nowhere")
        assert answer is not None
        assert answer.status == 404
        expect(tab.get_by_text("There is no such page")).to_be_visible()
        tab.get_by_role("link", name="Draw a picture").tap()
        expect(tab.get_by_label("What would you like to see?")).to_be_visible()
        person.context.close()
        assert [fault for fault in person.faults if "status of 404" not in fault] == []
