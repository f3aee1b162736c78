"""The page in a real browser, driven as a person drives it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.service.app import create_app
from pipeline.service.guard import COOKIE
from pipeline.service.snapshots import Snapshots
from tests.service.serving import draw_gallery, gallery_of, on_port, picture

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
TEMPORARY = os.environ.get("TMPDIR", "/tmp")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium"),
    pytest.mark.skipif(not os.access(TEMPORARY, os.W_OK), reason="the browser writes temporary files"),
]
TOKEN = "a-token-of-24-characters"
LIMIT = 0.5


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("gallery")
    return gallery_of(folder, draw_gallery(folder), thresholds={"fpir 0.1": LIMIT}, words=True)


@pytest.fixture(scope="module")
def address(gallery: Any) -> Iterator[str]:
    with on_port(create_app(Snapshots(lambda: gallery, on_change=print))) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """A page whose scripts say nothing wrong, and that asks nobody else."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    context.set_default_timeout(20_000)
    page = context.new_page()
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on(
        "request", lambda request: None if request.url.startswith((address, "blob:")) else wrong.append(request.url)
    )
    page.goto(address)
    page.wait_for_selector("a.card")
    yield page
    assert wrong == []
    context.close()


def keys(page: Any, head: str = "pixels/half") -> list[str]:
    """The keys of the matches of ``head``, in their order."""
    page.wait_for_selector("#results[aria-busy=false] h2")
    cards = page.locator(f"[data-head='{head}'] a.card")
    return [cards.nth(place).get_attribute("data-key") for place in range(cards.count())]


def test_a_click_searches_from_the_picture_and_the_address_holds_it(page: Any, gallery: Any) -> None:
    page.locator("a.card[data-key='class 1/1.png']").click()
    seen = keys(page)
    searcher = gallery.heads[0].searcher
    matches = searcher.find(searcher.vectors_of(["class 1/1.png"]), 25)[0]
    assert seen == [match.key for match in matches if match.key != "class 1/1.png"]
    assert page.locator("h2").all_inner_texts() == ["half\nmmp@5 0.500", "raw\nmmp@5 0.500"]
    page.reload()
    assert keys(page) == seen
    page.go_back()
    page.wait_for_selector("[aria-label=Examples]")


def test_the_line_of_the_threshold_parts_matches_from_the_rest(page: Any, gallery: Any) -> None:
    page.locator("a.card[data-key='class 1/1.png']").click()
    keys(page)
    shown = page.evaluate("""() => [...document.querySelectorAll("[data-head='pixels/raw'] li")]
        .map((item) => item.className || item.querySelector("small").textContent.match(/-?[.\\d]+/)[0])""")
    line = shown.index("limit")
    assert all(float(similarity) >= LIMIT for similarity in shown[:line])
    assert set(shown[line + 1 :]) == {"under"}
    page.select_option("#limit", "none")
    page.wait_for_selector(".limit", state="detached")
    page.select_option("#limit", "hand")
    page.wait_for_selector(".limit")
    page.fill("#from", "0.99")
    page.locator("#from").blur()
    page.wait_for_selector(".limit:has-text('no match: .990')")
    assert "limit=0.99" in page.url


def test_a_threshold_of_pictures_is_not_for_words(page: Any) -> None:
    page.fill("#text", "red mug")
    page.keyboard.press("Enter")
    keys(page)
    assert page.locator(".limit, .under").count() == 0
    assert page.locator("#status").inner_text().endswith("is known of pictures, and not of words.")
    assert page.locator("#limit").input_value() == "none"
    assert page.locator("#limit option[disabled]").count() == 1
    page.select_option("#limit", "hand")
    page.wait_for_selector(".limit")
    page.locator("a.card").first.click()
    page.select_option("#limit", "fpir 0.1")
    page.wait_for_selector(".limit:has-text('wrong for 1 in 10')")
    assert page.locator("#limit option[disabled]").count() == 0


def test_rates_and_filters_are_in_words(page: Any) -> None:
    words = "wrong for 1 in 10 searches for what is not here"
    assert page.locator("#limit option").all_inner_texts() == [words, "any", "from a similarity"]
    page.locator("a.card").first.click()
    keys(page)
    assert f"no match below: .500 ({words})" in page.locator(".limit").first.inner_text()
    assert page.locator("#filters legend").inner_text() == "Only pictures"
    first = [select.inner_text() for select in page.locator("#filters select option[value='']").all()]
    assert first == ["with colour", "labelled"]


