"""Tests of a montage's page, opened from the disk in a real browser."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Browser, Locator, Page

from himl_cli.slides.pyramid import DeepZoom, write_page
from himl_cli.slides.slide_records import Box, CellOutcome
from tests.support.browser import browser as browser
from tests.support.browser import page as page
from tests.support.running import until

Colour = tuple[int, int, int]
Point = tuple[float, float]
LARGEST = 8  # screen pixels per pixel of the montage
# The margin around a zoomed cell, in screen pixels.
MARGIN = 12
TOLERANCE = 10  # per colour channel, for JPEG and smoothing
ABORTED = "net::ERR_ABORTED"  # the harmless error of requests that a reload cancels
TRUNCATED = "The file ends in the middle of level 0."
HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(2)>",
    "</script><svg onload=alert(3)>",
    "a\"b'c&amp;d",
    "🔬 probe 7",
    "שקופית 12",
]
HOSTILE += ["\u202ereversed", "two\nlines", "a/b?c#d&nth=9", "50 %41", "bad\udcffname"]


@dataclass(frozen=True)
class PageOnDisk:
    folder: Path
    cells: Sequence[CellOutcome]
    width: int
    height: int
    colours: Sequence[Colour]

    @property
    def address(self) -> str:
        return (self.folder / "index.html").as_uri()


def page_on_disk(
    folder: Path, cells: Sequence[CellOutcome], *, columns: int, cell: tuple[int, int], title: str = "Montage"
) -> PageOnDisk:
    """Write a page and its pyramid. Positions and boxes of *cells* are computed."""
    across, down = cell
    pixels: NDArray[np.uint8] = np.full((-(-len(cells) // columns) * down, columns * across, 3), 255, np.uint8)
    placed, colours = [], []
    for number, each in enumerate(cells):
        column, row = number % columns, number // columns
        colours.append((40 + number * 53 % 180, 40 + number * 97 % 180, 40 + number * 31 % 180))
        box = Box(column * across, row * down, across, down)
        pixels[box.y + 2 : box.y + down - 2, box.x + 2 : box.x + across - 2] = colours[-1]
        placed.append(replace(each, column=column, row=row, box=box))
    with ThreadPoolExecutor(2) as pool:
        sink = DeepZoom(folder, (pixels.shape[1], pixels.shape[0]), pool)
        sink.write(pixels)
        sink.finish()
    write_page(folder / "index.html", sink.tiling, placed, title)
    return PageOnDisk(folder, placed, pixels.shape[1], pixels.shape[0], colours)


def cell(
    slide_id: str,
    label: str | None = None,
    *,
    level: int | None = 1,
    reason: str = "",
    is_ok: bool | None = None,
    remark: str = "",
) -> CellOutcome:
    is_ok, box = not reason if is_ok is None else is_ok, Box(0, 0, 1, 1)
    texts: Any = {
        "image": f"cohort/{slide_id}.tiff",
        "label": label,
        "backend": "openslide",
        "reason": reason,
        "remark": remark,
    }
    return CellOutcome(
        slide_id, column=0, row=0, box=box, picture=box if is_ok else None, level=level, is_ok=is_ok, **texts
    )


def ordinary() -> list[CellOutcome]:
    """24 slides: two that failed, one whose mask failed, one read at another level, and two with the same id."""
    cells = [cell(f"slide-{number:02d}", ("benign", "tumour", None)[number % 3]) for number in range(24)]
    cells[5] = cell("slide-05", "tumour", level=None, reason=TRUNCATED)
    cells[9] = cell("slide-09", None, level=None, reason="No file is there.")
    cells[10] = cell("slide-10", "tumour", reason="mask: No file is there.", is_ok=True)
    cells[7] = cell("slide-07", "Tumoral é", level=2, remark="Level 3 is missing: level 2 was used.")
    cells[20] = cell("slide-03", "the other one")
    return cells


def is_colour(screen: NDArray[np.uint8], place: Point, colour: Colour) -> bool:
    x, y = (round(each) for each in place)
    return bool(np.abs(screen[y, x].astype(int) - colour).max() <= TOLERANCE)


@dataclass
class OpenedPage:
    """An open page, with all messages of the browser about it."""

    page: Page
    montage: PageOnDisk
    said: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: self.said.append(f"dialog: {dialog.message}"))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on(
            "requestfailed", lambda request: self.failed.extend([] if request.failure == ABORTED else [request.url])
        )

    @property
    def frame(self) -> Box:
        found = self.page.locator("#viewer").bounding_box()
        assert found is not None
        return Box(*(round(found[name]) for name in ("x", "y", "width", "height")))

    def place_of(self, number: int) -> Point:
        """Return the middle of a cell on the screen when the page shows the whole montage."""
        frame, box = self.frame, self.montage.cells[number].box
        scale = min(
            (frame.width - 2 * MARGIN) / self.montage.width, (frame.height - 2 * MARGIN) / self.montage.height, LARGEST
        )
        left = frame.x + (frame.width - self.montage.width * scale) / 2
        top = frame.y + (frame.height - self.montage.height * scale) / 2
        return left + (box.x + box.width / 2) * scale, top + (box.y + box.height / 2) * scale

    def screen(self) -> NDArray[np.uint8]:
        return np.asarray(Image.open(BytesIO(self.page.screenshot(scale="css"))).convert("RGB"))

    def has(self, places: Mapping[int, Point]) -> bool:
        """Check that each of these cells, by number, has its colour at its position on the screen."""
        screen = self.screen()
        return all(is_colour(screen, place, self.montage.colours[number]) for number, place in places.items())

    def shows(self, places: Mapping[int, Point]) -> None:
        until(lambda: self.has(places), f"the cells are there: {places}")

    def shows_other(self, number: int, place: Point) -> None:
        until(lambda: not self.has({number: place}), f"cell {number} is gone from {place}")

    def shows_whole(self) -> None:
        self.shows({number: self.place_of(number) for number in (0, len(self.montage.cells) - 1)})

    def fills(self, number: int) -> None:
        """Wait until the cell is in the middle of the window, above its description, and as large as possible."""
        covering = self.page.locator("#chosen").bounding_box()
        assert covering is not None, "the chosen slide is not told"
        frame, box, colour = self.frame, self.montage.cells[number].box, self.montage.colours[number]
        free = frame.width - 2 * MARGIN, covering["y"] - frame.y - 2 * MARGIN
        scale = min(free[0] / box.width, free[1] / box.height, LARGEST)
        x, y = frame.x + frame.width / 2, (frame.y + covering["y"]) / 2
        inside, outside = 0.3 * scale, 0.5 * scale + 6 / min(box.size)
        edges = [(box.width, 0), (-box.width, 0), (0, box.height), (0, -box.height)]

        def is_so() -> bool:
            screen = self.screen()
            within, beyond = (
                [is_colour(screen, (x + across * share, y + down * share), colour) for across, down in edges]
                for share in (inside, outside)
            )
            return all(within) and not any(beyond)

        until(is_so, f"cell {number} fills the window")

    def is_quiet(self) -> None:
        """Check for no browser messages, no failed requests, and no requests outside of the folder."""
        assert (self.said, self.failed) == ([], [])
        own = self.montage.folder.as_uri() + "/"
        assert [url for url in self.requests if not url.startswith((own, "data:,"))] == []


def opened(page: Page, montage: PageOnDisk, address: str = "", *, is_whole: bool = True) -> OpenedPage:
    made = OpenedPage(page, montage)
    page.goto(montage.address + address)
    if is_whole and not address:
        made.shows_whole()
    return made


def query(page: Page) -> Locator:
    return page.get_by_role("combobox", name="Search slides by id or label")


def found(page: Page) -> list[str]:
    return page.locator("#results .id").all_inner_texts()


def says(place: Locator, text: str) -> None:
    from playwright.sync_api import expect

    expect(place).to_contain_text(text, timeout=60_000)


@pytest.fixture(scope="module")
def montage(tmp_path_factory: pytest.TempPathFactory) -> PageOnDisk:
    return page_on_disk(
        tmp_path_factory.mktemp("montage"), ordinary(), columns=6, cell=(400, 300), title="Cohort of 2026"
    )


def test_a_page_opens_from_the_disk_and_is_searched(page: Page, montage: PageOnDisk) -> None:
    view = opened(page, montage)
    assert page.title() == "Cohort of 2026"
    says(page.locator("header"), "24 slides · 2,400 × 1,200 px")
    tiles = {url.rpartition("/montage_files/")[2] for url in view.requests if "/montage_files/" in url}
    assert len(tiles) > 4
    assert all((montage.folder / "montage_files" / tile).is_file() for tile in tiles)
    for text, count, first, number in (
        ("LIDE-1", "10 matches", "slide-10", 10),
        ("tumoral e", "1 match", "slide-07", 7),
        ("benign slide-0", "3 matches", "slide-00", 0),
        ("the", "1 match", "slide-03", 20),
    ):
        query(page).fill(text)
        says(page.locator("#count"), count)
        assert found(page)[0] == first
        query(page).press("Enter")
        says(page.locator("#chosen .id"), first)
        view.fills(number)
        assert page.url.partition("#")[2] == f"slide={first}" + "&nth=2" * (number == 20)
    query(page).fill("slide-1")
    for key, expected in (("ArrowDown", 1), ("ArrowUp", 0), ("ArrowUp", 9), ("ArrowDown", 0), ("ArrowDown", 1)):
        query(page).press(key)
        chosen = page.get_by_role("option", selected=True)
        assert chosen.count() == 1
        assert query(page).get_attribute("aria-activedescendant") == chosen.get_attribute("id") == f"result-{expected}"
    query(page).press("Enter")
    for key, number in (("n", 12), ("p", 11)):
        page.keyboard.press(key)
        view.fills(number)
    query(page).fill("slide-99")
    says(page.locator("#count"), "No match")
    query(page).press("Enter")
    assert "slide-99" not in page.url
    view.is_quiet()


def test_pointers_clicks_and_the_list_of_failed_slides(page: Page, montage: PageOnDisk) -> None:
    view, tooltip = opened(page, montage), page.get_by_role("tooltip")
    for number, lines in {
        2: ["slide-02", "Level 1 · openslide"],
        5: ["slide-05", "tumour", f"Failed: {TRUNCATED}", "openslide"],
        7: ["slide-07", "Tumoral é", "Level 2 · openslide", "Level 3 is missing: level 2 was used."],
        10: ["slide-10", "tumour", "mask: No file is there.", "Level 1 · openslide"],
    }.items():
        page.mouse.move(*view.place_of(number))
        says(tooltip, lines[0])
        assert tooltip.locator("p:visible").all_inner_texts() == lines
    page.mouse.move(700, 5)
    tooltip.wait_for(state="hidden")
    page.mouse.click(*view.place_of(14))
    view.fills(14)
    for _ in range(6):
        page.keyboard.press("+")
    corner = view.frame.x + 5, view.frame.y + 5
    view.shows({14: corner})
    page.mouse.click(*corner)
    page.mouse.move(700, 5)
    assert view.has({14: corner})
    page.get_by_role("button", name="3 failed").click()
    panel = page.get_by_role("region", name="2 slides and 1 mask failed")
    texts = [f"slide-05\n{TRUNCATED}", "slide-09\nNo file is there.", "slide-10\nmask: No file is there."]
    assert panel.get_by_role("button").all_inner_texts() == texts
    panel.get_by_role("button", name="slide-09").click()
    says(page.locator("#chosen"), "Failed: No file is there.")
    page.keyboard.press("Escape")
    panel.wait_for(state="hidden")
    view.fills(9)
    view.is_quiet()


def test_an_address_leads_to_a_slide(page: Page, montage: PageOnDisk) -> None:
    view = opened(page, montage, "#slide=slide-17")
    view.fills(17)
    for address, number in {"slide=slide-03": 3, "slide=slide-03&nth=2": 20, "slide=slide%2D22": 22}.items():
        page.evaluate("address => { location.hash = address }", address)
        view.fills(number)
    page.goto("about:blank")
    page.goto(montage.address + "#slide=nobody")
    says(page.get_by_role("alert"), "The montage has no slide of the id that the address names.")
    view.shows_whole()
    page.get_by_role("button", name="Dismiss").click()
    page.get_by_role("alert").wait_for(state="hidden")
    view.is_quiet()


def test_keys_and_buttons_of_a_page(page: Page, montage: PageOnDisk) -> None:
    view = opened(page, montage)
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "query"
    page.keyboard.type("slide-0+0")
    assert query(page).input_value() == "slide-0+0"
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    for key, number in (("n", 0), ("n", 1), ("p", 0), ("p", 23)):
        page.keyboard.press(key)
        says(page.locator("#chosen .id"), f"slide-{number:02d}")
    view.fills(23)
    page.keyboard.press("Escape")
    page.locator("#chosen").wait_for(state="hidden")
    assert "#" not in page.url
    page.keyboard.press("0")
    view.shows_whole()
    page.mouse.move(700, 5)
    edge = view.place_of(0)
    for zoom_in, zoom_out in (("+", "-"), ("Zoom in", "Zoom out"), ("Zoom in", "Whole montage")):
        for what in (zoom_in, zoom_out):
            page.keyboard.press(what) if len(what) == 1 else page.get_by_role("button", name=what).click()
            view.shows_other(0, edge) if what == zoom_in else view.shows_whole()
    page.mouse.move(700, 5)
    page.keyboard.press("ArrowRight")
    x, y = view.place_of(3)
    view.shows({3: (x - 0.15 * view.frame.width, y)})
    page.keyboard.press("?")
    page.get_by_role("region", name="Keys").wait_for()
    page.keyboard.press("Escape")
    page.get_by_role("region", name="Keys").wait_for(state="hidden")


@pytest.mark.parametrize(("scheme", "width", "height"), [("light", 360, 640), ("dark", 2560, 1440)])
def test_a_page_fits_any_screen(browser: Browser, montage: PageOnDisk, scheme: str, width: int, height: int) -> None:
    is_phone = width < 500
    theme: Any = "dark" if scheme == "dark" else "light"
    viewport: Any = {"width": width, "height": height}
    with browser.new_context(
        viewport=viewport, color_scheme=theme, reduced_motion="reduce", has_touch=is_phone, is_mobile=is_phone
    ) as context:
        page = context.new_page()
        view = opened(page, montage)
        place = view.place_of(8)
        if is_phone:
            page.touchscreen.tap(*place)
        else:
            page.mouse.click(*place)
            page.mouse.move(5, 5)
        view.fills(8)
        query(page).fill("tumour")
        for shown in page.locator("header, #chosen, #found, .search, .tools button:visible, #count").all():
            box = shown.bounding_box()
            assert box is not None
            assert (box["x"] >= 0, box["x"] + box["width"] <= width, box["y"] + box["height"] <= height) == (
                True,
                True,
                True,
            )
        assert page.evaluate("[document.documentElement.scrollWidth, document.documentElement.scrollHeight]") == [
            width,
            height,
        ]
        view.is_quiet()


def test_whatever_an_id_holds_is_text(page: Page, tmp_path: Path) -> None:
    cells = [cell(hostile, hostile, reason=hostile, remark=hostile) for hostile in HOSTILE]
    view = opened(page, page_on_disk(tmp_path, cells, columns=4, cell=(300, 200), title=HOSTILE[0]))
    shown = [text.replace("\n", "↵").replace("\u202e", "␦").replace("\udcff", "\\xff") for text in HOSTILE]
    page.get_by_role("button", name=f"{len(HOSTILE)} failed").click()
    assert (
        page.locator("#failures .id").all_text_contents()
        == page.locator("#failures .reason").all_text_contents()
        == shown
    )
    for hostile, text in zip(HOSTILE, shown, strict=True):
        written = hostile.replace("\udcff", "\\xff")
        query(page).fill(written.split("\n")[0])
        # The search finds exactly this slide.
        until(lambda text=text: found(page) == [text], lambda: f"it is found: {found(page)}")  # type: ignore[misc]
        query(page).press("Enter")
        assert page.locator("#chosen p").all_text_contents()[:3] == [text, text, f"Failed: {text}"]
        assert page.url.endswith("#slide=" + quote(written, safe="!'()*-._~"))
        if hostile in HOSTILE[-4:]:
            page.reload()
            says(page.locator("#chosen .id"), text)
    assert page.title() == page.locator("h1").inner_text() == HOSTILE[0]
    assert page.locator("script").count() == 3
    view.is_quiet()


@pytest.mark.parametrize("level", ["", "11"])
def test_missing_tiles_are_told(page: Page, tmp_path: Path, level: str) -> None:
    made = page_on_disk(tmp_path, ordinary(), columns=6, cell=(400, 300))
    shutil.rmtree(tmp_path / "montage_files" / level)
    view = opened(page, made, is_whole=bool(level))
    if level:
        query(page).fill("slide-14")
        query(page).press("Enter")
        view.fills(14)
    what = "Parts of the picture are missing." if level else "The picture is missing."
    says(page.get_by_role("alert"), f"{what} Keep the folder montage_files beside this page.")
    page.keyboard.press("n")
    says(page.locator("#chosen .id"), "slide-14" if level else "slide-00")
