"""The copies of code in the folders of runs, and the store with each file of the code of ended runs once.

A run starts with copies of its own, because its script may change them. When it has ended, its unchanged copies go: of
a trial or a step, those that the folder of its parent run has too, and of another run, those that the store has, named
by their content. A list beside each folder of code has the copies as they were made, from which they can be restored.

A stored file is on the disk before a list names it, and the list before a copy is deleted, so that a kill or a power
cut at any moment loses no file. The process that adds or deletes stored files holds the store's lock. Where machines
do not see each other's locks, nothing is stored.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from himl_cli.core.errors import DiskFailed
from himl_cli.core.files import PART_SUFFIX, copy_file, flush, remove_tree, write_atomic
from himl_cli.core.json_text import read_json
from himl_cli.core.locks import ProcessLock
from himl_cli.core.mounts import shares_locks
from himl_cli.workspaces.local.run_folder import COLLECTED

if TYPE_CHECKING:
    import hashlib

STORE, LATEST = "store", "latest"
SECONDS_TO_WAIT = 60.0  # for another process that stores code
LEAST_AGE = 2 * 10**9  # nanoseconds; a file may change without another time while it is younger
BLOCK = 1 << 20


class Staged(NamedTuple):
    """A copy of a file in a folder of code: its size in bytes, when it was modified and changed (`ctime`), its
    permissions, and when its source was modified and changed, with the source's inode. Times are in nanoseconds.

    `stored` is the name of the same content in the store, and `checked` the change of that file when himl read it. An
    earlier himl recorded only the first two.
    """

    size: int
    modified: int
    changed: int = 0
    mode: int = 0
    source: int = 0
    source_changed: int = 0
    inode: int = 0
    stored: str = ""
    checked: int = 0

    def is_at(self, path: str | Path) -> bool:
        """Whether the file at *path* is this copy, unchanged."""
        with suppress(FileNotFoundError, NotADirectoryError):
            facts = os.lstat(path)
            return (facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns) == self[:3]
        return False

    def is_of(self, path: str) -> bool:
        """Whether the file at *path* is the source, unchanged."""
        with suppress(OSError):
            found = os.stat(path)
            facts = (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
            return facts == (self.size, self.source, self.source_changed, self.inode)
        return False


def stage_file(source: str | Path, target: str | Path, check: Callable[[], None] = lambda: None) -> Staged | None:
    """As `copy_file`."""
    if (found := copy_file(source, target, check)) is None:
        return None
    original, copy = found
    return Staged(
        copy.st_size,
        copy.st_mtime_ns,
        copy.st_ctime_ns,
        copy.st_mode & 0o777,
        original.st_mtime_ns,
        original.st_ctime_ns,
        original.st_ino,
    )


def staged_files(code: Path) -> dict[str, Staged]:
    """The list of the copies in *code*, by name. Empty if an earlier himl made them. Raises OSError, ValueError."""
    try:
        return {name: Staged(*copy) for name, copy in read_json(_list_of(code).read_bytes()).items()}
    except FileNotFoundError:
        return {}


def write_list(code: Path, parts: Iterable[str]) -> None:
    """Store the list of the copies in *code*. Each of its *parts* is the JSON of some, by name. A caller writes it to
    the disk. Raises OSError."""
    part = code.with_name(f"{code.name}.json.part")
    part.write_text(f"{{{', '.join(filter(None, (each[1:-1] for each in parts)))}}}", encoding="utf-8")
    part.replace(_list_of(code))


def _list_of(code: Path) -> Path:
    return code.with_name(f"{code.name}.json")


def is_result(name: str) -> bool:
    """Whether a staged file belongs to the job's results, as a checkpoint does, and not to its code."""
    return name.partition("/")[0] in COLLECTED


def damaged(name: str, how: str, run_id: str) -> DiskFailed:
    return DiskFailed(
        f"The run's copy of '{name}' is damaged: {how}.",
        hint=f"Run the project's present code: himl submit --resume {run_id} --new_code",
    )


def _delete(code: Path, staged: Mapping[str, Staged], names: Iterable[str]) -> None:
    """Delete the unchanged copies *names* in *code*, then Python's caches beside them, and empty folders."""
    folders = set[str]()
    for name in names:
        path = os.path.join(code, name)  # for many files, a Path takes longer than the deletion
        if not is_result(name) and staged[name].is_at(path):
            os.unlink(path)
            while (name := os.path.dirname(name)) and name not in folders:
                folders.add(name)
    for folder in (code / each for each in sorted(folders, reverse=True)):
        with suppress(OSError):  # it has files of the script
            remove_tree(folder / "__pycache__")
            folder.rmdir()


