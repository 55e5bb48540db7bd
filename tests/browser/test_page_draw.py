"""The first journey at /imagine, as a person makes it: draw, watch it form, cancel, leave and come back."""

import re
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect
from tests.http_kit import get, post
from tests.page_kit import AWAY, PHONE, Person, apart, picture, violations
from tests.service_kit import House, Program, free_port

pytestmark = pytest.mark.needs_browser

LIGHT_AND_DARK = ({"color_scheme": "light"}, {"color_scheme": "dark"}, PHONE)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with House(folder=tmp_path_factory.mktemp("page")) as house:
        yield house


@pytest.fixture(scope="module")
def server(house: House) -> Program:
    return house.serve()


@pytest.fixture
def person(browser: Browser, server: Program) -> Iterator[Person]:
    person = Person(browser, server.url)
    yield person
    person.context.close()
    assert person.faults == []


def draws(tab: Page, words: str) -> None:
    tab.get_by_label("What would you like to see?").fill(words)
    tab.get_by_role("button", name="Draw", exact=True).click()


def chooses(tab: Page, title: str) -> None:
    tab.locator("[data-panel=model]").click()
    tab.get_by_role("option", name=title, exact=False).first.click()


def stands(tab: Page, state: str) -> None:
    tab.locator(f".easel[data-state={state}]").wait_for()


