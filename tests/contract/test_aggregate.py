"""What every workspace promises of many runs' results: the same cases on both. A new backend adds one seed."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from himl_cli.core.jobs import HYPERPARAMETERS
from himl_cli.core.logged import Aggregation, Logged, LoggedKind, LoggedRow, RunResults, Series, Value
from himl_cli.core.runs import Run, RunEnd, RunQuery, RunStatus
from himl_cli.services.runs import writing
from himl_cli.services.runs.aggregate import aggregate, children_chosen
from himl_cli.workspaces.base import Workspace
from tests.support.workspaces import COMPLETED, Seed, Seen, azure, local

PARENT = "sweep_1_aa"


@pytest.fixture(params=[local, azure], ids=["local", "azure"])
def workspace(request: pytest.FixtureRequest, project: Path) -> Iterator[Seen]:
    seed: Seed = request.param
    with seed(request, project) as found:
        assert isinstance(found, Workspace)
        yield found
        for run in [*found.runs(RunQuery()), *found.runs(RunQuery(parent=PARENT))]:
            found.end_run(run.id, COMPLETED)  # gives back the locks of those kept here


def start_sweep(workspace: Seen, all_values: Sequence[Mapping[str, object]]) -> Run:
    """A run with a child for each of *all_values*, its hyperparameters; made in another order than their numbers'."""
    parent = workspace.start_run(Run(PARENT, "sweep"))
    for number in [*range(1, len(all_values)), 0]:
        tags = {HYPERPARAMETERS: json.dumps(all_values[number])}
        workspace.start_run(Run(f"{PARENT}_{number}", "sweep", parent=PARENT, tags=tags))
    return parent


def gathered(workspace: Seen, parent: Run, **options: object) -> Aggregation:
    return aggregate(workspace, children_chosen(workspace, parent)[0], **options)  # type: ignore[arg-type]


def read_one(workspace: Seen, entries: Sequence[Logged], *, whole: bool = True) -> RunResults:
    """What comes back of *entries* that one run logged."""
    run = workspace.start_run(Run("train_1_aa", "train"))
    workspace.log(run.id, entries)
    workspace.settle(run.id)
    return workspace.results([run], wanted=lambda name: True, whole=whole)[run.id]


def points(series: Series) -> list[tuple[int, float]]:
    return list(zip(series.steps, series.values, strict=True))


def same(found: object, wanted: object) -> bool:
    """Equal, NaN being equal to itself."""
    return repr(found) == repr(wanted)


def test_children_are_listed_in_order_of_their_numbers(workspace: Seen) -> None:
    parent = start_sweep(workspace, [{"lr": 0.1, "depth": 2}, {"lr": 0.01, "depth": 2}, {"lr": 0.001, "depth": 2}])
    for number in range(3):
        workspace.log(f"{PARENT}_{number}", [writing.scalar("loss", 10 * number + step, step) for step in range(3)])
    found = gathered(workspace, parent)
    assert found.metrics == ["loss"]
    assert [(child.run.id, child.label) for child in found.children] == [(f"{PARENT}_0", "0.1"), (f"{PARENT}_1", "0.01"), (f"{PARENT}_2", "0.001")]
    assert [child.hyperparameters for child in found.children] == [{"lr": lr, "depth": 2} for lr in (0.1, 0.01, 0.001)]
    assert [child.results.last for child in found.children] == [{"loss": 2.0}, {"loss": 12.0}, {"loss": 22.0}]
    assert all(not child.results.series for child in found.children)


def test_a_child_that_failed_or_lacks_a_metric_shifts_nothing(workspace: Seen) -> None:
    parent = start_sweep(workspace, [{"fold": number} for number in range(4)])
    for number, names in enumerate((["loss", "dice"], [], ["dice"], ["loss"])):
        workspace.log(f"{PARENT}_{number}", [writing.scalar(name, number) for name in names])
    workspace.end_run(f"{PARENT}_1", RunEnd(RunStatus.failed, "out of memory"))
    found = gathered(workspace, parent)
    assert found.metrics == ["dice", "loss"]
    assert [child.label for child in found.children] == ["0", "1", "2", "3"]
    assert [[child.results.last.get(name) for child in found.children] for name in found.metrics] == [[0.0, None, 2.0, None], [0.0, None, None, 3.0]]
    assert found.children[1].run.status is RunStatus.failed


def test_last_value_is_latest_value_at_highest_step(workspace: Seen) -> None:
    logged = [(5, 0.5), (9, 0.9), (1, 0.1), (9, 0.99), (3, 0.3), (3, 0.33)]
    found = read_one(workspace, [writing.scalar("loss", value, step) for step, value in logged])
    assert found.last == {"loss": 0.99}
    assert points(found.series["loss"]) == [(1, 0.1), (3, 0.3), (3, 0.33), (5, 0.5), (9, 0.9), (9, 0.99)]


def test_numbers_at_the_edge_come_back(workspace: Seen) -> None:
    values = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf, "large": 1e300, "tiny": 5e-324, "third": 1 / 3}
    found = read_one(workspace, [writing.scalar(name, value) for name, value in values.items()])
    assert same(dict(sorted(found.last.items())), dict(sorted(values.items())))
    assert same({name: list(series.values) for name, series in sorted(found.series.items())}, {name: [value] for name, value in sorted(values.items())})


def test_names_are_as_they_were_logged(workspace: Seen) -> None:
    names = ["val/loss", "train/a b/c", "größe ∑", "100% 'quoted' \"twice\"", "dots.and-dashes_", "x" * 200, "a,b;c"]
    found = read_one(workspace, [writing.scalar(name, number) for number, name in enumerate(names)])
    assert found.last == {name: float(number) for number, name in enumerate(names)}
    assert {*found.series} == {*names}


