"""Staging of a job's files before its script starts, and collection after it."""

from __future__ import annotations

import filecmp
import json
import os
import stat
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

from himl_cli.core.editables import stage_modules
from himl_cli.core.errors import DiskFailed
from himl_cli.core.files import copy_file, flush, is_inside, make_folder, remove_tree, walk_files, walk_folders
from himl_cli.core.jobs import STEP, EntryKind, JobSpec, Snapshot
from himl_cli.core.mounts import is_local_folder
from himl_cli.core.processes import in_processes
from himl_cli.core.sweeps import PLACEHOLDER
from himl_cli.workspaces.local.code_store import (
    CodeStore,
    Staged,
    damaged,
    is_result,
    stage_file,
    staged_files,
    write_list,
)
from himl_cli.workspaces.local.launch_request import LaunchRequest, job_from_stored_form, linked_inputs, stored_form
from himl_cli.workspaces.local.run_folder import COLLECTED, PLAN, RECORD, RunFolder

STAGED, TRIES, RETRIES = "laid", "tries", "retries"  # keys of a run's record
# How many processes copy files at most, and for how many files there is another one: in general, and on a local disk
MOST_PROCESSES, FILES_FOR_ANOTHER, FILES_FOR_ANOTHER_HERE = 8, 100, 4_000

Stamp = tuple[int, int, int]  # inode, size in bytes, modification time in nanoseconds


class Stopped(Exception):
    """The job was canceled while its files were staged."""


class JobFiles:
    """The files of a job. `cwd` is the script's folder, `logs` are the logs of its ranks."""

    def __init__(self, request: LaunchRequest, folder: RunFolder) -> None:
        spec = request.spec
        self._request = request
        self._folder = folder
        self._before: dict[str, Stamp] = {}
        self._made: list[Path] = []
        self.omitted: list[str] = []
        self.cwd = spec.snapshot.root if spec.in_place else folder.code
        names = ["std_log.txt"]
        if (request.rank_count or 1) > 1:
            names = [f"std_log_process_{number}.txt" for number in range(request.rank_count or 1)]
        self.logs = [folder.user_logs / name for name in names]

    def stage(self, *, is_stopped: Callable[[], bool], is_attempt: bool = True) -> None:
        """Stage the snapshot with the links to inputs, and create the folders. Another attempt keeps those of earlier
        ones. Without *is_attempt*, the job starts later. Raises OSError, Stopped."""
        folder, spec, again = self._folder, self._request.spec, self._request.again
        known = folder.read(RECORD) if again else {}
        attempts = known.get(TRIES, 0)
        earlier = folder.user_logs / f"try_{attempts}"
        folder.user_logs.mkdir(exist_ok=again)
        for log in self.logs:
            if known and log.exists() and log.stat().st_size:  # keep it out of this attempt's log
                earlier.mkdir(exist_ok=True)
                with suppress(OSError):  # on Windows, another process may read it, and then both share one log
                    log.replace(earlier / log.name)
            log.touch()
        if not spec.parent:
            stored: Mapping[str, Any] = folder.read(PLAN).get("job", {}) if again else {}
            files = spec.snapshot.files or stored.get("snapshot", {}).get("files", ())
            folder.write(PLAN, {"job": stored_form(spec, files)})
        for path in self._request.outputs.values():
            Path(path).mkdir(parents=True, exist_ok=True)
        data = {"inputs": dict(self._request.inputs), "outputs": dict(self._request.outputs)}
        facts = {**known, **data, "python": spec.python, "in_place": spec.in_place}
        folder.write(RECORD, {**facts, STAGED: known.get(STAGED, False), TRIES: attempts})
        if spec.in_place:
            folder.code.mkdir(exist_ok=again)
        elif known.get(STAGED):
            check_staged(folder.code, spec.parent or folder.run_id)
            CodeStore(folder.workspace).restore(folder.code, self._source, spec.parent or folder.run_id)
        else:
            remove_tree(folder.code)  # partial files of an attempt that was killed
            folder.code.mkdir()
            stage_files(spec, folder.code, is_stopped=is_stopped)
            for key, target in linked_inputs(spec).items():
                source, link = Path(self._request.inputs[key]), folder.code / target
                make_folder(link.parent)
                link.symlink_to(source, target_is_directory=source.is_dir())
        if not is_attempt:
            return folder.write(RECORD, {**facts, STAGED: True, TRIES: attempts})
        if spec.editables is not None:
            stage_modules(spec.editables, folder.code)
        self._made = [self.cwd / name for name in COLLECTED if not (self.cwd / name).exists()]
        for made in self._made:  # as in jobs on Azure ML
            made.mkdir(exist_ok=True)
        self._before = self._stamps()
        folder.write(RECORD, {**facts, STAGED: True, TRIES: attempts + 1})

    @property
    def _source(self) -> Path | None:
        """The folder of the parent run from which the files of a trial or a step are copied."""
        spec, runs = self._request.spec, self._folder.path.parent
        is_shared = spec.parent and not spec.in_place and spec.snapshot.root.is_relative_to(runs)
        return spec.snapshot.root if is_shared else None

    def drop_shared(self) -> None:
        """Apply `CodeStore.drop_shared` to the files of a trial or a step that has ended. Raises OSError."""
        if (source := self._source) is not None:
            CodeStore(self._folder.workspace).drop_shared(self._folder.code, source)

    @property
    def attempt(self) -> int:
        """The number of the latest staged attempt, from 1, or 0 if there is none."""
        return int(self._folder.read(RECORD).get(TRIES, 0))

    @property
    def retries(self) -> int:
        """The number of times that an engine restarted the job after a failure."""
        return int(self._folder.read(RECORD).get(RETRIES, 0))

    def note_retry(self) -> None:
        self._folder.write(RECORD, {**self._folder.read(RECORD), RETRIES: self.retries + 1})

    def collect(self) -> bool:
        """Save the job's results: copy those of an in-place job to the run's folder, and apply `RunFolder.keep_files`.
        They are on the disk then. Returns whether it copied any. Links that lead out of the project are `omitted`.
        Raises OSError."""
        self._folder.keep_files(self._request.spec.keep)
        roots = [os.path.realpath(folder) for folder in (self.cwd, *(self.cwd / top for top in COLLECTED))]
        new = [name for name, stamp in self._stamps().items() if self._before.get(name) != stamp]
        links = [name for name in new if (self.cwd / name).is_symlink()]
        self.omitted = [name for name in links if not any(is_inside(self.cwd / name, root) for root in roots)]
        new = [name for name in new if name not in self.omitted]
        for name in new:
            copy_file(self.cwd / name, self._folder.code / name)
        for folder in self._made if self._request.spec.in_place else ():
            with suppress(OSError):
                folder.rmdir()  # succeeds only if the folder is empty
        self._fill_artifacts()
        outputs = map(Path, self._request.outputs.values())
        for place in (self._folder.path, *filter(Path.is_dir, outputs)):
            flush(place)
        return bool(new)

    def _fill_artifacts(self) -> None:
        """Copy all results of a step to its output `artifacts`, as Azure ML does, unless its command names the output.
        Raises OSError."""
        target, spec, folder = self._request.outputs.get("artifacts"), self._request.spec, self._folder
        is_named = ("outputs", "artifacts") in PLACEHOLDER.findall(spec.entry.target)
        if target is None or is_named or STEP not in spec.tags or spec.entry.kind is not EntryKind.command:
            return
        from himl_cli.workspaces.local.file_blobs import RunFiles

        files = RunFiles(folder.path, folder.code, f"run '{folder.run_id}'")
        for blob in (blob for page in files.list() for blob in page):
            if (path := files.path_of(blob.name)) is not None:
                copy_file(path, Path(target, blob.name))

    def _stamps(self) -> dict[str, Stamp]:
        found: dict[str, Stamp] = {}
        for top in COLLECTED if self._request.spec.in_place else ():
            for folder, _, names in walk_folders(str(self.cwd / top)):
                for path in (Path(folder, name) for name in names):
                    with suppress(OSError):  # a dangling link, or a file that was deleted in the meantime
                        facts = path.stat()
                        if stat.S_ISREG(facts.st_mode):
                            stamp = (facts.st_ino, facts.st_size, facts.st_mtime_ns)
                            found[path.relative_to(self.cwd).as_posix()] = stamp
        return found


