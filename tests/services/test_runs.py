"""Tests of runs: names, selections and logs, and the comparison of many, with labels, statistics, CSV and Parquet."""

from __future__ import annotations

import csv
import io
import math
import re
import statistics
from array import array
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from threading import Thread

import pandas as pd
import pytest

from himl_cli.commands.error_handler import as_himl_error
from himl_cli.core.errors import BadUsage, DiskFailed, JobFailed, NotFound, RunNotFound, ServiceFailed
from himl_cli.core.events import Event, Notice, ignore
from himl_cli.core.locks import ProcessLock
from himl_cli.core.logged import Aggregation, Child, RunResults, Series, TextPoint, Value, WatchedRuns
from himl_cli.core.runs import DOUBT, Run, RunQuery, RunSelection, RunStatus
from himl_cli.core.workspaces import WorkspaceIds
from himl_cli.services.runs.aggregate import (
    Statistics,
    check_file,
    labels_of,
    statistics_of,
    unique,
    value_of,
    write_csv,
    write_parquet,
)
from himl_cli.services.runs.find import ListRequest, list_runs
from himl_cli.services.runs.follow import follow_log, watching
from himl_cli.services.runs.logs import last_lines, read_log
from himl_cli.services.runs.lookup import (
    RunReference,
    check_selection,
    find_runs,
    nearest_latest_run_file,
    parse_reference,
    read_latest_run_file,
    split_recovery_id,
    workspace_in_url,
)
from himl_cli.services.runs.watch import watch_runs
from himl_cli.workspaces.base import BlobStore
from himl_cli.workspaces.local.file_blobs import RunFiles
from himl_cli.workspaces.local.metric_store import begin_attempt
from himl_cli.workspaces.local.run_folder import END, RunFolder
from himl_cli.workspaces.local.run_store import Database, RunStore
from himl_cli.workspaces.local.workspace import LocalWorkspace
from himl_cli.workspaces.resolve import open_workspace
from tests.azureml_double.seeding import StagedWorkspace
from tests.support.running import until
from tests.support.runs import NOON, RecordedRuns, aggregation, run

RUN_PAGE = "https://ml.azure.com/runs/abc_1?wsid="
RESOURCE = "/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/w"


def test_run_references_recovery_ids_and_studio_urls() -> None:
    for text, expected in {
        "  abc  ": RunReference("abc"),
        "train:abc": RunReference("abc", "train"),
        f"{RUN_PAGE}/subscriptions/s/resourcegroups/g/workspaces/w&tid=t": RunReference("abc_1"),
        "https://ml.azure.com/experiments/id/0-1/runs/abc?tid=t#x": RunReference("abc"),
        "HTTPS://ml.azure.com/runs/a%20b/": RunReference("a b"),
        f"https://ml.azure.com/experiments/runs/runs/abc?wsid={RESOURCE}": RunReference("abc"),
        f"https://ml.azure.com/prompts/flow/bulkrun/run/abc/details?wsid={RESOURCE}": RunReference("abc"),
        f"https://ai.azure.com/build/evaluation/abc?wsid={RESOURCE}&tid=t": RunReference("abc"),
        f"https://mlworkspace.azure.ai/portal{RESOURCE}/experiments/e/runs/abc": RunReference("abc"),
        f"https://management.azure.com{RESOURCE}/jobs/abc?api-version=2025-12-01": RunReference("abc"),
        f"{RESOURCE}/jobs/abc": RunReference("abc"),
        f"azureml:{RESOURCE}/jobs/abc/": RunReference("abc"),
        "azureml://subscriptions/s/resourcegroups/g/workspaces/jobs/jobs/abc": RunReference("abc"),
        "azureml://jobs/abc": RunReference("abc"),
        "runs:/abc": RunReference("abc"),
    }.items():
        assert parse_reference(text) == expected
    no_runs = (
        "",
        "a:b:c",
        ":b",
        "a:",
        "https://ml.azure.com/",
        "https://ml.azure.com/runs/",
        "http://[/runs/x",
        RESOURCE,
        "azureml://datastores/d/paths/p",
    )
    for text in no_runs:
        with pytest.raises(BadUsage, match="is no"):
            parse_reference(text)
    for text in ("azureml://jobs/abc/outputs/artifacts/paths/model/", "runs:/abc/model"):
        with pytest.raises(BadUsage, match="names files of run 'abc'"):
            parse_reference(text)
    for text, experiment in {
        "user_branch_1234_abcde12": "user_branch",
        "a_1_2_3": "a_1",
        "lab-exp_1772366400_0a1b2c3d": "lab-exp",
    }.items():
        assert split_recovery_id(text) == (experiment, text)
        assert split_recovery_id(f"other:{text}") == ("other", text)
    for text in ("abc", "abc_def", "_1", "abc_1_xyz", "a.b_1_ff"):
        with pytest.raises(BadUsage, match=re.escape(f"'{text}' is not a recovery id")):
            split_recovery_id(text)
    for url, ids in {
        f"{RUN_PAGE}/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/w&tid=t": (
            "s",
            "g",
            "w",
        ),
        f"{RUN_PAGE}%2Fsubscriptions%2Fs%2FresourceGroups%2Fg%2Fworkspaces%2Fw": ("s", "g", "w"),
        f"{RUN_PAGE}/subscriptions/s/resourceGroups/g": None,
        f"{RESOURCE}/jobs/abc": ("s", "g", "w"),
        f"https://management.azure.com{RESOURCE}/jobs/abc": ("s", "g", "w"),
        "azureml://subscriptions/s/resourcegroups/g/workspaces/w/jobs/abc": ("s", "g", "w"),
        "azureml://jobs/abc": None,
        "https://[broken/runs/abc": None,
        "train_1_aa": None,
    }.items():
        assert workspace_in_url(url) == ids
    assert WorkspaceIds("s", "Group", "W").is_same(WorkspaceIds("S", "group", "w"))
    assert not WorkspaceIds("s", "g", "w").is_same(WorkspaceIds("s", "g", "w2"))


