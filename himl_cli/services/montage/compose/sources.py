"""Slides as the pipeline asks for them: what they are, found out once, and opening them again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from himl_cli.core.montage import Backend, Size, SlideEntry, SlideUnreadable
from himl_cli.services.montage.compose.pool import Pool
from himl_cli.services.montage.places import SlidePlace
from himl_cli.services.montage.slides.base import Slide
from himl_cli.services.montage.slides.opening import open_slide


@dataclass(frozen=True, slots=True)
class Source:
    """A file of the place. `levels` is empty where it was not looked into, or where it cannot be read; `reason` says
    why."""

    name: str
    levels: Sequence[Size] = ()
    reason: str = ""

    @property
    def aspect(self) -> float | None:
        """Width divided by height; None where they are not known."""
        return self.levels[0][0] / self.levels[0][1] if self.levels else None


@dataclass(frozen=True, slots=True)
class Sources:
    """An entry's files."""

    entry: SlideEntry
    image: Source
    mask: Source | None


@contextmanager
def opened(name: str, place: SlidePlace, backend: Backend, *, is_mask: bool) -> Iterator[Slide]:
    """The slide, open within the `with`; of a mask, numbers are kept, whatever their width.

    Raises SlideUnreadable; another HimlError where nothing can be brought from the place any more.
    """
    with place.at_hand(name) as path:
        slide = open_slide(path, backend, as_labels=is_mask)
        try:
            yield slide
        finally:
            slide.close()


def look_into(entries: Sequence[SlideEntry], place: SlidePlace, backend: Backend, pool: Pool) -> list[Sources]:
    """The files of *entries*; with their levels where the place gives files as often as one likes."""
    if not place.is_read_twice:
        return [
            Sources(entry, Source(entry.image), Source(entry.mask) if entry.mask is not None else None)
            for entry in entries
        ]

    def look(name: str, is_mask: bool) -> Source:
        pool.check()
        try:
            with opened(name, place, backend, is_mask=is_mask) as slide:
                return Source(name, tuple(slide.levels))
        except SlideUnreadable as err:
            return Source(name, reason=str(err))

    images = [pool.submit(look, entry.image, False) for entry in entries]
    masks = [pool.submit(look, entry.mask, True) for entry in entries if entry.mask is not None]
    of_masks = iter(pool.results(masks))
    found = zip(entries, pool.results(images), strict=True)
    return [Sources(entry, image, next(of_masks) if entry.mask is not None else None) for entry, image in found]
