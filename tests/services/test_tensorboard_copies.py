"""Tests of event files for TensorBoard: finding them, copies that grow only by new data, and damaged or replaced
ones.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from himl_cli.core.blobs import BlobInfo
from himl_cli.core.errors import IntegrityFailed, ServiceFailed
from himl_cli.core.events import Event, Finished, Moved, Notice, Planned, ignore
from himl_cli.core.runs import Run, RunSelection, RunStatus
from himl_cli.services.tensorboard.copies import (
    OVERLAP,
    CopiedSource,
    EventFinder,
    EventSource,
    GrowingCopy,
    ShownFolder,
    copy_name,
)
from himl_cli.services.tensorboard.server import sync_once
from himl_cli.services.tensorboard.shown_runs import SelectedRuns, permanent_name
from himl_cli.workspaces.azure.workspace import AzureWorkspace
from himl_cli.workspaces.base import Workspace
from tests.azureml_double.faults import Action, ChangeEtag, FlipByte, WrongMd5
from tests.azureml_double.seeding import StagedWorkspace
from tests.support.azure import opened
from tests.support.folders import contents, files_below
from tests.support.running import until
from tests.support.runs import RecordedRuns
from tests.support.tensorboard import LONG, NAME, PROJECTOR, SHORT, event_bytes, scalars

LONGER = event_bytes([1.0, 0.5, 0.25, 0.125, 2.0])
RUN = "train_1_aa"
GET = rf"GET .*{RUN}/logs/{NAME}"
THEN = datetime(2026, 3, 1, 12, 0, 0, tzinfo=timezone.utc)
ORIGINAL = bytes(range(256)) * 8


@pytest.fixture
def workspace(azure_environment: StagedWorkspace, project: Path) -> Iterator[AzureWorkspace]:
    with opened(azure_environment, project) as found:
        yield found


def sources_of(workspace: Workspace, runs: Sequence[str], folder: Path) -> list[EventSource]:
    selected = SelectedRuns(workspace, RunSelection(runs=runs), Path.cwd(), "logs", folder)
    selected.start()
    return selected.sources


def source_of(workspace: AzureWorkspace, folder: Path) -> CopiedSource:
    (source,) = sources_of(workspace, [RUN], folder)
    assert isinstance(source, CopiedSource)
    return source


def put(azure: StagedWorkspace, name: str, content: bytes) -> None:
    azure.put_artifact(azure.state.runs[RUN], name, content)


def append(azure: StagedWorkspace, content: bytes, name: str = f"logs/{NAME}") -> None:
    azure.state.storage.append("azureml", f"{azure.state.runs[RUN].artifact_prefix}{name}", content)


def test_growing_log_is_copied_in_place_by_new_bytes_only(
    azure: StagedWorkspace, workspace: AzureWorkspace, tmp_path: Path
) -> None:
    azure.add_run(RUN, "train", status="Running", display_name="First try")
    append(azure, SHORT, f"logs/fold 0/{NAME}")
    source = source_of(workspace, tmp_path / "copies")
    source.update()
    path = tmp_path / "copies" / "First_try-train_1_aa" / "fold 0" / NAME
    assert (path.read_bytes(), [*source.files.values()], source.stats.received) == (SHORT, [path], len(SHORT))
    inode = path.stat().st_ino
    append(azure, LONG[len(SHORT) :], f"logs/fold 0/{NAME}")
    source.update()
    assert (path.read_bytes(), path.stat().st_ino, source.stats.received, source.is_done) == (
        LONG,
        inode,
        len(LONG) - len(SHORT),
        False,
    )
    assert scalars(path.parent) == [(0, 1.0), (1, 0.5), (2, 0.25), (3, 0.125)]
    source.update()
    assert source.stats.received == 0

    def over_the_wire() -> int:
        return sum(answer.received for answer in azure.stage.log.find(r"GET .*tfevents[^?]*(\?|$)"))

    until(lambda: over_the_wire() >= len(LONG) + OVERLAP)
    assert over_the_wire() == len(LONG) + OVERLAP


@pytest.mark.parametrize(("size", "counts"), [(5 << 20, True), (3 << 20, False)])
def test_progress_of_many_bytes_is_told(
    azure: StagedWorkspace, workspace: AzureWorkspace, tmp_path: Path, size: int, *, counts: bool
) -> None:
    azure.add_run(RUN, "train")
    put(azure, f"logs/{NAME}", bytes(size))
    events: list[Event] = []
    _, problem = sync_once([source_of(workspace, tmp_path)], events.append)
    assert (problem, len(events) > 1) == (None, counts)
    assert sum(event.bytes for event in events if isinstance(event, (Planned, Moved))) == 2 * size * counts
    assert sum(isinstance(event, Finished) for event in events) == counts


@pytest.mark.parametrize(
    "other", [event_bytes([9.0]), event_bytes([9.0, 8.0, 7.0, 6.0, 5.0])], ids=["shorter", "longer"]
)
def test_replaced_file_gets_second_copy(
    azure: StagedWorkspace, workspace: AzureWorkspace, tmp_path: Path, other: bytes
) -> None:
    azure.add_run(RUN, "train", status="Running")
    put(azure, f"logs/{NAME}", SHORT)
    source = source_of(workspace, tmp_path)
    source.update()
    put(azure, f"logs/{NAME}", other)
    source.update()
    second = tmp_path / RUN / f"{NAME}.himl2"
    assert ([*source.files.values()], second.read_bytes(), (tmp_path / RUN / NAME).read_bytes()) == (
        [second],
        other,
        SHORT,
    )
    again = source_of(workspace, tmp_path)
    assert again.files == {second.name: second}, "what is shown before the first look"
    again.update()
    assert again.stats.received == 0


def test_sync_goes_on_after_a_failed_run(azure: StagedWorkspace, workspace: AzureWorkspace, tmp_path: Path) -> None:
    ids = [f"train_{number}" for number in range(12)]
    for run_id in ids:
        azure.put_artifact(azure.add_run(run_id, "train", status="Running"), f"logs/{NAME}", SHORT)
    (tmp_path / "train_5").write_text("a file where the folder is to be")
    synced, problem = sync_once(sources_of(workspace, ids, tmp_path), ignore)
    assert [one.run for one in synced] == [run_id for run_id in ids if run_id != "train_5"]
    assert problem is not None
    assert "train_5" in str(problem)


@pytest.mark.large("takes long, and other tests run its branches")
@pytest.mark.parametrize("at", ["", "sub", f"sub/{NAME}"])
def test_names_and_links_do_not_lead_out_of_folder(
    azure: StagedWorkspace, workspace: AzureWorkspace, tmp_path: Path, at: str
) -> None:
    azure.add_run(RUN)
    bad = f"a/../../../{NAME}"
    azure.put_artifacts(
        azure.state.runs[RUN],
        {f"logs/sub/{NAME}": LONG, f"logs/{NAME}": SHORT, "logs/" + bad.replace("/", "\\"): SHORT},
    )
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
    assert contents(outside) == {NAME: b""}
    assert source.excluded == ({f"sub/{NAME}", bad} if at else {NAME, f"sub/{NAME}", bad})
    assert [path.name for path in tmp_path.glob("*tfevents*")] == []


def test_local_runs_are_served_where_they_lie(project: Path, tmp_path: Path) -> None:
    runs = RecordedRuns(project)
    first = runs.add(
        RUN, files={f"logs/a/{NAME}": LONG, f"logs/b/{NAME}": LONG, "logs/notes.txt": "x", f"outputs/{NAME}": SHORT}
    )
    second = runs.add("train_2_bb", status=RunStatus.canceled, files={f"outputs/deep/{NAME}": SHORT})
    sources = sources_of(runs.workspace, [first, second], tmp_path)
    synced, problem = sync_once(sources, ignore)
    folder = project / ".himl" / "runs"
    assert problem is None
    assert [(one.folder, one.files, one.new_bytes) for one in synced] == [
        (folder / first / "code" / "logs", 2, 0),
        (folder / second / "code", 1, 0),
    ]
    shown = ShownFolder(tmp_path / "shown")
    for source in sources:
        shown.show(source.name, source.files)
    for log_dir in ("logs", "./logs/", "logs\\"):
        assert [*EventFinder(runs.workspace.run_files(first), log_dir).find()] == [f"a/{NAME}", f"b/{NAME}"]
    assert scalars(tmp_path / "shown" / first / "a") == scalars(folder / first / "code" / "logs" / "a")
    (folder / first / "code" / "logs" / "a" / NAME).unlink()
    sources[0].update()
    shown.show(sources[0].name, sources[0].files)
    assert contents(tmp_path / "shown" / first) == {f"b/{NAME}": LONG}


PLUGINS: dict[str, str | bytes] = {
    **{f"fold/{name}": content for name, content in PROJECTOR.items()},
    "prof/host_7.1772366400123.pt.trace.json": "{}",
    "prof/plugins/profile/2026_03_01/host.xplane.pb": b"x",
    "plugins/own/data.bin": b"y",
}


@pytest.mark.parametrize("has_events", [True, False])
def test_files_of_plugins_are_shown_beside_event_files(
    azure: StagedWorkspace, workspace: AzureWorkspace, project: Path, tmp_path: Path, *, has_events: bool
) -> None:
    """The projector requires real files in place of links. Other files of a run, such as checkpoints, stay where
    they are.
    """
    shown = PLUGINS | ({f"fold/{NAME}": LONG} if has_events else {})
    files = {
        f"logs/{name}": content
        for name, content in (shown | {"fold/last.ckpt": b"c", "fold/00000/notes.txt": "n"}).items()
    }
    runs = RecordedRuns(project)
    runs.add("train_2_bb", files=files)
    azure.put_artifacts(
        azure.add_run(RUN, "train", status="Running"),
        {name: each if isinstance(each, bytes) else each.encode() for name, each in files.items()},
    )
    for source in (source_of(workspace, tmp_path), *sources_of(runs.workspace, ["train_2_bb"], tmp_path)):
        source.update()
        assert {*source.files} == {*shown}
        board = ShownFolder(tmp_path / f"shown {source.name}")
        for content in ("1.0\t2.0\n", "7.0\t8.0\n"):
            vectors = "fold/00000/default/tensors.tsv"
            if source.name == RUN:
                put(azure, f"logs/{vectors}", content.encode())
            else:
                source.files[vectors].write_text(content)
            source.update()
            board.show("run", source.by_attempt(source.files))
            assert (board.root / "run" / vectors).read_text() == content
            assert not (board.root / "run" / vectors).is_symlink()
        assert {
            name: each.encode() if isinstance(each, str) else each
            for name, each in (shown | {vectors: content}).items()
        } == contents(board.root / "run")


def test_event_files_of_several_attempts_are_shown_apart(project: Path, tmp_path: Path) -> None:
    begin = 1_772_366_400
    attempts = [
        [1000 * begin, 1000 * begin + 4000, "failed: exit code 1"],
        [1000 * begin + 10_500, None, ""],
        [1000 * begin + 20_000, None, ""],
    ]
    names = [
        f"{folder}events.out.tfevents.{begin + seconds}.host.1.{seconds}"
        for folder in ("", "version_0/")
        for seconds in (2, 10, 30)
    ]
    runs = RecordedRuns(project)
    run_id = runs.add(
        RUN, tags={"himl.attempts": json.dumps(attempts)}, files={f"logs/{name}": SHORT for name in [*names, NAME]}
    )
    shown, [source] = ShownFolder(tmp_path / "shown"), sources_of(runs.workspace, [run_id], tmp_path)
    source.update()
    shown.show(source.name, source.by_attempt(source.files))
    folders = ["", "try_2/", "try_3/"] * 2
    assert {*contents(shown.root / source.name)} == {
        f"{folder}{name}" for folder, name in zip(folders, names, strict=True)
    } | {NAME}
    assert source.folder == project / ".himl" / "runs" / run_id / "code" / "logs"


@pytest.fixture
def source(azure: StagedWorkspace, workspace: AzureWorkspace, tmp_path: Path) -> EventSource:
    """The source of a run in progress, whose first bytes were copied."""
    azure.add_run(RUN, "train", status="Running")
    append(azure, SHORT)
    source = source_of(workspace, tmp_path)
    source.update()
    return source


@pytest.mark.large("takes long, and other tests run its branches")
@pytest.mark.parametrize("fault", [FlipByte(OVERLAP + 4), FlipByte(3), WrongMd5()], ids=str)
def test_damage_is_repaired_or_an_error_that_leaves_the_copy(
    azure: StagedWorkspace, source: EventSource, tmp_path: Path, fault: Action
) -> None:
    append(azure, LONG[len(SHORT) :])
    azure.stage.faults.add(fault, GET)
    source.update()
    assert (contents(tmp_path / RUN), source.stats.received) == ({NAME: LONG}, len(LONG) - len(SHORT))
    append(azure, LONGER[len(LONG) :])
    azure.stage.faults.add(fault, GET, times=None)
    synced, problem = sync_once([source], ignore)
    assert isinstance(problem, IntegrityFailed)
    assert (contents(tmp_path / RUN), [one.new_bytes for one in synced]) == ({NAME: LONG}, [0])
    azure.stage.faults.clear()
    assert sync_once([source], ignore)[1] is None
    assert contents(tmp_path / RUN) == {NAME: LONGER}


@pytest.mark.parametrize("is_copied", [True, False])
def test_file_that_changes_at_each_read_is_an_error(
    azure: StagedWorkspace, source: EventSource, tmp_path: Path, is_copied: bool
) -> None:
    if is_copied:
        append(azure, LONG[len(SHORT) :])
    else:
        put(azure, "logs/more/" + NAME, LONG)
    azure.stage.faults.add(ChangeEtag(), rf"GET .*{RUN}/logs/.*{NAME}", times=None)
    events: list[Event] = []
    synced, problem = sync_once([source], events.append)
    assert isinstance(problem, ServiceFailed)
    assert str(problem) == f"Event files of run '{RUN}' changed during each attempt to read them."
    assert contents(tmp_path / RUN) == {NAME: SHORT}
    assert ([one.files for one in synced], [event for event in events if isinstance(event, Notice)]) == ([1], [])
    azure.stage.faults.clear()
    assert sync_once([source], ignore)[1] is None


def bring(copy: GrowingCopy, content: bytes, etag: str, *, modified: datetime | None = THEN) -> int | None:
    """Update the copy from an original with this *content*, and return how many bytes it requested."""
    blob = BlobInfo(NAME, len(content), etag, modified=modified)
    request = copy.request(blob)
    if request is None:
        return None
    assert 0 < request.length <= len(content)
    copy.write(request.offset, content[request.offset : request.offset + request.length])
    copy.complete(blob)
    return request.length


def copies(folder: Path) -> Mapping[str, bytes]:
    return {path.name: path.read_bytes() for path in files_below(folder) if "tfevents" in path.name}


@pytest.mark.large("takes long, and other tests run its branches")
@given(st.lists(st.binary(min_size=0, max_size=60), min_size=1, max_size=6), st.integers(1, 40))
def test_copy_equals_original_however_that_grew(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes], at_once: int
) -> None:
    path, original, requested = tmp_path_factory.mktemp("copy") / "sub" / NAME, b"", 0
    for piece in pieces:
        original += piece
        copy = GrowingCopy(path)  # as after a restart of himl
        request = copy.request(BlobInfo(NAME, len(original)))
        if request is None:
            continue
        requested += request.length
        wanted = original[request.offset : request.offset + request.length]
        for start in range(0, len(wanted), at_once):
            copy.write(request.offset + start, wanted[start : start + at_once])
        copy.close()
        assert (copy.is_other, copy.path) == (False, path)
    assert (path.read_bytes() if original else b"") == original
    assert requested <= len(original) + OVERLAP * len(pieces)


def test_copies_of_other_processes_are_not_undone(tmp_path: Path) -> None:
    one, other = GrowingCopy(tmp_path / NAME), GrowingCopy(tmp_path / NAME)
    bring(one, ORIGINAL[:1000], "a")
    assert bring(other, ORIGINAL[:1000], "a") is None
    bring(one, ORIGINAL[:1500], "b")
    assert bring(other, ORIGINAL[:1200], "ab") == OVERLAP, "no more than the end is compared"
    assert (bring(other, ORIGINAL, "c"), bring(one, ORIGINAL, "c")) == (len(ORIGINAL) - 1500 + OVERLAP, OVERLAP)
    assert copies(tmp_path) == {NAME: ORIGINAL}
    new = ORIGINAL[::-1]
    bring(one, new[:500], "d")
    bring(one, new[:900], "e")
    assert bring(other, new[:500], "d") == OVERLAP, "it waits until the replaced original has grown past the copy"
    assert copies(tmp_path) == {NAME: ORIGINAL, f"{NAME}.himl2": new[:900]}


@pytest.mark.parametrize("is_new_himl", [False, True])
def test_replaced_file_is_noticed_by_time_or_size(tmp_path: Path, is_new_himl: bool) -> None:
    copy = GrowingCopy(tmp_path / NAME)
    bring(copy, ORIGINAL, "a")
    copy = GrowingCopy(tmp_path / NAME) if is_new_himl else copy
    assert bring(copy, ORIGINAL, "a") is None, "an unchanged file costs nothing"
    later = THEN.replace(hour=13)
    assert bring(copy, ORIGINAL[::-1], "b", modified=later) == OVERLAP
    bring(copy, ORIGINAL[::-1], "b", modified=later)
    assert copies(tmp_path) == {NAME: ORIGINAL, f"{NAME}.himl2": ORIGINAL[::-1]}
    copy = GrowingCopy(tmp_path / NAME)
    for _ in range(2):
        bring(copy, ORIGINAL[:300], "c")
    assert (copy.path.name, copy.path.read_bytes()) == (f"{NAME}.himl3", ORIGINAL[:300])


def test_absolute_names_of_event_files_are_below_the_folder(azure: StagedWorkspace, workspace: AzureWorkspace) -> None:
    azure.put_artifacts(azure.add_run(RUN, "train"), {f"/logs/{NAME}": SHORT, f"outputs/{NAME}": SHORT})
    assert [*EventFinder(workspace.run_files(RUN), "logs").find()] == [f"logs/{NAME}", f"outputs/{NAME}"]


def test_names_of_copies_are_stable_and_distinct() -> None:
    names = [f"A/{NAME}", f"a/{NAME}", f"b/{NAME}", f"b/{NAME}.himl2", f"b/{NAME}.v2"]
    first: dict[str, str] = {}
    again: dict[str, str] = {}
    kept = [copy_name(name, first) for name in names]
    assert kept == [copy_name(name, again) for name in names] == [copy_name(name, first) for name in names]
    assert [at for at, name in enumerate(names) if kept[at] == name] == [0, 2, 4]
    assert len({name.casefold() for name in kept}) == len(names)
    assert kept[1].startswith("a.himl-")

    def named(run_id: str, display_name: str = "") -> str:
        return permanent_name(Run(run_id, "train", RunStatus.running, THEN, display_name=display_name))

    assert named("eq_a") == named("eq_a", "First try") == "eq_a"
    assert named("EQ_A").casefold() != "eq_a"
    assert len(named("x" * 300)) < 200


def test_shown_copies_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This is the case on Windows, across two disks, and without the right to create links.

    A file that TensorBoard reads cannot be removed.
    """

    def refused(*args: object, **options: object) -> None:
        raise PermissionError(13, "refused")

    for name in ("symlink", "link", "unlink"):
        monkeypatch.setattr(os, name, refused)
    monkeypatch.setattr(Path, "unlink", refused)
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_bytes(b"user's own")
    other.write_bytes(b"another one, and longer")
    shown = ShownFolder(tmp_path / "shown")
    shown.show("run", {NAME: one})
    shown.show("run", {NAME: other})
    with other.open("ab") as more:
        more.write(b", grown")
    shown.show("run", {NAME: other})
    assert copies(tmp_path / "shown") == {NAME: b"user's own", f"{NAME}.himl2": b"another one, and longer, grown"}
    assert one.read_bytes() == b"user's own"
    path = tmp_path / "original"
    path.write_bytes(b"one")
    shown.show("first", {NAME: path})
    path.write_bytes(b"one, two")
    shown.show("second", {})
    assert copies(tmp_path / "shown" / "first") == {NAME: b"one"}, "only copies of the run that is shown are updated"
    shown.show("first", {NAME: path})
    assert copies(tmp_path / "shown" / "first") == {NAME: b"one, two"}
