"""What is done where a terminal has no room: texts are folded, names are folded or cut, and what can be spared is left out."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from himl_cli.render.output import GAP, as_table, fitted, folded
from himl_cli.render.results import FILE_COLUMNS
from himl_cli.services.transfer.plan import Filters, list_files
from tests.support.runs import RecordedRuns


@given(st.text(alphabet="ab' (", max_size=80), st.integers(5, 40))
def test_a_folded_text_fits_and_loses_nothing(text: str, columns: int) -> None:
    lines = folded(text, columns)
    assert all(0 < len(line) <= columns for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    if all(len(word) <= columns for word in text.split()):
        assert " ".join(lines).split() == text.split()


@pytest.mark.parametrize(
    ("text", "columns", "lines"),
    [
        ("Run 'az login' first.", 12, ["Run", "'az login'", "first."]),
        ("Make one ('himl init').", 18, ["Make one", "('himl init')."]),
        ("Run 'himl runs list --all' first.", 12, ["Run 'himl", "runs list", "--all'", "first."]),
        ("The user's folder and the team's", 20, ["The user's folder", "and the team's"]),
        ("from /a/very/long/path here", 10, ["from", "/a/very/lo", "ng/path", "here"]),
        ("", 10, []),
    ],
)
def test_what_is_to_be_copied_stays_in_one_line(text: str, columns: int, lines: list[str]) -> None:
    assert folded(text, columns) == lines


@given(st.integers(1, 300), st.integers(4, 8), st.sampled_from([0, 12]), st.integers(44, 200))
def test_the_size_of_a_file_stays_beside_a_long_name(name: int, size: int, modified: int, width: int) -> None:
    widths = fitted([name, size, modified], FILE_COLUMNS, width)
    assert widths[1] == size
    assert sum(widths) + GAP * (sum(1 for each in widths if each) - 1) <= width
    assert widths[0] == name or (widths[0] >= FILE_COLUMNS[0].folds and widths[2] == 0)


def test_a_long_name_is_folded_in_its_column(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    runs = RecordedRuns(project)
    name = f"outputs/{'n' * 70}.ckpt"
    runs.add("train_1_aa", files={name: b"x" * 1000})
    files = list(list_files(runs.workspace.run_files("train_1_aa"), Filters()))
    header, *rows = as_table(files, FILE_COLUMNS).split("\n")
    assert header.split() == ["NAME", "SIZE"]
    assert rows[0].endswith("  1.0 KB")
    assert "".join(row.split()[0] for row in rows) == name