@pytest.fixture
def runs(project: Path) -> RecordedRuns:
    return RecordedRuns(project)


@pytest.fixture
def recorded(runs: RecordedRuns) -> RecordedRuns:
    runs.add("old_1_aa", experiment="my_exp", tags={"team": "blue"})
    runs.add("mid_2_bb", experiment="my_exp", tags={"team": "red"}, status=RunStatus.failed)
    runs.add("new_3_cc", experiment="my_exp", tags={"team": "blue"})
    runs.add("other_4_dd", experiment="other")
    runs.add("child_a", experiment="my_exp", parent="old_1_aa")
    runs.add("child_b", experiment="my_exp", parent="new_3_cc")
    return runs


def found(recorded: RecordedRuns, wanted: RunSelection | None = None, *, cwd: Path | None = None) -> list[str]:
    return [run.id for run in find_runs(recorded.workspace, wanted or RunSelection(), cwd=cwd or recorded.folder)]


@pytest.mark.large("takes long, and other tests run its branches")
@pytest.mark.parametrize(("selection", "expected"), [
    (RunSelection(runs=["new_3_cc", "old_1_aa", "new_3_cc"]), ["new_3_cc", "old_1_aa"]),
    (RunSelection(runs=["my_exp:mid_2_bb"]), ["mid_2_bb"]),
    (RunSelection(runs=["LATEST"]), ["other_4_dd"]),
    (RunSelection(runs=["https://ml.azure.com/runs/mid_2_bb?wsid=x"]), ["mid_2_bb"]),
    (RunSelection(experiment="my_exp", num_runs=99), ["new_3_cc", "mid_2_bb", "old_1_aa"]),
    (RunSelection(experiment="my_exp", num_runs=9, tags={"team": "blue"}), ["new_3_cc", "old_1_aa"]),
    (RunSelection(experiment="my_exp", statuses=[RunStatus.failed]), ["mid_2_bb"]),
    (RunSelection(experiment="my_exp", num_runs=9, children=True), ["child_b", "child_a"]),
    (RunSelection(runs=["old_1_aa"], children=True), ["child_a"]),
])  # fmt: skip
def test_selected_runs(recorded: RecordedRuns, selection: RunSelection, expected: list[str]) -> None:
    assert found(recorded, selection) == expected


@pytest.mark.parametrize(("selection", "message"), [
    (RunSelection(experiment="my_exp", latest_run_file="x"), "--experiment and --latest_run_file cannot be combined"),
    (RunSelection(runs=["old_1_aa"], tags={"a": "b"}), "--tags requires an experiment"),
    (RunSelection(statuses=[RunStatus.failed], num_runs=3), "--num_runs and --status require an experiment"),
    (RunSelection(experiment="my_exp", num_runs=0), "--num_runs must be at least 1"),
])  # fmt: skip
def test_contradicting_selections_are_refused(recorded: RecordedRuns, selection: RunSelection, message: str) -> None:
    with pytest.raises(BadUsage, match=message):
        found(recorded, selection)


