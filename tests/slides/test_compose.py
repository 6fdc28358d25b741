"""Tests of whole montages, from slides to files, against pictures that the tests put together."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from himl_cli.core.errors import BadUsage, DiskFailed
from himl_cli.core.events import Counted, Counting, Event, Notice, ignore
from himl_cli.slides.captions import GREY
from himl_cli.slides.compose import (
    BAND_BYTES,
    HELD_BYTES,
    CellPainter,
    Progress,
    layout_remarks,
    make_montage,
    painted_bands,
)
from himl_cli.slides.encoding import JpegFile
from himl_cli.slides.layout import fit_layout, fitted, himl_layout
from himl_cli.slides.pictures import LARGE, PALETTE, Setting, find_sources
from himl_cli.slides.query import LocalFolder
from himl_cli.slides.resampling import quick
from himl_cli.slides.slide_records import (
    Box,
    CellOutcome,
    ImageFormat,
    Layout,
    LayoutStyle,
    MontageRequest,
    MontageResult,
    SlideEntry,
    SlideFolder,
    SlideUnreadable,
)
from himl_cli.slides.threads import Pool, cores, read_ahead
from tests.support.folders import contents
from tests.support.montages import nearest, resized, rows_of
from tests.support.slides import change_tiles, reduced, slide_picture, write_broken, write_giant, write_mask, write_tiff

ROOT = Path(__file__).parents[2]
Pixels: TypeAlias = NDArray[np.uint8]


SIZES = [(600, 430), (430, 600), (900, 300), (500, 500), (300, 200)]


@dataclass
class Slides:
    """Slides in a folder, the pixels of their level 1, montages of them, and the events of these."""

    folder: Path
    entries: list[SlideEntry] = field(default_factory=list)
    pictures: list[Pixels] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)

    @property
    def said(self) -> list[str]:
        return [event.text for event in self.events if isinstance(event, Notice)]

    def montage(
        self,
        width: int | None = 1000,
        entries: Sequence[SlideEntry] | None = None,
        place: SlideFolder | None = None,
        **others: Any,
    ) -> MontageResult:
        options: dict[str, Any] = {"formats": (ImageFormat.png,), "workers": 2, **others}
        request = MontageRequest(self.folder.parent / "out", width, **options)
        return make_montage(
            request, self.entries if entries is None else entries, place or LocalFolder(self.folder), self.events.append
        )


@pytest.fixture
def slides(tmp_path: Path) -> Slides:
    made = Slides(tmp_path / "slides")
    made.folder.mkdir()
    for number, size in enumerate(SIZES):
        levels = write_tiff(
            made.folder / f"{number}.tiff", slide_picture(number, size), levels=2, compression="deflate", tile=64
        )
        made.pictures.append(np.asarray(levels[-1]))
        made.entries.append(SlideEntry(f"slide {number}", f"{number}.tiff", label=str(number % 2)))
    return made


def pixels(result: MontageResult, name: str = "montage.png") -> Pixels:
    path = next(path for path in result.files if path.name == name)
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def cut(picture: Pixels, box: Box) -> Pixels:
    return picture[box.y : box.y + box.height, box.x : box.x + box.width]


def box_of(cell: CellOutcome) -> Box:
    assert cell.picture is not None
    return cell.picture


def is_grey(part: Pixels) -> bool:
    return bool((part.max(axis=2) == part.min(axis=2)).all())


def test_each_slide_lies_in_its_cell_with_its_proportions(slides: Slides) -> None:
    result = slides.montage()
    picture = pixels(result).copy()
    assert picture.shape == (result.size[1], 1000, 3)
    assert [cell.slide_id for cell in result.cells] == [entry.slide_id for entry in slides.entries]
    for cell, shown, size in zip(result.cells, slides.pictures, SIZES, strict=True):
        assert (cell.is_ok, cell.level, cell.backend, cell.reason) == (True, 1, "tifffile", "")
        box = box_of(cell)
        assert abs(box.width / box.height - size[0] / size[1]) < 0.02 * size[0] / size[1]
        assert np.array_equal(cut(picture, box), resized(shown, box.size, quick()))
        cut(picture, box)[:] = 255
        assert cut(picture, cell.box).min() < 100, "its caption"
        cut(picture, cell.box)[:] = 255
    assert (picture == 255).all()


@pytest.mark.large("takes long, and other tests run its branches")
@pytest.mark.parametrize(("style", "width"), [(LayoutStyle.fit, 2500), (LayoutStyle.himl, 300)])
def test_the_number_of_workers_changes_no_byte(style: LayoutStyle, width: int, slides: Slides) -> None:
    """The number of cores makes no difference either. A job's montage equals one made locally."""
    entries = [
        *slides.entries,
        SlideEntry("broken", write_broken("zeroed-some", slides.folder).name),
        SlideEntry("gone", "gone.tiff"),
    ]
    formats, out = tuple(ImageFormat), slides.folder.parent / "out"
    one, files = slides.montage(width, entries, layout=style, workers=1, formats=formats), contents(out)
    other = slides.montage(width, entries, layout=style, workers=8, formats=formats)
    assert contents(out) == files
    assert one.cells == other.cells


