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


WITH_A_KEY = """async () => {
    const { picture, useKey } = await import(performance.getEntriesByType("resource").find(({ name }) => name.endsWith("/api.js")).name);
    const [made, asked] = [[], []];
    const [make, ask] = [URL.createObjectURL, fetch];
    URL.createObjectURL = (data) => { made.push(make.call(URL, data)); return made.at(-1); };
    globalThis.fetch = (path, told) => { asked.push(path); return ask(path, told); };
    useKey("a-key");
    const [good, bad] = ["/openapi.json", "/v1/nowhere"];
    const urls = await Promise.all([picture(good), picture(good)]);
    await Promise.allSettled([picture(bad), picture(bad)]);
    await Promise.allSettled([picture(bad)]);
    return [new Set(urls).size, made.length, ...[good, bad].map((path) => asked.filter((one) => one === path).length)];
}"""  # noqa: E501  # a script


def test_a_picture_behind_a_key_is_fetched_once(browser: Browser, tmp_path: Path) -> None:
    """However many ask for it meanwhile; one that could not be had is asked for again the next time."""
    with House(folder=tmp_path) as house:
        person = Person(browser, house.serve().url)
        assert person.opens().evaluate(WITH_A_KEY) == [1, 1, 1, 2]
        person.context.close()


LISTENING = """() => {
    globalThis.listening = 0;
    const add = EventTarget.prototype.addEventListener;
    EventTarget.prototype.addEventListener = function (type, told, how) {
        if (type === "online") {
            listening += 1;
            how?.signal?.addEventListener("abort", () => { listening -= 1; });
        }
        return add.call(this, type, told, how);
    };
}"""


def test_a_server_that_is_away_for_long_costs_a_tab_nothing(browser: Browser, tmp_path: Path) -> None:
    """Each time it was asked for in vain, nothing is left behind."""
    with House(folder=tmp_path) as house:
        person = Person(browser, house.serve().url)
        person.context.add_init_script(f"({LISTENING})()")
        person.context.route("**/v1/events*", lambda route: route.abort())
        tab = person.opens()
        for _ in range(3):
            with tab.expect_request("**/v1/events*"):
                pass
        assert tab.evaluate("listening") <= 1
        person.context.close()


def test_a_server_with_keys_fits_every_window(browser: Browser, tmp_path: Path) -> None:
    """With the button for the key at the top, nothing is higher or wider than the window."""
    with House(folder=tmp_path) as house:
        secret = house.run("keys", "add", "me").stdout.split()[-1]
        person = Person(browser, house.serve().url, has_touch=True, is_mobile=True)
        tab = person.opens()
        tab.get_by_role("textbox", name="Key").fill(secret)
        tab.keyboard.press("Enter")
        expect(tab.get_by_role("button", name="Key", exact=True)).to_be_visible()
        for width, height in ((1280, 800), (390, 844), (320, 640)):
            tab.set_viewport_size({"width": width, "height": height})
            size = tab.evaluate(
                "({ scrollWidth, scrollHeight } = document.documentElement, [scrollWidth, scrollHeight])"
            )
            assert size == [width, height]
        person.context.close()
        assert [fault for fault in person.faults if REFUSED not in fault] == []


def test_a_side_that_is_half_typed(browser: Browser, tmp_path: Path) -> None:
    """The field says what it takes, also when it is empty; the chip shows the last size that can be drawn."""
    with House(folder=tmp_path) as house:
        person = Person(browser, house.serve().url)
        tab = person.opens()
        chip = tab.locator("[data-panel=shape]")
        chip.click()
        width = tab.get_by_role("spinbutton", name="Width")
        for bad in ("", "99999", "3"):
            width.fill(bad)
            tab.keyboard.press("Tab")
            expect(tab.locator(".panel").get_by_text("16 to 2048")).to_be_visible()
            expect(chip).to_contain_text("768 × 768")
        width.fill("")
        tab.keyboard.press("Escape")
        tab.get_by_label("What would you like to see?").fill("no size")
        tab.keyboard.press("Enter")
        expect(width).to_be_focused()
        assert get(f"{person.url}/v1/jobs")["jobs"] == []
        width.fill("320")
        expect(chip).to_contain_text("320 × 768")
        person.context.close()
        assert person.faults == []


def test_the_page_of_the_api(browser: Browser, tmp_path: Path) -> None:
    """axe-core finds nothing at /docs, and it has the picture of the page for its tab."""
    with House(folder=tmp_path) as house:
        person = Person(browser, house.serve().url)
        tab = person.context.new_page()
        tab.goto(f"{person.url}/docs")
        assert violations(tab) == []
        icon = tab.locator("link[rel=icon]").get_attribute("href")
        assert tab.request.get(f"{person.url}{icon}").headers["content-type"] == "image/svg+xml"
        person.context.close()
        assert person.faults == []
