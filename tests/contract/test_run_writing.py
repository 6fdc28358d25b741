"""The contract of every workspace for writing runs and reading the results of many runs. A new backend adds one
seed.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from itertools import islice
from pathlib import Path

import pytest

from himl_cli.core.errors import BadUsage, RunNotFound
from himl_cli.core.logged import Aggregation, Logged, LoggedKind, LoggedRow, RunResults, Series, Value
from himl_cli.core.runs import Run, RunEnd, RunQuery, RunStatus
from himl_cli.core.sweeps import HYPERPARAMETERS
from himl_cli.services.runs import writing
from himl_cli.services.runs.aggregate import aggregate, children_chosen
from himl_cli.services.runs.writing import RunWriter
from himl_cli.workspaces.azure.workspace import AzureWorkspace
from himl_cli.workspaces.base import ManagedWorkspace, RunRecorder, Workspace
from himl_cli.workspaces.remote.workspace import RemoteWorkspace
from himl_cli.workspaces.resolve import open_runs
from tests.support.azure import opened
from tests.support.running import until
from tests.support.runs import RecordedRuns
from tests.support.spreading import STARTS_SSH
from tests.support.stores import Stored, listed, sending

Seen = ManagedWorkspace | AzureWorkspace
COMPLETED = RunEnd(RunStatus.completed)
PARENT = "sweep_1_aa"


def remote(request: pytest.FixtureRequest, project: Path) -> AbstractContextManager[Seen]:
    RecordedRuns(request.getfixturevalue("box").home)
    found = open_runs("ssh:box", None, start=project)
    assert isinstance(found, RemoteWorkspace)
    return closing(found)


SEEDS: dict[str, Callable[[pytest.FixtureRequest, Path], AbstractContextManager[Seen]]] = {
    "local": lambda request, project: nullcontext(RecordedRuns(project).workspace),
    "azure": lambda request, project: opened(request.getfixturevalue("azure_environment"), project),
    "remote": remote,
}


@pytest.fixture(params=["local", "azure", pytest.param("remote", marks=pytest.mark.large(STARTS_SSH))])
def workspace(request: pytest.FixtureRequest, project: Path) -> Iterator[Seen]:
    with SEEDS[request.param](request, project) as found:
        assert isinstance(found, RunRecorder)
        assert isinstance(found, Workspace)
        yield found
        for run in [*found.runs(RunQuery()), *found.runs(RunQuery(parent=PARENT))]:
            found.end_run(run.id, COMPLETED)  # releases the locks of local runs


@pytest.fixture
def run_id(workspace: Seen) -> str:
    return workspace.start_run(Run("train_1_aa", "train")).id


def values(workspace: Seen, run_id: str) -> dict[str, list[tuple[int, float]]]:
    return {metric.name: [(point.step, point.value) for point in metric.points] for metric in workspace.metrics(run_id)}


def test_a_run_is_started_once_found_and_ended(workspace: Seen) -> None:
    new = Run("train_1_aa", "train", display_name="first try", description="by hand", tags={"team": "blue"})
    started = workspace.start_run(new)
    assert (started.id, started.experiment, started.status) == ("train_1_aa", "train", RunStatus.running)
    assert (started.display_name, started.description, started.tags, started.parent) == (
        "first try",
        "by hand",
        {"team": "blue"},
        None,
    )
    assert started.started is not None
    assert [run.id for run in workspace.runs(RunQuery("train"))] == ["train_1_aa"]
    before = workspace.run("train_1_aa")
    assert workspace.start_run(Run("train_1_aa", "other", display_name="other")) == before
    ended = workspace.end_run("train_1_aa", COMPLETED)
    assert (ended.status, ended.ended is None) == (RunStatus.completed, False)
    assert workspace.run("train_1_aa") == ended
    assert workspace.start_run(Run("train_1_aa", "train")).status is RunStatus.completed


def test_a_run_below_another_is_its_child_and_its_first_end_stays(workspace: Seen, run_id: str) -> None:
    child = workspace.start_run(Run("train_2_bb", "train", parent=run_id))
    assert (child.parent, child.status) == (run_id, RunStatus.running)
    workspace.log("train_2_bb", [writing.scalar("loss", 0.5)])
    assert [(metric.run, metric.name) for metric in workspace.metrics(run_id)] == [("train_2_bb", "loss")]
    assert [run.id for run in workspace.runs(RunQuery(parent=run_id))] == ["train_2_bb"]
    failed = workspace.end_run("train_2_bb", RunEnd(RunStatus.failed, "no memory left"))
    assert (failed.status, failed.reason) == (RunStatus.failed, "no memory left")
    assert workspace.end_run("train_2_bb", COMPLETED) == failed
    with pytest.raises(RunNotFound, match="No run 'nope'"):
        workspace.start_run(Run("train_3_cc", "train", parent="nope"))


def test_values_come_back_with_their_steps(workspace: Seen, run_id: str) -> None:
    losses = [writing.scalar("loss", value, step) for step, value in enumerate([1, 0.5, math.inf])]
    workspace.log(
        run_id,
        [*losses, writing.scalar("odd name/ü", True), writing.scalar("loss", 0.25, 7), writing.scalar("nan", math.nan)],
    )
    workspace.log(run_id, [Logged("acc", LoggedKind.scalar, [LoggedRow({"acc": 1.0}) for _ in range(3)])])
    workspace.log(
        run_id, [writing.values("sizes", [3, 2]), writing.values("sizes", [1]), writing.values("many", range(700))]
    )
    workspace.log(
        run_id, [writing.values("sizes", [0.5]), writing.scalar("word", "yes"), writing.image("plot", "plot.png")]
    )
    workspace.log(
        run_id,
        [
            writing.table("fruit", {"name": ["lime", "lemon"], "size": [3, 7.5]}),
            writing.row("fruit", {"name": "fig", "size": 1}),
        ],
    )
    workspace.log(
        run_id,
        [
            writing.row("fruit", {"name": "plum", "size": 2}),
            writing.row("rr", {"x": 1}),
            writing.row("same", {"same": 3}),
        ],
    )
    for start in range(0, 600, 200):
        workspace.log(run_id, [writing.scalar("without", float(number)) for number in range(start, start + 200)])
    twice = [
        writing.scalar("once", 0.5),
        writing.values("list", [1, 2]),
        writing.table("t", {"a": [1, 2], "b": ["x", "y"]}),
    ]
    workspace.log(run_id, twice)
    workspace.log(run_id, twice)
    workspace.settle(run_id)
    found = values(workspace, run_id)
    assert math.isnan(found.pop("nan")[0][1])
    assert [value for _, value in found.pop("acc")] == [1.0, 1.0, 1.0]
    assert [value for _, value in found.pop("without")] == [float(number) for number in range(600)]
    assert found == {
        "loss": [(0, 1.0), (1, 0.5), (2, math.inf), (7, 0.25)],
        "odd name/ü": [(0, 1.0)],
        "sizes": [(0, 3.0), (1, 2.0), (2, 1.0), (3, 0.5)],
        "many": [(number, float(number)) for number in range(700)],
        "fruit/size": [(0, 3.0), (1, 7.5), (2, 1.0), (3, 2.0)],
        "rr/x": [(0, 1.0)],
        "same/same": [(0, 3.0)],
        "once": [(0, 0.5)],
        "list": [(0, 1.0), (1, 2.0)],
        "t/a": [(0, 1.0), (1, 2.0)],
    }


def test_texts_come_back_beside_the_numbers(workspace: Seen, run_id: str) -> None:
    child = workspace.start_run(Run("train_2_bb", "train", parent=run_id)).id
    workspace.log(child, [writing.scalar("kernel/kind", "rbf", 3)])
    workspace.log(
        run_id, [writing.scalar("word", "yes"), writing.scalar("word", "größer\nno"), writing.scalar("number", "3.5")]
    )
    workspace.log(
        run_id,
        [
            writing.values("words", ["a", None, "b"]),
            writing.values("mixed", [1, "a"]),
            writing.image("plot", "plot.png"),
        ],
    )
    workspace.log(
        run_id,
        [
            writing.table("fruit", {"kind": ["lime", "fig"], "size": [3, math.nan]}),
            writing.row("one", {"kind": "plum"}),
        ],
    )
    workspace.settle(run_id)
    workspace.end_run(child, COMPLETED)
    found = workspace.values(run_id)
    assert {
        (texts.run, texts.name): [(point.step, point.value) for point in texts.points] for texts in found.texts
    } == {
        (run_id, "fruit/kind"): [(0, "lime"), (1, "fig")],
        (run_id, "mixed"): [(0, "1"), (1, "a")],
        (run_id, "number"): [(0, "3.5")],
        (run_id, "one/kind"): [(0, "plum")],
        (run_id, "word"): [(0, "yes"), (0, "größer\nno")],
        (run_id, "words"): [(0, "a"), (2, "b")],
        (child, "kernel/kind"): [(3, "rbf")],
    }
    assert (
        [metric.name for metric in found.metrics]
        == [metric.name for metric in workspace.metrics(run_id)]
        == ["fruit/size"]
    )


def test_entries_that_cannot_be_stored_are_named_and_do_not_lose_others(
    workspace: Seen, run_id: str, caplog: pytest.LogCaptureFixture
) -> None:
    long, bytes_of_latin_1 = "损失" * 14, "caf\udce9.txt"
    unsendable = Logged("\udce9", LoggedKind.scalar, [LoggedRow({"\udce9": "text"})])
    entries = [
        writing.scalar("loss", 1.0, 0),
        writing.scalar("word", "yes"),
        writing.row(long, {"a": 1}),
        writing.row(long, {"a": 2}),
    ]
    entries += [unsendable] * isinstance(workspace, ManagedWorkspace)
    entries += [
        writing.scalar("file", bytes_of_latin_1),
        writing.scalar("loss", 0.5, 1),
        writing.scalar(bytes_of_latin_1, 2.0),
    ]
    writer = RunWriter(workspace, run_id)
    for entry in entries:
        writer.add(entry)
    until(lambda: not writer.left)
    writer.add(writing.scalar("loss", 0.25, 2))
    writer.settle(60)
    found = workspace.values(run_id)
    assert values(workspace, run_id)["loss"] == [(0, 1.0), (1, 0.5), (2, 0.25)]
    assert values(workspace, run_id)["caf\\udce9.txt"] == [(0, 2.0)]
    texts = {texts.name: [point.value for point in texts.points] for texts in found.texts}
    assert (texts["word"], texts["file"]) == (["yes"], ["caf\\udce9.txt"])
    if isinstance(workspace, ManagedWorkspace):
        said = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
        assert [long in said[0], "File name too long" in said[0], "'\\udce9'" in said[1], len(said)] == [
            True,
            True,
            True,
            2,
        ]
    else:
        assert values(workspace, run_id)[f"{long}/a"] == [(0, 1.0), (1, 2.0)]


def test_parameters_keep_their_values(workspace: Seen, run_id: str) -> None:
    many = {f"p{number}": str(number) for number in range(150)}
    workspace.log_parameters(run_id, many)
    workspace.log_parameters(run_id, {"p1": "1", "lr": "0.1"})
    assert workspace.parameters(run_id) == dict(sorted({**many, "lr": "0.1"}.items()))
    with pytest.raises(BadUsage, match="lr"):
        workspace.log_parameters(run_id, {"lr": "0.2"})
    assert workspace.parameters(run_id)["lr"] == "0.1"


def test_parameters_beyond_the_limit_leave_the_others(
    workspace: Seen, run_id: str, caplog: pytest.LogCaptureFixture
) -> None:
    many = {f"p{number:03}": str(number) for number in range(250)}
    workspace.log_parameters(run_id, dict(islice(many.items(), 130)))
    workspace.log_parameters(run_id, dict(islice(many.items(), 130, None)))
    workspace.log_parameters(run_id, {"p249": "249"})
    most = 200 if isinstance(workspace, AzureWorkspace) else 250
    assert workspace.parameters(run_id) == dict(islice(many.items(), most))
    told = [one.getMessage() for one in caplog.records if one.levelname == "WARNING"]
    assert told == (
        [f"Azure ML stores at most 200 parameters of a run, so run '{run_id}' lacks 'p200' and all others after it."]
        if most == 200
        else []
    )


def test_parameters_and_tags_that_are_secrets_are_stored_masked(workspace: Seen, run_id: str) -> None:
    logged = {"api_key": "sesame-open", "mask_token": "<mask>", "url": "https://ada:sesame@example.org/x"}
    for _ in range(2):
        workspace.log_parameters(run_id, logged)
    workspace.tag(run_id, logged)
    shown = {"api_key": "***", "mask_token": "<mask>", "url": "https://***@example.org/x"}
    assert workspace.parameters(run_id) == shown
    assert workspace.run(run_id).tags.items() >= shown.items()
    child = f"{run_id}_secret"
    workspace.start_run(Run(child, "digits", parent=run_id, tags={"hub_token": "sesame", "label_key": "y"}))
    assert workspace.run(child).tags.items() >= {"hub_token": "***", "label_key": "y"}.items()


def stored(workspace: Seen, run_id: str, files: dict[str, bytes], folder: Path) -> Stored:
    requests = [sending(folder / str(number), name, content) for number, (name, content) in enumerate(files.items())]
    sink = Stored()
    workspace.run_files(run_id).store(iter(requests), sink, workers=4)
    return sink


def test_files_are_stored_and_replaced(workspace: Seen, run_id: str, tmp_path: Path) -> None:
    large = bytes(range(256)) * (9 << 12)  # 9 MiB: more than one request can carry
    small = {
        "outputs/model.bin": b"m" * 10,
        "plots/größe #1.png": b"p",
        "empty": b"",
        **{f"many/{number:03}": b"x" for number in range(60)},
    }
    files = {**small, "outputs/large": large}
    assert stored(workspace, run_id, files, tmp_path).errors == {}
    assert {blob.name: blob.size for blob in listed(workspace.run_files(run_id))} == {
        name: len(content) for name, content in files.items()
    }
    sink = stored(workspace, run_id, {"outputs/model.bin": b"new", "../up": b"x", "beside": b"b"}, tmp_path)
    assert [*sink.errors] == ["../up"]
    place = workspace.run_files(run_id)
    assert [b"".join(place.read(name)) for name in ("outputs/model.bin", "beside", "outputs/large")] == [
        b"new",
        b"b",
        large,
    ]
    assert len(listed(place)) == len(files) + 1


def test_an_unknown_run_is_not_made_up(workspace: Seen) -> None:
    for unknown in ("nope", "..", "a/b"):
        for write in (
            lambda name: workspace.log(name, [writing.scalar("loss", 1)]),
            lambda name: workspace.log_parameters(name, {"a": "b"}),
            lambda name: workspace.end_run(name, COMPLETED),
            workspace.settle,
            workspace.run_files,
        ):
            with pytest.raises(RunNotFound, match="No run '"):
                write(unknown)
    assert [*workspace.runs(RunQuery())] == []


def start_sweep(workspace: Seen, all_values: Sequence[Mapping[str, object]]) -> Run:
    """Start a run with a child run for each of *all_values*, its hyperparameters. The order of creation differs from
    the order of their numbers.
    """
    parent = workspace.start_run(Run(PARENT, "sweep"))
    for number in [*range(1, len(all_values)), 0]:
        tags = {HYPERPARAMETERS: json.dumps(all_values[number])}
        workspace.start_run(Run(f"{PARENT}_{number}", "sweep", parent=PARENT, tags=tags))
    return parent


def gathered(workspace: Seen, parent: Run, **options: object) -> Aggregation:
    return aggregate(workspace, children_chosen(workspace, parent)[0], **options)  # type: ignore[arg-type]


def read(workspace: Seen, run_id: str, entries: Sequence[Logged], *, whole: bool = True) -> RunResults:
    """Log *entries* to one run, and read them."""
    workspace.log(run_id, entries)
    workspace.settle(run_id)
    return workspace.results([workspace.run(run_id)], wanted=lambda name: True, whole=whole)[run_id]


def points(series: Series) -> list[tuple[int, float]]:
    return list(zip(series.steps, series.values, strict=True))


def same(found: object, wanted: object) -> bool:
    """Compare for equality, with NaN equal to itself."""
    return repr(found) == repr(wanted)


def test_children_are_listed_in_order_of_their_numbers(workspace: Seen) -> None:
    parent = start_sweep(workspace, [{"lr": 0.1, "depth": 2}, {"lr": 0.01, "depth": 2}, {"lr": 0.001, "depth": 2}])
    for number in range(3):
        workspace.log(f"{PARENT}_{number}", [writing.scalar("loss", 10 * number + step, step) for step in range(3)])
        workspace.log_parameters(f"{PARENT}_{number}", {"optimizer": "adam", "seed": str(number)})
    found = gathered(workspace, parent)
    assert found.metrics == ["loss"]
    assert [(child.run.id, child.label) for child in found.children] == [
        (f"{PARENT}_0", "0.1"),
        (f"{PARENT}_1", "0.01"),
        (f"{PARENT}_2", "0.001"),
    ]
    assert [child.hyperparameters for child in found.children] == [{"lr": lr, "depth": 2} for lr in (0.1, 0.01, 0.001)]
    assert [child.results.last for child in found.children] == [{"loss": 2.0}, {"loss": 12.0}, {"loss": 22.0}]
    assert all(not child.results.series for child in found.children)
    assert [child.results.parameters for child in found.children] == [
        {"optimizer": "adam", "seed": str(number)} for number in range(3)
    ]
    assert [child.label for child in gathered(workspace, parent, child_arg="optimizer").children] == [
        "adam [0]",
        "adam [1]",
        "adam [2]",
    ]


def test_a_child_that_failed_or_lacks_a_metric_shifts_nothing(workspace: Seen) -> None:
    parent = start_sweep(workspace, [{"fold": number} for number in range(4)])
    for number, names in enumerate((["val/loss", "val/dice", "train/loss", "[odd]"], [], ["val/dice"], ["val/loss"])):
        workspace.log(f"{PARENT}_{number}", [writing.scalar(name, number) for name in names])
    nested = workspace.start_run(Run("nested", "sweep", parent=f"{PARENT}_3")).id
    workspace.log(nested, [writing.scalar("val/loss", 13), writing.scalar("below", 3)])
    workspace.end_run(nested, COMPLETED)
    workspace.end_run(f"{PARENT}_1", RunEnd(RunStatus.failed, "out of memory"))
    found = gathered(workspace, parent, whole=True)
    assert found.metrics == ["[odd]", "below", "train/loss", "val/dice", "val/loss"]
    assert [child.label for child in found.children] == ["0", "1", "2", "3"]
    assert [child.results.last.get("val/dice") for child in found.children] == [0.0, None, 2.0, None]
    assert found.children[3].results.last == {"val/loss": 3.0, "below": 3.0}, (
        "a nested run fills in where the run has none"
    )
    assert list(found.children[3].results.series["below"].values) == [3.0]
    assert found.children[1].run.status is RunStatus.failed
    for globs, names in (
        (["val/*"], ["val/dice", "val/loss"]),
        (["*/loss", "[odd]"], ["[odd]", "train/loss", "val/loss"]),
        (["VAL/*"], []),
    ):
        some = gathered(workspace, parent, globs=globs, whole=True)
        assert (some.metrics, sorted(some.children[0].results.series)) == (names, names)


def test_last_values_names_and_numbers_at_the_edge_come_back(workspace: Seen, run_id: str) -> None:
    """The last value is the latest at the highest step."""
    logged = [(5, 0.5), (9, 0.9), (1, 0.1), (9, 0.99), (3, 0.3), (3, 0.33)]
    edge = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf, "large": 1e300, "tiny": 5e-324, "third": 1 / 3}
    names = ["val/loss", "train/a b/c", "größe ∑", "100% 'quoted' \"twice\"", "dots.and-dashes_", "x" * 200, "a,b;c"]
    given = {
        **edge,
        **{name: float(number) for number, name in enumerate(names)},
        **{f"metric {number}": float(number) for number in range(150)},
    }
    entries = [writing.scalar("loss", value, step) for step, value in logged] + [
        writing.scalar(name, value) for name, value in given.items()
    ]
    found = read(workspace, run_id, entries)
    assert same(dict(sorted(found.last.items())), dict(sorted({**given, "loss": 0.99}.items())))
    curves = {name: list(series.values) for name, series in sorted(found.series.items()) if name != "loss"}
    assert same(curves, {name: [value] for name, value in sorted(given.items())})
    assert points(found.series["loss"]) == [(1, 0.1), (3, 0.3), (3, 0.33), (5, 0.5), (9, 0.9), (9, 0.99)]


def test_tables_lists_texts_and_images_are_what_they_were(workspace: Seen, run_id: str) -> None:
    entries = [
        *(
            writing.table("fruit", {"name": ["lime", "lemon"], "size": [3.5, math.nan]}),
            writing.row("fruit", {"name": "fig", "size": 1.0}),
        ),
        *(writing.row("one", {"x": 1}), writing.values("words", ["a", None, "b"]), writing.values("sizes", [3, 2, 1])),
        *(writing.scalar("word", "yes", 2), writing.scalar("word", "no", 1), writing.scalar("loss", 0.5)),
        *(writing.image("plot", "plots/größe 1.png"), writing.image("plot", "plots/2.png")),
    ]
    found = read(workspace, run_id, entries)
    assert same(
        found.tables, {"fruit": {"name": ["lime", "lemon", "fig"], "size": [3.5, math.nan, 1.0]}, "one": {"x": [1]}}
    )
    assert found.lists == {"words": ["a", None, "b"]}
    assert {name: points(series) for name, series in found.series.items()} == {
        "sizes": [(0, 3.0), (1, 2.0), (2, 1.0)],
        "loss": [(0, 0.5)],
    }
    assert {name: [(one.step, one.value) for one in texts] for name, texts in found.texts.items()} == {
        "word": [(1, "no"), (2, "yes")]
    }
    assert found.images == {"plot": ["plots/größe 1.png", "plots/2.png"]}
    last: dict[str, Value] = {
        "fruit/name": "fig",
        "fruit/size": 1.0,
        "one/x": 1,
        "words": "b",
        "sizes": 1.0,
        "word": "yes",
        "plot": "plots/2.png",
        "loss": 0.5,
    }
    assert found.last == last


def test_long_curves_and_runs_of_several_experiments_come_whole(workspace: Seen, run_id: str) -> None:
    runs = [workspace.start_run(Run(f"run_{number}", f"experiment{number % 2}")) for number in range(3)]
    workspace.log("run_1", [writing.scalar("loss", 0.5)])
    found = workspace.results(runs, wanted=lambda name: True, whole=True)
    assert {name: results.last for name, results in found.items()} == {"run_0": {}, "run_1": {"loss": 0.5}, "run_2": {}}
    assert [*found] == [run.id for run in runs]
    assert workspace.results([], wanted=lambda name: True, whole=True) == {}
    curve = read(
        workspace,
        run_id,
        [Logged("loss", LoggedKind.scalar, [LoggedRow({"loss": float(step)}, step) for step in range(2600)])],
    )
    assert points(curve.series["loss"]) == [(step, float(step)) for step in range(2600)]
    assert read(workspace, run_id, [], whole=False) == RunResults({"loss": 2599.0}, steps={"loss": 2599})