def stage_files(spec: JobSpec, target: Path, *, is_stopped: Callable[[], bool]) -> None:
    """Copy the snapshot's files, with their permissions, and the job's other files below *target*. Then they are on the
    disk, with a list for `check_staged`. Raises OSError, and Stopped once *is_stopped* is true."""
    looked, names, own = 0.0, [*dict.fromkeys((*spec.snapshot.files, *spec.brought))], os.getpid()
    root, below = os.path.join(spec.snapshot.root, ""), os.path.join(target, "")

    def check() -> None:
        nonlocal looked
        if time.monotonic() - looked > 0.05:
            looked = time.monotonic()
            if is_stopped() or own not in (os.getpid(), os.getppid()):  # a fork ends with the process of the job
                raise Stopped

    def stage(part: Sequence[str]) -> str:
        staged = dict[str, Staged]()
        for name in part:
            source = spec.brought.get(name, root + name)
            if name in spec.brought:
                os.stat(source)  # raises if the file is missing, which a copy would skip
            if (copy := stage_file(source, below + name, check)) is not None:
                staged[name] = copy
        return json.dumps(staged)  # which a fork passes on faster than as objects

    def write() -> None:
        with suppress(OSError):  # which is raised below
            flush(target)

    write_list(target, in_processes(stage, names, _copying_processes(len(names), target), write))
    flush(target)


