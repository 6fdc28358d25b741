"""The layout that keeps proportions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from himl_cli.core.errors import BadUsage
from himl_cli.core.montage import DEFAULT_WIDTH, Box, Cell, Layout
from himl_cli.services.montage.layout import LEAST_LETTERS, WHITE, fit_layout, fitted, letters_of

ASPECTS = st.lists(st.none() | st.floats(0.02, 50), min_size=1, max_size=70)


def is_within(inner: Box, outer: Box) -> bool:
    right, bottom = inner.x + inner.width, inner.y + inner.height
    return outer.x <= inner.x < right <= outer.x + outer.width and outer.y <= inner.y < bottom <= outer.y + outer.height


def check_cell(cell: Cell) -> None:
    pictures = [cell.image] if cell.mask is None else [cell.image, cell.mask]
    assert all(is_within(each, cell.box) for each in pictures)
    if cell.mask is not None:
        assert cell.mask.size == cell.image.size
        assert cell.mask.y == cell.image.y
        assert cell.mask.x > cell.image.x + cell.image.width
    if cell.caption is not None:
        assert is_within(cell.caption, cell.box)
        assert cell.caption.y == cell.image.y + cell.image.height
        assert letters_of(cell.caption) >= LEAST_LETTERS


def check(layout: Layout, count: int, width: int) -> None:
    assert layout.size[0] == width
    assert layout.background == WHITE
    assert [(cell.entry, cell.row * layout.columns + cell.column) for cell in layout.cells] == [(n, n) for n in range(count)]
    assert layout.rows == layout.cells[-1].row + 1
    assert len({(cell.box.size, cell.image.size) for cell in layout.cells}) == 1
    for cell in layout.cells:
        assert is_within(cell.box, Box(0, 0, *layout.size))
        assert cell.box.y == layout.cells[cell.row * layout.columns].box.y
        check_cell(cell)
    for one, other in pairwise(layout.cells):
        assert other.box.x > one.box.x + one.box.width if one.row == other.row else other.box.y > one.box.y + one.box.height
    assert bool(layout.remark) == (layout.cells[0].caption is None)


@given(aspects=ASPECTS, has_masks=st.booleans(), width=st.integers(1, 6000))
def test_every_cell_has_its_place(aspects: Sequence[float | None], has_masks: bool, width: int) -> None:
    try:
        layout = fit_layout(aspects, has_masks=has_masks, width=width)
    except BadUsage:
        assume(False)
    check(layout, len(aspects), width)
    assert (layout.cells[0].mask is not None) == has_masks


@pytest.mark.parametrize("has_masks", [False, True])
@pytest.mark.parametrize("width", [500, 20_000, 60_000, 200_000])
@pytest.mark.parametrize("count", [1, 2, 3, 200, 5000])
def test_any_number_at_any_width(count: int, width: int, has_masks: bool) -> None:
    if count == 5000 and width == 500 and has_masks:
        with pytest.raises(BadUsage, match="no room for 5,000 slides"):
            fit_layout([4 / 3] * count, has_masks=has_masks, width=width)
        return
    check(fit_layout([4 / 3] * count, has_masks=has_masks, width=width), count, width)


@pytest.mark.parametrize("count", [12, 50, 200, 5000])
@pytest.mark.parametrize("has_masks", [False, True])
@pytest.mark.parametrize("aspect", [0.5, 1.0, 4 / 3, 2.5])
def test_the_picture_is_near_to_16_to_9(count: int, has_masks: bool, aspect: float) -> None:
    width, height = fit_layout([aspect] * count, has_masks=has_masks, width=20_000).size
    assert 0.75 < width / height / (16 / 9) < 1.3


@pytest.mark.parametrize("has_masks", [False, True])
def test_no_other_number_of_columns_comes_much_nearer(has_masks: bool) -> None:
    layout = fit_layout([1.5] * 37, has_masks=has_masks, width=9000)
    pitch = layout.size[0] / layout.columns
    tall = (layout.size[1] / layout.rows) / pitch
    shapes = {columns: columns / (-(-37 // columns) * tall) / (16 / 9) for columns in range(1, 38)}
    off = {columns: max(shape, 1 / shape) for columns, shape in shapes.items()}
    assert off[layout.columns] < min(off.values()) * 1.1


def test_fit_layout_prefers_shape_with_fewest_empty_cells() -> None:
    """7 x 5 are a little nearer to 16:9 than 8 x 4, and leave five cells empty."""
    layout = fit_layout([1.18] * 30, has_masks=False, width=3000)
    assert (layout.columns, layout.rows) == (8, 4)
    for count in range(1, 100):
        layout = fit_layout([4 / 3] * count, has_masks=False, width=20_000)
        assert layout.columns * layout.rows - count < layout.columns


def test_the_cells_have_the_usual_form_of_the_slides() -> None:
    image = fit_layout([2.0, 2.1, 1.9, None, 40.0, 0.05], has_masks=False, width=5000).cells[0].image
    assert image.width / image.height == pytest.approx(2.0, rel=0.03)
    unknown = fit_layout([None, None], has_masks=False, width=5000).cells[0].image
    assert unknown.width / unknown.height == pytest.approx(4 / 3, rel=0.01)


@pytest.mark.parametrize(("aspect", "form"), [(1000.0, 4.0), (0.001, 0.25)])
def test_odd_forms_are_bounded(aspect: float, form: float) -> None:
    image = fit_layout([aspect], has_masks=False, width=800).cells[0].image
    assert image.width / image.height == pytest.approx(form, rel=0.02)


@pytest.mark.parametrize("count", [1, 2, 7, 200, 5000])
@pytest.mark.parametrize("has_masks", [False, True])
def test_too_small_width_is_refused_with_smallest_valid_one(count: int, has_masks: bool) -> None:
    with pytest.raises(BadUsage, match="A picture 2 pixels wide has no room for") as raised:
        fit_layout([1.4] * count, has_masks=has_masks, width=2)
    found = re.search(r"--width must be at least (\d+)\.", raised.value.hint)
    assert found
    least = int(found[1])
    check(fit_layout([1.4] * count, has_masks=has_masks, width=least), count, least)
    with pytest.raises(BadUsage):
        fit_layout([1.4] * count, has_masks=has_masks, width=least - 1)


@pytest.mark.parametrize("has_masks", [False, True])
@pytest.mark.parametrize(("count", "size"), [(1, (2000, 1500)), (2, (333, 500)), (4, (400, 300)), (30, (1180, 1000)), (200, (2000, 1500)), (7, (5000, 400))])
def test_without_a_width_slides_fill_their_cells_one_to_one(count: int, size: tuple[int, int], has_masks: bool) -> None:
    layout = fit_layout([size[0] / size[1]] * count, has_masks=has_masks, sizes=[size] * count)
    if layout.size[0] < DEFAULT_WIDTH:
        assert {fitted(cell.image, size).size for cell in layout.cells} == {size}
    check(layout, count, layout.size[0])
    assert layout.size[0] <= DEFAULT_WIDTH


def test_default_width_follows_median_slide_size() -> None:
    """Those of the benchmark have 2,000 x 1,500 pixels at level 1; the median one counts; small ones have cells in which captions can be read."""
    assert fit_layout([4 / 3] * 200, has_masks=False, sizes=[(2000, 1500)] * 200).size[0] == 34_612
    assert fit_layout([4 / 3] * 4, has_masks=False, sizes=[(400, 300)] * 4).size[0] == 1228
    mixed = fit_layout([4 / 3] * 5, has_masks=False, sizes=[(40, 30), (400, 300), (400, 300), (400, 300), (8000, 6000)])
    assert mixed.cells[0].image.size == (400, 300)
    for has_masks in (False, True):
        tiny = fit_layout([4 / 3] * 700, has_masks=has_masks, sizes=[(24, 18)] * 700)
        assert tiny.cells[0].box.width >= 320
        assert not tiny.remark
        assert fit_layout([4 / 3] * 700, has_masks=has_masks, sizes=[(50_000, 40_000)] * 700).size[0] == DEFAULT_WIDTH
    assert fit_layout([None], has_masks=False).cells[0].box.width == 320


def test_there_are_slides() -> None:
    with pytest.raises(BadUsage, match="no slides"):
        fit_layout([], has_masks=False, width=100)


def test_caption_grows_with_cell_and_missing_one_is_noted() -> None:
    sizes = []
    for width in (2000, 8000, 15_000, 200_000):
        caption = fit_layout([1.4] * 20, has_masks=False, width=width).cells[0].caption
        assert caption is not None
        sizes.append(letters_of(caption))
    assert sizes == sorted(set(sizes))
    assert sizes[-1] == 256
    narrow = fit_layout([1.4] * 20, has_masks=False, width=300)
    assert narrow.cells[0].caption is None
    assert narrow.remark.startswith("There are no captions: cells that are ")


@given(room=st.tuples(st.integers(1, 900), st.integers(1, 900)), size=st.tuples(st.integers(1, 100_000), st.integers(1, 100_000)))
def test_fitted_keeps_proportions_in_the_middle(room: tuple[int, int], size: tuple[int, int]) -> None:
    box = Box(7, 11, *room)
    inner = fitted(box, size)
    assert is_within(inner, box)
    assert inner.width == box.width or inner.height == box.height
    assert abs((inner.x - box.x) - (box.x + box.width - inner.x - inner.width)) <= 1
    assert abs((inner.y - box.y) - (box.y + box.height - inner.y - inner.height)) <= 1
    exact = min(room[0] / size[0], room[1] / size[1])
    assert abs(inner.width - max(1, size[0] * exact)) <= 0.5 + 1e-6
    assert abs(inner.height - max(1, size[1] * exact)) <= 0.5 + 1e-6
