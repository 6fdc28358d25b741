"""Which pages of a TIFF are the levels of its slide: numbered as OpenSlide numbers them."""

from __future__ import annotations

from tifffile import TiffFile, TiffPage

from himl_cli.core.montage import SlideUnreadable

_REDUCED, _MASK = 1, 4
_MOST_PAGES = 1000


def level_pages(file: TiffFile) -> list[TiffPage]:
    """The pages, the finest first. Raises SlideUnreadable where there is none.

    The first page is level 0. Of the others those count that are tiled as it is, and say of themselves that they are reductions; in a file of an
    Aperio scanner all that are tiled. Where there is none, the reductions below the first page (SubIFDs) count, which OpenSlide does not see.
    """
    pages = _pages(file)
    if not pages:
        raise SlideUnreadable("there is no picture in it")
    first = pages[0]
    is_aperio = first.is_tiled and first.description.startswith("Aperio")
    coarser = [page for page in pages[1:] if _is_level(page, first, any_type=is_aperio)]
    if not coarser and first.pages is not None:
        below = [page for page in first.pages if isinstance(page, TiffPage)]
        coarser = [page for page in below if _is_level(page, first, any_type=True) and page.imagewidth < first.imagewidth]
    return sorted([first, *coarser], key=lambda page: -page.imagewidth)


def _pages(file: TiffFile) -> list[TiffPage]:
    found: list[TiffPage] = []
    for page in file.pages:
        if isinstance(page, TiffPage) and len(found) < _MOST_PAGES:
            found.append(page)
    return found


def _is_level(page: TiffPage, first: TiffPage, *, any_type: bool) -> bool:
    if page.is_tiled != first.is_tiled or int(page.subfiletype) & _MASK:
        return False
    return any_type or bool(int(page.subfiletype) & _REDUCED)
