"""Which pages of a TIFF are the levels of its slide: numbered as OpenSlide numbers them."""

from __future__ import annotations

from pathlib import Path

from tifffile import TiffFile, TiffPage

from himl_cli.core.montage import SlideUnreadable

_REDUCED, _MASK = 1, 4
_MOST_PAGES = 1000
_ORIENTATION = 274


def opened_tiff(path: Path) -> TiffFile:
    """The file, of which the content counts and not the ending. Raises what tifffile raises."""
    return TiffFile(path, mode="r", _multifile=False, is_ndpi=False)


def pages_of(file: TiffFile) -> list[TiffPage]:
    """The first 1,000 pages, up to one that was there before: pages may form a ring. Raises SlideUnreadable where there
    is none."""
    found: list[TiffPage] = []
    seen: set[int] = set()
    for page in file.pages:
        if len(seen) >= _MOST_PAGES or page.offset in seen:
            break
        seen.add(page.offset)
        if isinstance(page, TiffPage):
            found.append(page)
    if not found:
        raise SlideUnreadable("there is no picture in it")
    return found


def level_pages(pages: list[TiffPage]) -> list[TiffPage]:
    """Those of *pages* that are levels, the finest first.

    The first page is level 0. Of the others those count that are tiled, and say of themselves that they are reductions;
    in a file of an Aperio scanner all that are tiled. Where there is none, the reductions below the first page
    (SubIFDs) count, which OpenSlide does not see. Strips count where the first page has strips too, and no reduction is
    tiled: beside tiles they are labels and thumbnails.
    """
    first = pages[0]
    is_aperio = first.is_tiled and first.description.startswith("Aperio")
    coarser = _reductions(pages[1:], first, any_type=is_aperio)
    if not coarser and first.pages is not None:
        below = [page for page in first.pages if isinstance(page, TiffPage) and page.imagewidth < first.imagewidth]
        coarser = _reductions(below, first, any_type=True)
    return sorted([first, *coarser], key=lambda page: -page.imagewidth)


def remarks_on(pages: list[TiffPage]) -> list[str]:
    """What is in the file and not shown."""
    first = pages[0]
    turned = first.tags.valueof(_ORIENTATION, 1)
    remarks = [] if turned == 1 else [f"its orientation tag ({int(turned)}) is not heeded"]
    others = [
        (number, page) for number, page in enumerate(pages, start=1) if not int(page.subfiletype) & (_REDUCED | _MASK)
    ]
    alike = sum(_size(page) == _size(first) for _, page in others)
    if first.is_imagej:
        alike = max(alike, _images_of(first))
    if alike > 1:
        remarks.append(f"page 1 of {alike:,}{' or more' if len(pages) >= _MOST_PAGES else ''} is shown")
    finest = _size(level_pages(pages)[0])
    larger = max(others, key=lambda each: each[1].imagewidth, default=None)
    if larger is not None and larger[1].imagewidth > finest[0]:
        remarks.append(f"page {larger[0]} is larger ({larger[1].imagewidth} x {larger[1].imagelength}) and not shown")
    return remarks


def _size(page: TiffPage) -> tuple[int, int]:
    return page.imagewidth, page.imagelength


def _images_of(page: TiffPage) -> int:
    """How many pictures ImageJ says there are: large stacks have one page only."""
    told = (line.partition("=")[2] for line in page.description.splitlines() if line.startswith("images="))
    return max((int(number) for number in told if number.isdecimal()), default=1)


def _reductions(pages: list[TiffPage], first: TiffPage, *, any_type: bool) -> list[TiffPage]:
    found = [
        page for page in pages if not int(page.subfiletype) & _MASK and (any_type or int(page.subfiletype) & _REDUCED)
    ]
    tiled = [page for page in found if page.is_tiled]
    return tiled if tiled or first.is_tiled else found
