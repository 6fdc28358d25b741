"""The page of a montage as its reader meets it: opened from the disk in a real browser."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pytest

from tests.support.browser import browser as browser
from tests.support.browser import page as page
from tests.support.montages import TRUNCATED, PageOnDisk, found, opened, ordinary, page_on_disk, query, says

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page


@pytest.fixture(scope="module")
def montage(tmp_path_factory: pytest.TempPathFactory) -> PageOnDisk:
    return page_on_disk(tmp_path_factory.mktemp("montage"), ordinary(), columns=6, cell=(400, 300), title="Cohort of 2026")


def test_a_page_opens_from_the_disk_without_any_network(page: Page, montage: PageOnDisk) -> None:
    looking = opened(page, montage)
    assert page.title() == "Cohort of 2026"
    says(page.locator("header"), "24 slides · 2,400 × 1,200 px")
    tiles = {url.rpartition("/montage_files/")[2] for url in looking.asked if "/montage_files/" in url}
    assert len(tiles) > 4
    assert all((montage.folder / "montage_files" / tile).is_file() for tile in tiles)
    looking.is_quiet()
    looking.keep_picture("montage_whole")


def test_a_search_finds_ids_and_labels_and_goes_there(page: Page, montage: PageOnDisk) -> None:
    looking = opened(page, montage)
    for text, count, first, number in (
        ("slide-1", "10 matches", "slide-10", 10),
        ("LIDE-23", "1 match", "slide-23", 23),
        ("benign", "7 matches", "slide-00", 0),
        ("tumoral e", "1 match", "slide-07", 7),
        ("benign slide-0", "3 matches", "slide-00", 0),
        ("the", "1 match", "slide-03", 20),
    ):
        query(page).fill(text)
        says(page.locator("#count"), count)
        assert found(page)[0] == first
        query(page).press("Enter")
        says(page.locator("#chosen .id"), first)
        looking.fills(number)
        assert page.url.partition("#")[2] == f"slide={first}" + "&nth=2" * (number == 20)
    looking.is_quiet()


def test_arrows_choose_among_what_was_found(page: Page, montage: PageOnDisk) -> None:
    looking = opened(page, montage)
    query(page).fill("slide-1")
    for key, expected in (("ArrowDown", 1), ("ArrowDown", 2), ("ArrowUp", 1), ("ArrowUp", 0), ("ArrowUp", 9), ("ArrowDown", 0), ("ArrowDown", 1)):
        query(page).press(key)
        chosen = page.get_by_role("option", selected=True)
        assert chosen.count() == 1
        assert query(page).get_attribute("aria-activedescendant") == chosen.get_attribute("id") == f"result-{expected}"
    query(page).press("Enter")
    looking.fills(11)


def test_what_a_search_found_stands_out(page: Page, montage: PageOnDisk) -> None:
    looking = opened(page, montage)
    query(page).fill("slide-23")
    looking.shows_other(0, looking.place_of(0))
    looking.shows({23: looking.place_of(23)})
    looking.keep_picture("montage_search")
    query(page).press("Escape")
    assert page.get_by_role("listbox").count() == 0
    query(page).press("Escape")
    assert query(page).input_value() == ""
    looking.shows_whole()


def test_nothing_found_is_said(page: Page, montage: PageOnDisk) -> None:
    opened(page, montage)
    query(page).fill("slide-99")
    says(page.locator("#count"), "No match")
    query(page).press("Enter")
    assert "#slide" not in page.url


def test_a_pointer_on_a_slide_tells_what_it_is(page: Page, montage: PageOnDisk) -> None:
    looking = opened(page, montage)
    told = page.get_by_role("tooltip")
    for number, lines in {
        0: ["slide-00", "benign", "Level 1 · openslide"],
        2: ["slide-02", "Level 1 · openslide"],
        5: ["slide-05", "tumour", f"Failed: {TRUNCATED}", "openslide"],
        7: ["slide-07", "Tumoral é", "Level 2 · openslide", "Level 3 is missing: level 2 was used."],
        10: ["slide-10", "tumour", "mask: No file is there.", "Level 1 · openslide"],
    }.items():
        page.mouse.move(*looking.place_of(number))
        says(told, lines[0])
        assert told.locator("p:visible").all_inner_texts() == lines
    looking.keep_picture("montage_hover")
    page.mouse.move(700, 5)
    told.wait_for(state="hidden")


def test_a_click_zooms_to_a_slide_and_one_inside_it_stays(page: Page, montage: PageOnDisk) -> None:
    looking = opened(page, montage)
    page.mouse.click(*looking.place_of(14))
    looking.fills(14)
    looking.keep_picture("montage_chosen")
    for _ in range(6):
        page.keyboard.press("+")
    frame = looking.frame
    corner = frame.x + 5, frame.y + 5
    looking.shows({14: corner})
    page.mouse.click(*corner)
    page.mouse.move(700, 5)
    assert looking.has({14: corner})
    looking.is_quiet()


def test_failed_slides_are_listed_with_their_reasons(page: Page, montage: PageOnDisk) -> None:
    looking = opened(page, montage)
    page.get_by_role("button", name="3 failed").click()
    panel = page.get_by_role("region", name="2 slides and 1 mask failed")
    assert panel.get_by_role("button").all_inner_texts() == [
        f"slide-05\n{TRUNCATED}",
        "slide-09\nNo file is there.",
        "slide-10\nmask: No file is there.",
    ]
    looking.keep_picture("montage_failed")
    panel.get_by_role("button", name="slide-09").click()
    says(page.locator("#chosen"), "Failed: No file is there.")
    page.keyboard.press("Escape")
    panel.wait_for(state="hidden")
    looking.fills(9)


def test_an_address_leads_to_a_slide(page: Page, montage: PageOnDisk) -> None:
    looking = opened(page, montage, "#slide=slide-17")
    looking.fills(17)
    for address, number in {"slide=slide-03": 3, "slide=slide-03&nth=2": 20, "slide=slide%2D22": 22}.items():
        page.evaluate("address => { location.hash = address }", address)
        looking.fills(number)
    looking.is_quiet()


def test_an_address_of_no_slide_is_told(page: Page, montage: PageOnDisk) -> None:
    looking = opened(page, montage, "#slide=nobody")
    says(page.get_by_role("alert"), "The montage has no slide of the id that the address names.")
    looking.shows_whole()
    page.get_by_role("button", name="Dismiss").click()
    page.get_by_role("alert").wait_for(state="hidden")


def test_keys(page: Page, montage: PageOnDisk) -> None:
    looking = opened(page, montage)
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "query"
    page.keyboard.type("slide-0+0")
    assert query(page).input_value() == "slide-0+0"
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    for key, number in (("n", 0), ("n", 1), ("p", 0), ("p", 23)):
        page.keyboard.press(key)
        says(page.locator("#chosen .id"), f"slide-{number:02d}")
    looking.fills(23)
    page.keyboard.press("Escape")
    page.locator("#chosen").wait_for(state="hidden")
    assert "#" not in page.url
    page.keyboard.press("0")
    looking.shows_whole()
    page.mouse.move(700, 5)
    edge = looking.place_of(0)
    page.keyboard.press("+")
    looking.shows_other(0, edge)
    page.keyboard.press("-")
    looking.shows_whole()
    page.keyboard.press("ArrowRight")
    x, y = looking.place_of(3)
    looking.shows({3: (x - 0.15 * looking.frame.width, y)})
    page.keyboard.press("?")
    page.get_by_role("region", name="Keys").wait_for()
    looking.keep_picture("montage_keys")
    page.keyboard.press("Escape")
    page.get_by_role("region", name="Keys").wait_for(state="hidden")


def test_n_and_p_go_through_what_was_found(page: Page, montage: PageOnDisk) -> None:
    looking = opened(page, montage)
    query(page).fill("benign")
    query(page).press("Enter")
    for key, number in (("n", 3), ("n", 6), ("p", 3)):
        page.keyboard.press(key)
        looking.fills(number)


def test_buttons_zoom(page: Page, montage: PageOnDisk) -> None:
    looking = opened(page, montage)
    edge = looking.place_of(0)
    page.get_by_role("button", name="Zoom in").click()
    looking.shows_other(0, edge)
    page.get_by_role("button", name="Zoom out").click()
    looking.shows_whole()
    page.get_by_role("button", name="Zoom in").click()
    page.get_by_role("button", name="Whole montage").click()
    looking.shows_whole()


@pytest.mark.parametrize(("scheme", "width", "height"), [("light", 360, 640), ("dark", 390, 844), ("light", 1280, 800), ("dark", 2560, 1440)])
def test_it_fits_any_screen(browser: Browser, montage: PageOnDisk, scheme: str, width: int, height: int) -> None:
    is_phone = width < 500
    theme = "dark" if scheme == "dark" else "light"
    viewport = {"width": width, "height": height}
    with browser.new_context(viewport=viewport, color_scheme=theme, reduced_motion="reduce", has_touch=is_phone, is_mobile=is_phone) as context:  # type: ignore[arg-type]
        page = context.new_page()
        looking = opened(page, montage)
        looking.keep_picture(f"montage_{scheme}_{width}")
        place = looking.place_of(8)
        if is_phone:
            page.touchscreen.tap(*place)
        else:
            page.mouse.click(*place)
            page.mouse.move(5, 5)
        looking.fills(8)
        looking.keep_picture(f"montage_{scheme}_{width}_chosen")
        query(page).fill("tumour")
        looking.keep_picture(f"montage_{scheme}_{width}_search")
        for seen in page.locator("header, #chosen, #found, .search, .tools button:visible, #count").all():
            box = seen.bounding_box()
            assert box is not None
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= width
            assert box["y"] + box["height"] <= height
        assert page.evaluate("[document.documentElement.scrollWidth, document.documentElement.scrollHeight]") == [width, height]
        for element in ("h1", "#summary", "#query", "#count", "#failed", "#chosen .id", "#chosen .how", "#results .more", "#results mark"):
            assert contrast(page.locator(element).first) >= 4.5, element
        looking.is_quiet()


def contrast(text: Locator) -> float:
    """How much a text stands out from what is behind it, as WCAG counts."""
    colours = text.evaluate(
        """element => {
            const ground = (each) => {
                const found = getComputedStyle(each).backgroundColor;
                return found === "rgba(0, 0, 0, 0)" && each.parentElement ? ground(each.parentElement) : found;
            };
            return [getComputedStyle(element).color, ground(element)].map((colour) => colour.match(/[\\d.]+/g).slice(0, 3).map(Number));
        }"""
    )
    light, dark = sorted((luminance(colour) for colour in colours), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: Sequence[float]) -> float:
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in (each / 255 for each in colour))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
