"""The store of the code of ended runs."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from himl_cli.core.errors import DiskFailed
from himl_cli.core.jobs import Snapshot
from himl_cli.core.locks import ProcessLock
from himl_cli.workspaces.local.code_store import CodeStore, stage_file, staged_files, write_list
from himl_cli.workspaces.local.run_folder import RunFolder
from himl_cli.workspaces.local.staging import changed_files
from tests.support.folders import contents
from tests.support.running import until, write_files

FILES = {
    "train.py": b"print()",
    "data/a.bin": bytes(1000),
    "data/same.bin": bytes(1000),
    "data/empty": b"",
    "run.sh": b"#!/bin/sh",
}


def staged(code: Path, source: Path) -> Path:
    write_list(code, [json.dumps({name: stage_file(source / name, code / name)}) for name in FILES])
    return code


@pytest.fixture
def project(tmp_path: Path) -> Path:
    write_files(tmp_path / "project", FILES)
    (tmp_path / "project" / "run.sh").chmod(0o750)
    return tmp_path / "project"


class Workspace:
    """A workspace in *folder*, with runs of a project."""

    def __init__(self, folder: Path, project: Path) -> None:
        self.runs, self.project, self.store = folder / ".himl" / "runs", project, CodeStore(folder / ".himl")

    def run(self, name: str, change: Callable[[Path], object] = lambda code: None) -> Path:
        """The code of a run that was kept after *change*."""
        code = staged(self.runs / name / "code", self.project)
        change(code)
        self.keep(code)
        return code

    def keep(self, code: Path, *, is_ended: bool = True) -> None:
        self.store.keep({code: str(self.project)}, code.parent / "lock", lambda: is_ended)

    def found(self, code: Path) -> Mapping[str, bytes]:
        return {name: path.read_bytes() for name, path in self.store.paths(code, None, "run").items()}

    def stored(self) -> dict[Path, int]:
        """The stored files with their permissions."""
        return {path: path.stat().st_mode & 0o777 for path in self.store.folder.glob("??/*")}


@pytest.fixture
def workspace(tmp_path: Path, project: Path, known_disk: None) -> Workspace:
    return Workspace(tmp_path, project)


def test_the_code_of_many_runs_is_stored_once_and_comes_back(workspace: Workspace) -> None:
    first, second = workspace.run("first"), workspace.run("second")
    assert (contents(first), contents(second)) == ({}, {})
    assert sorted(workspace.stored().values()) == [0o444, 0o444, 0o444, 0o550]
    assert (workspace.found(first), workspace.found(second)) == (FILES, FILES)
    before = staged_files(first)
    for _ in range(2):  # the second time, nothing is missing
        workspace.store.restore(first, None, "first")
        assert (contents(first), (first / "run.sh").stat().st_mode & 0o777) == (FILES, 0o750)
        assert {name: copy.modified for name, copy in staged_files(first).items()} == {
            name: copy.modified for name, copy in before.items()
        }
    workspace.keep(first)
    assert (contents(first), workspace.found(first)) == ({}, FILES)


def link(code: Path, target: str = "data/a.bin") -> None:
    (code / "outputs").mkdir()
    (code / "outputs" / "link").symlink_to(code / target)


def rewrite(code: Path) -> None:
    """Write other content of the same size, with the time of before."""
    facts = (code / "train.py").stat()
    (code / "train.py").write_bytes(b"PRINT()")
    os.utime(code / "train.py", ns=(facts.st_atime_ns, facts.st_mtime_ns))


@pytest.mark.parametrize(
    ("change", "left", "other"),
    [
        (lambda code: (code / "train.py").write_text("other"), {"train.py"}, {"train.py": b"other"}),
        (rewrite, {"train.py"}, {"train.py": b"PRINT()"}),
        (lambda code: (code / "train.py").unlink(), set(), {"train.py": None}),
        (lambda code: (code / "added.txt").touch(), {"added.txt"}, {}),
        (
            lambda code: write_files(code, {"__pycache__/train.pyc": b"", "data/__pycache__/a.pyc": b""}),
            {"__pycache__/train.pyc"},
            {},
        ),
        (link, {*FILES, "outputs/link"}, {}),
        (partial(link, target="data"), {*FILES}, {}),
        (partial(link, target="outputs"), set(), {}),
    ],
)
def test_files_that_the_script_wrote_stay(
    workspace: Workspace, change: Callable[[Path], object], left: set[str], other: dict[str, bytes | None]
) -> None:
    code = workspace.run("first", change)
    assert {path.relative_to(code).as_posix() for path in code.rglob("*") if not path.is_dir()} == left
    assert workspace.found(code) == {name: body for name, body in {**FILES, **other}.items() if body is not None}


def test_nothing_is_deleted_of_a_run_that_goes_on(workspace: Workspace) -> None:
    code = staged(workspace.runs / "first" / "code", workspace.project)
    workspace.keep(code, is_ended=False)
    lock = ProcessLock(code.parent / "lock")
    assert lock.take()
    workspace.keep(code)
    lock.release()
    assert contents(code) == FILES


def test_code_that_another_attempt_replaces_meanwhile_stays(workspace: Workspace) -> None:
    """The list of the old code would give the next attempt a file that the new code no longer has."""
    code = staged(workspace.runs / "first" / "code", workspace.project)

    def replace() -> bool:
        (code / "data" / "a.bin").unlink()
        write_list(code, [json.dumps({"train.py": stage_file(workspace.project / "train.py", code / "train.py")})])
        return True

    workspace.store.keep({code: str(workspace.project)}, code.parent / "lock", replace)
    assert set(staged_files(code)) == {"train.py"}
    assert contents(code) == {name: body for name, body in FILES.items() if name != "data/a.bin"}


def test_a_source_is_read_once_and_a_changed_one_again(workspace: Workspace) -> None:
    """A file that changed keeps its size and its time."""
    workspace.run("first")
    old = time.time_ns() - 10**11
    for name in FILES:
        os.utime(workspace.project / name, ns=(old, old))
    rewrite(workspace.project)
    second = workspace.run("second")
    assert workspace.found(second) == {**FILES, "train.py": b"PRINT()"}


def test_damaged_files_are_noticed_and_replaced(workspace: Workspace) -> None:
    first = workspace.run("first")
    path = workspace.store.folder / staged_files(first)["train.py"].stored
    path.chmod(0o644)
    path.write_bytes(b"PRINT()")
    with pytest.raises(DiskFailed, match="has other content"):
        workspace.store.restore(first, None, "first")
    assert not (first / "train.py").exists()
    second = workspace.run("second")
    assert (workspace.found(first), workspace.found(second)) == (FILES, FILES)
    path.unlink()
    with pytest.raises(DiskFailed, match="is missing"):
        workspace.found(first)


def test_unused_files_are_those_that_no_run_lists(workspace: Workspace) -> None:
    def unused() -> list[Path]:
        with workspace.store.locked() as is_held:
            assert is_held
            return sorted(workspace.store.unused())

    first, second = workspace.run("first"), workspace.run("second", rewrite)
    assert unused() == []
    part = workspace.store.folder / ".0123456789abcdef.himl-part"
    part.touch()
    (first.parent / "code.json").unlink()
    assert unused() == sorted([part, *(path for path in workspace.stored() if path.read_bytes() == FILES["train.py"])])
    (second.parent / "code.json").write_text("{")
    with pytest.raises(ValueError, match="quotes"):
        unused()
    with workspace.store.locked(), workspace.store.locked(0.0) as is_held:
        assert not is_held


def test_a_check_of_the_lock_does_not_leave_copies(workspace: Workspace) -> None:
    fcntl = pytest.importorskip("fcntl", reason="Windows stores no code")
    code = staged(workspace.runs / "run" / "code", workspace.project)
    (lock := code.parent / "lock").touch()
    with lock.open() as check, ThreadPoolExecutor() as pool:
        fcntl.flock(check, fcntl.LOCK_SH)  # as a command does that asks whether a process supervises the run
        kept = pool.submit(workspace.keep, code)
        until(lambda: len(workspace.stored()) == 4 or kept.done())
        time.sleep(0.2)
        fcntl.flock(check, fcntl.LOCK_UN)
        kept.result()
    assert (contents(code), workspace.found(code)) == ({}, FILES)


def test_copies_that_the_parent_run_has_go_and_come_back(workspace: Workspace) -> None:
    parent = staged(workspace.runs / "sweep" / "code", workspace.project)
    trial = staged(workspace.runs / "sweep_0" / "code", parent)
    (trial / "data" / "empty").write_text("full")
    (parent / "data" / "same.bin").touch()  # the two may differ
    workspace.store.drop_shared(trial, parent)
    assert set(contents(trial)) == {"data/empty", "data/same.bin"}
    workspace.keep(parent)
    assert set(contents(parent)) == {"data/same.bin"}
    found = workspace.store.paths(trial, parent, "sweep")
    assert {name: path.read_bytes() for name, path in found.items()} == {**FILES, "data/empty": b"full"}
    workspace.store.restore(parent, None, "sweep")
    workspace.store.restore(trial, parent, "sweep")
    assert (contents(parent), contents(trial)) == (FILES, {**FILES, "data/empty": b"full"})
    workspace.store.drop_shared(trial, parent)
    assert set(contents(trial)) == {"data/empty", "data/same.bin"}


def test_changes_are_seen_while_the_copies_move_to_the_store(workspace: Workspace) -> None:
    code = staged(workspace.runs / "run" / "code", workspace.project)
    write_files(workspace.project, {"train.py": "changed"})

    class Files(list[str]):
        """Names that are read while the run's code is stored."""

        def __iter__(self) -> Iterator[str]:
            workspace.keep(code)
            return super().__iter__()

    changed = changed_files(RunFolder(code.parent), Snapshot(workspace.project, Files(FILES), 0), code)
    assert changed == ["train.py"]
