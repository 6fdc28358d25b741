"""Slides to make montages of, reading what was made, and the page of a montage in a browser."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from himl_cli.core.montage import Box, CellOutcome, Size
from himl_cli.services.montage.pyramid import DeepZoom, write_page
from himl_cli.services.montage.resampling import Bicubic, as_pillow
from tests.support.folders import files_below
from tests.support.running import until
from tests.support.slides import write_kind

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page


Row = Mapping[str, str]
SEEDS = {"a.tiff": 1, "b.svs": 2, "c.png": 3, "d.tiff": 4}


def four_slides(folder: Path) -> Path:
    """Four slides of one shape in three formats, one of them in a subfolder, all with the seeds of SEEDS; and a file that is no slide."""
    (folder / "more").mkdir(parents=True)
    write_kind("deflate-pyramid", folder, seed=SEEDS["a.tiff"], name="a")
    write_kind("svs", folder, seed=SEEDS["b.svs"], name="b")
    write_kind("png", folder, seed=SEEDS["c.png"], name="c")
    write_kind("jpeg-pyramid", folder / "more", seed=SEEDS["d.tiff"], name="d")
    (folder / "notes.txt").write_text("no slide")
    return folder


def rows_of(folder: Path) -> list[Row]:
    """The lines of its montage.csv."""
    with (folder / "montage.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def pixels_of(path: Path) -> NDArray[np.uint8]:
    """RGB, shape (height, width, 3)."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def resized(pixels: NDArray[np.uint8], target: Size, bicubic: Bicubic = as_pillow) -> NDArray[np.uint8]:
    """A picture that is held whole, shape (height, width, 3), in another size."""
    return bicubic((pixels,), target, None)


def nearest(pixels: NDArray[np.uint8], target: Size) -> NDArray[np.uint8]:
    """The same by its nearest pixels, as Pillow takes them."""
    return np.asarray(Image.fromarray(pixels).resize(target, Image.Resampling.NEAREST))


def picture_box(row: Row) -> tuple[int, int, int, int]:
    """Left, upper, right and lower side of the slide's own pixels."""
    x, y, width, height = (int(row[f"picture_{name}"]) for name in ("x", "y", "width", "height"))
    return x, y, x + width, y + height


def difference(montage: NDArray[np.uint8], row: Row, source: NDArray[np.uint8]) -> float:
    """How far what the montage shows of a slide is from *source*, in grey levels, at the mean."""
    left, upper, right, lower = picture_box(row)
    wanted = np.asarray(Image.fromarray(source).resize((right - left, lower - upper), Image.Resampling.BICUBIC), np.int16)
    return float(np.abs(montage[upper:lower, left:right].astype(np.int16) - wanted).mean())


def left_in(folder: Path) -> list[str]:
    """The files below it, hidden ones too."""
    return sorted(str(path.relative_to(folder)) for path in files_below(folder))


Colour = tuple[int, int, int]
Point = tuple[float, float]
LARGEST = 8  # pixels of the screen for one of the montage
MARGIN = 12  # pixels of the screen that the page leaves around what it zooms to
TOLERANCE = 10  # of a colour, for JPEG and smoothing
WAIT = 60_000  # milliseconds
TRUNCATED = "The file ends in the middle of level 0."


@dataclass(frozen=True)
class PageOnDisk:
    """A montage of *columns*, with a colour for each cell."""

    folder: Path
    cells: Sequence[CellOutcome]
    width: int
    height: int
    colours: Sequence[Colour]

    @property
    def address(self) -> str:
        return (self.folder / "index.html").as_uri()


