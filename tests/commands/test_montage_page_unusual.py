"""Pages of montages that are out of the ordinary: one slide, thousands of them, ids that look like markup, tiles that are missing."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from tests.support.browser import browser as browser
from tests.support.browser import page as page
from tests.support.montages import TRUNCATED, Looking, cell, found, opened, ordinary, page_on_disk, query, says
from tests.support.running import until

if TYPE_CHECKING:
    from playwright.sync_api import Page

HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(2)>",
    "</script><svg onload=alert(3)>",
    "a\"b'c&amp;d",
    "🔬 probe 7",
    "שקופית 12",
    "\u202ereversed",
    "two\nlines",
    "a/b?c#d&nth=9",
    "50 %41",
    "bad\udcffname",
]


def test_a_montage_without_failures_shows_no_such_button(page: Page, tmp_path: Path) -> None:
    opened(page, page_on_disk(tmp_path, [cell("only")], columns=1, cell=(900, 500)))
    says(page.locator("header"), "1 slide ·")
    assert page.get_by_role("button", name="failed").count() == 0


def test_whatever_an_id_holds_is_text(page: Page, tmp_path: Path) -> None:
    cells = [cell(hostile, hostile, reason=hostile, remark=hostile) for hostile in HOSTILE]
    looking = opened(page, page_on_disk(tmp_path, cells, columns=4, cell=(300, 200), title=HOSTILE[0]))
    shown = [text.replace("\n", "↵").replace("\u202e", "␦").replace("\udcff", "\\xff") for text in HOSTILE]
    page.get_by_role("button", name=f"{len(HOSTILE)} failed").click()
    assert page.locator("#failures .id").all_text_contents() == page.locator("#failures .reason").all_text_contents() == shown
    looking.keep_picture("montage_hostile")
    for hostile, text in zip(HOSTILE, shown, strict=True):
        written = hostile.replace("\udcff", "\\xff")
        query(page).fill(written.split("\n")[0])
        until(lambda text=text: found(page) == [text], lambda: f"it is found: {found(page)}")  # type: ignore[misc]
        query(page).press("Enter")
        assert page.locator("#chosen p").all_text_contents()[:3] == [text, text, f"Failed: {text}"]
        assert page.url.endswith("#slide=" + quote(written, safe="!'()*-._~"))
        page.reload()
        says(page.locator("#chosen .id"), text)
    assert page.title() == page.locator("h1").inner_text() == HOSTILE[0]
    assert page.locator("script").count() == 3
    looking.is_quiet()


@pytest.mark.parametrize("missing", ["all", "some"])
def test_missing_tiles_are_told(page: Page, tmp_path: Path, missing: str) -> None:
    made = page_on_disk(tmp_path, ordinary(), columns=6, cell=(400, 300))
    shutil.rmtree(tmp_path / "montage_files" if missing == "all" else tmp_path / "montage_files" / "11")
    looking = Looking(page, made).open()
    if missing == "some":
        looking.shows_whole()
        query(page).fill("slide-14")
        query(page).press("Enter")
        looking.fills(14)
    what = "The picture is missing." if missing == "all" else "Parts of the picture are missing."
    says(page.get_by_role("alert"), f"{what} Keep the folder montage_files beside this page.")
    looking.keep_picture(f"montage_tiles_missing_{missing}")
    page.keyboard.press("n")
    says(page.locator("#chosen .id"), "slide-00" if missing == "all" else "slide-14")


def test_five_thousand_slides_are_as_little_work_as_a_hundred(page: Page, tmp_path: Path) -> None:
    cells = [cell(f"case-{number:04d}", f"kind {number % 7}", reason=TRUNCATED if number % 4 == 1 else "") for number in range(5000)]
    looking = opened(page, page_on_disk(tmp_path, cells, columns=100, cell=(60, 40)))
    nodes_made = """async (steps) => {
        const counts = [];
        let count = 0;
        const create = document.createElement;
        document.createElement = (...all) => { count += 1; return create.apply(document, all); };
        for (const step of steps) {
            count = 0;
            if (typeof step === "string") {
                const field = document.getElementById("query");
                field.value = step;
                field.dispatchEvent(new Event("input"));
            } else {
                document.getElementById("viewer").dispatchEvent(new PointerEvent("pointermove", { clientX: step[0], clientY: step[1], pointerType: "mouse" }));
            }
            counts.push(count);
            await new Promise(requestAnimationFrame);
        }
        document.createElement = create;
        return counts;
    }"""
    searches: list[int] = page.evaluate(nodes_made, ["c", "ca", "case", "case-1", "case-12", "kind 3", "kind", ""])
    moves: list[int] = page.evaluate(nodes_made, [list(looking.place_of(number)) for number in range(0, 5000, 50)])
    assert 100 <= max(searches) < 1000, "a search makes lines for the first 100 it found"
    assert 5 <= max(moves) < 20, "a pointer that moves makes the lines of one slide"
    query(page).fill("kind")
    says(page.locator("#count"), "5,000 matches")
    says(page.locator("#more"), "The first 100 of 5,000.")
    assert page.evaluate("document.querySelectorAll('*').length") < 4000
    looking.keep_picture("montage_5000")
    query(page).fill("case-4321")
    query(page).press("Enter")
    looking.fills(4321)
    page.keyboard.press("Escape")
    page.keyboard.press("0")
    for number in (0, 99, 2550, 4999):
        page.mouse.move(*looking.place_of(number))
        says(page.get_by_role("tooltip"), f"case-{number:04d}")
    looking.is_quiet()
