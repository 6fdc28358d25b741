"""CSV and Parquet of many runs, read back by pandas."""

from __future__ import annotations

import math
from array import array
from pathlib import Path

import pandas as pd
import pytest

from himl_cli.core.errors import BadUsage, DiskFailed
from himl_cli.core.logged import Aggregation, Child, RunResults, Series, TextPoint
from himl_cli.services.runs.aggregate import check_file, statistics_of, write_csv, write_parquet
from tests.services.aggregation.records import NOON, aggregation, run


def test_a_csv_has_a_row_a_metric_and_a_column_a_run(project: Path) -> None:
    found = aggregation({"lr=0.1, depth=2": {"loss": 1 / 3, "word": 'a "b", c'}, "größe": {"loss": math.nan, "x\ny": math.inf}})
    write_csv(found, statistics_of(found), project / "m.csv")
    read = pd.read_csv(project / "m.csv", index_col="metric")
    assert list(read.columns) == ["mean", "std", "min", "max", "median", "lr=0.1, depth=2", "größe"]
    assert list(read.index) == ["loss", "word", "x\ny"]
    assert float(read.loc["loss", "lr=0.1, depth=2"]) == 1 / 3
    assert float(read.loc["x\ny", "größe"]) == math.inf
    assert read.loc["word", "lr=0.1, depth=2"] == 'a "b", c'
    assert math.isnan(float(read.loc["loss", "größe"]))
    assert read.loc["loss", "mean"] == 1 / 3
    assert pd.isna(read.loc["loss", "std"])
    write_csv(found, None, project / "m.csv")
    assert (project / "m.csv").read_bytes().startswith('metric,"lr=0.1, depth=2",größe\nloss,0.3333333333333333,NaN\n'.encode())
    assert [path.name for path in project.iterdir()] == ["m.csv"]


def test_a_parquet_file_has_a_row_a_point(project: Path) -> None:
    curve = Series(array("q", [0, 1]), array("d", [0.5, math.nan]), array("d", [1_750_000_000.25, 1_750_000_001.5]))
    results = RunResults(
        series={"loss": curve},
        texts={"word": [TextPoint("yes", 3, NOON)]},
        tables={"fruit": {"name": ["lime", None], "size": [1, 2.5]}},
        lists={"words": ["a", 2]},
        images={"plot": ["plot.png"]},
    )
    other = RunResults(series={"loss": Series([7], [1e300], [0.0])})
    found = Aggregation([], [Child(run("a"), "0.1", {}, results), Child(run("b"), "0.2", {}, RunResults()), Child(run("c"), "0.3", {}, other)])
    write_parquet(found, project / "m.parquet")
    read = pd.read_parquet(project / "m.parquet")
    assert list(read.columns) == ["run", "label", "metric", "kind", "step", "time", "value", "text"]
    assert [tuple(row) for row in read[["run", "label", "metric", "kind", "step"]].itertuples(index=False)] == [
        ("a", "0.1", "loss", "scalar", 0),
        ("a", "0.1", "loss", "scalar", 1),
        ("a", "0.1", "word", "text", 3),
        ("a", "0.1", "fruit/name", "table", 0),
        ("a", "0.1", "fruit/name", "table", 1),
        ("a", "0.1", "fruit/size", "table", 0),
        ("a", "0.1", "fruit/size", "table", 1),
        ("a", "0.1", "words", "list", 0),
        ("a", "0.1", "words", "list", 1),
        ("a", "0.1", "plot", "image", 0),
        ("c", "0.3", "loss", "scalar", 7),
    ]
    assert [None if pd.isna(value) else value for value in read["value"]] == [0.5, None, None, None, None, 1.0, 2.5, None, 2.0, None, 1e300]
    assert [None if pd.isna(text) else text for text in read["text"]] == [None, None, "yes", "lime", None, None, None, "a", None, "plot.png", None]
    assert read["time"][0] == pd.Timestamp(1_750_000_000_250, unit="ms", tz="UTC")
    assert read["time"][2] == pd.Timestamp(NOON)
    assert pd.isna(read["time"][3])


def test_without_any_point_a_parquet_file_has_no_row(project: Path) -> None:
    write_parquet(Aggregation([], []), project / "m.parquet")
    assert len(pd.read_parquet(project / "m.parquet")) == 0


def test_what_cannot_become_a_file_is_said_at_once(project: Path) -> None:
    check_file("--output_csv", project / "m.csv")
    with pytest.raises(BadUsage, match=r"--output_csv '.*' is a folder"):
        check_file("--output_csv", project)
    with pytest.raises(BadUsage, match=r"there is no folder '.*nowhere'"):
        check_file("--plot", project / "nowhere" / "m.png")


def test_a_file_that_cannot_be_written_leaves_nothing(project: Path) -> None:
    (project / "m.csv").mkdir()
    (project / "m.parquet").mkdir()
    with pytest.raises(DiskFailed, match="Cannot write"):
        write_csv(aggregation({}), None, project / "m.csv")
    with pytest.raises(DiskFailed, match="Cannot write"):
        write_parquet(Aggregation([], []), project / "m.parquet")
    assert sorted(path.name for path in project.iterdir()) == ["m.csv", "m.parquet"]
