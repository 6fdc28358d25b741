"""Tests of checkpoint sources: which files one names, fetching them into a cache or folder, starting a job from them,
and `himl checkpoint push`.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from himl_cli.core.blobs import TransferResult
from himl_cli.core.errors import BadUsage, DiskFailed, HimlError, IntegrityFailed, NotFound, RunNotFound, ServiceFailed
from himl_cli.core.events import Event, Notice, Notify, ignore
from himl_cli.core.jobs import Entry, EntryKind, JobSpec, Snapshot
from himl_cli.core.runs import Choice, Run, RunEnd, RunQuery, RunStatus
from himl_cli.services.checkpoints.fetch import (
    INPUT,
    KEPT_DAYS,
    USED,
    CheckpointRequest,
    bring_checkpoint,
    cache_folder,
    fetch_checkpoint,
    refer_to_checkpoint,
)
from himl_cli.services.checkpoints.push import push_checkpoints
from himl_cli.services.checkpoints.source import find_local
from himl_cli.workspaces.local.launch_request import LaunchRequest, job_environment
from himl_cli.workspaces.local.workspace import LocalWorkspace
from tests.azureml_double.seeding import StagedWorkspace
from tests.azureml_double.stage import Stage
from tests.support.azure import opened
from tests.support.running import write_files
from tests.support.runs import HERE, RETRY, RUN, RecordedRuns, add, found

SPEC = JobSpec("lab", Entry(EntryKind.script, "train.py"), Snapshot(Path(), (), 0))
HALF = b"PK\x03\x04 no more"


@pytest.fixture
def runs(project: Path) -> RecordedRuns:
    return RecordedRuns(project)


def unasked(address: str = "") -> NoReturn:
    """Fail if the code opens a workspace or a store that it does not need."""
    raise AssertionError(address)


def texts(events: list[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, Notice)]


def test_places_of_checkpoint_files_in_new_job(runs: RecordedRuns) -> None:
    add(runs, "last.ckpt/a", "last.ckpt/b/c", "epoch=1.pt", "sub/x")
    assert found(runs).by_place == {
        f"{HERE}/last.ckpt/a": f"{HERE}/last.ckpt/a",
        f"{HERE}/last.ckpt/b/c": f"{HERE}/last.ckpt/b/c",
    }
    assert found(runs, "epoch=1").by_place == {f"{HERE}/last.pt": f"{HERE}/epoch=1.pt"}
    assert found(runs, source=f"{RUN}:sub/").by_place == {f"{HERE}/x": f"{HERE}/sub/x"}
    many = {f"outputs/predictions/{number}": "" for number in range(1000)}
    runs.add("many_1_aa", files={f"{HERE}/last.ckpt": "1", **many, f"{RETRY}/last.ckpt": "2"})
    assert found(runs, source="many_1_aa").names == [f"{RETRY}/last.ckpt"], "beyond the first page of files"


def test_named_file_or_folder_of_run(runs: RecordedRuns) -> None:
    add(runs, "best.ckpt", "best.ckpt2", "sub/a", "sub/b", "outputs/model.bin")
    below = [f"{HERE}/{name}" for name in ("best.ckpt", "best.ckpt2", "sub/a", "sub/b")]
    paths = {"best.ckpt": below[:1], "outputs/model.bin": ["outputs/model.bin"], "sub": below[2:], "sub/a": below[2:3]}
    for path, names in (paths | {"outputs/": [*below, "outputs/model.bin"]}).items():
        assert found(runs, source=f"{RUN}:{path}").names == names
    with pytest.raises(BadUsage, match="is a file or folder of the run"):
        found(runs, "best", source=f"{RUN}:sub")


def test_ranks_share_checkpoint_folder_and_key_per_request(runs: RecordedRuns, project: Path) -> None:
    runs.add(RUN, files={f"{HERE}/best.ckpt": "weights", f"{HERE}/last.ckpt": "last"})
    calls: list[tuple[Path, str]] = []

    def once(folder: Path, key: str, act: Callable[[], TransferResult], *, notify: Notify = ignore) -> TransferResult:
        calls.append((folder, key))
        return act()

    for source in (RUN, f"{RUN}:last.ckpt", RUN):
        fetch_checkpoint(
            CheckpointRequest(source, folder=project / "out"), lambda: runs.workspace, unasked, project, once=once
        )
    assert [folder for folder, _ in calls] == [project / "out"] * 3
    assert calls[0] == calls[2] != calls[1]
    write_files(project, {"last.ckpt": "w"})
    assert fetch_checkpoint(CheckpointRequest("last.ckpt"), unasked, unasked, project).shown == "last.ckpt"
    for source in ("last.ckpt", "https://example.org/last.ckpt"):
        with pytest.raises(BadUsage, match="Only the checkpoints of a run can be selected"):
            fetch_checkpoint(CheckpointRequest(source, Choice("best")), unasked, unasked, project)


def cached(key: str, days_ago: float) -> Path:
    with cache_folder(key) as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "last.ckpt").write_text(key)
    moment = time.time() - days_ago * 86_400
    os.utime(folder / USED, (moment, moment))
    return folder


def test_cache_drops_only_what_was_unused_for_long() -> None:
    old = cached("old", KEPT_DAYS + 1)
    with cache_folder("old") as folder, cache_folder("new"):
        assert (folder, (folder / "sub" / "last.ckpt").read_text()) == (old, "old"), "it is used again"
    os.utime(old / USED, (1, 1))
    young, unnoted = cached("young", KEPT_DAYS - 1), cached("unnoted", 0)
    (unnoted / USED).unlink()
    with cache_folder("new") as new:
        assert (old.exists(), (young / "sub" / "last.ckpt").read_text()) == (False, "young")
    assert {path for path in new.parent.iterdir() if path.is_dir()} == {young, new, unnoted}
    long_ago = time.time() - 100 * 86_400
    os.utime(unnoted, (long_ago, long_ago))
    with cache_folder("new"):
        assert not unnoted.exists()
    shutil.rmtree(new.parent)
    new.parent.write_text("a file")
    with pytest.raises(DiskFailed, match="Cannot make himl's cache folder"), cache_folder("new"):
        pass


@pytest.mark.parametrize(("source", "kind", "words"), [
    ("halves", BadUsage, "half.pt' is incomplete"),
    (f"{RUN}:half.pt", IntegrityFailed, "'outputs/checkpoints/half.pt' is incomplete"),
    (".", BadUsage, "'.' is a project folder, not a checkpoint."),
])  # fmt: skip
def test_job_does_not_start_from_empty_or_torn_file(
    runs: RecordedRuns, project: Path, source: str, kind: type[Exception], words: str
) -> None:
    runs.add(RUN, files={f"{HERE}/half.pt": HALF})
    write_files(project, {"halves/half.pt": HALF, "halves/mark": ""})
    with pytest.raises(kind, match=words):
        bring_checkpoint(source, runs.workspace, SPEC, project, ignore, unasked)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("halves/half.pt", "'halves/half.pt' is incomplete, and would not load"),
        (f"{RUN}:half.pt", "half.pt' is the same as in the run, but is incomplete, and would not load"),
    ],
)
def test_torn_file_is_an_error_although_it_was_fetched(
    runs: RecordedRuns, project: Path, source: str, words: str
) -> None:
    runs.add(RUN, files={f"{HERE}/half.pt": HALF})
    write_files(project, {"halves/half.pt": HALF})
    request = CheckpointRequest(source, folder=project / "out")
    with pytest.raises(IntegrityFailed, match=words):
        fetch_checkpoint(request, lambda: runs.workspace, unasked, project)


def test_job_start_from_folder_of_running_run_gives_notice(azure_environment: StagedWorkspace, project: Path) -> None:
    events: list[Event] = []
    files = {f"{HERE}/shards.ckpt/{number}.pt": b"weights" for number in range(40)}
    run = azure_environment.add_run("early", "train", status=RunStatus.running.value)
    azure_environment.put_artifacts(run, {**files, f"{HERE}/none/a.pt": b""})
    with opened(azure_environment, project) as workspace:
        spec = refer_to_checkpoint("early:shards.ckpt/", workspace, workspace, SPEC, project, events.append, unasked)
        with pytest.raises(IntegrityFailed, match="'outputs/checkpoints/none' of run 'early' is empty"):
            refer_to_checkpoint("early:none/", workspace, workspace, SPEC, project, ignore, unasked)
    assert spec.brought == {f"{HERE}/last.ckpt/": f"{INPUT}/"}
    assert {
        "Run 'early' has not ended. It may write more files.",
        "The job begins with 'outputs/checkpoints/shards.ckpt' as it is when the job starts.",
    } <= {*texts(events)}


def test_local_files_are_uploaded_once_to_one_place(
    azure_environment: StagedWorkspace, stage: Stage, project: Path
) -> None:
    events: list[Event] = []
    write_files(project, {"new/last.ckpt": "new", "new/deep/a.pt": "deep", "new/.cache/x": "hidden"})
    with opened(azure_environment, project) as workspace:
        for source, brought in (
            ("new", {f"{HERE}/": f"{INPUT}/"}),
            ("new/deep/a.pt", {f"{HERE}/last.pt": f"{INPUT}/a.pt"}),
        ):
            for is_again in (False, True):
                stage.log.clear()
                spec = refer_to_checkpoint(source, workspace, workspace, SPEC, project, events.append, unasked)
                assert spec.brought == brought
                assert (stage.log.find(r"^PUT \S+himl_checkpoints") == []) == is_again
    names = {name.split("/", 2)[2] for name in azure_environment.blob_names("workspaceblobstore", "himl_checkpoints/")}
    assert names == {"last.ckpt", "deep/a.pt", "a.pt"}
    assert not any("has not ended" in text for text in texts(events))


def test_local_job_does_not_get_settings_of_its_submit(tmp_path: Path) -> None:
    order = LaunchRequest(str(tmp_path), SPEC, "python train.py", {}, {})
    env = job_environment(order, {"HIML_SUBMIT_CHECKPOINT": "https://h/x?sig=hush", "HIML_CACHE": "kept"}, tmp_path)
    assert "HIML_SUBMIT_CHECKPOINT" not in env
    assert env["HIML_CACHE"] == "kept"


@pytest.fixture
def source_run(runs: RecordedRuns) -> RecordedRuns:
    runs.add(RUN, files={f"{HERE}/last.ckpt": "old", f"{HERE}/part/weights.pt": "old", "logs/notes.ckpt": "old"})
    return runs


def paths(*files: str) -> list[Path]:
    return [Path(file) for file in files]


@pytest.mark.parametrize(("files", "kind", "words"), [
    (["no.ckpt"], NotFound, "There is no file 'no.ckpt'."),
    (["a", "drained"], BadUsage, "last.ckpt' is empty"),
    (["half.pt"], BadUsage, "half.pt' is incomplete"),
    (["hollow"], NotFound, "There are no files in 'hollow'."),
    (["a/last.ckpt", "b/last.ckpt"], BadUsage,
        "would have the same name in the new run: 'outputs/checkpoints/last.ckpt'"),
    ([], BadUsage, "No files to push"),
    (["~nosuchuser/last.ckpt"], NotFound, "There is no file '~nosuchuser/last.ckpt'"),
    (["."], BadUsage, "'.' is a project folder, not a checkpoint."),
])  # fmt: skip
def test_push_is_refused_before_a_run_is_made(
    source_run: RecordedRuns, project: Path, files: list[str], kind: type[HimlError], words: str
) -> None:
    write_files(
        project,
        {
            "a/last.ckpt": "a",
            "b/last.ckpt": "b",
            "empty.ckpt": "",
            "half.pt": HALF,
            f"checkpoints/{RUN}/last.ckpt": "c",
        },
    )
    write_files(project, {"drained/last.ckpt": ""})
    (project / "hollow" / "deep").mkdir(parents=True)
    with pytest.raises(kind, match=words):
        push_checkpoints(paths(*files), RUN, source_run.workspace, project)
    assert [run.id for run in source_run.workspace.runs(RunQuery())] == [RUN]


class EndFails(LocalWorkspace):
    """A workspace whose service fails after the files are stored."""

    def end_run(self, run_id: str, end: RunEnd) -> Run:
        raise ServiceFailed("The service is away.", hint="Try again later.")


def test_push_needs_source_run_and_experiment(source_run: RecordedRuns, project: Path) -> None:
    write_files(project, {"a.ckpt": "a"})
    with pytest.raises(RunNotFound, match="No run 'nothing'"):
        push_checkpoints(paths("a.ckpt"), "nothing", source_run.workspace, project)
    with pytest.raises(BadUsage, match="experiment's name is empty"):
        push_checkpoints(paths("a.ckpt"), RUN, source_run.workspace, project, experiment=" ")
    assert [run.id for run in source_run.workspace.runs(RunQuery())] == [RUN]
    events: list[Event] = []
    pushed = push_checkpoints(
        paths("a.ckpt"), RUN, source_run.workspace, project, events.append, experiment="my surgery"
    )
    assert pushed.run.experiment == "my_surgery"
    assert any(text.startswith("The experiment is called 'my_surgery', since") for text in texts(events))
    with pytest.raises(ServiceFailed) as caught:
        push_checkpoints(paths("a.ckpt"), RUN, EndFails(project / ".himl"), project)
    (made,) = [run for run in source_run.workspace.runs(RunQuery()) if run.id not in (RUN, pushed.run.id)]
    assert str(caught.value).startswith(f"Run '{made.id}' has all files, but could not be ended")
    assert caught.value.hint == "Try again later. Jobs can start from it in this status."


def test_pushed_files_keep_places_of_fetch_and_download(source_run: RecordedRuns, project: Path) -> None:
    fetched, loaded = f"checkpoints/{RUN}", f"outputs/{RUN}/outputs"
    write_files(project, {
        f"{fetched}/part/weights.pt": "1", f"{fetched}/outputs/retry_001/checkpoints/last.ckpt": "2",
            f"{fetched}/logs/notes.ckpt": "3",
        f"{loaded}/checkpoints/epoch=3.ckpt": "4", f"{loaded}/model.bin": "5", "other/deep/a.ckpt": "6",
            "x/top.ckpt": "7", "marks/zero": "",
    })  # fmt: skip
    files = [
        f"{fetched}/part/weights.pt",
        f"{fetched}/outputs",
        f"{fetched}/logs",
        f"outputs/{RUN}",
        "other",
        "x/*.ckpt",
        "marks",
    ]
    pushed = push_checkpoints(paths(*files, f"{fetched}/../{RUN}/part/weights.pt"), RUN, source_run.workspace, project)
    assert pushed.names == [
        "outputs/checkpoints/part/weights.pt", "outputs/retry_001/checkpoints/last.ckpt", "logs/notes.ckpt",
            "outputs/checkpoints/epoch=3.ckpt",
        "outputs/model.bin", "outputs/checkpoints/deep/a.ckpt", "outputs/checkpoints/top.ckpt",
            "outputs/checkpoints/zero",
    ]  # fmt: skip


@pytest.mark.skipif(sys.platform == "win32", reason="NEEDS symbolic links")
def test_pushed_folder_skips_hidden_and_secret_files(source_run: RecordedRuns, project: Path) -> None:
    write_files(project, {
        "new/last.ckpt": "new", "new/deep/himl.private.toml": "secret", "new/prod.env": "secret",
            "new/deep/.git/config": "secret", "new/.cache": "x",
        "new/.himl-transfer.db": "x", "new/dcp/.metadata": "of torch.distributed.checkpoint", "secret.txt": "secret",
    })  # fmt: skip
    (project / "new/deep/link.ckpt").symlink_to(project / "new/last.ckpt")
    write_files(project / "new", {"keyrings/x.keyring": "secret", "hub.json": '{"client_secret": "secret-1"}'})
    events: list[Event] = []
    pushed = push_checkpoints(paths("new"), RUN, source_run.workspace, project, notify=events.append)
    assert sorted(pushed.names) == [
        f"outputs/checkpoints/{name}" for name in ("dcp/.metadata", "deep/link.ckpt", "last.ckpt")
    ]
    (left_out,) = [event.text for event in events if isinstance(event, Notice) and "secrets" in event.text]
    assert left_out.startswith("himl left out 4 files that may contain secrets: ")
    assert left_out.endswith(" To push one, give its path.")
    assert sorted(find_local("new", project).by_place) == sorted(pushed.names)
    (project / "new/deep/out.ckpt").symlink_to(project / "secret.txt")
    for act in (
        lambda: push_checkpoints(paths("new"), RUN, source_run.workspace, project),
        lambda: find_local("new", project),
    ):
        with pytest.raises(BadUsage, match=r"out\.ckpt' is behind a link that leads out of 'new'"):
            act()
