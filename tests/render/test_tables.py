"""Tables: what fits is shown, the least important goes first, and programs get every column."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from himl_cli.render.output import GAP, Column, as_table, as_tabs, fitted


@dataclass(frozen=True)
class Row:
    name: str
    note: str = ""
    size: int = 0


COLUMNS = (
    Column("NAME", lambda row: row.name),
    Column("NOTE", lambda row: row.note, rank=2, least=8),
    Column("SIZE", lambda row: f"{row.size} B", plain=lambda row: str(row.size), rank=1, least=4, right=True),
)


def table(rows: list[Row], columns: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("COLUMNS", str(columns))
    return as_table(rows, COLUMNS).split("\n")


def test_a_table_that_fits_is_shown_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    assert table([Row("a", "first", 5), Row("longer", "x", 1000)], 80, monkeypatch) == [
        "NAME    NOTE     SIZE",
        "a       first     5 B",
        "longer  x      1000 B",
    ]


def test_the_least_important_column_shrinks_first_then_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [Row("n" * 20, "a note of many words", 5)]
    assert table(rows, 40, monkeypatch) == [f"NAME{' ' * 18}NOTE          SIZE", f"{'n' * 20}  a note of m…   5 B"]
    wide = [Row("n" * 34, "a note of many words", 5)]
    assert table(wide, 40, monkeypatch) == [f"NAME{' ' * 32}SIZE", f"{'n' * 34}   5 B"]


def test_a_name_is_never_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = table([Row("n" * 100)], 40, monkeypatch)
    assert "".join(line.strip() for line in lines[1:]) == "n" * 100


def test_a_column_without_content_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    assert table([Row("a")], 80, monkeypatch) == ["NAME  SIZE", "a      0 B"]


def test_wide_characters_keep_the_columns_straight(monkeypatch: pytest.MonkeyPatch) -> None:
    assert table([Row("組織", "x", 1), Row("abcd", "y", 2)], 80, monkeypatch)[1:] == ["組織  x      1 B", "abcd  y      2 B"]


def test_markup_in_names_is_text(monkeypatch: pytest.MonkeyPatch) -> None:
    assert table([Row("[red]a[/red]", "[/]")], 80, monkeypatch)[1] == "[red]a[/red]  [/]    0 B"


def test_programs_get_all_columns_in_plain_form() -> None:
    assert list(as_tabs([Row("a b", "tab\there\nand line", 5)], COLUMNS)) == ["name\tnote\tsize", "a b\ttab here and line\t5"]
    assert list(as_tabs([], COLUMNS)) == ["name\tnote\tsize"]


@given(st.lists(st.integers(0, 60), min_size=3, max_size=3), st.integers(20, 120))
def test_fitted_columns_fit_unless_the_name_alone_is_too_wide(natural: list[int], width: int) -> None:
    widths = fitted(natural, COLUMNS, width)
    assert widths[0] == natural[0]
    assert all(size <= most for size, most in zip(widths, natural, strict=True))
    used = sum(widths) + GAP * (sum(1 for size in widths if size) - 1)
    assert used <= max(width, natural[0])