def test_metric_order_counts_last_attempts_and_nested_runs(runs: RecordedRuns) -> None:
    """The best value of each run at its last step, of its latest attempt, and of the runs that its script nested in
    it.
    """
    values = {
        "nan": [float("nan")],
        "missing": [],
        "high": [1.0, 9.0],
        "low": [5.0, 1.0],
        "nested": [],
        "again": [0.0, 0.5],
    }
    for name, logged in values.items():
        runs.add(name)
        runs.log(name, [("loss", value, step, 1) for step, value in enumerate(logged)])
    runs.add("inner", parent="nested")
    runs.log("inner", [("loss", 2.0, 0, 1)])
    begin_attempt(Database(runs.folder / ".himl" / "workspace.db"), "again")
    runs.log("again", [("loss", 3.0, 0, 1)])
    for sort, expected in (
        ("loss", "low nested again high nan missing"),
        ("-metrics.loss", "high again nested low nan missing"),
    ):
        assert [
            run.id for run in list_runs(runs.workspace, RunQuery(), ListRequest(sort=sort)).runs
        ] == expected.split()
    for where, expected in (
        ("loss >= 1 and loss < 9", "again nested low"),
        ("metrics.loss > 2 and run_id != again", "high"),
    ):
        assert [
            run.id for run in list_runs(runs.workspace, RunQuery(), ListRequest(where=where)).runs
        ] == expected.split()
    best = list_runs(runs.workspace, RunQuery(), ListRequest(sort="loss", has_best=True))
    assert ([run.id for run in best.runs], best.best) == (
        ["low", "high", "nested", "again", "nan", "missing"],
        {"loss": 1.0},
    )
    runs.add("inner_2", parent="nested")
    runs.log("inner_2", [("loss", 8.0, 0, 1)])
    listed = list_runs(runs.workspace, RunQuery(), ListRequest(sort="loss"))
    assert ([run.id for run in listed.runs][1], listed.results["nested"].last["loss"]) == ("nested", 2.0)
    runs.add("given", command="python train.py --loss 4")
    assert [run.id for run in list_runs(runs.workspace, RunQuery(limit=4), ListRequest(sort="loss")).runs][-2:] == [
        "again",
        "given",
    ]


def test_latest_run_file_is_used_or_named_where_corrupt(recorded: RecordedRuns) -> None:
    deep = recorded.folder / "a" / "b"
    deep.mkdir(parents=True)
    (recorded.folder / "most_recent_run.txt").write_text("my_exp:old_1_aa\n")
    assert found(recorded, cwd=deep) == ["old_1_aa"]
    (recorded.folder / "a" / "most_recent_run.txt").write_text("mid_2_bb")
    assert found(recorded, cwd=deep) == ["mid_2_bb"]
    (deep / "most_recent_run.txt").mkdir()
    assert nearest_latest_run_file(deep) == recorded.folder / "a" / "most_recent_run.txt"
    (recorded.folder / "runs.txt").write_text("my_exp:new_3_cc")
    for written in ("runs.txt", str(recorded.folder / "runs.txt")):
        assert found(recorded, RunSelection(latest_run_file=written)) == ["new_3_cc"]
    (recorded.folder / "most_recent_run.txt").write_text("my_exp:gone_9_ff")
    with pytest.raises(NotFound, match=r"No run 'gone_9_ff', which '.*most_recent_run.txt' names"):
        found(recorded)
    path = recorded.folder / "most_recent_run.txt"
    path.write_bytes(b"\xef\xbb\xbfmy exp:run_1\r\n")
    assert read_latest_run_file(path) == ("run_1", "my exp")
    for content in (
        b"",
        b"\n \n",
        b"a:b\nc:d\n",
        b"\x00\x01\x02",
        b"\xff\xfe\xfd",
        b"two words",
        b"a:b:c",
        b"x" * 5000 + b" y",
    ):
        path.write_bytes(content)
        with pytest.raises(BadUsage, match=r"most_recent_run.txt'") as caught:
            read_latest_run_file(path)
        assert ("experiment:run_id" in caught.value.hint, "\n" in str(caught.value)) == (True, False)


def test_unknown_run_or_experiment_suggests_similar_ones(recorded: RecordedRuns) -> None:
    """Runs of the named experiment come first, although other runs have more similar ids."""
    with pytest.raises(RunNotFound, match="No run 'old_1_ab'") as caught:
        found(recorded, RunSelection(runs=["old_1_ab"]))
    assert "old_1_aa" in caught.value.hint
    with pytest.raises(NotFound, match="Experiment 'my_exq' has no runs") as unknown:
        found(recorded, RunSelection(experiment="my_exq"))
    assert unknown.value.hint == "Did you mean my_exp?"
    for number in range(5):
        recorded.add(f"train_1_a{number}", experiment="noise")
    recorded.add("train_7_zz", experiment="asked")
    with pytest.raises(RunNotFound, match="No run 'train_1_zz'") as caught:
        found(recorded, RunSelection(runs=["asked:train_1_zz"]))
    assert caught.value.similar == ("train_7_zz",)
    url = "https://ml.azure.com/runs/gone_9_ff?wsid=/subscriptions/s/resourcegroups/team/workspaces/lab"
    with pytest.raises(
        NotFound, match=r"The address belongs to workspace team/lab, but local workspace .* is open"
    ) as other:
        found(recorded, RunSelection(runs=[url]))
    assert "--config_file" in other.value.hint