def _names_in(code: Path, staged: Iterable[str]) -> set[str]:
    """The names of the files in *code*. Empty if it contains a link to one of the *staged* ones, which may be a
    result."""
    found, folders, real = set[str](), [""], os.path.realpath(code)
    linked = set[str]()
    while folders:
        under = folders.pop()
        with suppress(FileNotFoundError), os.scandir(os.path.join(code, under)) as entries:
            for entry in entries:
                if entry.is_symlink():
                    linked.add(os.path.join(os.path.realpath(entry.path), ""))
                elif entry.is_dir(follow_symlinks=False):
                    folders.append(f"{under}{entry.name}/")
                else:
                    found.add(under + entry.name)
    paths = [os.path.join(real, name, "") for name in staged if not is_result(name)] if linked else []
    return set() if any(path.startswith(link) for link in linked for path in paths) else found


class CodeStore:
    """The store of the workspace in the folder *workspace*."""

    def __init__(self, workspace: Path) -> None:
        self.workspace = workspace
        self.folder = workspace / STORE

    @contextmanager
    def locked(self, seconds: float = SECONDS_TO_WAIT) -> Iterator[bool]:
        """Hold the lock. False if the file system has none that all machines see, or if another process has it for
        *seconds*. Raises OSError."""
        if sys.platform == "win32" or not shares_locks(self.workspace):
            yield False
            return
        self.folder.mkdir(exist_ok=True)
        lock = ProcessLock(self.folder / "lock")
        try:
            yield lock.take(seconds)
        finally:
            lock.release()

    def keep(self, places: Mapping[Path, str], run_lock: Path, is_ended: Callable[[], bool]) -> None:
        """Store the unchanged files of an ended run in the folders *places*, which were copied from the folders that
        are their values. Then delete the copies, unless the run goes on: a process has its *run_lock*, or *is_ended*
        is false. Raises OSError."""
        known = {code: staged_files(code) for code in places}
        names = {code: _names_in(code, staged) for code, staged in known.items()}
        with self.locked() as is_held:
            lists = {
                code: self._added(code, places[code], each, known[code])
                for code, each in names.items()
                if is_held and each
            }
            lock = ProcessLock(run_lock)
            try:
                if not lists or not lock.take() or not is_ended():
                    return
                if known != {code: staged_files(code) for code in places}:
                    return  # another attempt replaced files before this process had the run's lock
                for code, staged in lists.items():
                    write_atomic(_list_of(code), json.dumps(staged))
                    flush(code, ())
                    _delete(code, staged, [name for name, copy in staged.items() if copy.stored])
                    self._note_latest(places[code], code)
            finally:
                lock.release()

    def drop_shared(self, code: Path, parent: Path) -> None:
        """Delete the copies in *code* of files in *parent*, the code of the parent run, which may be in the store.
        Neither may have changed since it was made. Raises OSError."""
        originals, staged = staged_files(parent), staged_files(code)

        def is_shared(name: str, copy: Staged) -> bool:
            original = originals.get(name)
            if original is None or (original.size, original.modified) != (copy.size, copy.source):
                return False
            return original.is_at(parent / name) or (bool(original.stored) and self._is_checked(original))

        shared = (name for name, copy in staged.items() if copy.changed and is_shared(name, copy))
        _delete(code, staged, shared if _names_in(code, staged) else ())

    def _added(self, code: Path, root: str, names: Set[str], listed: Mapping[str, Staged]) -> dict[str, Staged]:
        """The list *listed* of *code*, which has the files *names*, with their names in the store, to which unchanged
        ones are added."""
        staged, known = dict(listed), self._latest(root)
        parts, token = dict[str, Path](), os.urandom(8).hex()
        for name, copy in staged.items():
            if not copy.changed or is_result(name) or name not in names:
                continue
            before = known.get(name)
            if before is not None and self._is_known(before, copy, os.path.join(root, name)):
                staged[name] = copy._replace(stored=before.stored, checked=before.checked)
                continue
            path = os.path.join(code, name)
            if not copy.is_at(path):
                continue
            part = self.folder / f".{token}-{len(parts)}{PART_SUFFIX}"
            stored = name_in_store(_copy_hashed(path, part, copy.size), copy.mode)
            if is_same := copy.is_at(path):  # else a process that the script left writes to it
                staged[name] = copy._replace(stored=stored, checked=0)
            if not is_same or parts.setdefault(stored, part) != part:
                part.unlink()
        if parts:
            flush(self.folder, map(str, parts.values()))
        for folder in {os.path.dirname(stored) for stored in parts}:
            (self.folder / folder).mkdir(exist_ok=True)
        for stored, part in parts.items():
            target = self.folder / stored
            os.chmod(part, int(stored.rpartition("-")[2], 8))
            os.replace(part, target)
        if parts:
            flush(self.folder, ())
        for name, copy in staged.items():
            if copy.stored and not copy.checked:
                staged[name] = copy._replace(checked=os.stat(os.path.join(self.folder, copy.stored)).st_ctime_ns)
        return staged

    def _is_known(self, before: Staged, copy: Staged, source: str) -> bool:
        """Whether the store has the content of *copy*, since its *source* is as it was for the copy *before*."""
        is_same = before.mode == copy.mode and before[4:7] == copy[4:7] and before.size == copy.size
        is_old = before.changed - before.source_changed > LEAST_AGE
        return bool(before.stored) and is_same and is_old and copy.is_of(source) and self._is_checked(before)

    def _is_checked(self, copy: Staged) -> bool:
        """Whether the stored file is as it was when himl read it."""
        with suppress(OSError):
            facts = os.stat(os.path.join(self.folder, copy.stored))
            return (facts.st_size, facts.st_ctime_ns) == (copy.size, copy.checked)
        return False

    def _latest(self, root: str) -> Mapping[str, Staged]:
        """The list of the last copy of the folder *root* that was stored."""
        with suppress(OSError, ValueError):
            return staged_files(self.workspace / self._latest_of(root).read_text(encoding="utf-8"))
        return {}

    def _note_latest(self, root: str, code: Path) -> None:
        self._latest_of(root).parent.mkdir(exist_ok=True)
        self._latest_of(root).write_text(code.relative_to(self.workspace).as_posix(), encoding="utf-8")

    def _latest_of(self, root: str) -> Path:
        return self.folder / LATEST / _new_sha256(os.fsencode(root)).hexdigest()

    def paths(self, code: Path, parent: Path | None, run_id: str) -> dict[str, Path]:
        """The files of *code*, by name: copies that are still there, and others where they are in the store or in
        *parent*, the code of the parent run. Raises OSError, and DiskFailed for a file that is damaged."""
        originals = staged_files(parent) if parent is not None else {}
        while True:
            found, staged = {}, staged_files(code)
            for name, copy in staged.items():
                if os.path.lexists(code / name):
                    found[name] = code / name
                elif copy.stored:
                    found[name] = self._sound(copy, name, run_id)
                elif parent is not None and copy.changed:
                    found[name] = self._original(name, copy, parent, originals.get(name), run_id)
            # The script deleted the others, or they have just moved to the store
            if len(found) == len(staged) or staged_files(code) == staged:
                return found

    def _sound(self, copy: Staged, name: str, run_id: str) -> Path:
        """The stored file of *copy*. Raises DiskFailed if it has other content, which himl reads if its time has
        changed."""
        path = self.folder / copy.stored
        if not self._is_checked(copy) and (not path.is_file() or _stored_name(path, copy.mode) != copy.stored):
            raise damaged(name, f"'{path}' is missing or has other content", run_id)
        return path

    def _original(self, name: str, copy: Staged, parent: Path, listed: Staged | None, run_id: str) -> Path:
        """The file of the parent run of which *copy* was made, also if other code replaced it there."""
        for path in (place / name for place in (parent, *sorted(parent.parent.glob(f"{parent.name}_*")))):
            with suppress(OSError):
                facts = path.stat()
                if (facts.st_size, facts.st_mtime_ns) == (copy.size, copy.source):
                    return path
        if listed is None or not listed.stored:
            listed = staged_files(parent).get(name)  # it may have moved meanwhile
        if listed is None or not listed.stored or (listed.size, listed.modified) != (copy.size, copy.source):
            raise damaged(name, f"'{parent}' has no such file", run_id)
        return self._sound(listed, name, run_id)

    def copy_of(self, digest: str, mode: int, target: Path) -> bool:
        """Copy the stored file with the SHA-256 *digest* to *target*. False if the store has none. Raises OSError."""
        stored = name_in_store(digest, mode)
        with suppress(FileNotFoundError):
            copy_file(self.folder / stored, target)
            return target.is_file() and _stored_name(target, mode) == stored
        return False

    def add(self, files: Mapping[Path, int]) -> None:
        """Store copies of *files*, each with its permissions, for the next job that has them. No list names them, so
        that they may be deleted at any time. Stores nothing while another process has the lock. Raises OSError."""
        with self.locked(2.0) as is_held:
            for path, mode in files.items() if is_held else ():
                target = self.folder / _stored_name(path, mode)
                if not target.exists():
                    part = self.folder / f".{os.urandom(8).hex()}{PART_SUFFIX}"
                    copy_file(path, part)
                    target.parent.mkdir(exist_ok=True)
                    os.chmod(part, mode & 0o555)
                    os.replace(part, target)

    def restore(self, code: Path, parent: Path | None, run_id: str) -> None:
        """Copy the deleted files of *code* again, as `paths` finds them. They are on the disk then. Raises as
        `paths`."""
        staged, is_changed = staged_files(code), False
        for name, path in self.paths(code, parent, run_id).items():
            copy = staged[name]
            if path == code / name:
                staged[name], is_changed = copy._replace(stored="", checked=0), is_changed or bool(copy.stored)
                continue
            is_changed = True
            again = stage_file(path, code / name)
            if copy.stored and _stored_name(code / name, copy.mode) != copy.stored:
                (code / name).unlink()
                raise damaged(name, f"'{path}' has other content", run_id)
            os.chmod(code / name, copy.mode)
            os.utime(code / name, ns=(copy.modified, copy.modified))  # by which trials find the files of their sweep
            changed = (code / name).stat().st_ctime_ns
            assert again is not None, name
            staged[name] = again._replace(modified=copy.modified, changed=changed, mode=copy.mode)
        if is_changed:
            flush(code)
            write_atomic(_list_of(code), json.dumps(staged))

    def unused(self) -> Sequence[Path]:
        """The files of the store that no run needs, and what killed processes left in it. Call it with the lock held.
        Raises OSError, also for a run whose files this user cannot read, and ValueError for a damaged list."""
        needed = set[str]()
        for run in _entries(self.workspace / "runs"):
            steps = [path.with_suffix("") for path in _entries(run / "steps") if path.suffix == ".json"]
            for code in (run / "code", *steps):
                needed.update(copy.stored for copy in staged_files(code).values())
        found = []
        for place in _entries(self.folder):
            if place.name.endswith(PART_SUFFIX):
                found.append(place)
            elif len(place.name) == 2:
                found += [path for path in _entries(place) if f"{place.name}/{path.name}" not in needed]
        return found


