"""The mark of what could not be read."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from himl_cli.core.montage import Cell, LayoutStyle
from himl_cli.services.montage.captions import GREY, REASON_INK, FailureMark
from himl_cli.services.montage.layout import fit_layout, himl_layout

if TYPE_CHECKING:
    from numpy.typing import NDArray

REASON = "Level 1 is damaged: tile 17 of 96 holds no JPEG data; the file may have been cut off."


def cell_of(style: LayoutStyle, width: int, *, has_masks: bool = False) -> Cell:
    layout = fit_layout([1.4], has_masks=has_masks, width=width) if style is LayoutStyle.fit else himl_layout(1, has_masks=has_masks, width=width)
    return layout.cells[0]


def painted(cell: Cell, style: LayoutStyle, reason: str = REASON, *, of_mask: bool = False, step: int | None = None) -> NDArray[np.uint8]:
    rows: NDArray[np.uint8] = np.full((cell.box.height, cell.box.width, 3), 255, np.uint8)
    room = cell.mask if of_mask else cell.image
    assert room is not None
    mark = FailureMark(room, cell, "not read", reason, style)
    for top in range(0, len(rows), step or len(rows)):
        mark.paint(rows[top : top + (step or len(rows))], top)
    return rows


def shown(cell: Cell, style: LayoutStyle, reason: str) -> list[str]:
    mark = FailureMark(cell.image, cell, "not read", reason, style)
    return [] if mark.words is None else [line.text for line in mark.words.lines]


def has_ink(rows: NDArray[np.uint8]) -> bool:
    return bool((rows == REASON_INK).all(2).any())


@pytest.mark.parametrize("style", LayoutStyle)
@pytest.mark.parametrize("width", [6, 12, 60, 200, 500, 1201])
@pytest.mark.parametrize("has_masks", [False, True])
def test_it_fills_its_room_alone_however_the_cell_is_cut(style: LayoutStyle, width: int, has_masks: bool) -> None:
    if has_masks and width < 20:
        width = 20
    cell = cell_of(style, width, has_masks=has_masks)
    for of_mask in {False, has_masks}:
        room = cell.mask if of_mask else cell.image
        assert room is not None
        whole = painted(cell, style, of_mask=of_mask)
        is_touched = (whole != 255).all(2)
        left, top = room.x - cell.box.x, room.y - cell.box.y
        assert is_touched[top : top + room.height, left : left + room.width].all()
        assert is_touched.sum() == room.width * room.height
        for step in (1, 7):
            assert np.array_equal(painted(cell, style, of_mask=of_mask, step=step), whole)


def test_it_is_crossed_and_grey() -> None:
    cell = cell_of(LayoutStyle.fit, 500)
    mark = FailureMark(cell.image, replace(cell, box=cell.image), "", "", LayoutStyle.fit)
    rows: NDArray[np.uint8] = np.full((cell.image.height, cell.image.width, 3), 255, np.uint8)
    mark.paint(rows, 0)
    height, width = rows.shape[:2]
    assert (rows == GREY).all(2).mean() > 0.9
    for share in (0.1, 0.4, 0.7, 0.95):
        row = rows[int(height * share)]
        for place in (share, 1 - share):
            around = row[max(0, int(width * place) - 3) : int(width * place) + 4]
            assert (around != GREY).any()
    assert np.array_equal(rows, rows[:, ::-1])


@pytest.mark.parametrize("style", LayoutStyle)
def test_it_says_why_as_far_as_there_is_room(style: LayoutStyle) -> None:
    assert shown(cell_of(style, 1000), style, "The file is empty.") == ["not read", "The file is empty."]
    title, *lines = shown(cell_of(style, 600), style, REASON)
    assert title == "not read"
    assert " ".join(lines) == REASON
    title, *lines = shown(cell_of(style, 260), style, REASON * 20)
    assert lines[0].startswith("Level 1")
    assert lines[-1].endswith("…")
    assert shown(cell_of(style, 30), style, REASON) == []
    assert has_ink(painted(cell_of(style, 600), style))
    assert not has_ink(painted(cell_of(style, 30), style))


def test_long_failure_reason_is_wrapped_and_escaped() -> None:
    title, *lines = shown(cell_of(LayoutStyle.fit, 400), LayoutStyle.fit, "x" * 90 + "\n\udcff\x00")
    assert title == "not read"
    assert "".join(lines).replace(" ", "") == "x" * 90 + r"\xff\x00"
    assert len(lines) > 1


def test_words_stay_above_the_caption_that_lies_over_the_slide() -> None:
    cell = cell_of(LayoutStyle.himl, 400)
    assert cell.caption is not None
    ink = (painted(cell, LayoutStyle.himl, REASON * 9) == REASON_INK).all(2).any(1)
    assert ink[: cell.caption.y].any()
    assert not ink[cell.caption.y :].any()
