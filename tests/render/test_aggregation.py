"""The table of many runs, as wide as the terminal."""

from __future__ import annotations

import pytest

from himl_cli.render.aggregation import table_lines
from tests.services.aggregation.records import aggregation


@pytest.fixture
def columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")


@pytest.mark.usefixtures("columns")
def test_as_many_runs_as_there_is_room_for() -> None:
    runs = {f"run {number}": {f"metric {name}": number * 1.5 for name in range(20)} for number in range(3000)}
    lines = list(table_lines(aggregation(runs), None))
    assert lines[0].split("  ")[0] == "METRIC"
    shown = lines[0].count("run ")
    one_more = f"{lines[0]}  run {shown}"
    assert len(lines[0]) <= 80 < len(one_more)
    assert len(lines) == 1 + 20 + 2
    assert lines[-1].startswith(f"{3000 - shown} of 3000 runs are not shown: no room.")


@pytest.mark.usefixtures("columns")
def test_where_names_alone_were_cut_no_run_is_called_left_out() -> None:
    names = ["deep/" * 30 + name for name in ("loss", "accuracy")]
    lines = list(table_lines(aggregation({"run 1": dict.fromkeys(names, 0.5)}), None))
    assert [line.split()[-2:] for line in lines[1:]] == [[line.split()[0], "0.5"] for line in lines[1:]]
    assert (len(lines), max(map(len, lines)) <= 80, "not shown" in "".join(lines)) == (3, True, False)


@pytest.mark.usefixtures("columns")
def test_a_long_name_of_a_metric_takes_no_room_from_the_runs() -> None:
    runs = {f"run {number}": {"deep/" * 30 + "loss": 0.5, **{f"metric {name}": 0.5 for name in range(20)}} for number in range(30)}
    lines = list(table_lines(aggregation(runs), None))
    assert lines[0].count("run ") > 5
    assert max(map(len, lines[:-1])) <= 80


@pytest.mark.usefixtures("columns")
def test_label_numbers_have_six_digits_unless_ambiguous() -> None:
    long = {"lr=0.033234493303921135, degree=5": {"loss": 1.0}, "lr=1.2345678901e-05": {"loss": 1.0}, "v1.2345678901": {"loss": 1.0}}
    head = next(iter(table_lines(aggregation(long), None)))
    assert head.split("  ")[1:] == ["lr=0.0332345, degree=5", "lr=1.23457e-05", "v1.2345678901"]
    close = {"0.12345678901": {"loss": 1.0}, "0.12345678902": {"loss": 1.0}}
    assert next(iter(table_lines(aggregation(close), None))).split("  ")[1:] == list(close)