def _entries(folder: Path) -> Sequence[Path]:
    """The entries of a folder, none if it does not exist. Raises OSError if it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return [Path(entry.path) for entry in entries]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _new_sha256(content: bytes = b"") -> hashlib._Hash:
    import hashlib  # takes milliseconds, for which the start of a run would wait

    return hashlib.sha256(content)


def _copy_hashed(source: str, target: Path, size: int) -> str:
    """Copy the first *size* bytes of a file to the new file *target*, and return their SHA-256. Raises OSError."""
    digest, left = _new_sha256(), size
    original = os.open(source, os.O_RDONLY)
    try:
        copy = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            while left > 0 and (block := os.read(original, min(left, BLOCK))):
                digest.update(block)
                left -= len(block)
                while block:
                    block = block[os.write(copy, block) :]
        finally:
            os.close(copy)
    finally:
        os.close(original)
    return digest.hexdigest()


def _stored_name(path: Path, mode: int) -> str:
    """The name in the store of the file at *path*: its SHA-256, and who may read or run it."""
    digest = _new_sha256()
    with path.open("rb") as stream:
        while block := stream.read(BLOCK):
            digest.update(block)
    return name_in_store(digest.hexdigest(), mode)


def name_in_store(digest: str, mode: int) -> str:
    """The name of the file with the SHA-256 *digest*."""
    return f"{digest[:2]}/{digest[2:]}-{mode & 0o555:o}"