def test_implied_run_is_refused_where_none_is_or_must_be_named(runs: RecordedRuns) -> None:
    with pytest.raises(NotFound, match="There are no runs"):
        found(runs, RunSelection(runs=["latest"]))
    with pytest.raises(BadUsage, match="No run was given"):
        check_selection(RunSelection(), explicit=True)
    check_selection(RunSelection(runs=["latest"]), explicit=True)


def read(runs: RecordedRuns, name: str | None = None, *, attempt: int | None = None) -> bytes:
    """Return a log of an ended run. Reading and following it must give the same content."""
    content = b"".join(read_log(runs.workspace, "train_1_aa", name, attempt=attempt))
    assert b"".join(follow_log(runs.workspace, "train_1_aa", name, attempt=attempt)) == content
    return content


class CountedReads(LocalWorkspace):
    reads = looks = 0

    def run(self, run_id: str) -> Run:
        self.reads += 1
        return super().run(run_id)

    def folder_changed(self, run_id: str) -> int:
        self.looks += 1
        return super().folder_changed(run_id)


@pytest.mark.large("waits for jobs of several seconds")
@pytest.mark.usefixtures("known_disk")
def test_following_reads_the_record_of_a_run_seldom_and_each_change_at_once(project: Path) -> None:
    """Between changes, a check of the folder and of the log takes two calls of the file system."""
    runs = RecordedRuns(project)
    runs.add("waiting", status=RunStatus.queued, tags={"himl.none_job": "7"})
    runs.add("running", status=RunStatus.running, files={"user_logs/std_log.txt": "epoch 0\n"})
    folder = RunFolder(project / ".himl" / "runs" / "running")
    lock = ProcessLock(folder.lock)
    assert lock.take()
    counted = {run_id: CountedReads(project / ".himl") for run_id in ("waiting", "running")}
    pieces: dict[str, list[bytes]] = {run_id: [] for run_id in counted}

    def follow(run_id: str) -> None:
        with suppress(NotFound):  # there is no log
            pieces[run_id].extend(follow_log(counted[run_id], run_id))

    following = [Thread(target=follow, args=(run_id,), daemon=True) for run_id in counted]
    for thread in following:
        thread.start()
    until(lambda: all(each.looks > 52 for each in counted.values()))
    before = {run_id: (each.reads, each.looks) for run_id, each in counted.items()}
    with (folder.user_logs / "std_log.txt").open("a") as log:
        log.write("epoch 1\n")
    until(lambda: all(each.looks > before[run_id][1] + 8 for run_id, each in counted.items()))
    for run_id, each in counted.items():
        assert 5 * (each.reads - before[run_id][0]) < each.looks - before[run_id][1] + 20, run_id
    with closing(Database(project / ".himl" / "workspace.db")) as database:
        for run_id in counted:
            RunStore(database).end(run_id, RunStatus.completed)
            (project / ".himl" / "runs" / run_id / END).touch()
    for thread in following:
        thread.join()
    lock.release()
    assert b"".join(pieces["running"]) == b"epoch 0\nepoch 1\n"


