"""Event files of runs: which they are, and copies that only ever grow by what is new."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from himl_cli.core.blobs import BlobInfo
from himl_cli.core.events import Event, Notice
from himl_cli.core.runs import Run, RunSelection, RunStatus
from himl_cli.services.tensorboard.copies import ATTEMPTS, OVERLAP, CopiedSource, EventFinder, EventSource, GrowingCopy, ShownFolder
from himl_cli.services.tensorboard.server import sync_once
from himl_cli.services.tensorboard.shown_runs import SelectedRuns, readable_name
from himl_cli.workspaces.azure.workspace import AzureWorkspace
from himl_cli.workspaces.base import Workspace
from tests.servers.azureml.faults import ChangeEtag
from tests.servers.azureml.seeding import StagedWorkspace
from tests.support.azure import opened
from tests.support.runs import RecordedRuns
from tests.support.tensorboard import NAME, event_bytes, scalars

LONG = event_bytes([1.0, 0.5, 0.25, 0.125])
SHORT = event_bytes([1.0, 0.5])
RUN = "train_1_aa"


@pytest.fixture
def workspace(azure_environment: StagedWorkspace, project: Path) -> Iterator[AzureWorkspace]:
    with opened(azure_environment, project) as found:
        yield found


def sources_of(workspace: Workspace, runs: Sequence[str], folder: Path, log_dir: str = "logs") -> list[EventSource]:
    selected = SelectedRuns(workspace, RunSelection(runs=runs), Path.cwd(), log_dir, folder)
    selected.start()
    return selected.sources


def source_of(workspace: AzureWorkspace, folder: Path, log_dir: str = "logs") -> CopiedSource:
    (source,) = sources_of(workspace, [RUN], folder, log_dir)
    assert isinstance(source, CopiedSource)
    return source


def put(azure: StagedWorkspace, name: str, content: bytes) -> None:
    azure.put_artifact(azure.state.runs[RUN], name, content)


def received(azure: StagedWorkspace, wanted: int) -> int:
    """Bytes of event files that have gone over the wire; *wanted* are waited for."""
    deadline = time.monotonic() + 60
    while True:
        count = sum(seen.received for seen in azure.stage.log.find(r"GET .*tfevents[^?]*(\?|$)"))
        if count >= wanted or time.monotonic() > deadline:
            return count
        time.sleep(0.01)


def test_growing_log_is_copied_in_place_by_new_bytes_only(azure: StagedWorkspace, workspace: AzureWorkspace, tmp_path: Path) -> None:
    run = azure.add_run(RUN, "train", status="Running", display_name="First try")
    blob = run.artifact_prefix + f"logs/fold 0/{NAME}"
    azure.state.storage.append("azureml", blob, SHORT)
    source = source_of(workspace, tmp_path / "copies")
    source.update()
    path = tmp_path / "copies" / "First_try-train_1_aa" / "fold 0" / NAME
    assert (path.read_bytes(), [*source.files.values()], source.stats.received) == (SHORT, [path], len(SHORT))
    inode = path.stat().st_ino
    azure.state.storage.append("azureml", blob, LONG[len(SHORT) :])
    source.update()
    assert (path.read_bytes(), path.stat().st_ino, source.stats.received, source.is_done) == (LONG, inode, len(LONG) - len(SHORT), False)
    assert scalars(path.parent) == [(0, 1.0), (1, 0.5), (2, 0.25), (3, 0.125)]
    source.update()
    assert (source.stats.received, received(azure, len(LONG) + OVERLAP)) == (0, len(LONG) + OVERLAP)


def test_a_blob_that_is_stored_anew_and_longer_is_the_same_file(azure: StagedWorkspace, workspace: AzureWorkspace, tmp_path: Path) -> None:
    """Its folder is not `logs`: then all event files are taken, by their whole names."""
    azure.add_run(RUN, "train", status="Running")
    put(azure, f"outputs/tb/{NAME}", SHORT)
    source = source_of(workspace, tmp_path)
    source.update()
    put(azure, f"outputs/tb/{NAME}", LONG)
    source.update()
    assert [*source.files] == [f"outputs/tb/{NAME}"]
    assert (tmp_path / RUN / "outputs" / "tb" / NAME).read_bytes() == LONG
    assert received(azure, len(LONG) + OVERLAP) == len(LONG) + OVERLAP


@pytest.mark.parametrize("other", [event_bytes([9.0]), event_bytes([9.0, 8.0, 7.0, 6.0, 5.0])], ids=["shorter", "longer"])
def test_another_file_of_the_same_name_is_kept_under_a_new_one(azure: StagedWorkspace, workspace: AzureWorkspace, tmp_path: Path, other: bytes) -> None:
    azure.add_run(RUN, "train", status="Running")
    put(azure, f"logs/{NAME}", SHORT)
    source = source_of(workspace, tmp_path)
    source.update()
    put(azure, f"logs/{NAME}", other)
    source.update()
    second = tmp_path / RUN / f"{NAME}.himl2"
    assert ([*source.files.values()], second.read_bytes(), (tmp_path / RUN / NAME).read_bytes()) == ([second], other, SHORT)
    again = source_of(workspace, tmp_path)
    assert again.files == {second.name: second}, "what is shown before the first look"
    again.update()
    assert again.stats.received == 0


def test_another_himl_goes_on_with_what_is_on_the_disk(azure: StagedWorkspace, workspace: AzureWorkspace, tmp_path: Path) -> None:
    azure.add_run(RUN, "train")
    put(azure, f"logs/{NAME}", LONG)
    (tmp_path / RUN).mkdir()
    (tmp_path / RUN / NAME).write_bytes(LONG[:50])  # in the middle of a record
    source = source_of(workspace, tmp_path)
    assert [*source.files] == [NAME]
    source.update()
    assert ((tmp_path / RUN / NAME).read_bytes(), source.stats.received, source.is_done) == (LONG, len(LONG) - 50, True)


def test_two_himl_that_copy_the_same_run_do_each_other_no_harm(azure: StagedWorkspace, workspace: AzureWorkspace, tmp_path: Path) -> None:
    azure.add_run(RUN, "train", status="Running")
    put(azure, f"logs/{NAME}", LONG[:50])
    one, other = source_of(workspace, tmp_path), source_of(workspace, tmp_path)
    one.update()
    other.update()
    put(azure, f"logs/{NAME}", LONG)
    other.update()
    one.update()
    assert {path.name: path.read_bytes() for path in (tmp_path / RUN).iterdir()} == {NAME: LONG}
    put(azure, f"logs/{NAME}", event_bytes([9.0]))
    for source in (one, other, one, other):
        source.update()
    assert sorted(path.name for path in (tmp_path / RUN).iterdir()) == [NAME, f"{NAME}.himl2"]


def test_file_changing_during_copy_is_copied_in_next_round(azure: StagedWorkspace, workspace: AzureWorkspace, tmp_path: Path) -> None:
    azure.add_run(RUN, "train")
    put(azure, f"outputs/{NAME}", LONG)
    source = source_of(workspace, tmp_path)
    azure.stage.faults.add(ChangeEtag(), rf"GET .*{RUN}/outputs/{NAME}", times=ATTEMPTS)
    source.update()
    assert (source.is_done, source.files) == (False, {})
    source.update()
    assert (source.is_done, [path.read_bytes() for path in source.files.values()]) == (True, [LONG])


def test_names_that_leave_the_folder_are_left_out(azure: StagedWorkspace, workspace: AzureWorkspace, tmp_path: Path) -> None:
    azure.add_run(RUN, "train")
    azure.put_artifacts(azure.state.runs[RUN], {f"logs/a/..\\..\\..\\{NAME}": SHORT, f"logs/ok/{NAME}": SHORT})
    source = source_of(workspace, tmp_path / "copies")
    source.update()
    assert [path.relative_to(tmp_path / "copies").as_posix() for path in (tmp_path / "copies").rglob("*tfevents*")] == [f"{RUN}/ok/{NAME}"]


def test_sync_of_several_runs_continues_after_one_fails(azure: StagedWorkspace, workspace: AzureWorkspace, tmp_path: Path) -> None:
    for number in range(12):
        azure.put_artifact(azure.add_run(f"train_{number}", "train", status="Running"), f"logs/{NAME}", SHORT)
    (tmp_path / "train_5").write_text("a file where the folder is to be")
    sources = sources_of(workspace, [f"train_{number}" for number in range(12)], tmp_path)
    synced, problem = sync_once(sources, lambda event: None)
    assert [one.run for one in synced] == [f"train_{number}" for number in range(12) if number != 5]
    assert problem is not None
    assert "train_5" in str(problem)


def test_runs_without_event_files_are_named_but_not_all_of_many(project: Path, tmp_path: Path) -> None:
    here = RecordedRuns(project)
    ids = [here.add(f"train_{number}", files={f"logs/{NAME}": LONG} if number == 0 else {}) for number in range(7)]
    here.add("hunt", tags={"himl.many": "sweep"})
    said: list[Event] = []
    synced, problem = sync_once(sources_of(here.workspace, [*ids[:3], "hunt"], tmp_path), said.append)
    assert ([one.run for one in synced], problem) == (["train_0"], None)
    sync_once(sources_of(here.workspace, ids, tmp_path), said.append)
    assert said == [
        Notice("2 runs have no event files: train_1, train_2."),
        Notice("6 runs have no event files: train_1, train_2, train_3 and 3 more."),
    ]


def test_runs_of_here_are_served_where_they_lie(project: Path, tmp_path: Path) -> None:
    here = RecordedRuns(project)
    first = here.add("train_1_aa", files={f"logs/a/{NAME}": LONG, "logs/notes.txt": "x", f"outputs/{NAME}": SHORT})
    second = here.add("train_2_bb", status=RunStatus.canceled, files={f"outputs/deep/{NAME}": SHORT})
    sources = sources_of(here.workspace, [first, second], tmp_path)
    synced, problem = sync_once(sources, lambda event: None)
    runs = project / ".himl" / "runs"
    assert problem is None
    assert [(one.folder, one.files, one.new_bytes) for one in synced] == [(runs / first / "code" / "logs", 1, 0), (runs / second / "code", 1, 0)]
    shown = ShownFolder(tmp_path / "shown")
    for source in sources:
        shown.show(source.name, source.files)
    assert scalars(tmp_path / "shown" / first / "a") == scalars(runs / first / "code" / "logs" / "a")


def test_what_is_no_longer_a_run_s_file_is_no_longer_shown(project: Path, tmp_path: Path) -> None:
    here = RecordedRuns(project)
    run = here.add("train_1_aa", files={f"logs/a/{NAME}": LONG, f"logs/b/{NAME}": LONG})
    (source,) = sources_of(here.workspace, [run], tmp_path)
    shown = ShownFolder(tmp_path / "shown")
    source.update()
    shown.show(source.name, source.files)
    (project / ".himl" / "runs" / run / "code" / "logs" / "a" / NAME).unlink()
    source.update()
    shown.show(source.name, source.files)
    assert [path.relative_to(tmp_path / "shown").as_posix() for path in (tmp_path / "shown").rglob("*tfevents*")] == [f"{run}/b/{NAME}"]
    assert (tmp_path / "shown" / run / "b" / NAME).read_bytes() == LONG


@pytest.mark.parametrize("log_dir", ["logs", "logs/", "./logs", "logs\\"])
def test_the_folder_may_be_written_in_several_ways(project: Path, log_dir: str) -> None:
    here = RecordedRuns(project)
    run = here.add("train_1_aa", files={f"logs/a/{NAME}": LONG, f"logs_2/{NAME}": LONG})
    assert [*EventFinder(here.workspace.run_files(run), log_dir).find()] == [f"a/{NAME}"]


@pytest.mark.parametrize(
    ("display_name", "name"),
    [("", RUN), (RUN, RUN), ("First try", f"First_try-{RUN}"), ("lr=0.1, big", f"lr=0.1_big-{RUN}"), ("../../x", f"x-{RUN}"), ("größer 🙂", f"größer-{RUN}")],
)
def test_runs_have_readable_names_that_are_folders(project: Path, display_name: str, name: str) -> None:
    here = RecordedRuns(project)
    here.add(RUN, display_name=display_name)
    run: Run = here.workspace.run(RUN)
    assert readable_name(run) == name


@given(st.lists(st.binary(min_size=0, max_size=60), min_size=1, max_size=6), st.integers(1, 40))
def test_a_copy_is_what_its_original_is_however_that_grew(tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes], at_once: int) -> None:
    path, original, asked = tmp_path_factory.mktemp("copy") / "sub" / NAME, b"", 0
    for piece in pieces:
        original += piece
        copy = GrowingCopy(path)  # as a himl that was started anew
        request = copy.request(BlobInfo(NAME, len(original)))
        if request is None:
            continue
        asked += request.length
        wanted = original[request.offset : request.offset + request.length]
        for start in range(0, len(wanted), at_once):
            copy.write(request.offset + start, wanted[start : start + at_once])
        copy.close()
        assert (copy.is_other, copy.path) == (False, path)
    assert (path.read_bytes() if original else b"") == original
    assert asked <= len(original) + OVERLAP * len(pieces)


def test_a_trial_without_a_name_is_called_by_its_values(project: Path) -> None:
    runs = RecordedRuns(project)
    runs.add("sweep_0", display_name="sweep_0", tags={"hyperparameters": '{"lr": 0.1, "opt": "adam"}'})
    assert readable_name(runs.workspace.run("sweep_0")) == "lr=0.1_opt=adam-sweep_0"


@pytest.mark.parametrize("at", ["", "sub", f"sub/{NAME}"])
def test_a_planted_link_does_not_lead_out_of_the_folder(workspace: AzureWorkspace, azure_environment: StagedWorkspace, tmp_path: Path, at: str) -> None:
    azure_environment.add_run(RUN)
    put(azure_environment, f"logs/sub/{NAME}", LONG)
    put(azure_environment, f"logs/{NAME}", SHORT)
    outside, folder = tmp_path / "outside", tmp_path / "copies"
    outside.mkdir()
    (outside / NAME).write_bytes(b"")
    source = source_of(workspace, folder)
    link = folder / source.name / at
    link.parent.mkdir(parents=True)
    try:
        link.symlink_to(outside / NAME if NAME in at else outside)
    except OSError:
        pytest.skip("NEEDS the right to make symlinks")
    source.update()
    assert {path.name: path.read_bytes() for path in outside.iterdir()} == {NAME: b""}
    assert source.excluded == ({f"sub/{NAME}"} if at else {NAME, f"sub/{NAME}"})
