"""The contract of the `Workspace` Protocol. A new backend adds one seed and inherits every case."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path

import pytest
from filelock import FileLock

from himl_cli.core.errors import BadUsage, NotFound, RunNotFound
from himl_cli.core.events import ignore
from himl_cli.core.jobs import Entry, EntryKind, JobSpec, Snapshot, StoredJob
from himl_cli.core.logged import given_of
from himl_cli.core.runs import RunQuery, RunSelection, RunStatus, job_tag, own_tags
from himl_cli.services.run_diff import diff_runs, run_before
from himl_cli.services.runs.archive import export_runs, import_runs
from himl_cli.services.runs.changes import children_text
from himl_cli.services.runs.deletion import delete_runs, footprints_of
from himl_cli.services.runs.find import ListRequest, list_runs
from himl_cli.services.runs.logs import read_log, since_start
from himl_cli.services.runs.lookup import find_runs
from himl_cli.workspaces.base import FolderWorkspace, ManagedWorkspace, Workspace
from himl_cli.workspaces.local.workspace import LocalWorkspace
from himl_cli.workspaces.resolve import JoinedWorkspace, open_runs
from tests.azureml_double.seeding import StagedWorkspace
from tests.support.azure import opened
from tests.support.running import Himl, Outcome
from tests.support.runs import RecordedRuns
from tests.support.slurm import Slurm
from tests.support.spreading import STARTS_SLURM, STARTS_SSH
from tests.support.ssh import SshServer
from tests.support.stores import listed

Seed = Callable[[pytest.FixtureRequest, Path], AbstractContextManager[Workspace]]


@contextmanager
def local(request: pytest.FixtureRequest, folder: Path, tags: Mapping[str, str] | None = None) -> Iterator[Workspace]:
    """The runs of the cases, in a local workspace."""
    runs = RecordedRuns(folder, tags)
    runs.add(
        "train_1_aa", tags={"team": "blue"}, files={"outputs/model.bin": b"m" * 10, "user_logs/std_log.txt": "hello"}
    )
    runs.add("train_2_bb", status=RunStatus.failed, exit_code=3, reason="exit code 3", tags={"team": "red"})
    runs.add("other_3_cc", experiment="other", tags={"team": "blue", "stage": "final"})
    runs.add("child_a", parent="train_1_aa")
    runs.add("child_b", parent="train_1_aa", status=RunStatus.failed)
    runs.log("train_1_aa", [("loss", 1.0, 1, 1), ("loss", 0.5, 2, 2), ("acc", 0.9, 2, 3)], {"lr": "0.1"})
    runs.log("child_a", [("loss", 0.25, 1, 1)])
    for run_id, torch in (("train_1_aa", "2.4"), ("train_2_bb", "2.5")):
        found = {"python": "/env/python", "packages": {"numpy": "2.1", "torch": torch}, "machine": {"cpu": "fast"}}
        (folder / ".himl" / "runs" / run_id / "environment.json").write_text(json.dumps(found))
    (folder / "model" / "sub").mkdir(parents=True)
    (folder / "model" / "sub" / "weights").write_bytes(b"w" * 7)
    (folder / ".himl" / "runs" / "train_1_aa" / "job.json").write_text(
        json.dumps({"outputs": {"model": str(folder / "model")}})
    )
    yield runs.workspace


@contextmanager
def slurm(request: pytest.FixtureRequest, folder: Path) -> Iterator[Workspace]:
    """The same runs, executed by Slurm."""
    cluster: Slurm = request.getfixturevalue("slurm")
    with local(request, folder, {job_tag("slurm"): "1"}) as workspace:
        yield workspace
    # himl does not query Slurm about ended jobs.
    assert not cluster.calls.read_text()


@contextmanager
def azure(request: pytest.FixtureRequest, folder: Path) -> Iterator[Workspace]:
    """The same runs in an Azure ML workspace."""
    staged: StagedWorkspace = request.getfixturevalue("azure_environment")
    staged.add_environment("training", condaFile="dependencies: [python=3.11]")
    times = (datetime(2026, 3, 1, 12, tzinfo=timezone.utc) + timedelta(seconds=number) for number in range(5))
    trained = staged.add_run(
        "train_1_aa", "train", created=next(times), seconds=65, tags={"team": "blue"}, parameters={"lr": "0.1"}
    )
    staged.add_run(
        "train_2_bb",
        "train",
        created=next(times),
        seconds=65,
        status="Failed",
        error="exit code 3",
        tags={"team": "red"},
    )
    staged.add_run("other_3_cc", "other", created=next(times), tags={"team": "blue", "stage": "final"})
    child = staged.add_run("child_a", "train", created=next(times), parent="train_1_aa")
    staged.add_run("child_b", "train", created=next(times), parent="train_1_aa", status="Failed")
    staged.add_metric(trained, "loss", [1.0, 0.5], steps=[1, 2])
    staged.add_metric(trained, "acc", [0.9], steps=[2])
    staged.add_metric(child, "loss", [0.25], steps=[1])
    staged.put_artifacts(trained, {"outputs/model.bin": b"m" * 10, "user_logs/std_log.txt": b"hello"})
    staged.add_output(trained, "model", {"sub/weights": b"w" * 7})
    with opened(staged, folder) as workspace:
        yield workspace


@contextmanager
def joined(request: pytest.FixtureRequest, folder: Path) -> Iterator[Workspace]:
    """The same runs in Azure ML, combined with an empty local workspace."""
    with azure(request, folder) as far:
        yield JoinedWorkspace(RecordedRuns(folder / "near").workspace, lambda: far, far.label)


@contextmanager
def remote(request: pytest.FixtureRequest, folder: Path) -> Iterator[Workspace]:
    """The runs of a local workspace on another machine, by SSH."""
    box: SshServer = request.getfixturevalue("box")
    with local(request, box.home), closing(open_runs("ssh:box", None, start=folder)) as workspace:
        yield workspace


@pytest.fixture(
    params=[
        local,
        pytest.param(slurm, marks=pytest.mark.large(STARTS_SLURM)),
        azure,
        joined,
        pytest.param(remote, marks=pytest.mark.large(STARTS_SSH)),
    ],
    ids=["local", "slurm", "azure", "joined", "remote"],
)
def workspace(request: pytest.FixtureRequest, project: Path) -> Iterator[Workspace]:
    seed: Seed = request.param
    with seed(request, project) as opened_workspace:
        yield opened_workspace


@pytest.fixture
def ask(request: pytest.FixtureRequest, workspace: Workspace, himl: Himl, project: Path) -> Callable[..., Outcome]:
    """Calls a command with the options by which users name the workspace."""
    seed = request.node.callspec.params["workspace"]
    if seed in (azure, joined):
        request.getfixturevalue("azure_environment").write_config(project)
    options = ["--config_file", "config.json"] if seed is azure else ["-w", "ssh:box"] if seed is remote else []

    def call(*words: str) -> Outcome:
        return himl(*words, *options, cwd=project / "near" if seed is joined else project)

    return call


def ids(workspace: Workspace, query: RunQuery) -> list[str]:
    return [run.id for run in workspace.runs(query)]


def test_queries_find_runs_as_they_are_alone(workspace: Workspace) -> None:
    failed, completed = RunStatus.failed, RunStatus.completed
    queries: list[tuple[RunQuery, list[str]]] = [
        (RunQuery(), ["other_3_cc", "train_2_bb", "train_1_aa"]),
        (RunQuery(limit=2), ["other_3_cc", "train_2_bb"]),
        (RunQuery(limit=0), []),
        (RunQuery("train"), ["train_2_bb", "train_1_aa"]),
        (RunQuery("nothing"), []),
        (RunQuery(statuses=[failed]), ["train_2_bb"]),
        (RunQuery(statuses=[failed, completed]), ["other_3_cc", "train_2_bb", "train_1_aa"]),
        (RunQuery(tags={"team": "blue", "stage": "final"}), ["other_3_cc"]),
        (RunQuery(tags={"team": "Blue"}), []),
        (RunQuery(parent="train_1_aa"), ["child_b", "child_a"]),
        (RunQuery(parent="train_1_aa", statuses=[failed]), ["child_b"]),
        (RunQuery(parent="train_2_bb"), []),
        (RunQuery(parent="nope"), []),
        (RunQuery("other", parent="train_1_aa"), []),
        (RunQuery("train", children=True), ["child_b", "child_a", "train_2_bb", "train_1_aa"]),
        (RunQuery("train", children=True, statuses=[failed], limit=1), ["child_b"]),
        (RunQuery("train", tags={"team": "blue"}, statuses=[completed], limit=5), ["train_1_aa"]),
    ]
    for query, expected in queries:
        assert ids(workspace, query) == expected, query
    for query in (RunQuery(), RunQuery("train"), RunQuery(parent="train_1_aa")):
        for run in workspace.runs(query):
            assert workspace.run(run.id) == run
    assert workspace.run("child_a").parent == "train_1_aa"
    assert {*workspace.experiments()} == {"other", "train"}
    run = workspace.run("train_2_bb")
    assert (run.status, run.exit_code, run.reason, run.duration) == (RunStatus.failed, 3, "exit code 3", 65.0)
    assert workspace.cancel("train_2_bb") is False
    assert workspace.run("train_2_bb").status is RunStatus.failed


def test_archived_runs_are_left_out_of_lists_and_found_by_their_ids(workspace: Workspace) -> None:
    for run_id in ("train_1_aa", "child_b"):
        assert workspace.archive(run_id).is_archived
    for query, left, archived in (
        (RunQuery(), ["other_3_cc", "train_2_bb"], ["train_1_aa"]),
        (RunQuery("train"), ["train_2_bb"], ["train_1_aa"]),
        (RunQuery("train", children=True), ["child_a", "train_2_bb"], ["child_b", "train_1_aa"]),
        (RunQuery(parent="train_1_aa"), ["child_a"], ["child_b"]),
        (RunQuery(limit=1), ["other_3_cc"], ["train_1_aa"]),
        (RunQuery(statuses=[RunStatus.failed]), ["train_2_bb"], []),
    ):
        assert ids(workspace, query) == left, query
        assert ids(workspace, replace(query, archived=True)) == archived, query
    assert ids(workspace, RunQuery("train", archived=None)) == ["train_2_bb", "train_1_aa"]
    assert ids(workspace, RunQuery(archived=None)) == ["other_3_cc", "train_2_bb", "train_1_aa"]
    kept = workspace.run("train_1_aa")
    assert (kept.is_archived, own_tags(kept), "himl.archived" in kept.tags) == (True, {"team": "blue"}, False)
    assert not workspace.archive("train_1_aa", restore=True).is_archived
    assert ids(workspace, RunQuery("train")) == ["train_2_bb", "train_1_aa"]


def test_an_unknown_run_is_the_same_error_everywhere(workspace: Workspace) -> None:
    for run_id in ("nope", "..", "", "../train_1_aa", "/", "a\0b", "x" * 500):
        for ask in (workspace.run, workspace.metrics, workspace.parameters, workspace.run_files, workspace.cancel):
            with pytest.raises(RunNotFound, match="No run '") as caught:
                ask(run_id)
            assert workspace.label in str(caught.value)
        for change in (workspace.archive, partial(workspace.tag, tags={"a": "b"})):
            with pytest.raises(RunNotFound, match="No run '"):
                change(run_id)
    with pytest.raises(RunNotFound) as similar:
        workspace.run("train_1_ab")
    assert "train_1_aa" in similar.value.hint


def test_unique_abbreviations_name_runs(workspace: Workspace, project: Path) -> None:
    """The beginning of an id, or of its hex digits. A service that himl reads in part gets a notice, as does a change.
    A change takes only digits, since `sweep_1` may be the id of a run that was deleted, and not mean `sweep_10`."""
    told: list[str] = []

    def named(text: str, *, is_exact: bool = False) -> list[str]:
        wanted = RunSelection(runs=[text], is_exact=is_exact)
        return [
            run.id
            for run in find_runs(
                workspace, wanted, cwd=project, notify=lambda notice: told.append(getattr(notice, "text", ""))
            )
        ]

    for text, run_id in {
        "train_1": "train_1_aa",
        "aa": "train_1_aa",
        "other:cc": "other_3_cc",
        "othe": "other_3_cc",
    }.items():
        assert named(text) == [run_id], text
    assert len([text for text in told if "the only one like" in text]) == (
        2 if isinstance(workspace, ManagedWorkspace) else 4
    )
    with pytest.raises(BadUsage, match="'train_' is short for 2 runs") as several:
        named("train_")
    assert {"train_1_aa", "train_2_bb"} <= {*several.value.hint.rstrip(".").replace(":", ",").split(", ")}
    for text in ("tra", "train_1_ab", "cab"):
        with pytest.raises(RunNotFound):
            named(text)
    for text, run_id in {"bb": "train_2_bb", "train_2_bb": "train_2_bb"}.items():
        assert named(text, is_exact=True) == [run_id]
    assert told[-1] == "Using run 'train_2_bb', the only one like 'bb'."
    for text in ("train_2", "b", "bb_1"):
        with pytest.raises(RunNotFound):
            named(text, is_exact=True)


def test_sizes_include_those_of_child_runs(workspace: Workspace, project: Path) -> None:
    (project / "big.csv").write_bytes(bytes(1000))
    folder = project / ".himl" / "runs"
    if folder.is_dir():
        (folder / "train_1_aa" / "code").mkdir(exist_ok=True)
        (folder / "train_1_aa" / "code" / "data").symlink_to(project / "big.csv")
    listed = list_runs(workspace, RunQuery("train"), ListRequest(has_sizes=True))
    if not folder.is_dir():
        assert listed.sizes == {"train_1_aa": 15, "train_2_bb": 0}
    else:
        own = {
            run: sum(path.lstat().st_size for path in (folder / run).rglob("*") if not path.is_dir())
            for run in ("train_1_aa", "child_a", "child_b")
        }
        assert 15 < listed.sizes["train_1_aa"] == sum(own.values()) < 1000


def test_runs_are_compared(workspace: Workspace, project: Path) -> None:
    told: list[str] = []
    second = workspace.run("train_2_bb")
    first = run_before(workspace, second)
    assert first.id == "train_1_aa"
    found = diff_runs(workspace, first, second, project, lambda notice: told.append(str(notice)))
    assert (found.first, found.second, found.parameters, found.tags) == (
        "train_1_aa",
        "train_2_bb",
        {"lr": ("0.1", None)},
        {"team": ("blue", "red")},
    )
    assert {name: found.metrics[name] for name in ("loss", "acc")} == {"loss": (0.5, None), "acc": (0.9, None)}
    is_here = isinstance(workspace, ManagedWorkspace)
    assert (found.facts["status"], found.code, len(told)) == (("Completed", "Failed"), None, 2 if is_here else 3)
    assert (found.packages, found.environment) == ({"torch": ("2.4", "2.5")} if is_here else {}, {})
    assert run_before(workspace, workspace.run("child_b")).id == "child_a"
    with pytest.raises(NotFound, match="'train_1_aa' is the first one of experiment 'train'"):
        run_before(workspace, first)


def test_what_a_run_ran_on_is_on_record(workspace: Workspace) -> None:
    found = workspace.environment("train_1_aa")
    assert found is not None
    if isinstance(workspace, ManagedWorkspace):
        assert (found.python, found.packages, found.machine) == (
            "/env/python",
            {"numpy": "2.1", "torch": "2.4"},
            {"cpu": "fast"},
        )
        assert workspace.environment("other_3_cc") is None
    else:
        assert (found.name, found.image, found.conda) == (
            "training:1",
            "docker.io/python:3.11",
            "dependencies: [python=3.11]",
        )
        assert (found.packages, bool(found.problem)) == (None, True)
    with pytest.raises(RunNotFound, match="No run 'nope'"):
        workspace.environment("nope")


@pytest.mark.large("takes long, and other tests run its branches")
def test_runs_are_exported_and_imported(workspace: Workspace, tmp_path: Path) -> None:
    """With their children, values, files, times and checksums, as a zip and as a folder."""
    run = workspace.run("train_1_aa")
    for name in ("runs.zip", "folder"):
        archive = tmp_path / name
        assert [each.id for each in export_runs(workspace, [run, run], archive, lambda _: None)] == [
            "train_1_aa",
            "child_b",
            "child_a",
        ]
        far = RecordedRuns(tmp_path / f"far {name}").workspace
        assert isinstance(far, FolderWorkspace)
        import_runs(far, archive, ignore)
        found = far.run("train_1_aa")
        assert (found.status, found.duration, found.parent) == (run.status, run.duration, None)
        assert (own_tags(found), found.tags["himl.imported_from"]) == ({"team": "blue"}, run.workspace)
        assert (far.run("child_a").parent, far.parameters("train_1_aa")) == ("train_1_aa", {"lr": "0.1"})
        for run_id in ("train_1_aa", "child_a"):
            old, new = (
                {
                    each.name: [(point.step, point.value, point.time) for point in each.points]
                    for each in place.metrics(run_id)
                    if each.run == run_id
                }
                for place in (workspace, far)
            )
            assert old == new
        files = far.run_files("train_1_aa")
        assert [(blob.name, b"".join(files.read(blob.name))) for blob in listed(files)] == [
            ("outputs/model.bin", b"m" * 10),
            ("user_logs/std_log.txt", b"hello"),
        ]
        assert far.environment("train_1_aa") == workspace.environment("train_1_aa")
        with pytest.raises(BadUsage, match="Run 'train_1_aa' exists already"):
            import_runs(far, archive, ignore)
    alone, lone = tmp_path / "alone.zip", RecordedRuns(tmp_path / "lone").workspace
    export_runs(workspace, [workspace.run("child_a")], alone, ignore)
    import_runs(lone, alone, ignore)
    assert lone.run("child_a").parent is None, "lists show no runs of a parent that is not there"
    theirs = tmp_path / "theirs.zip"

    def write_theirs(_: object) -> None:
        theirs.write_bytes(b"of another process")

    with pytest.raises(BadUsage, match="exists already"):
        export_runs(workspace, [run], theirs, write_theirs)
    assert theirs.read_bytes() == b"of another process"
    crate = json.loads((tmp_path / "folder" / "ro-crate-metadata.json").read_text())
    entities = {each["@id"]: each for each in crate["@graph"]}
    assert entities["ro-crate-metadata.json"]["conformsTo"] == {"@id": "https://w3id.org/ro/crate/1.1"}
    assert not [
        one for one in crate["@graph"] for value in one.values() if isinstance(value, list) and len(value) == 1
    ], "no array for one reference"
    for part in entities["./"]["hasPart"]:
        content = (tmp_path / "folder" / part["@id"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == entities[part["@id"]]["sha256"]
    assert entities["#train_1_aa"]["actionStatus"] == "http://schema.org/CompletedActionStatus"


def test_metrics_parameters_files_and_outputs_of_a_run(workspace: Workspace) -> None:
    metrics = {
        (metric.run, metric.name): [(point.step, point.value) for point in metric.points]
        for metric in workspace.metrics("train_1_aa")
    }
    assert metrics == {
        ("train_1_aa", "loss"): [(1, 1.0), (2, 0.5)],
        ("train_1_aa", "acc"): [(2, 0.9)],
        ("child_a", "loss"): [(1, 0.25)],
    }
    assert [metric.name for metric in workspace.metrics("train_2_bb")] == []
    assert (workspace.parameters("train_1_aa"), workspace.parameters("train_2_bb")) == ({"lr": "0.1"}, {})
    files = workspace.run_files("train_1_aa")
    assert [(blob.name, blob.size) for blob in listed(files)] == [
        ("outputs/model.bin", 10),
        ("user_logs/std_log.txt", 5),
    ]
    assert b"".join(files.read("user_logs/std_log.txt", 2)) == b"llo"
    assert [(blob.name, blob.size) for blob in listed(workspace.output_files("train_1_aa", "model"))] == [
        ("sub/weights", 7)
    ]
    with pytest.raises(NotFound, match=r"Run 'train_1_aa' has no output 'modle'; it has: .*model"):
        workspace.output_files("train_1_aa", "modle")
    with pytest.raises(RunNotFound, match="No run 'nope'"):
        workspace.output_files("nope", "model")
    default = workspace.datastores()[0]
    assert default.is_default
    with pytest.raises(NotFound, match=f"No datastore 'nope' in .*; there are: {default.name}"):
        workspace.datastore("nope")
    assert workspace.datastore().label == workspace.datastore(default.name).label


def test_runs_are_refreshed_with_what_they_logged_last(workspace: Workspace) -> None:
    known = [workspace.run(run_id) for run_id in ("train_1_aa", "train_2_bb")]
    found = workspace.refresh([replace(run, status=RunStatus.queued) for run in known])
    assert {run_id: run.status for run_id, (run, _) in found.items()} == {run.id: run.status for run in known}
    _, results = found["train_1_aa"]
    assert {name: (results.steps[name], results.last[name]) for name in ("loss", "acc")} == {
        "loss": (2, 0.5),
        "acc": (2, 0.9),
    }
    assert (found["train_2_bb"][1].last, workspace.refresh([])) == ({}, {})


def test_runs_are_listed_by_what_they_logged(workspace: Workspace) -> None:
    first, second, third = "train_1_aa", "train_2_bb", "other_3_cc"
    cases: list[tuple[ListRequest, RunQuery, list[str]]] = [
        (ListRequest(sort="loss"), RunQuery(), [first, third, second]),
        (ListRequest(sort="-lr"), RunQuery(limit=1), [first]),
        (ListRequest(sort="started"), RunQuery(limit=2), [first, second]),
        (ListRequest(where="status = finished AND lr < 0.2"), RunQuery(), [first]),
        (ListRequest(where="params.lr = 0.1 and metrics.loss <= .5 and team = blue"), RunQuery("train"), [first]),
        (ListRequest(where="loss < 0.5"), RunQuery(), []),
        (
            ListRequest(where="loss > 0.1 and metrics.acc = 0.9 and status = completed", sort="-loss"),
            RunQuery(),
            [first],
        ),
        (ListRequest(where="loss >= 0.5", sort="started"), RunQuery("train", limit=1), [first]),
        (ListRequest(where="tags.stage is null", sort="-started"), RunQuery(), [second, first]),
        (ListRequest(where="duration >= 65 and run_id != train_1_aa and status != completed"), RunQuery(), [second]),
        (ListRequest(sort="-loss", has_best=True), RunQuery("train"), [first, second]),
    ]
    for request, query, expected in cases:
        assert [run.id for run in list_runs(workspace, query, request).runs] == expected, request
    since = workspace.run(second).created
    assert ids(workspace, RunQuery(since=since)) == [third, second]
    assert ids(workspace, RunQuery("train", since=since)) == [second]
    listed = list_runs(workspace, RunQuery(), ListRequest(metrics=["l*"], has_parameters=True))
    assert (listed.metrics, listed.best, listed.results[first].last["loss"]) == (["loss"], {"loss": 0.5}, 0.5)
    assert given_of(listed.runs[2], listed.results[first])["lr"] == "0.1"
    for request in (ListRequest(sort="los"), ListRequest(where="los < 1")):
        with pytest.raises(NotFound, match="'los'") as caught:
            list_runs(workspace, RunQuery(), request)
        assert "loss" in caught.value.hint
    for request in (ListRequest(where="lr <"), ListRequest(where="status = don"), ListRequest(sort="a b")):
        with pytest.raises(BadUsage):
            list_runs(workspace, RunQuery(), request)


def test_logs_are_read_since_a_time(workspace: Workspace, project: Path) -> None:
    """Known from the times of the run and of its log, and from what the workspace has noted. Never guessed."""
    run_id, hour = "train_1_aa", timedelta(hours=1)
    created = workspace.run(run_id).created

    def read(since: datetime) -> bytes:
        start = since_start(workspace, run_id, since=since)
        return b"".join(read_log(workspace, run_id, start=start))

    assert read(created - hour) == b"hello"
    assert read(datetime.now(timezone.utc) + hour) == b""
    with pytest.raises(NotFound, match="does not know when the lines of 'user_logs"):
        read(created + hour)
    folder = project / ".himl" / "runs" / run_id
    if folder.is_dir():
        (folder / "user_logs" / "std_log.txt").write_bytes(b"one\ntwo\nthree\n")
        at = int(created.timestamp() * 1000)
        (folder / "log_times").write_text(
            f"0 std_log.txt {at} 0\n0 std_log.txt {at + 60_000} 6\n0 std_log.txt {at + 7_200_000} 14\n"
        )
        assert read(created + timedelta(seconds=30)) == b"one\ntwo\nthree\n"
        assert read(created + hour) == b"two\nthree\n"  # whole lines
        assert read(created + 3 * hour) == b""


def test_runs_are_tagged_and_deleted_with_their_children(workspace: Workspace) -> None:
    assert own_tags(workspace.tag("train_1_aa", {"team": "green", "note": "a=b ü"})) == {
        "team": "green",
        "note": "a=b ü",
    }
    assert own_tags(workspace.run("train_1_aa")) == {"team": "green", "note": "a=b ü"}
    assert own_tags(workspace.run("train_2_bb")) == {"team": "red"}
    assert own_tags(workspace.tag("train_2_bb", {"team": None, "never": None, "new": "1"})) == {"new": "1"}
    assert own_tags(workspace.tag("train_2_bb", {"new": None})) == own_tags(workspace.run("train_2_bb")) == {}
    workspace.archive("child_b")
    (found,) = footprints_of(workspace, [workspace.run("train_1_aa")], outputs=False)
    assert ({run.id for run in found.below}, children_text(found)) == ({"child_a", "child_b"}, "2 nested runs")
    assert delete_runs(workspace, [found, found]) == []
    assert ids(workspace, RunQuery(archived=None)) == ["other_3_cc", "train_2_bb"]
    with pytest.raises(RunNotFound):
        workspace.run("train_1_aa")
    # Azure ML may keep the record, archived.
    for gone in ("child_a", "child_b"):
        with suppress(RunNotFound):
            assert workspace.run(gone).is_archived


def test_a_run_that_goes_on_is_not_deleted(project: Path) -> None:
    runs = RecordedRuns(project)
    runs.add("busy_1_aa", status=RunStatus.running)
    with FileLock(project / ".himl" / "runs" / "busy_1_aa" / "lock"):
        with pytest.raises(BadUsage, match="Run 'busy_1_aa' is still in progress"):
            runs.workspace.delete("busy_1_aa")
        assert runs.workspace.run("busy_1_aa").status is RunStatus.running
    assert runs.workspace.run("busy_1_aa").status is RunStatus.failed


@pytest.mark.large("takes long, and other tests run its branches")
def test_commands_list_runs_by_what_they_logged(workspace: Workspace, ask: Callable[..., Outcome]) -> None:
    first, second, third = "train_1_aa", "train_2_bb", "other_3_cc"
    options = ("runs", "list", "--metrics", "l*", "--params", "--sort", "loss", "--goal", "minimize", "--size")
    head, *rows = csv.reader(ask(*options, "--format", "csv").stdout.splitlines())
    assert [name for name in head if name in ("lr", "loss", "size")] == ["size", "lr", "loss"]
    found = {row[0]: dict(zip(head, row, strict=True)) for row in rows}
    assert [*found] == [first, third, second]
    assert [(found[run]["lr"], found[run]["loss"], found[run]["tags"]) for run in (first, second)] == [
        ("0.1", "0.5", "team=blue"),
        ("", "", "team=red"),
    ]
    assert [row.split("\t") for row in ask(*options, "--format", "tsv").stdout.splitlines()] == [head, *rows]
    form = {run["id"]: run for run in ask(*options, "--json").json()}
    assert (form[first]["metrics"], form[first]["parameters"]["lr"], form[second]["metrics"]) == (
        {"loss": 0.5},
        "0.1",
        {},
    )
    assert {run: str(form[run]["size"]) for run in found} == {run: found[run]["size"] for run in found}
    for goal, value in {"minimize": 0.5, "maximize": 1.0}.items():
        best = ask("runs", "list", "--best", "--metrics", "loss", "--goal", goal, "--json").json()
        assert {run["id"]: run["metrics"] for run in best}[first] == {"loss": value}
    for words, expected in (
        (["--where", "loss < 1 and team = blue"], [first]),
        (["--where", "attributes.experiment = other or lr = 1"], None),
        (["--since", workspace.run(third).created.isoformat()], [third]),
        (["--sort=-started", "-n", "2"], [third, second]),
    ):
        outcome = ask("runs", "list", "-q", *words)
        assert (outcome.code, outcome.stdout.split()) == ((0, expected) if expected else (2, [])), outcome.stderr


def test_commands_compare_export_and_repeat_runs(
    workspace: Workspace, ask: Callable[..., Outcome], himl: Himl, tmp_path: Path
) -> None:
    first, second = "train_1_aa", "train_2_bb"
    assert ask("runs", "show", "train_2", "-q").stdout == f"{second}\n"
    found = ask("runs", "diff", first, second, "--json").json()
    assert (found["parameters"], found["tags"]["team"], found["metrics"]["loss"]) == (
        {"lr": ["0.1", None]},
        ["blue", "red"],
        [0.5, None],
    )
    for since, text in (("2026-02-01", "hello"), ("2099-01-01", "")):
        assert ask("runs", "logs", first, "--since", since).stdout == text
    assert (
        "does not know when the lines"
        in ask("runs", "logs", first, "--since", (workspace.run(first).created + timedelta(hours=1)).isoformat()).stderr
    )
    assert ask("runs", "export", first, "--to", str(tmp_path / "run.zip")).code == 0
    assert himl.ok("runs", "import", tmp_path / "run.zip", "-w", tmp_path / "other" / ".himl", "-q").stdout.split() == [
        first,
        "child_b",
        "child_a",
    ]
    for words, code, problem in (
        (["runs", "code", first], 3, f"Run '{first}' has no copy of its code."),
        (["submit", "--from", first], 2, f"Run '{first}' cannot be repeated: "),
    ):
        refused = ask(*words)
        assert (refused.code, problem in refused.stderr) == (code, True), refused.stderr


def test_code_is_given_back_and_counted(
    request: pytest.FixtureRequest, workspace: Workspace, ask: Callable[..., Outcome], project: Path
) -> None:
    seed = request.node.callspec.params["workspace"]
    if seed in (azure, joined):  # tests/commands/test_submit_azure.py has registered code
        garbage = ask("gc")
        assert (garbage.code, "There is no local workspace here." in garbage.stderr) == (
            (3, True) if seed is azure else (0, False)
        )
        return
    home = project if seed is not remote else request.getfixturevalue("box").home
    code, run = project / "own", replace(workspace.run("train_1_aa"), id="kept_4_dd", experiment="kept")
    code.mkdir()
    (code / "train.py").write_text("print('kept', 1)\n")
    spec = JobSpec("kept", Entry(EntryKind.script, "train.py"), Snapshot(code, ["train.py"], 17))
    with closing(LocalWorkspace(home / ".himl")) as there:
        there.adopt(run, StoredJob(spec), code, None)
    assert ask("runs", "code", "kept_4_dd", "-q").stdout == "train.py\n"
    assert ask("runs", "code", "kept_4_dd", "-o", str(project / "saved")).code == 0
    assert (project / "saved" / "train.py").read_text() == "print('kept', 1)\n"
    again = ask("submit", "--from", "kept_4_dd", "--wait", "--follow")
    assert (again.code, again.stdout) == (0, "kept 1\n"), again.stderr
    garbage = ask("gc", "--json")
    assert garbage.code == (2 if seed is remote else 0), garbage.stderr