def _copying_processes(count: int, target: Path) -> int:
    """How many processes copy *count* files to *target*: more than one for many files, on Linux, where a fork is safe
    and takes 3 ms. Unless the file system is known to be local, there may be more of them than cores, since copies may
    wait for a server most of the time."""
    if sys.platform != "linux" or threading.active_count() > 1 or count < FILES_FOR_ANOTHER:
        return 1
    if not is_local_folder(target):
        return min(MOST_PROCESSES, count // FILES_FOR_ANOTHER + 1)
    return min(MOST_PROCESSES, len(os.sched_getaffinity(0)), count // FILES_FOR_ANOTHER_HERE + 1)


def check_staged(target: Path, run_id: str) -> None:
    """Raise DiskFailed if a file of the run *run_id* that was staged below *target* lost its content, as after a
    power cut. A file that a script has changed is newer."""
    for name, copy in staged_files(target).items():
        with suppress(FileNotFoundError):  # the script deleted it
            facts = os.stat(target / name)
            if facts.st_size < copy.size and facts.st_mtime_ns <= copy.modified:
                raise damaged(name, f"it has {facts.st_size} of {copy.size} bytes", run_id)


def replace_files(spec: JobSpec, target: Path, stale: Sequence[str]) -> None:
    """Replace the files *stale* of an earlier snapshot below *target* by those of the job. The earlier ones move to
    `TARGET_1`, or the next free number, and other files stay. Raises OSError, and DiskFailed for links that lead out of
    the folder, where himl would replace other files."""
    root, new = os.path.realpath(target), [target / name for name in spec.snapshot.files if name not in stale]
    folders = {(target / name).parent for name in (*stale, *spec.snapshot.files)}
    if out := [path for path in (*folders, *new) if not is_inside(path, root)]:
        raise DiskFailed(f"The link '{out[0]}' leads out of the run's folder.", hint="Remove the link.")
    number = next(each for each in count(1) if not target.with_name(f"{target.name}_{each}").exists())
    for name in (each for each in stale if not is_result(each) and os.path.lexists(target / each)):
        kept = target.with_name(f"{target.name}_{number}") / name
        make_folder(kept.parent)
        os.replace(target / name, kept)
    stage_files(replace(spec, brought={}), target, is_stopped=lambda: False)


def stored_jobs(folder: RunFolder) -> list[dict[str, Any]]:
    """The stored forms of the jobs of a run, as in a plan."""
    stored = folder.read(PLAN)
    single = [{"spec": form, "key": "", "place": folder.code.name} for form in (stored.get("job"),) if form]
    return stored["many"]["jobs"] if "many" in stored else single


def copied_code(folder: RunFolder) -> dict[Path, Snapshot]:
    """The snapshots of the run by the folders with their copies, none for a job in place. Raises DiskFailed."""
    copies = {job["place"]: job["spec"] for job in stored_jobs(folder) if not job["spec"]["in_place"]}
    return {folder.path / place: job_from_stored_form(form, {}).snapshot for place, form in copies.items()}


def place_of_code(folders: Sequence[RunFolder], step: str) -> tuple[Path, Path | None] | None:
    """The folder of a run's code, and for a child run the one of its parent run from which it was copied. *folders*
    are those of the run and of the runs above it, of which it may be the *step*. None for a run without a copy of its
    code. Raises DiskFailed."""
    own = folders[0]
    for folder in folders:
        for job in stored_jobs(folder):
            if not job["spec"]["in_place"] and (folder is own or not step or job["key"] == step):
                return (folder.path / job["place"], None) if folder is own else (own.code, folder.path / job["place"])
    return None


def code_paths(folders: Sequence[RunFolder], step: str) -> dict[str, Path] | None:
    """The files of a run's code, by name: of a child run, those of its parent run. None for a run without a copy of its
    code. Raises OSError, DiskFailed."""
    if (found := place_of_code(folders, step)) is None:
        return None
    return code_of_place(found[1] or found[0], folders[0])


def code_of_place(code: Path, folder: RunFolder) -> dict[str, Path]:
    """The files of the copy *code* of a snapshot of the run of *folder*, by name. Raises OSError, DiskFailed."""
    if paths := CodeStore(folder.workspace).paths(code, None, folder.run_id):
        return paths
    return {each.name: Path(each.path) for each in walk_files(str(code)) if not is_result(each.name)}


def changed_files(folder: RunFolder, snapshot: Snapshot, code: Path) -> list[str]:
    """The files of the snapshot in the folder *code* that have changed in the project since they were copied. Raises
    OSError. Reads only files that are newer than their copy."""
    while True:
        changed, lacks_copy, staged = list[str](), False, staged_files(code)
        store = CodeStore(folder.workspace).folder
        for name in (each for each in snapshot.files if not is_result(each)):
            copy, now, listed = code / name, Path(snapshot.source, name), staged.get(name)
            is_stored = listed is not None and listed.stored and not os.path.lexists(copy)
            copy = store / listed.stored if listed is not None and is_stored else copy
            try:
                copied, found = copy.stat().st_mtime_ns, now.stat() if now.exists() else None
                copied = listed.modified if listed is not None and is_stored else copied
                is_newer = found is not None and max(found.st_mtime_ns, found.st_ctime_ns) > copied
                if found is None or (is_newer and not filecmp.cmp(copy, now, shallow=False)):
                    changed.append(name)
            except FileNotFoundError:  # the script deleted the copy, or it has just moved to the store
                lacks_copy = True
        if not lacks_copy or staged_files(code) == staged:
            return changed
