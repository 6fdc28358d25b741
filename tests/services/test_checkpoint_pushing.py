"""What `himl checkpoint push` takes, under which names, and what it leaves behind."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import pytest

from himl_cli.core.errors import BadUsage, HimlError, NotFound, RunNotFound, ServiceFailed
from himl_cli.core.events import Notice
from himl_cli.core.runs import Run, RunEnd, RunQuery, RunStatus
from himl_cli.services.checkpoints.push import push_checkpoints
from himl_cli.services.checkpoints.source import find_local
from himl_cli.workspaces.local.workspace import LocalWorkspace
from tests.support.running import write_files
from tests.support.runs import RecordedRuns
from tests.support.workspaces import Seed, azure, local

RUN = "train_1772366400_0a1b2c3d"
FILES: dict[str, str | bytes] = {"outputs/checkpoints/last.ckpt": "old", "outputs/checkpoints/part/weights.pt": "old", "logs/notes.ckpt": "old"}


@pytest.fixture
def runs(project: Path) -> RecordedRuns:
    recorded = RecordedRuns(project)
    recorded.add(RUN, files=FILES)
    return recorded


def paths(*files: str) -> list[Path]:
    return [Path(file) for file in files]


@pytest.mark.parametrize(("files", "kind", "words"), [
    (["no.ckpt"], NotFound, "There is no file 'no.ckpt'."),
    (["*.none"], NotFound, "There is no file '\\*.none'."),
    (["empty.ckpt"], BadUsage, "empty.ckpt' is empty, and no checkpoint."),
    (["a", "drained"], BadUsage, "last.ckpt' is empty"),
    (["half.pt"], BadUsage, "half.pt' was not written to its end"),
    (["hollow"], NotFound, "There are no files in 'hollow'."),
    (["a/last.ckpt", "b/last.ckpt"], BadUsage, "would both be 'outputs/checkpoints/last.ckpt'"),
    (["a", f"checkpoints/{RUN}"], BadUsage, "would both be 'outputs/checkpoints/last.ckpt'"),
    ([], BadUsage, "Nothing is named"),
    (["~nosuchuser/last.ckpt"], NotFound, "There is no file '~nosuchuser/last.ckpt'"),
    (["."], BadUsage, "'.' is the folder of a project, and no checkpoint."),
])  # fmt: skip
def test_what_cannot_be_pushed_is_refused_before_a_run_is_made(runs: RecordedRuns, project: Path, files: list[str], kind: type[HimlError], words: str) -> None:
    write_files(project, {"a/last.ckpt": "a", "b/last.ckpt": "b", "empty.ckpt": "", "half.pt": b"PK\x03\x04 no more", f"checkpoints/{RUN}/last.ckpt": "c"})
    write_files(project, {"drained/last.ckpt": ""})
    (project / "hollow" / "deep").mkdir(parents=True)
    with pytest.raises(kind, match=words):
        push_checkpoints(paths(*files), RUN, runs.workspace, project)
    assert [run.id for run in runs.workspace.runs(RunQuery())] == [RUN]


def test_the_source_and_the_experiment_have_to_be_some(runs: RecordedRuns, project: Path) -> None:
    write_files(project, {"a.ckpt": "a"})
    with pytest.raises(RunNotFound, match="No run 'nothing'"):
        push_checkpoints(paths("a.ckpt"), "nothing", runs.workspace, project)
    with pytest.raises(BadUsage, match="experiment's name is empty"):
        push_checkpoints(paths("a.ckpt"), RUN, runs.workspace, project, experiment=" ")
    assert [run.id for run in runs.workspace.runs(RunQuery())] == [RUN]
    said: list[object] = []
    pushed = push_checkpoints(paths("a.ckpt"), RUN, runs.workspace, project, said.append, experiment="my surgery")
    assert pushed.run.experiment == "my_surgery"
    assert any(isinstance(one, Notice) and one.text.startswith("The experiment is called 'my_surgery', since") for one in said)


def test_files_keep_the_places_that_fetch_and_download_gave_them(runs: RecordedRuns, project: Path) -> None:
    fetched, loaded = f"checkpoints/{RUN}", f"outputs/{RUN}/outputs"
    write_files(project, {
        f"{fetched}/part/weights.pt": "1", f"{fetched}/outputs/retry_001/checkpoints/last.ckpt": "2", f"{fetched}/logs/notes.ckpt": "3",
        f"{loaded}/checkpoints/epoch=3.ckpt": "4", f"{loaded}/model.bin": "5", "other/deep/a.ckpt": "6", "x/top.ckpt": "7", "marks/zero": "",
    })  # fmt: skip
    files = [f"{fetched}/part/weights.pt", f"{fetched}/outputs", f"{fetched}/logs", f"outputs/{RUN}", "other", "x/*.ckpt", "marks"]
    pushed = push_checkpoints(paths(*files, f"{fetched}/../{RUN}/part/weights.pt"), RUN, runs.workspace, project)
    assert pushed.names == [
        "outputs/checkpoints/part/weights.pt", "outputs/retry_001/checkpoints/last.ckpt", "logs/notes.ckpt", "outputs/checkpoints/epoch=3.ckpt",
        "outputs/model.bin", "outputs/checkpoints/deep/a.ckpt", "outputs/checkpoints/top.ckpt", "outputs/checkpoints/zero",
    ]  # fmt: skip


@pytest.mark.parametrize("place", [local, azure])
def test_what_is_as_it_was_is_named_and_pushed_all_the_same(request: pytest.FixtureRequest, project: Path, place: Seed) -> None:
    write_files(project, {"first/last.ckpt": "old", "first/part/weights.pt": "old", "first/more.ckpt": "old"})
    write_files(project, {"then/last.ckpt": "new", "then/part/weights.pt": "old", "then/more.ckpt": "other size"})
    with place(request, project) as workspace:
        source = workspace.start_run(Run("train_1_aa", "train")).id
        first = push_checkpoints(paths("first"), source, workspace, project)
        then = push_checkpoints(paths("then"), first.run.id, workspace, project)
        stored = {blob.name: workspace.run_files(then.run.id).md5(blob) for page in workspace.run_files(then.run.id).list() for blob in page}
    assert (first.unchanged, then.unchanged) == ([], ["outputs/checkpoints/part/weights.pt"])
    texts = {"last.ckpt": b"new", "more.ckpt": b"other size", "part/weights.pt": b"old"}
    assert stored == {f"outputs/checkpoints/{name}": hashlib.md5(text).digest() for name, text in texts.items()}
    assert (then.run.status, then.run.tags["himl.checkpoint_from"], then.start) == (RunStatus.completed, first.run.id, then.run.id)


@pytest.mark.skipif(sys.platform == "win32", reason="NEEDS symbolic links")
def test_pushed_folder_skips_hidden_and_secret_files(runs: RecordedRuns, project: Path) -> None:
    """Links that lead out of the folder are refused."""
    write_files(project, {
        "new/last.ckpt": "new", "new/deep/himl.private.toml": "secret", "new/prod.env": "secret", "new/deep/.git/config": "secret", "new/.cache": "x",
        "new/.himl-transfer.db": "x", "new/dcp/.metadata": "of torch.distributed.checkpoint", "secret.txt": "secret",
    })  # fmt: skip
    (project / "new/deep/link.ckpt").symlink_to(project / "new/last.ckpt")
    pushed = push_checkpoints(paths("new"), RUN, runs.workspace, project)
    assert sorted(pushed.names) == [f"outputs/checkpoints/{name}" for name in ("dcp/.metadata", "deep/link.ckpt", "last.ckpt")]
    assert sorted(find_local("new", project).by_place) == sorted(pushed.names)
    (project / "new/deep/out.ckpt").symlink_to(project / "secret.txt")
    for act in (lambda: push_checkpoints(paths("new"), RUN, runs.workspace, project), lambda: find_local("new", project)):
        with pytest.raises(BadUsage, match=r"out\.ckpt' is reached by a link that leads out of 'new'"):
            act()


class Unended(LocalWorkspace):
    """A workspace whose service is away once the files are stored."""

    def end_run(self, run_id: str, end: RunEnd) -> Run:
        raise ServiceFailed("The service is away.", hint="Try again later.")


def test_push_error_names_run_that_could_not_be_ended(runs: RecordedRuns, project: Path) -> None:
    write_files(project, {"last.ckpt": "new"})
    with pytest.raises(ServiceFailed) as caught:
        push_checkpoints(paths("last.ckpt"), RUN, Unended(project / ".himl"), project)
    (made,) = [run for run in runs.workspace.runs(RunQuery()) if run.id != RUN]
    assert str(caught.value).startswith(f"All files are in run '{made.id}', which could not be ended")
    assert caught.value.hint == "Try again later. Jobs can start from it as it is."