def test_five_hundred_metrics(workspace: Seen) -> None:
    found = read_one(workspace, [writing.scalar(f"metric {number}", number, step) for number in range(500) for step in (0, 1)], whole=False)
    assert found.last == {f"metric {number}": float(number) for number in range(500)}


def test_only_wanted_metrics_are_read(workspace: Seen) -> None:
    parent = start_sweep(workspace, [{"fold": 0}, {"fold": 1}])
    for number in range(2):
        workspace.log(f"{PARENT}_{number}", [writing.scalar(name, number) for name in ("val/loss", "val/dice", "train/loss", "[odd]")])
    for globs, names in ((["val/*"], ["val/dice", "val/loss"]), (["*/loss", "[odd]"], ["[odd]", "train/loss", "val/loss"]), (["VAL/*"], [])):
        found = gathered(workspace, parent, globs=globs, whole=True)
        assert found.metrics == names
        assert [sorted(child.results.series) for child in found.children] == [names, names]


def test_tables_lists_texts_and_images_are_what_they_were(workspace: Seen) -> None:
    entries = [
        writing.table("fruit", {"name": ["lime", "lemon"], "size": [3.5, math.nan]}),
        writing.row("fruit", {"name": "fig", "size": 1.0}),
        writing.row("one", {"x": 1}),
        writing.values("words", ["a", None, "b"]),
        writing.values("sizes", [3, 2, 1]),
        writing.scalar("word", "yes", 2),
        writing.scalar("word", "no", 1),
        writing.image("plot", "plots/größe 1.png"),
        writing.image("plot", "plots/2.png"),
        writing.scalar("loss", 0.5),
    ]
    found = read_one(workspace, entries)
    assert same(found.tables, {"fruit": {"name": ["lime", "lemon", "fig"], "size": [3.5, math.nan, 1.0]}, "one": {"x": [1]}})
    assert found.lists == {"words": ["a", None, "b"]}
    assert {name: points(series) for name, series in found.series.items()} == {"sizes": [(0, 3.0), (1, 2.0), (2, 1.0)], "loss": [(0, 0.5)]}
    assert {name: [(one.step, one.value) for one in texts] for name, texts in found.texts.items()} == {"word": [(1, "no"), (2, "yes")]}
    assert found.images == {"plot": ["plots/größe 1.png", "plots/2.png"]}
    last: dict[str, Value] = {"fruit/name": "fig", "fruit/size": 1.0, "one/x": 1, "words": "b", "sizes": 1.0, "word": "yes", "plot": "plots/2.png", "loss": 0.5}
    assert found.last == last


def test_a_table_shows_them_too(workspace: Seen) -> None:
    entries = [writing.table("fruit", {"name": ["lime", "fig"]}), writing.scalar("word", "yes"), writing.image("plot", "plot.png")]
    assert read_one(workspace, entries, whole=False) == RunResults({"fruit/name": "fig", "word": "yes", "plot": "plot.png"})


def test_parameters_come_along(workspace: Seen) -> None:
    parent = start_sweep(workspace, [{"fold": 0}, {"fold": 1}])
    for number in range(2):
        workspace.log_parameters(f"{PARENT}_{number}", {"optimizer": "adam", "seed": str(number)})
    found = gathered(workspace, parent)
    assert [child.results.parameters for child in found.children] == [{"optimizer": "adam", "seed": "0"}, {"optimizer": "adam", "seed": "1"}]
    assert [child.label for child in gathered(workspace, parent, child_arg="optimizer").children] == ["adam [0]", "adam [1]"]


def test_nested_run_metrics_fill_in_where_run_has_none(workspace: Seen) -> None:
    parent = start_sweep(workspace, [{"fold": 0}, {"fold": 1}])
    for number in range(2):
        nested = workspace.start_run(Run(f"nested_{number}", "sweep", parent=f"{PARENT}_{number}")).id
        workspace.log(nested, [writing.scalar("loss", 10 + number), writing.scalar("below", number)])
        workspace.log(f"{PARENT}_{number}", [writing.scalar("loss", number)])
    found = gathered(workspace, parent, whole=True)
    for number in range(2):
        workspace.end_run(f"nested_{number}", COMPLETED)
    assert [child.results.last for child in found.children] == [{"loss": 0.0, "below": 0.0}, {"loss": 1.0, "below": 1.0}]
    assert [list(child.results.series["below"].values) for child in found.children] == [[0.0], [1.0]]


def test_runs_of_several_experiments_and_without_metrics(workspace: Seen) -> None:
    runs = [workspace.start_run(Run(f"run_{number}", f"experiment{number % 2}")) for number in range(5)]
    workspace.log("run_1", [writing.scalar("loss", 0.5)])
    found = workspace.results(runs, wanted=lambda name: True, whole=True)
    assert list(found) == [run.id for run in runs]
    assert {run_id: results.last for run_id, results in found.items()} == {"run_0": {}, "run_1": {"loss": 0.5}, "run_2": {}, "run_3": {}, "run_4": {}}
    assert workspace.results([], wanted=lambda name: True, whole=True) == {}


def test_a_long_curve_comes_whole(workspace: Seen) -> None:
    rows = [LoggedRow({"loss": float(step)}, step) for step in range(2600)]
    found = read_one(workspace, [Logged("loss", LoggedKind.scalar, rows)])
    assert points(found.series["loss"]) == [(step, float(step)) for step in range(2600)]
