"""Which values may be logged, and what becomes of them."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest

from himl_cli.core.errors import BadUsage
from himl_cli.core.logged import LoggedKind
from himl_cli.services.runs import writing


class Scalar:
    """As numpy's and PyTorch's scalars: the number is behind `item`."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def item(self) -> Any:
        return self.value


class Several(Scalar):
    """As an array with several elements."""

    def item(self) -> Any:
        raise ValueError("can only convert an array of size 1")

    def __repr__(self) -> str:
        return "Several()"


class Column:
    """As an array of one dimension."""

    ndim = 1

    def tolist(self) -> list[int]:
        return [1, 2]


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (1, 1),
        (0.5, 0.5),
        (True, True),
        ("word", "word"),
        (None, None),
        (Scalar(0.25), 0.25),
        (Scalar(3), 3),
        (Scalar(True), True),
        (Fraction(1, 4), 0.25),
        (2**70, float(2**70)),
    ],
)
def test_a_value_is_kept_as_what_it_is(given: Any, kept: Any) -> None:
    (row,) = writing.scalar("m", given).rows
    assert row.values == {"m": kept}
    assert type(row.values["m"]) is type(kept)


@pytest.mark.parametrize("given", [object(), Several(1), Decimal("0.1"), b"bytes"])
def test_what_is_no_value_becomes_text_and_that_is_said(given: Any, caplog: pytest.LogCaptureFixture) -> None:
    (row,) = writing.scalar("m", given).rows
    assert row.values == {"m": repr(given)}
    assert "is logged as text" in caplog.text


@pytest.mark.parametrize("given", [[1], (1,), range(3), {"a": 1}, (x for x in [1])])
def test_log_refuses_lists_and_says_what_takes_them(given: Any) -> None:
    with pytest.raises(BadUsage, match="log takes one value") as caught:
        writing.scalar("m", given)
    assert "log_list" in caught.value.hint


@pytest.mark.parametrize(("given", "kept"), [(3, 3), (3.0, 3), (Scalar(4), 4), (None, None)])
def test_steps_are_whole_numbers(given: Any, kept: int | None) -> None:
    assert writing.scalar("m", 1, given).rows[0].step == kept
    for wrong in (0.5, "3", True, float("nan"), 2**63):
        with pytest.raises(BadUsage, match="a step is a whole number"):
            writing.scalar("m", 1, wrong)  # type: ignore[arg-type]


def test_lists_take_whatever_can_be_walked() -> None:
    for given in ([1, 0.5], (1, 0.5), (value for value in [1, 0.5]), [Scalar(1), 0.5]):
        logged = writing.values("m", given)
        assert logged.kind is LoggedKind.list
        assert [row.values["m"] for row in logged.rows] == [1, 0.5]
    for wrong in (3, "abc", {"a": 1}):
        with pytest.raises(BadUsage, match="takes a list"):
            writing.values("m", wrong)  # type: ignore[arg-type]


def test_tables_are_of_columns_of_one_length() -> None:
    logged = writing.table("t", {"a": [1, 2], "b": ("x", "y"), "c": Column()})
    assert [dict(row.values) for row in logged.rows] == [{"a": 1, "b": "x", "c": 1}, {"a": 2, "b": "y", "c": 2}]
    assert logged.columns == ["a", "b", "c"]
    assert [dict(row.values) for row in writing.table("t", {"a": 1, "b": "xy"}).rows] == [{"a": 1, "b": "xy"}]
    with pytest.raises(BadUsage, match="'a' has 2, 'b' has 1"):
        writing.table("t", {"a": [1, 2], "b": [1]})
    wrongs: tuple[Any, ...] = ({}, [1, 2])
    for wrong in wrongs:
        with pytest.raises(BadUsage, match="takes a dictionary"):
            writing.table("t", wrong)


def test_rows_hold_single_values() -> None:
    (row,) = writing.row("t", {"a": 1, "b": Scalar(2.5)}).rows
    assert row.values == {"a": 1, "b": 2.5}
    with pytest.raises(BadUsage, match="column 'a' of a row holds one value"):
        writing.row("t", {"a": [1]})


def test_metrics_have_names() -> None:
    for name in ("", "  "):
        with pytest.raises(BadUsage, match="needs a name"):
            writing.scalar(name, 1)


def test_every_row_can_be_told_from_others_and_has_a_time() -> None:
    rows = [row for _ in range(100) for row in writing.values("m", [1, 1]).rows]
    assert len({row.id for row in rows}) == 200
    assert all(row.time.utcoffset() is not None for row in rows)