def test_draw_and_watch_it_form(person: Person) -> None:
    """The frame has its place from the first moment, its pixels change with each preview and come to the picture."""
    tab = person.opens()
    draws(tab, "hills at dusk [slow:4] [steps:8]")
    tab.locator(".easel:is([data-state=queued], [data-state=running])").wait_for()  # not an older picture
    frame = tab.locator(".easel .frame").first
    place = frame.bounding_box()
    seen, told = [], []
    while tab.locator(".easel[data-state=completed]").count() == 0:
        seen.append(picture(frame))
        told.append(tab.locator(".easel .caption .words").inner_text())
        assert frame.bounding_box() == place
        tab.wait_for_timeout(150)
    tab.locator(".layer.final.in").wait_for()
    tab.wait_for_timeout(600)
    final = picture(frame)
    assert frame.bounding_box() == place
    away = [apart(one, final) for one in seen]
    changes = sum(apart(one, other) > 0.5 for one, other in pairwise(seen))
    assert changes >= 3, "the previews did not show"
    thirds = [sum(part) / len(part) for part in (away[: len(away) // 3], away[-(len(away) // 3) :])]
    assert thirds[1] < thirds[0] / 2, f"it did not come nearer: {away}"
    assert any("step" in words and "left" in words for words in told)
    assert any("Drawing" in words for words in told)


def test_the_model_in_the_box_draws(person: Person) -> None:
    """A real model, chosen from the list with the keyboard, draws as many as were asked for."""
    tab = person.opens()
    expect(tab.locator("[data-panel=model]")).not_to_contain_text("…")  # its models have come: there is what to choose
    tab.locator("[data-panel=model]").click()
    tab.keyboard.type("tiny, 3d")
    tab.keyboard.press("Enter")
    expect(tab.locator("[data-panel=model]")).to_contain_text("Tiny, 3D")
    tab.get_by_label("One more").click()
    tab.get_by_label("What would you like to see?").fill("a red apple")
    tab.keyboard.press("Enter")
    expect(tab.locator(".easel .layer.final")).to_have_count(2)
    stands(tab, "completed")


def test_only_what_the_model_has_is_asked(person: Person) -> None:
    """A model without a negative prompt shows none; one that has it does."""
    tab = person.opens()
    chooses(tab, "Mock, cool")
    tab.locator("[data-panel=more]").click()
    expect(tab.get_by_role("spinbutton", name="slow")).to_be_visible()
    expect(tab.get_by_label("What should not be seen")).to_have_count(0)
    tab.keyboard.press("Escape")
    chooses(tab, "Tiny, 3D")
    tab.locator("[data-panel=more]").click()
    expect(tab.get_by_label("What should not be seen")).to_be_visible()
    tab.get_by_label("style").select_option("flat")
    tab.keyboard.press("Escape")
    draws(tab, "a green pear")
    stands(tab, "completed")
    job = get(f"{person.url}/v1/jobs/{tab.locator('.easel').get_attribute('data-job')}")
    assert job["request"]["options"] == {"style": "flat"}


def test_cancel_stops_mine_and_nobody_elses(person: Person) -> None:
    """The button stops the job that is shown; another one goes on."""
    other = post(f"{person.url}/v1/jobs", {"prompt": "theirs [slow:6]", "model": "mock-warm"})["id"]
    tab = person.opens()
    draws(tab, "mine [slow:60]")
    tab.locator(".easel[data-state=running] .layer.in").first.wait_for()
    mine = tab.locator(".easel").get_attribute("data-job")
    tab.get_by_role("button", name="Cancel", exact=True).click()
    stands(tab, "cancelled")
    assert get(f"{person.url}/v1/jobs/{mine}")["state"] == "cancelled"
    assert get(f"{person.url}/v1/jobs/{other}")["state"] in ("queued", "running", "completed")
    tab.get_by_role("button", name="Try again", exact=True).click()
    stands(tab, "running")
    tab.get_by_role("button", name="Cancel", exact=True).click()
    stands(tab, "cancelled")


def test_a_failure_says_what_to_do(person: Person) -> None:
    """The backend's words and the hint are there, and one press tries again."""
    tab = person.opens()
    draws(tab, "never [slow:0] [fail:rejected]")
    stands(tab, "failed")
    expect(tab.locator(".easel .said")).to_contain_text("refuses this prompt")
    expect(tab.get_by_role("button", name="Try again", exact=True)).to_be_visible()


def test_a_refused_request_keeps_the_words(person: Person, server: Program) -> None:
    """What the server refuses is said with its hint; nothing that was typed is lost."""
    tab = person.opens()
    words = "much " * 5000
    draws(tab, words)
    expect(tab.locator(".easel[data-state=failed] .caption")).to_contain_text("the limit is 20,000")
    expect(tab.get_by_label("What would you like to see?")).to_have_value(words)
    person.faults = [fault for fault in person.faults if "status of 4" not in fault]  # Chromium's own line


def test_refresh_in_the_middle(person: Person) -> None:
    """After a refresh the job, its latest preview and what was typed since are there, at once."""
    tab = person.opens()
    draws(tab, "a long dusk [slow:20] [steps:5]")
    tab.locator(".easel[data-state=running] .layer.in").first.wait_for()
    job = tab.locator(".easel").get_attribute("data-job")
    tab.get_by_label("What would you like to see?").fill("the next one, half typed")
    tab.reload()
    tab.locator(f".easel[data-job='{job}'] .layer.in").first.wait_for(timeout=3000)  # its next preview is 4 s away
    expect(tab.get_by_label("What would you like to see?")).to_have_value("the next one, half typed")
    tab.get_by_role("button", name="Cancel", exact=True).click()
    stands(tab, "cancelled")


def test_a_second_tab_and_a_phone_join(person: Person, browser: Browser) -> None:
    """Both show the running job with its preview; the tabs of one browser share one stream."""
    tab = person.opens()
    draws(tab, "shared [slow:20] [steps:5]")
    tab.locator(".easel[data-state=running] .layer.in").first.wait_for()
    job = tab.locator(".easel").get_attribute("data-job")
    second = person.opens()
    second.locator(f".easel[data-job='{job}'] .layer.in").first.wait_for(timeout=3000)
    phone = Person(browser, person.url, **PHONE)
    third = phone.opens()
    third.locator(f".easel[data-job='{job}'] .layer.in").first.wait_for(timeout=3000)
    assert sum("/v1/events" in url for url in person.asked) == 1
    tab.close()
    third.get_by_role("button", name="Cancel", exact=True).tap()
    stands(second, "cancelled")  # it took the stream over
    assert sum("/v1/events" in url for url in person.asked) == 2
    phone.context.close()
    assert phone.faults == []


def test_server_restart_in_the_middle(browser: Browser, tmp_path: Path) -> None:
    """The page says that the server is away, comes back by itself, and the job goes on to its picture."""
    port = free_port()
    with House(folder=tmp_path) as house:
        server = house.serve(port=port)
        person = Person(browser, server.url)
        tab = person.opens()
        draws(tab, "through the night [slow:5]")
        tab.locator(".easel[data-state=running] .layer.in").first.wait_for()
        tab.get_by_label("What would you like to see?").fill("typed while it was away")
        server.kill()
        expect(tab.get_by_text("The server is away")).to_be_visible()
        tab.get_by_role("button", name="Draw", exact=True).click()
        expect(tab.get_by_text("The server does not answer").first).to_be_visible()
        house.serve(port=port)
        expect(tab.get_by_text("The server is away")).to_be_hidden()
        expect(tab.get_by_label("What would you like to see?")).to_have_value("typed while it was away")
        expect(tab.get_by_text("The server is back: try again")).to_be_visible()
        tab.get_by_role("button", name="Try again").click()
        stands(tab, "queued")
        tab.get_by_role("button", name="through the night").click()
        stands(tab, "completed")
        tab.locator(".layer.final.in").wait_for()
        person.context.close()
        assert [fault for fault in person.faults if not AWAY.search(fault)] == []


@pytest.mark.parametrize("like", LIGHT_AND_DARK, ids=("light", "dark", "phone"))
def test_everybody_can_use_it(browser: Browser, server: Program, like: dict[str, Any]) -> None:
    """axe-core finds nothing: before, while it is drawn, with each panel, with a picture, in the gallery."""
    person = Person(browser, server.url, **like)
    tab = person.opens()
    found = {"first": violations(tab)}
    draws(tab, "seen by all [slow:3]")
    tab.locator(".easel[data-state=running] .layer.in").first.wait_for()
    found["drawing"] = violations(tab)
    stands(tab, "completed")
    tab.locator(".look").wait_for()
    found["done"] = violations(tab)
    for panel in ("model", "shape", "more"):
        tab.locator(f"[data-panel={panel}]").click()
        found[panel] = violations(tab)
        tab.keyboard.press("Escape")
    tab.locator(".look").click()
    tab.locator("dialog.viewer .prompt").wait_for()
    found["viewer"] = violations(tab)
    tab.keyboard.press("Escape")
    tab.get_by_role("link", name="Gallery").click()
    tab.locator(".print img.in").first.wait_for()
    tab.wait_for_timeout(300)
    found["gallery"] = violations(tab)
    person.context.close()
    assert {where: what for where, what in found.items() if what} == {}
    assert person.faults == []


def test_a_picture_from_before(person: Person) -> None:
    """The gallery finds it by its words; it is looked at, taken up again, reproduced and deleted."""
    job = post(f"{person.url}/v1/jobs", {"prompt": "yesterday's lighthouse", "model": "tiny-3d", "seed": 3})["id"]
    give_up = time.monotonic() + 30
    while get(f"{person.url}/v1/jobs/{job}")["state"] != "completed":
        assert time.monotonic() < give_up
        time.sleep(0.1)
    tab = person.opens("/imagine/gallery")
    tab.get_by_label("Find pictures by their words").fill("lighthouse")
    expect(tab.locator(".print")).to_have_count(1)
    tab.locator(".print").focus()
    tab.keyboard.press("Enter")
    expect(tab.locator("dialog.viewer dl")).to_contain_text("Seed")
    tab.get_by_role("button", name="Use again").click()
    expect(tab.get_by_label("What would you like to see?")).to_have_value("yesterday's lighthouse")
    expect(tab.locator(".chip.seed input")).to_have_value("3")
    tab.go_back()
    tab.get_by_label("Find pictures by their words").fill("lighthouse")
    tab.locator(".print").first.click()
    tab.get_by_role("button", name="Reproduce").click()
    expect(tab.get_by_text("The same picture, pixel by pixel")).to_be_visible()
    tab.get_by_role("button", name="Delete").click()
    tab.get_by_role("button", name="Really delete?").click()
    expect(tab.get_by_role("status").filter(has_text="Deleted")).to_be_attached()
    tab.keyboard.press("Escape")
    expect(tab.locator(".print")).to_have_count(1)  # the one that was drawn once more


def test_a_picture_that_is_deleted_while_the_list_is_searched(person: Person) -> None:
    """It was opened from the list as it stood before; the new one does not go on showing it."""
    job = post(f"{person.url}/v1/jobs", {"prompt": "a ferry at dawn", "model": "tiny-3d", "seed": 5})["id"]
    give_up = time.monotonic() + 30
    while get(f"{person.url}/v1/jobs/{job}")["state"] != "completed":
        assert time.monotonic() < give_up
        time.sleep(0.1)
    tab = person.opens("/imagine/gallery")
    tab.get_by_role("button", name="a ferry at dawn").click()
    # As if it was typed just before, so that the answer comes now.
    tab.evaluate("document.querySelector('.gallery input').value = 'ferry'")
    tab.evaluate("document.querySelector('.gallery input').dispatchEvent(new Event('input'))")
    expect(tab).to_have_url(re.compile("q=ferry"))
    expect(tab.locator(".print")).to_have_count(1)
    tab.get_by_role("button", name="Delete").click()
    tab.get_by_role("button", name="Really delete?").click()
    expect(tab.locator(".print")).to_have_count(0)


def test_what_was_drawn_before_a_cancel(browser: Browser, person: Person) -> None:
    """Two pictures of a job that was cancelled at the third are in the gallery; a finger goes from one to the next."""
    asked = {"prompt": "geese in a row [slow:1.2]", "model": "mock", "n": 8, "width": 64, "height": 64}
    job = post(f"{person.url}/v1/jobs", asked)["id"]
    give_up = time.monotonic() + 30
    while len(get(f"{person.url}/v1/jobs/{job}")["images"]) < 2:
        assert time.monotonic() < give_up
        time.sleep(0.05)
    post(f"{person.url}/v1/jobs/{job}/cancel", {})
    while get(f"{person.url}/v1/jobs/{job}")["state"] != "cancelled":
        assert time.monotonic() < give_up
        time.sleep(0.05)
    drawn = get(f"{person.url}/v1/jobs/{job}")["images"]
    assert 2 <= len(drawn) < 8
    phone = Person(browser, person.url, **PHONE)
    tab = phone.opens("/imagine/gallery")
    tab.get_by_label("Find pictures by their words").fill("geese in a row")
    expect(tab.locator(".print")).to_have_count(len(drawn))
    tab.locator(".print").first.tap()
    seed = tab.locator("dialog.viewer dl div", has_text="Seed").locator("dd")
    newest = seed.inner_text()
    for left, shown in ((True, str(int(newest) - 1)), (False, newest)):
        tab.locator("dialog.viewer .pane").evaluate(SWIPE, left)
        expect(seed).to_have_text(shown)
    phone.context.close()
    assert phone.faults == []


SWIPE = """(pane, left) => {
  const at = (x) => new Touch({ identifier: 1, target: pane, clientX: x, clientY: 300 });
  const [from, to] = left ? [300, 80] : [80, 300];
  pane.dispatchEvent(new TouchEvent("touchstart", { touches: [at(from)], changedTouches: [at(from)] }));
  pane.dispatchEvent(new TouchEvent("touchend", { touches: [], changedTouches: [at(to)] }));
}"""


def test_a_job_that_waits_says_for_what(browser: Browser, tmp_path: Path) -> None:
    """Its card is paused: who did so and why stands below the empty frame, and it goes on when that is over."""
    with House(folder=tmp_path) as house:
        house.model("mock", device="card:0")
        server = house.serve()
        post(f"{server.url}/v1/devices/card:0/pause", {"reason": "a film"})
        person = Person(browser, server.url)
        tab = person.opens()
        draws(tab, "a quiet lake [slow:0]")
        expect(tab.locator(".easel .said")).to_contain_text("waits for card:0: paused by local: a film")
        post(f"{server.url}/v1/devices/card:0/resume")
        stands(tab, "completed")
        person.context.close()
        assert person.faults == []


def test_the_counter_keeps_the_keyboard(person: Person) -> None:
    """At either end of its way a button still has the focus, says that it goes no further, and does nothing."""
    tab = person.opens()
    count = tab.locator(".chip.count output")
    expect(tab.locator("[data-panel=model]")).to_contain_text("Mock")
    for name, end in (("One more", "×16"), ("One fewer", "×1")):
        button = tab.get_by_role("button", name=name)
        button.focus()
        for _ in range(17):
            tab.keyboard.press("Enter")
        expect(count).to_have_text(end)
        expect(button).to_be_focused()
        expect(button).to_have_attribute("aria-disabled", "true")


def test_what_was_not_done_as_asked(person: Person) -> None:
    """It takes no room from the picture, is read with the keyboard, and is there after a reload and in the viewer."""
    tab = person.opens()
    said = "tiny-3d reads no further, " * 20  # a name stays as it is
    draws(tab, f"noted [slow:1] [notice:{said}]")
    tab.locator(".easel:is([data-state=queued], [data-state=running])").wait_for()
    place = tab.locator(".easel .frame").first.bounding_box()
    stands(tab, "completed")
    notes = tab.locator(".easel summary")
    for _ in ("now", "after a reload"):
        expect(notes).to_have_text("1 note")
        expect(tab.locator(".easel li")).to_be_hidden()
        assert tab.locator(".easel .frame").first.bounding_box() == place
        notes.focus()
        tab.keyboard.press("Enter")
        expect(tab.locator(".easel li")).to_contain_text(said.strip())
        assert violations(tab) == []
        tab.reload()
    tab.locator(".look").click()
    expect(tab.locator("dialog.viewer dl div", has_text="Note")).to_contain_text(said.strip())


def test_the_list_says_what_a_model_is_for(person: Person) -> None:
    """The model that draws when none is chosen stands first; each says what it is for."""
    tab = person.opens()
    tab.locator("[data-panel=model]").click()
    expect(tab.get_by_role("option").first).to_contain_text("Paper landscapes without a GPU")
    expect(tab.get_by_role("option", name="Tiny, 3D")).to_contain_text("Not for scenes, letters or photographs")
