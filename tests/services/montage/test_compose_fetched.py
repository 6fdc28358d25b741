"""Slides of a place whose files have to be fetched: each is asked for once, and what ends the place ends the montage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from himl_cli.core.errors import DiskFailed
from himl_cli.core.events import ignore
from himl_cli.core.montage import SlideUnreadable
from himl_cli.services.montage.compose import make_montage
from himl_cli.services.montage.query import LocalFolder
from himl_cli.services.montage.resampling import quick
from tests.services.montage.composed import Slides, box_of, cut, pixels, request
from tests.services.montage.composed import slides as slides
from tests.support.montages import resized


@dataclass
class Fetching:
    """A place whose files come at a cost: each may be asked for once, and only if it was expected."""

    local: LocalFolder
    is_rereadable: bool = False
    expected: list[str] = field(default_factory=list)
    given: list[str] = field(default_factory=list)
    is_stopped: bool = False
    full: str = ""
    label: str = "a place"

    def names(self) -> Iterator[str]:
        return self.local.names()

    def has(self, name: str) -> bool:
        return self.local.has(name)

    def text(self, name: str) -> str:
        return self.local.text(name)

    def expect(self, names: Sequence[str]) -> None:
        self.expected += names

    @contextmanager
    def local_path(self, name: str) -> Iterator[Path]:
        self.given.append(name)
        if name == self.full:
            raise DiskFailed("The cache is full.")
        if name not in self.expected:
            raise SlideUnreadable("it was not expected")
        with self.local.local_path(name) as path:
            yield path

    def stop(self) -> None:
        self.is_stopped = True


def test_slides_that_have_to_be_fetched_are_opened_once(slides: Slides, tmp_path: Path) -> None:
    place = Fetching(slides.place)
    result = make_montage(request(tmp_path), slides.entries, place, ignore)
    assert sorted(place.given) == sorted(place.expected) == [f"{number}.tiff" for number in range(5)]
    picture = pixels(result)
    for cell, shown in zip(result.cells, slides.pictures, strict=True):
        assert np.array_equal(cut(picture, box_of(cell)), resized(shown, box_of(cell).size, quick()))
    assert not place.is_stopped


def test_what_ends_the_place_ends_the_montage(slides: Slides, tmp_path: Path) -> None:
    place = Fetching(slides.place, full="3.tiff")
    with pytest.raises(DiskFailed, match="cache is full"):
        make_montage(request(tmp_path), slides.entries, place, ignore)
    assert place.is_stopped
    assert not (tmp_path / "out").exists()