def test_filters_and_heads_are_in_the_address_and_can_be_taken_back(page: Any) -> None:
    page.locator("a.card[data-key='class 1/1.png']").click()
    whole = keys(page)
    page.get_by_label("Only with this colour").select_option("red")
    page.wait_for_selector("button.chip")
    seen = keys(page)
    assert set(seen) == {f"class {number % 5}/{number}.png" for number in range(0, 30, 3)}
    page.locator("label.chip", has_text="raw").click()
    page.wait_for_selector("[data-head='pixels/raw']", state="detached")
    assert "where=colour%3Dred" in page.url
    assert "head=pixels%2Fhalf" in page.url
    page.reload()
    assert keys(page) == seen
    page.get_by_label("Remove the filter colour red").click()
    page.wait_for_selector("button.chip", state="detached")
    assert keys(page) == whole


def test_a_picture_is_searched_with_when_it_is_chosen_dropped_or_pasted(page: Any, tmp_path: Path) -> None:
    content = picture()
    page.set_input_files("#file", {"name": "mine.png", "mimeType": "image/png", "buffer": content})
    seen = keys(page)
    assert len(seen) == 24
    assert page.locator("#about").inner_text() == "mine.png"
    for event, field in (("drop", "dataTransfer"), ("paste", "clipboardData")):
        page.goto(page.url)
        page.wait_for_selector("[aria-label=Examples]")
        page.evaluate(
            """([event, field, bytes]) => {
                const carried = new DataTransfer();
                carried.items.add(new File([new Uint8Array(bytes)], "mine.png", { type: "image/png" }));
                const happened = new Event(event, { bubbles: true, cancelable: true });
                Object.defineProperty(happened, field, { value: carried });
                document.body.dispatchEvent(happened);
            }""",
            [event, field, list(content)],
        )
        assert keys(page) == seen


def test_the_keyboard_reaches_everything_and_the_screen_reader_is_told(page: Any) -> None:
    page.locator("a.card").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    assert len(keys(page)) == 24
    assert "24 pictures" in page.locator("[role=status]").inner_text()
    assert page.evaluate("document.activeElement.id") == "results"
    unnamed = page.evaluate("""() => [...document.querySelectorAll("a, button, input, select")]
        .filter((one) => one.offsetParent && !(one.textContent.trim() || one.ariaLabel || one.labels?.length))
        .map((one) => one.outerHTML)""")
    assert unnamed == []


def test_further_pages_follow(page: Any) -> None:
    page.locator("a.card[data-key='class 1/1.png']").click()
    first = keys(page)
    page.get_by_role("button", name="Show more").click()
    page.wait_for_selector("#more", state="hidden")
    every = keys(page)
    assert every[:24] == first
    assert len(every) == len(set(every)) == 29


def test_what_is_refused_is_said_on_the_page(browser: Any, address: str) -> None:
    page = browser.new_page()
    page.goto(f"{address}/?key=nobody")
    page.wait_for_selector("#problem:not([hidden])")
    assert "no image of key 'nobody'" in page.locator("[role=alert]").inner_text()
    page.set_input_files("#file", {"name": "text.png", "mimeType": "image/png", "buffer": b"no image"})
    page.wait_for_selector("#problem:has-text('these bytes are no JPEG')")
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_is_wider_than_the_window_and_text_stands_out(
    browser: Any, address: str, width: int, scheme: str
) -> None:
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page.goto(f"{address}/?key=class 1/1.png&where=colour=red")
    page.wait_for_selector("#results[aria-busy=false] h2")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("h2").count() == (2 if width == 1280 else 1)
    colour, ground = page.evaluate("""[getComputedStyle(document.querySelector(".card small")).color,
        getComputedStyle(document.body).backgroundColor]""")
    assert contrast(colour, ground) >= 4.5
    page.close()


def contrast(one: str, other: str) -> float:
    """The contrast of two colours as WCAG defines it."""

    def luminance(colour: str) -> float:
        channels = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
        red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_with_a_token_the_page_is_opened_by_its_fragment_or_asks_for_it(browser: Any, gallery: Any) -> None:
    with on_port(create_app(Snapshots(lambda: gallery, on_change=print), token=TOKEN)) as address:
        context = browser.new_context()
        page = context.new_page()
        page.goto(address)
        page.wait_for_selector("#unlock:not([hidden])")
        page.fill("#token", TOKEN)
        page.keyboard.press("Enter")
        page.wait_for_selector("a.card")
        assert [cookie["name"] for cookie in context.cookies()] == [COOKIE]
        context.close()
        page = browser.new_page()
        page.goto(f"{address}/#token={TOKEN}")
        page.wait_for_selector("a.card")
        assert TOKEN not in page.url
        page.close()