@pytest.mark.large("takes long, and other tests run its branches")
def test_slides_that_cannot_be_read_are_marked_and_recorded(slides: Slides) -> None:
    broken = write_broken("zeroed-some", slides.folder).name
    bad = [
        SlideEntry("late", broken),
        SlideEntry("gone", "gone.tiff"),
        SlideEntry("none", ""),
        SlideEntry("nul", "b\0.png"),
        SlideEntry("long", "c" * 5000),
    ]
    slides.montage()
    slides.events.clear()
    result = slides.montage(1500, [*bad, *slides.entries, *slides.entries[:1]], level=0)
    assert [(cell.slide_id, cell.is_ok, cell.picture) for cell in result.failed] == [
        (each.slide_id, False, None) for each in bad
    ]
    picture = pixels(result)
    for cell in result.failed:
        room = cut(picture, cell.box)[: cell.box.width // 3]
        assert is_grey(room)
        assert (room < 255).mean() > 0.1
    rows = rows_of(slides.folder.parent / "out")
    assert [row["status"] for row in rows] == ["failed"] * 5 + ["ok"] * 6
    assert [row["reason"] for row in rows[:5]] == [cell.reason for cell in result.failed]
    assert all(cell.reason for cell in result.failed)
    assert [event for event in slides.events if isinstance(event, Counting)] == [Counting("slides", 11)]
    assert Counter(type(event) for event in slides.events)[Counted] == 11


def test_a_level_is_chosen_for_the_cell_and_a_missing_one_told_once(slides: Slides) -> None:
    for width, level in ((300, 1), (3000, 0)):
        cells = slides.montage(width, level=None).cells
        assert {(cell.level, cell.remark) for cell in cells} == {(level, "")}
    slides.events.clear()
    result = slides.montage(level=5)
    assert {cell.level for cell in result.cells} == {1}
    assert all(cell.remark for cell in result.cells)
    assert slides.said == [
        "Level 5 is missing in 5 slides, for which the nearest one was read. See the column 'remark' of montage.csv."
    ]


@pytest.mark.large("draws large pictures")
@pytest.mark.parametrize("level", [0, 1, None])
def test_without_a_width_no_slide_is_enlarged(level: int | None, slides: Slides) -> None:
    """Masks of slides that are smaller than their cells keep the size of the slides."""
    labels = write_mask(slides.folder / "mask.tiff", seed=4, size=(150, 100), levels=1)
    result = slides.montage(None, [*slides.entries[:4], replace(slides.entries[4], mask="mask.tiff")], level=level)
    picture, small = pixels(result), result.cells[4]
    read = [
        (size[0] // (1 + (cell.level or 0)), size[1] // (1 + (cell.level or 0)))
        for cell, size in zip(result.cells, SIZES, strict=True)
    ]
    assert all(
        box_of(cell).width <= size[0] and box_of(cell).height <= size[1]
        for cell, size in zip(result.cells, read, strict=True)
    )
    assert box_of(small).size == read[4]
    shown = nearest(PALETTE[labels], read[4])
    room = cut(picture, small.box)[:, small.box.width // 2 :]
    places = np.argwhere((room[: -read[4][1], : -read[4][0]] == shown[0, 0]).all(2))
    assert any(np.array_equal(room[y : y + read[4][1], x : x + read[4][0]], shown) for y, x in places)
    assert slides.said == []


def test_all_formats_show_the_same(slides: Slides, tmp_path: Path) -> None:
    result = slides.montage(formats=tuple(ImageFormat))
    assert [path.name for path in result.files] == [
        "montage.png",
        "montage.jpg",
        "index.html",
        "montage.dzi",
        "montage.csv",
    ]
    assert sorted(os.listdir(tmp_path / "out")) == [
        "index.html",
        "montage.csv",
        "montage.dzi",
        "montage.jpg",
        "montage.png",
        "montage_files",
    ]
    assert result.jpg_size == result.size
    assert np.abs(pixels(result).astype(int) - pixels(result, "montage.jpg")).mean() < 3
    with Image.open(tmp_path / "out" / "montage_files" / str((max(result.size) - 1).bit_length()) / "0_0.jpg") as tile:
        assert np.abs(np.asarray(tile).astype(int) - pixels(result)[: tile.height, : tile.width]).mean() < 3


@pytest.fixture
def labels(slides: Slides) -> NDArray[np.uint8]:
    return np.asarray(reduced(write_mask(slides.folder / "mask.tiff", seed=0, size=SIZES[0]), 2))


def test_masks_are_drawn_beside_slides_in_label_colours(slides: Slides, labels: NDArray[np.uint8]) -> None:
    Image.fromarray(np.tile(np.arange(0, 250, dtype=np.uint8), (250, 1))).save(slides.folder / "shades.png")
    masks = ("mask.tiff", None, "gone.tiff", "shades.png")
    result = slides.montage(
        entries=[replace(entry, mask=mask) for entry, mask in zip(slides.entries, masks, strict=False)]
    )
    picture, (with_mask, without, failed, shaded) = pixels(result), result.cells
    room = fit_layout([width / height for width, height in SIZES[:4]], has_masks=True, width=1000).cells[0].mask
    assert room is not None
    box = fitted(room, SIZES[0])
    assert np.array_equal(cut(picture, box), PALETTE[nearest(labels, box.size)])
    assert box_of(with_mask).x + box_of(with_mask).width < with_mask.box.x + with_mask.box.width / 2
    box = box_of(without)
    assert abs((box.x - without.box.x) - (without.box.x + without.box.width - box.x - box.width)) <= 1, (
        "it stands in the middle of its cell"
    )
    assert (failed.is_ok, failed.reason) == (True, "mask: it does not exist")
    assert np.array_equal(cut(picture, box_of(failed)), resized(slides.pictures[2], box_of(failed).size, quick()))
    beside = cut(picture, failed.box)[:, failed.box.width // 2 + 10 :]
    assert (beside == GREY).all(axis=2).mean() > 0.2, "a grey field marks the mask that was not read"
    cell, box = shaded.box, box_of(shaded)
    middle = picture[box.y + box.height // 2, cell.x + cell.width // 2 + 20 : cell.x + cell.width - 5]
    assert (middle == middle[:, :1]).all()
    middle = middle[middle[:, 0] < 255]  # without the ground at its sides
    assert 255 > middle.max() > 200
    assert (np.diff(middle[:, 0].astype(int)) >= 0).all()


def test_labels_of_masks_have_colours_whatever_their_channel_and_number(slides: Slides) -> None:
    """Of 255 labels, each has its own colour. Shades, colours, and masks of 0 and 255 are shown as they are. himl names
    masks for which that is a guess."""
    zero: NDArray[np.uint8] = np.zeros((60, 80), np.uint8)
    two = zero.copy()
    two[20:40, 10:40], two[20:40, 40:70] = 1, 2
    many = np.repeat(
        np.repeat(np.random.default_rng(1).permutation(256).astype(np.uint8).reshape(16, 16), 4, 0)[:60], 5, 1
    )
    soft = np.tile(np.linspace(0, 255, 80).astype(np.uint8), (60, 1))
    painted = np.dstack([np.where(two == 1, 255, 0), np.where(two == 2, 255, 0), zero]).astype(np.uint8)
    cases: dict[str, tuple[NDArray[Any], NDArray[np.uint8], str]] = {
        **{
            f"channel {each}": (np.dstack([two if each == other else zero for other in range(3)]), PALETTE[two], "")
            for each in range(3)
        },
        "beside full channels": (np.dstack([zero + 255, two, zero + 255]), PALETTE[two], ""),
        "several channels": (
            np.dstack([two, two * 3, zero]),
            PALETTE[two],
            "mask: several channels have labels (red is shown)",
        ),
        "tens": (two * 100, PALETTE[two * 100], ""),
        "many": (many, PALETTE[many], f"mask: labels are a guess ({len(np.unique(many)) - 1} values)"),
        "numbers": (
            many.astype(np.int32) + 255 * (many > 0),
            PALETTE[many],
            f"mask: labels are a guess ({len(np.unique(many)) - 1} values)",
        ),
        "binary": (
            np.where(two > 0, 255, 0).astype(np.uint8),
            np.repeat(np.where(two > 0, 255, 0)[..., None], 3, 2),
            "",
        ),
        "share": (
            np.where(two > 0, 0.7, 0).astype(np.float32),
            np.repeat(np.where(two > 0, 178, 0)[..., None], 3, 2),
            "",
        ),
        "floats": (two.astype(np.float32), PALETTE[two], ""),
        "shades": (soft, np.repeat(soft[..., None], 3, 2), ""),
        "few shades": (
            soft // 8 * 8,
            np.repeat((soft // 8 * 8)[..., None], 3, 2),
            "mask: shades are a guess (31 values)",
        ),
        "painted": (painted, painted, ""),
    }
    assert len(np.unique(PALETTE, axis=0)) == 256
    entries = []
    for number, (mask, _, _) in enumerate(cases.values()):
        write_tiff(
            slides.folder / f"mask{number}.tiff",
            mask,
            compression="deflate",
            tile=None,
            photometric="rgb" if mask.ndim == 3 else "minisblack",
        )
        Image.fromarray(slide_picture(number, mask.shape[1::-1])).save(slides.folder / f"{number}.png")
        entries.append(SlideEntry(str(number), f"{number}.png", mask=f"mask{number}.tiff"))
    slides.events.clear()
    result = slides.montage(None, entries, level=0)
    for (name, (_, expected, remark)), cell in zip(cases.items(), result.cells, strict=True):
        box = box_of(cell)
        assert (name, cell.remark) == (name, remark)
        shown = cut(
            pixels(result),
            Box(cell.box.x + cell.box.width // 2, cell.box.y, cell.box.width - cell.box.width // 2, cell.box.height),
        )
        middle = expected[box.height // 2]
        assert any(
            (row[left : left + len(middle)] == middle).all() for row in shown for left in range(len(row) - len(middle))
        ), name
    assert slides.said == [
        "'4': mask: several channels have labels.",
        "'6', '7': mask: labels are a guess.",
        "'12': mask: shades are a guess.",
    ]


def test_dark_slides_and_doubtful_masks_are_named(slides: Slides) -> None:
    """Eight bits that use less than half of their range are shown with it. A JPEG has one label."""
    dark: NDArray[np.uint8] = np.full((60, 80), 4, np.uint8)
    dark[20:40, 20:60] = 40
    Image.fromarray(np.where(dark > 4, np.uint8(255), np.uint8(0))).save(slides.folder / "halo.jpg", quality=40)
    Image.fromarray(dark).save(slides.folder / "dark.png")
    Image.fromarray(dark[:, ::2]).save(slides.folder / "narrow.png")
    entries = [SlideEntry(mask, "dark.png", mask=mask) for mask in ("halo.jpg", "narrow.png")]
    slides.events.clear()
    result = slides.montage(None, entries, level=0)
    assert [cell.reason for cell in result.cells] == ["", "mask: 40 x 60 pixels do not have the shape of 80 x 60"]
    shown = cut(pixels(result), box_of(result.cells[0]))
    assert np.array_equal(shown, np.repeat(np.where(dark > 4, 255, 26)[..., None], 3, 2))
    halo = cut(pixels(result), result.cells[0].box)[:60, result.cells[0].box.width // 2 + 4 :]
    assert {*np.unique(halo)} <= {0, 32, 255}, "the halo is background"
    assert slides.said == [
        "'halo.jpg', 'narrow.png': its own range of values is shown.",
        "'halo.jpg': mask: it is a JPEG, so that values up to 127 are background.",
    ]


def test_the_predecessors_missing_masks_are_green(slides: Slides, labels: NDArray[np.uint8]) -> None:
    """The colour is `default_mask_color` of `_make_thumbnail` in hi-ml-cpath 0.5.2."""
    entries = [
        replace(each, mask=mask) for each, mask in zip(slides.entries, ("mask.tiff", "gone.tiff", None), strict=False)
    ]
    result = slides.montage(entries=entries, layout=LayoutStyle.himl)
    shown = [cut(pixels(result), cell.box)[:, cell.box.width // 2 :] for cell in result.cells]
    assert [bool((each == (119, 161, 120)).all()) for each in shown] == [False, True, True]
    assert [cell.reason.partition(":")[0] for cell in result.cells] == ["", "mask", ""]
    box = result.cells[1].box
    beside = cut(pixels(result), box)[: box.height // 2, : box.width // 2]
    assert np.array_equal(beside, resized(slides.pictures[1], (beside.shape[1], box.height))[: len(beside)])


STREAMED = (700, 500)
# The picture has several bands, and each slide is resized in more than one step.
WIDTH = 6_000


def painted(
    folder: Path,
    entries: list[SlideEntry],
    most_held: int,
    style: LayoutStyle = LayoutStyle.fit,
    *,
    width: int = WIDTH,
    band_bytes: int = BAND_BYTES,
) -> tuple[Pixels, list[CellOutcome]]:
    """Return the montage of level 0, with each slide's outcome.

    A picture may hold *most_held* bytes in memory. Larger ones are read while they are painted.
    """
    request, place = (
        MontageRequest(folder, width, level=0, layout=style, formats=(ImageFormat.png,)),
        LocalFolder(folder),
    )
    has_masks = any(entry.mask for entry in entries)
    with Pool(2) as pool:
        sources = find_sources(entries, place, request, pool)
        aspects = [size[0] / size[1] for image, _ in sources for size in image.levels[:1]]
        is_fit = style is LayoutStyle.fit
        layout = (
            fit_layout(aspects, has_masks=has_masks, width=width)
            if is_fit
            else himl_layout(len(sources), has_masks=has_masks, width=width)
        )
        progress, setting = (
            Progress(len(entries), layout.size[1], ignore),
            Setting(request, layout, place, pool, most_held),
        )
        cells = [
            CellPainter(cell, entries[cell.entry], sources[cell.entry], setting, progress) for cell in layout.cells
        ]
        bands = list(painted_bands(layout, cells, pool, band_bytes))
    assert len(bands) > 3 or band_bytes > BAND_BYTES
    return np.concatenate(bands), [cell.outcome() for cell in cells]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed in range(4):
        write_tiff(tmp_path / f"{seed}.tiff", slide_picture(seed, STREAMED), compression="deflate", tile=64)
        write_mask(tmp_path / f"mask-{seed}.tiff", seed=seed, size=STREAMED)
    return tmp_path


def entries(*, masks: bool) -> list[SlideEntry]:
    return [SlideEntry(str(seed), f"{seed}.tiff", mask=f"mask-{seed}.tiff" if masks else None) for seed in range(4)]


@pytest.mark.parametrize("style", list(LayoutStyle))
def test_held_pixels_and_heights_of_bands_make_no_difference(style: LayoutStyle, folder: Path) -> None:
    held, outcomes = painted(folder, entries(masks=True)[:1], 1 << 30, style)
    streamed, same = painted(folder, entries(masks=True)[:1], 1000, style)
    assert np.abs(held.astype(np.int16) - streamed).max() <= 1
    assert (outcomes, outcomes[0].is_ok) == (same, True)
    some = [
        *entries(masks=True)[:2],
        SlideEntry("gone", "gone.tiff", mask="mask-2.tiff"),
        SlideEntry("half", "3.tiff", mask="gone.tiff"),
    ]
    whole, parts = (
        painted(folder, some, 1 << 30, style, width=1500, band_bytes=band_bytes)[0] for band_bytes in (1 << 30, 1)
    )
    assert np.array_equal(whole, parts)


def test_a_slide_that_fails_in_the_middle_is_marked_from_there(folder: Path) -> None:
    whole, _ = painted(folder, entries(masks=False), 1000, width=8_000)
    across, down = -(-STREAMED[0] // 64), -(-STREAMED[1] // 64)
    change_tiles(folder / "2.tiff", range(across * (down // 2), across * down))
    torn, outcomes = painted(folder, entries(masks=False), 1000, width=8_000)
    failed = outcomes[2]
    assert [outcome.is_ok for outcome in outcomes] == [True, True, False, True]
    assert "damaged" in failed.reason
    shown, room = box_of(failed), failed.box
    assert 0.2 * room.height < shown.height < 0.6 * room.height
    assert np.array_equal(cut(torn, shown), cut(whole, shown))
    assert is_grey(torn[shown.y + shown.height : room.y + room.height, shown.x : shown.x + shown.width])
    cut(torn, room)[:] = cut(whole, room)
    assert np.array_equal(torn, whole)
    picture, outcomes = painted(folder, entries(masks=False), 1 << 30)
    assert (outcomes[2].is_ok, outcomes[2].picture) == (False, None)
    assert is_grey(cut(picture, outcomes[2].box))


class FetchedFolder(LocalFolder):
    """A folder whose files are expensive to fetch: each may be requested once, and only if it was expected.

    It raises an error for the file *lacking*.
    """

    is_rereadable = False

    def __init__(self, folder: Path, lacking: str = "") -> None:
        super().__init__(folder)
        self.lacking, self.expected, self.given, self.in_use, self.is_stopped = (
            lacking,
            list[str](),
            list[str](),
            list[str](),
            False,
        )

    def expect(self, names: Sequence[str]) -> None:
        self.expected += names

    def stop(self) -> None:
        self.is_stopped = True

    @contextmanager
    def local_path(self, name: str) -> Iterator[Path]:
        if name == self.lacking:
            raise DiskFailed("The cache is full.")
        if name not in self.expected:
            raise SlideUnreadable("it was not expected")
        self.given.append(name)
        self.in_use.append(name)
        try:
            yield self.folder / name
        finally:
            self.in_use.remove(name)


@pytest.mark.large("takes long, and other tests run its branches")
def test_fetched_slides_are_opened_once_and_errors_leave_nothing(slides: Slides, tmp_path: Path) -> None:
    place = FetchedFolder(slides.folder)
    result = slides.montage(place=place)
    assert sorted(place.given) == sorted(place.expected) == [f"{number}.tiff" for number in range(5)]
    for cell, shown in zip(result.cells, slides.pictures, strict=True):
        assert np.array_equal(cut(pixels(result), box_of(cell)), resized(shown, box_of(cell).size, quick()))
    assert not place.is_stopped
    shutil.rmtree(tmp_path / "out")
    place = FetchedFolder(slides.folder, lacking="3.tiff")
    with pytest.raises(DiskFailed, match="cache is full"):
        slides.montage(place=place)
    assert place.is_stopped
    assert not (tmp_path / "out").exists()
    for style in LayoutStyle:
        with pytest.raises(BadUsage, match="is too narrow for"):
            slides.montage(2, layout=style)
    for kind in (Notice, Counting, Counted):

        def notify(event: Event, kind: type[Event] = kind) -> None:
            if isinstance(event, kind):
                raise ValueError("seen enough")

        with pytest.raises(ValueError, match="seen enough"):
            make_montage(MontageRequest(tmp_path / "out", 3000), slides.entries, LocalFolder(slides.folder), notify)
        assert not (tmp_path / "out").exists()
        assert [thread.name for thread in threading.enumerate() if thread.name.startswith("himl-montage")] == []


def test_after_an_error_no_slide_is_in_use(tmp_path: Path) -> None:
    """A slide that is read while it is painted is open when the next one fails.

    The caught error keeps all frames alive.
    """
    size = (8_000, 6_000)
    assert 3 * size[0] * size[1] > HELD_BYTES // 2
    write_giant(tmp_path / "giant.tiff", size, tile=512, compression="deflate")
    place = FetchedFolder(tmp_path, lacking="gone.tiff")
    request = MontageRequest(tmp_path / "out", 2 * size[0], level=0, formats=(ImageFormat.png,))
    with pytest.raises(DiskFailed, match="The cache is full") as caught:
        make_montage(request, [SlideEntry("giant", "giant.tiff"), SlideEntry("gone", "gone.tiff")], place, ignore)
    assert caught.tb is not None
    assert (place.given, place.in_use) == (["giant.tiff"], [])


@pytest.mark.large("takes long, and other tests run its branches")
def test_a_giant_slide_is_read_ahead_and_shown_right(tmp_path: Path) -> None:
    size = (5_600, 4_000)
    assert 3 * size[0] * size[1] > LARGE
    write_giant(tmp_path / "giant.tiff", size, tile=512, compression="deflate")
    whole = np.tile(slide_picture(0, (512, 512)), (8, 11, 1))[: size[1], : size[0]]
    for workers in (1, 2):
        request = MontageRequest(tmp_path / str(workers), 500, level=0, formats=(ImageFormat.png,), workers=workers)
        result = make_montage(request, [SlideEntry("giant", "giant.tiff")], LocalFolder(tmp_path), ignore)
        assert (result.cells[0].is_ok, result.cells[0].level) == (True, 0)
        box = box_of(result.cells[0])
        difference = np.abs(cut(pixels(result), box).astype(int) - resized(whole, box.size, quick()))
        assert (difference.max() <= 2, difference.mean() < 0.1) == (True, True)


def test_strips_that_are_read_ahead_come_in_their_order() -> None:
    def strips(count: int, *, fails: bool = False) -> Iterator[int]:
        yield from range(1, count + 1)
        if fails:
            raise SlideUnreadable("the rest is gone")

    with ThreadPoolExecutor(1) as pool:
        assert [*read_ahead(strips(50), pool)] == [*range(1, 51)]
        assert [*read_ahead(strips(0), pool)] == []
        assert pool.submit(lambda: [*read_ahead(strips(50), pool)]).result(timeout=60) == [*range(1, 51)], (
            "asked for by the pool's only thread"
        )
        ahead = read_ahead(strips(3, fails=True), pool)
        assert [next(ahead) for _ in range(3)] == [1, 2, 3]
        with pytest.raises(SlideUnreadable, match="the rest is gone"):
            next(ahead)


def test_another_thread_reads_meanwhile_and_is_waited_for() -> None:
    begun, may_go_on, readers, ended = threading.Event(), threading.Event(), list[threading.Thread](), list[bool]()

    def slow() -> Iterator[int]:
        yield 1
        readers.append(threading.current_thread())
        begun.set()
        may_go_on.wait(60)
        ended.append(True)
        yield 2

    with ThreadPoolExecutor(1) as pool:
        ahead = read_ahead(slow(), pool)
        next(ahead)
        assert begun.wait(60)
        assert readers[0] is not threading.current_thread()
        threading.Timer(0.1, may_go_on.set).start()
        ahead.close()
        assert ended


def test_smaller_jpegs_and_what_captions_lack_are_told(slides: Slides) -> None:
    size = (200_000, 50_000)
    layout = Layout(LayoutStyle.fit, size, 1, 1, (255, 255, 255), ())
    said = "montage.jpg is scaled to 65,500 x 16,375 pixels, because a JPEG cannot have the montage's 200,000 x 50,000."
    assert [list(layout_remarks(layout, [], jpg_size)) for jpg_size in (JpegFile.size_for(size), size, None)] == [
        [said],
        [],
        [],
    ]
    slides.montage(
        entries=[replace(slides.entries[0], label="切片" + "".join(chr(0x4E00 + number) for number in range(9)))]
    )
    (said,) = [text for text in slides.said if "Captions" in text]
    assert said.startswith("Captions show boxes for characters that the font does not have: 一 ")
    assert said.endswith(" and others.")


SCRIPT = """
import sys
from pathlib import Path
from himl_cli.core.events import ignore
from himl_cli.slides.slide_records import ImageFormat, MontageRequest, SlideEntry
from himl_cli.slides.compose import make_montage
from himl_cli.slides.query import LocalFolder

def after(width, count, name):
    folder = Path(sys.argv[1])
    request = MontageRequest(folder / "out", width, level=0, formats=(ImageFormat.png, ImageFormat.jpg), workers=2)
    make_montage(request, [SlideEntry(str(number), name) for number in range(count)], LocalFolder(folder), ignore)
    # of this process since it began: what getrusage tells includes that of the one which started it
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) // 1024

print(after(500, 1, "small.tiff"), after(500, 1, "giant.tiff"), after(9_000, 150, "small.tiff"))
"""


@pytest.mark.large("draws large pictures")
@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")
def test_memory_is_independent_of_slide_count_and_size(tmp_path: Path) -> None:
    """The giant slide has 76 MB of pixels, and the many slides in their cells have 137.

    A montage of one small slide comes first, so that imports do not count.
    """
    write_giant(tmp_path / "giant.tiff", (6_000, 4_200), tile=512, compression="deflate")
    write_tiff(tmp_path / "small.tiff", np.full((600, 800, 3), 255, np.uint8), compression="deflate")
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    of_small, of_giant, of_many = map(int, ran.stdout.split())
    assert (of_giant - of_small < 60, of_many - of_giant < 103) == (True, True), ran.stdout


@pytest.mark.large("takes long, and other tests run its branches")
def test_there_are_as_many_workers_as_cores_that_may_be_used() -> None:
    assert cores() > 0
    if sys.platform == "linux":
        pinned = (
            "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]); from himl_cli.slides.threads "
            "import cores; print(cores())"
        )
        assert subprocess.run([sys.executable, "-c", pinned], capture_output=True, text=True).stdout == "1\n"