def page_on_disk(folder: Path, cells: Sequence[CellOutcome], *, columns: int, cell: tuple[int, int], title: str = "Montage") -> PageOnDisk:
    """Write it, pyramid and page. Places and boxes of *cells* are filled in."""
    across, down = cell
    rows = -(-len(cells) // columns)
    pixels: NDArray[np.uint8] = np.full((rows * down, columns * across, 3), 255, np.uint8)
    placed, colours = [], []
    for number, each in enumerate(cells):
        column, row = number % columns, number // columns
        colour = (40 + number * 53 % 180, 40 + number * 97 % 180, 40 + number * 31 % 180)
        box = Box(column * across, row * down, across, down)
        pixels[box.y + 2 : box.y + down - 2, box.x + 2 : box.x + across - 2] = colour
        placed.append(replace(each, column=column, row=row, box=box))
        colours.append(colour)
    with ThreadPoolExecutor(2) as pool:
        sink = DeepZoom(folder, (pixels.shape[1], pixels.shape[0]), pool)
        sink.write(pixels)
        sink.finish()
    write_page(folder / "index.html", sink.tiling, placed, title)
    return PageOnDisk(folder, placed, pixels.shape[1], pixels.shape[0], colours)


def cell(slide_id: str, label: str | None = None, *, level: int | None = 1, reason: str = "", is_ok: bool | None = None, remark: str = "") -> CellOutcome:
    is_ok = not reason if is_ok is None else is_ok
    box = Box(0, 0, 1, 1)
    picture = box if is_ok else None
    image, backend = f"cohort/{slide_id}.tiff", "openslide"
    return CellOutcome(
        slide_id, image, label, column=0, row=0, box=box, picture=picture, level=level, backend=backend, is_ok=is_ok, reason=reason, remark=remark
    )


def ordinary() -> list[CellOutcome]:
    """24 slides: two failed, one mask failed, one read at another level, two of one id."""
    cells = [cell(f"slide-{number:02d}", ("benign", "tumour", None)[number % 3]) for number in range(24)]
    cells[5] = cell("slide-05", "tumour", level=None, reason=TRUNCATED)
    cells[9] = cell("slide-09", None, level=None, reason="No file is there.")
    cells[10] = cell("slide-10", "tumour", reason="mask: No file is there.", is_ok=True)
    cells[7] = cell("slide-07", "Tumoral é", level=2, remark="Level 3 is missing: level 2 was used.")
    cells[20] = cell("slide-03", "the other one")
    return cells


@dataclass
class Looking:
    """A page that was opened, and all that the browser said about it."""

    page: Page
    montage: PageOnDisk
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: self.said.append(f"dialog: {dialog.message}"))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("requestfailed", lambda request: self.failed.append(request.url))

    def open(self, address: str = "") -> Looking:
        self.page.goto(self.montage.address + address)
        return self

    @property
    def frame(self) -> Box:
        """Where the picture is on the screen."""
        found = self.page.locator("#viewer").bounding_box()
        assert found is not None
        return Box(*(round(found[name]) for name in ("x", "y", "width", "height")))

    def place_of(self, number: int) -> Point:
        """The middle of a cell on the screen, where the whole montage is shown."""
        frame, box = self.frame, self.montage.cells[number].box
        scale = min((frame.width - 2 * MARGIN) / self.montage.width, (frame.height - 2 * MARGIN) / self.montage.height, LARGEST)
        left = frame.x + (frame.width - self.montage.width * scale) / 2
        top = frame.y + (frame.height - self.montage.height * scale) / 2
        return left + (box.x + box.width / 2) * scale, top + (box.y + box.height / 2) * scale

    def seen(self) -> NDArray[np.uint8]:
        """What is on the screen: an array of its height, its width, and 3."""
        return np.asarray(Image.open(BytesIO(self.page.screenshot(scale="css"))).convert("RGB"))

    def shows(self, places: Mapping[int, Point]) -> None:
        """Soon each of these cells, by number, has its colour at the place of the screen that is told."""
        until(lambda: self.has(places), f"the cells are there: {places}")

    def shows_other(self, number: int, place: Point) -> None:
        """Soon the cell's colour is not there."""
        until(lambda: not self.has({number: place}), f"cell {number} is gone from {place}")

    def has(self, places: Mapping[int, Point]) -> bool:
        seen = self.seen()
        return all(is_colour(seen, place, self.montage.colours[number]) for number, place in places.items())

    def shows_whole(self) -> None:
        """Soon the whole montage is there."""
        ends = (0, len(self.montage.cells) - 1)
        self.shows({number: self.place_of(number) for number in ends})

    def fills(self, number: int) -> None:
        """Soon the cell is in the middle of the window, above what tells of it, as large as it may be."""
        covering = self.page.locator("#chosen").bounding_box()
        assert covering is not None, "the chosen slide is not told"
        frame, box = self.frame, self.montage.cells[number].box
        free = frame.width - 2 * MARGIN, covering["y"] - frame.y - 2 * MARGIN
        scale = min(free[0] / box.width, free[1] / box.height, LARGEST)
        x, y = frame.x + frame.width / 2, (frame.y + covering["y"]) / 2
        inside, outside = 0.3 * scale, 0.5 * scale + 6 / min(box.size)
        edges = [(box.width, 0), (-box.width, 0), (0, box.height), (0, -box.height)]

        def is_so() -> bool:
            seen, colour = self.seen(), self.montage.colours[number]
            within = all(is_colour(seen, (x + across * inside, y + down * inside), colour) for across, down in edges)
            return within and not any(is_colour(seen, (x + across * outside, y + down * outside), colour) for across, down in edges)

        until(is_so, f"cell {number} fills the window")

    def is_quiet(self) -> None:
        """It said nothing, all that it asked for was there, and all of that lies in its folder."""
        assert (self.said, self.failed) == ([], [])
        here = self.montage.folder.as_uri() + "/"
        assert [url for url in self.asked if not url.startswith((here, "data:,"))] == []

    def keep_picture(self, name: str) -> None:
        """Where HIML_TEST_PICTURES names a folder."""
        folder = os.environ.get("HIML_TEST_PICTURES")
        if folder:
            self.page.screenshot(path=Path(folder) / f"{name}.png")


def is_colour(seen: NDArray[np.uint8], place: Point, colour: Colour) -> bool:
    x, y = (round(each) for each in place)
    return bool(np.abs(seen[y, x].astype(int) - colour).max() <= TOLERANCE)


def opened(page: Page, montage: PageOnDisk, address: str = "") -> Looking:
    looking = Looking(page, montage).open(address)
    if not address:
        looking.shows_whole()
    return looking


def query(page: Page) -> Locator:
    return page.get_by_role("combobox", name="Search slides by id or label")


def says(place: Locator, text: str) -> None:
    from playwright.sync_api import expect

    expect(place).to_contain_text(text, timeout=WAIT)


def found(page: Page) -> list[str]:
    return page.locator("#results .id").all_inner_texts()