class DoubtedRun(LocalWorkspace):
    """A workspace in which it is unknown twice whether a run is in progress, the first time for several looks."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.reasons = iter([f"{DOUBT}node7 holds its lock"] * 3 + [""] + [f"{DOUBT}node8 holds its lock"] * 2)

    def run(self, run_id: str) -> Run:
        reason, found = next(self.reasons, None), super().run(run_id)
        return found if reason is None else replace(found, status=RunStatus.running, reason=reason)


def test_each_doubt_whether_a_followed_run_is_in_progress_is_told_once(project: Path) -> None:
    RecordedRuns(project).add("doubted", status=RunStatus.completed, files={"user_logs/std_log.txt": "done\n"})
    told: list[Event] = []
    assert b"".join(follow_log(DoubtedRun(project / ".himl"), "doubted", notify=told.append)) == b"done\n"
    doubt = "It is unknown whether run 'doubted' is in progress: node{} holds its lock."
    assert told == [Notice(doubt.format(7)), Notice(doubt.format(8))]


class ReplacedLogs(LocalWorkspace):
    """A workspace in which another attempt begins between two looks at a log, and logs more than the one before."""

    def run_files(self, run_id: str) -> BlobStore:
        folder = RunFolder(self.folder / "runs" / run_id)
        log, earlier = folder.user_logs / "std_log.txt", folder.user_logs / "try_1"

        class Files(RunFiles):
            def read(self, name: str, offset: int = 0) -> Iterator[bytes]:
                if log.read_text() == "try 1\n" and offset:
                    with log.open("a") as stream:
                        stream.write("end 1\n")
                    earlier.mkdir()
                    log.rename(earlier / log.name)
                    log.write_text("try 2, which logs more\n")
                return super().read(name, offset)

        return Files(folder.path, folder.code, label=f"run '{run_id}'")


def running_again(project: Path) -> ProcessLock:
    """Add the run `again`, which runs until its lock is released."""
    RecordedRuns(project).add("again", status=RunStatus.running, files={"user_logs/std_log.txt": "try 1\n"})
    lock = ProcessLock(RunFolder(project / ".himl" / "runs" / "again").lock)
    assert lock.take()
    return lock


def end_again(project: Path, lock: ProcessLock) -> None:
    with closing(Database(project / ".himl" / "workspace.db")) as database:
        RunStore(database).end("again", RunStatus.completed)
    (project / ".himl" / "runs" / "again" / END).touch()
    lock.release()


@pytest.mark.parametrize(
    ("attempt", "expected"), [(None, b"try 1\nend 1\ntry 2, which logs more\n"), (1, b"try 1\nend 1\n")]
)
def test_log_of_another_attempt_is_never_taken_for_the_rest_of_this_one(
    project: Path, attempt: int | None, expected: bytes
) -> None:
    lock = running_again(project)
    pieces = follow_log(ReplacedLogs(project / ".himl"), "again", attempt=attempt)
    found = [next(pieces)]
    end_again(project, lock)
    assert b"".join([*found, *pieces]) == expected


def test_watching_shows_the_log_of_one_attempt(project: Path) -> None:
    lock = running_again(project)
    workspace = ReplacedLogs(project / ".himl")
    watched = WatchedRuns([workspace.run("again")])
    polls, shown = watch_runs(workspace, watched, ignore), set[str]()
    while not any("which logs more" in each for each in shown):
        next(polls)
        shown.add("\n".join(watched.log))
    assert shown <= {"", "try 1\n", "try 2, which logs more\n"}
    end_again(project, lock)


@pytest.mark.usefixtures("known_disk")
def test_list_that_is_watched_keeps_few_points_however_many_a_run_logs(runs: RecordedRuns) -> None:
    """Also of those that it logs meanwhile. The last one is there."""
    runs.add("long", status=RunStatus.running)
    lock = ProcessLock(RunFolder(runs.folder / ".himl" / "runs" / "long").lock)
    assert lock.take()
    runs.log("long", [(name, float(step), step, step) for name in ("loss", "system/cpu") for step in range(20_500)])
    workspace = runs.workspace
    watched = WatchedRuns([workspace.run("long")])
    polls = watch_runs(workspace, watched, ignore, newest=lambda: [workspace.run("long")])
    kept, last = 0, 0.0
    for step in range(20_500, 21_100):
        runs.log("long", [("loss", float(step), step, step)])
        next(polls)
        points = watched.points["long"]
        kept, last = max(kept, sum(map(len, points.values()))), points["loss"][-1][1]
    assert (list(watched.points["long"]), last) == (["loss"], 21_099.0)
    assert 500 <= kept <= 1_001
    lock.release()


def test_error_while_following_names_run_and_cancel_command() -> None:
    for failure in (
        ServiceFailed("Away.", hint="Try again."),
        BadUsage("No such file."),
        OSError("odd"),
        PermissionError(13, "Denied", "x"),
    ):
        with pytest.raises(type(failure)) as caught, watching("train_1_aa"):
            raise failure
        error = as_himl_error(caught.value)
        assert "Unless it has ended, run 'train_1_aa' continues." in error.hint
        assert error.hint.endswith("or cancel it: himl runs cancel train_1_aa")
    for of_the_run in (JobFailed("Run 'a' failed.", hint="See it."), NotFound("No run 'a'.", hint="See it.")):
        with pytest.raises(type(of_the_run)) as told, watching("train_1_aa"):
            raise of_the_run
        assert told.value.hint == "See it."


def test_log_of_last_try_is_read_by_default(runs: RecordedRuns) -> None:
    tries = {
        "user_logs/std_log.txt": "one\n",
        "user_logs/retry_001/std_log.txt": "two\n",
        "user_logs/retry_010/std_log.txt": "eleven\n",
    }
    runs.add(
        "train_1_aa",
        files={**tries, "user_logs/retry_010/std_log_process_1.txt": "other\n", "logs/deep/own.log": "own\n"},
    )
    events: list[Event] = []
    assert b"".join(read_log(runs.workspace, "train_1_aa", notify=events.append)) == b"eleven\n"
    assert events == [Notice("This log is from attempt 11. For the previous one: himl runs logs train_1_aa --try 2")]
    assert (read(runs, "std_log.txt"), read(runs, "user_logs/std_log.txt")) == (b"eleven\n", b"one\n")
    assert last_lines(runs.workspace, "train_1_aa") == ("user_logs/retry_010/std_log.txt", b"eleven\n")
    assert [read(runs, attempt=attempt) for attempt in (1, 2, 11)] == [b"one\n", b"two\n", b"eleven\n"]
    assert (read(runs, "std_log_process_1.txt", attempt=11), read(runs, "own.log")) == (b"other\n", b"own\n")
    runs.add("other_1_aa", files={"logs/one/b.log": "1", "user_logs/two/b.log": "2"})
    with pytest.raises(NotFound) as ambiguous:
        read_log(runs.workspace, "other_1_aa", "b.log")
    assert ambiguous.value.hint == "Its logs: user_logs/two/b.log, logs/one/b.log."
    with pytest.raises(NotFound) as caught:
        read_log(runs.workspace, "train_1_aa", attempt=3)
    assert (str(caught.value), caught.value.hint) == (
        "Run 'train_1_aa' has no log of attempt 3.",
        "Attempts with logs: 1, 2, 11.",
    )


MAIN_LOGS = (
    ("user_logs/std_log.txt", "user_logs/std_log_process_0.txt"),
    ("user_logs/std_log_process_00.txt", "user_logs/std_log_process_01.txt", "user_logs/mpi_log.txt"),
    (
        "user_logs/retry_035/std_log_process_00.txt",
        "user_logs/retry_035/std_log_process_10.txt",
        "user_logs/std_log_process_00.txt",
    ),
    (
        "user_logs/std_log_node_00_worker.txt",
        "user_logs/std_log_node_01_worker.txt",
        "user_logs/std_log_node_00_ps.txt",
    ),
    (
        "azureml-logs/70_driver_log.txt",
        "azureml-logs/20_image_build_log.txt",
        "azureml-logs/55_azureml-execution.txt",
        "azureml-logs/75_job_post.txt",
    ),
    ("azureml-logs/70_driver_log_0.txt", "azureml-logs/70_driver_log_1.txt", "azureml-logs/70_driver_log_10.txt"),
    ("azureml-logs/70_driver_log-worker-0.txt", "azureml-logs/70_driver_log-worker-10.txt"),
    ("azureml-logs/hyperdrive.txt",),
    ("azureml-logs/20_image_build_log.txt", "azureml-logs/55_azureml-execution.txt"),
    ("logs/azureml/executionlogs.txt", "logs/azureml/stderrlogs.txt"),
)


def test_main_log_is_known_by_each_of_its_names(
    azure: StagedWorkspace, azure_environment: StagedWorkspace, project: Path
) -> None:
    azure_environment.write_config(project)
    workspace = open_workspace(None, None, start=project)
    for number, (main, *others) in enumerate(MAIN_LOGS):
        run_id = f"train_{number}_aa"
        logs = {main: b"main", **dict.fromkeys(others, b"other"), "system_logs/lifecycler/lifecycler.log": b"system"}
        azure.put_artifacts(azure.add_run(run_id, "train"), logs)
        assert b"".join(read_log(workspace, run_id)) == b"main"
        assert last_lines(workspace, run_id) == (main, b"main")


def labels(*runs: Run, child_arg: str | None = None) -> list[str]:
    return labels_of(runs, [RunResults()] * len(runs), child_arg)


@pytest.mark.parametrize(("runs", "wanted"), [
    ([run("a", values={"lr": 0.1, "depth": 2}), run("b", values={"lr": 0.01, "depth": 2})], ["0.1", "0.01"]),
    ([run("a", values={"lr": 0.1, "depth": 2}), run("b", values={"lr": 0.01, "depth": 3})],
        ["lr=0.1, depth=2", "lr=0.01, depth=3"]),
    ([run("a", values={"--lr": 0.1}), run("b", values={"--lr": 1})], ["0.1", "1"]),
    ([run("a", values={"lr": 0.1, "depth": 2})], ["lr=0.1, depth=2"]),
    ([run("a", values={"x": 1}), run("b")], ["1", "b"]),
    ([run("a", tags={"fold": "0", "team": "x"}), run("b", tags={"fold": "1", "team": "x"})], ["0", "1"]),
    ([run("a", tags={"build_number": "1"}), run("b", tags={"build_number": "2"})], ["a", "b"]),
    ([run(name, tags={f"tag{number}": name for number in range(5)}, display_name=name.upper()) for name in "ab"],
        ["A", "B"]),
    ([run("a", command="t.py --lr 0.1 --fast"), run("b", command="t.py --lr=0.2 --fast")], ["0.1", "0.2"]),
    ([run("a", command="t.py --x 'a b"), run("b", command="t.py --x c")], ["'a", "c"]),
    ([run("a", command="t.py --lr ${{search_space.lr}}"), run("b", command="t.py --lr 0.2")], ["a", "0.2"]),
    ([run("a", display_name="encode"), run("b", display_name="train")], ["encode", "train"]),
    ([run("p_3", parent="p"), run("p_1", parent="p")], ["3", "1"]),
    ([run(name, parent="p", tags={"t": name}, display_name=f"fold {name}") for name in "ab"], ["fold a", "fold b"]),
    ([run("p", tags={"t": "p"}), run("b", parent="p", tags={"t": "b"}, display_name="later")], ["p", "later"]),
    ([run("a", display_name="same"), run("b", display_name="same")], ["a", "b"]),
])  # fmt: skip
def test_runs_are_labeled_by_what_differs(runs: list[Run], wanted: list[str]) -> None:
    assert labels(*runs) == wanted


def test_child_argument_labels_runs_that_have_it() -> None:
    runs = [
        run("p_prep", tags={"himl.step": "prep"}, command="a.py --v 1"),
        run("p_train", tags={"himl.step": "train"}, command="a.py", display_name="fit"),
    ]
    assert labels(*runs) == ["prep", "fit"]
    logged = RunResults(parameters={"seed": "4"})
    one = run(
        "a", values={"lr": 0.1}, tags={"lr": "tag", "fold": "2"}, command="train.py --lr 5 --random-seed 7 --fast"
    )
    assert [value_of(name, one, logged) for name in ("lr", "--lr", "fold", "seed", "random_seed", "fast", "nope")] == [
        0.1,
        0.1,
        "2",
        "4",
        "7",
        True,
        None,
    ]
    runs = [
        run("a", values={"lr": 0.1, "fold": 0}),
        run("b", values={"lr": 0.2, "fold": 0}),
        run("c", display_name="third"),
    ]
    assert labels(*runs, child_arg="lr") == ["0.1", "0.2", "third"]
    assert labels(*runs, child_arg="fold") == ["0 [0]", "0 [1]", "third"]
    with pytest.raises(
        BadUsage, match="None of the runs has a hyperparameter, tag, parameter or argument 'nope'"
    ) as caught:
        labels(*runs, child_arg="nope")
    assert caught.value.hint == "Available: lr, fold."
    assert unique(["a", "b", "a"]) == ["a [0]", "b", "a [2]"]


def of(*values: object) -> Statistics:
    by_run = {str(place): {"x": value} for place, value in enumerate(values)}
    return statistics_of(aggregation(by_run))["x"]  # type: ignore[arg-type]


def test_only_numbers_count_also_infinite_and_extreme_ones() -> None:
    assert of(1.0, math.nan, None, "word", 3, True) == of(1.0, 3.0) == Statistics(2.0, math.sqrt(2), 1.0, 3.0, 2.0, 2)
    assert of("word", math.nan) == Statistics(None, None, None, None, None, 0)
    assert of(5.0) == Statistics(5.0, None, 5.0, 5.0, 5.0, 1)
    found = of(1.0, math.inf)
    assert (found.mean, found.min, found.max) == (math.inf, 1.0, math.inf)
    assert found.std is not None
    assert math.isnan(found.std)
    assert of(1e308, 1e308, 1.2e308).mean == pytest.approx(statistics.fmean([1e300, 1e300, 1.2e300]) * 1e8)
    assert of(1e308, 1.5e308).median == pytest.approx(1.25e308)
    assert (of(4.0, 1.0, 2.0, 8.0).median, of(4.0, 1.0, 2.0).median) == (3.0, 2.0)
    assert of(1e300, 3e300).std == pytest.approx(math.sqrt(2) * 1e300)
    assert of(1e-300, 3e-300).std == pytest.approx(math.sqrt(2) * 1e-300, rel=1e-9, abs=0.0)


def test_parquet_has_a_row_per_point(project: Path) -> None:
    curve = Series(array("q", [0, 1]), array("d", [0.5, math.nan]), array("d", [1_750_000_000.25, 1_750_000_001.5]))
    results = RunResults(
        series={"loss": curve},
        texts={"word": [TextPoint("yes", 3, NOON)]},
        tables={"fruit": {"name": ["lime", None], "size": [1, 2.5]}},
        lists={"words": ["a", 2]},
        images={"plot": ["plot.png"]},
    )
    other = RunResults(series={"loss": Series([7], [1e300], [0.0])})
    found = Aggregation(
        [],
        [
            Child(run("a"), "0.1", {}, results),
            Child(run("b"), "0.2", {}, RunResults()),
            Child(run("c"), "0.3", {}, other),
        ],
    )
    write_parquet(found, project / "m.parquet")
    read = pd.read_parquet(project / "m.parquet")
    assert list(read.columns) == ["run", "label", "metric", "kind", "step", "time", "value", "text"]
    rows = read.astype(object).where(read.notna(), None)
    assert [tuple(row) for row in rows.drop(columns="time").itertuples(index=False)] == [
        ("a", "0.1", "loss", "scalar", 0, 0.5, None),
        ("a", "0.1", "loss", "scalar", 1, None, None),
        ("a", "0.1", "word", "text", 3, None, "yes"),
        ("a", "0.1", "fruit/name", "table", 0, None, "lime"),
        ("a", "0.1", "fruit/name", "table", 1, None, None),
        ("a", "0.1", "fruit/size", "table", 0, 1.0, None),
        ("a", "0.1", "fruit/size", "table", 1, 2.5, None),
        ("a", "0.1", "words", "list", 0, None, "a"),
        ("a", "0.1", "words", "list", 1, 2.0, None),
        ("a", "0.1", "plot", "image", 0, None, "plot.png"),
        ("c", "0.3", "loss", "scalar", 7, 1e300, None),
    ]
    assert read["time"][0] == pd.Timestamp(1_750_000_000_250, unit="ms", tz="UTC")
    assert read["time"][2] == pd.Timestamp(NOON)
    assert pd.isna(read["time"][3])
    write_parquet(Aggregation([], []), project / "m.parquet")
    assert len(pd.read_parquet(project / "m.parquet")) == 0
    with pytest.raises(DiskFailed, match="Cannot write"):
        write_parquet(found, project)
    assert [path.name for path in project.iterdir()] == ["m.parquet"]


def test_csv_has_a_row_per_metric_and_a_column_per_run(project: Path) -> None:
    check_file("--output_csv", project / "m.csv")
    with pytest.raises(BadUsage, match=r"--output_csv '.*' is a folder"):
        check_file("--output_csv", project)
    with pytest.raises(BadUsage, match=r"there is no folder '.*nowhere'"):
        check_file("--plot", project / "nowhere" / "m.png")
    assert [*project.iterdir()] == []
    found = aggregation(
        {"lr=0.1, depth=2": {"loss": 1 / 3, "word": 'a "b", c'}, "größe": {"loss": math.nan, "x\ny": math.inf}}
    )
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
    assert (
        (project / "m.csv")
        .read_bytes()
        .startswith('metric,"lr=0.1, depth=2",größe\nloss,0.3333333333333333,NaN\n'.encode())
    )
    assert [path.name for path in project.iterdir()] == ["m.csv"]
    with pytest.raises(DiskFailed, match="Cannot write"):
        write_csv(found, None, project)


def test_csv_contains_no_formulas(project: Path) -> None:
    texts = ["=1+1", "+1", "@SUM(A1)", "-1+1", "\t=1", "\n=1", "-x", "-1.5", "-1e-3", "1=1", "a-b", " =1"]
    inert = [f"'{text}" for text in texts[:7]] + texts[7:]
    values: dict[str, Value] = {"=cmd|' /C calc'!A0": -1.5, "lost": -math.inf, "words": "x"}
    written = [text.replace("\n", "\r\n") for text in texts]
    write_csv(aggregation({text: {**values, "words": text} for text in written}), None, project / "m.csv")
    header, first, lost, words = csv.reader(io.StringIO((project / "m.csv").read_text(encoding="utf-8")))
    assert header == ["metric", *inert]
    assert first == ["'=cmd|' /C calc'!A0", *["-1.5"] * len(texts)]
    assert lost == ["lost", *["-Infinity"] * len(texts)]
    assert words == ["words", *inert]
