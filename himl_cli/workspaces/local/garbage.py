"""Files of a workspace that nothing needs: copies of code that killed processes left, files of the store that no run
lists, and artifacts of old runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from pathlib import Path

from himl_cli.core.errors import BadUsage, HimlError
from himl_cli.core.files import remove_tree, walk_folders
from himl_cli.core.jobs import STEP
from himl_cli.core.locks import ProcessLock
from himl_cli.core.mounts import shares_locks
from himl_cli.core.runs import Run
from himl_cli.core.workspaces import Garbage
from himl_cli.workspaces.local.code_store import CodeStore, is_result, staged_files
from himl_cli.workspaces.local.run_folder import COLLECTED, RunFolder, explain_disk_error
from himl_cli.workspaces.local.run_process import keep_code
from himl_cli.workspaces.local.run_store import RunStore
from himl_cli.workspaces.local.staging import place_of_code

COPIES, CODE, ARTIFACTS = "copies", "code", "artifacts"


class GarbageCollector:
    """Deletes files of the workspace *folder*. *known* are all its runs. The files of a run in progress stay."""

    def __init__(self, folder: Path, store: RunStore, known: Sequence[Run]) -> None:
        self._folder, self._store = folder, store
        self._code = CodeStore(folder)
        self._known = {run.id: run for run in known}
        self._ended = [run for run in known if all(each.status.is_final for each in self._with_parents(run))]

    def _with_parents(self, run: Run) -> Iterator[Run]:
        above: Run | None = run
        while above is not None:
            yield above
            above = self._known.get(above.parent or "")

    def _folder_of(self, run: Run) -> RunFolder:
        return RunFolder(self._folder / "runs" / run.id)

    def collect(self, before: datetime | None, *, delete: bool) -> Iterator[Garbage]:
        """Count the files, and with *delete*, delete them. Artifacts only count if their run ended *before* a time.
        Raises BadUsage if another process uses the store, DiskFailed."""
        try:
            yield _collected(COPIES, self._copies(), self._drop_copies if delete else None)
            with self._code.locked(2.0) as is_held:
                if not is_held and shares_locks(self._folder):
                    text = "Another process stores code in the workspace, or deletes from it."
                    raise BadUsage(text, hint="Run the command again.")
                unused = self._code.unused() if is_held else ()
                yield _collected(CODE, unused, partial(_unlink, unused) if delete else None)
        except (OSError, ValueError) as err:
            known = err if isinstance(err, OSError) else OSError(str(err))
            raise explain_disk_error(known, "Cannot read the code of all runs", self._folder) from err
        if before is not None:
            old = [run for run in self._ended if (run.ended or run.created) < before]
            places = {run.id: [*self._places(run)] for run in old}
            paths = [path for each in places.values() for place in each for path in _files(place)]
            yield _collected(ARTIFACTS, paths, partial(self._delete, places) if delete else None)

    def _code_of(self, run: Run) -> tuple[Path, Path | None] | None:
        folders = [self._folder_of(each) for each in self._with_parents(run)]
        return place_of_code(folders, run.tags.get(STEP, ""))

    def _copies(self) -> list[Path]:
        """The unchanged copies in the folders of ended runs of which himl has deleted none."""
        found = []
        for run in self._ended:
            with suppress(HimlError, OSError, ValueError):
                place = self._code_of(run)
                staged = staged_files(place[0]) if place is not None else {}
                if place is not None and not any(copy.stored for copy in staged.values()):
                    names = [name for name, copy in staged.items() if copy.changed and not is_result(name)]
                    found += [place[0] / name for name in names if staged[name].is_at(place[0] / name)]
        return found

    def _drop_copies(self) -> None:
        for run in self._ended:
            folder = self._folder_of(run)
            with suppress(HimlError, OSError, ValueError):  # its copies stay
                place = self._code_of(run)
                if place is None:
                    continue
                if place[1] is None:
                    keep_code(self._store, folder)
                else:
                    _with_lock(folder, partial(self._code.drop_shared, place[0], place[1]))

    def _places(self, run: Run) -> Sequence[Path]:
        folder = self._folder_of(run)
        return [*(folder.code / top for top in COLLECTED), folder.artifacts]

    def _delete(self, places: Mapping[str, Sequence[Path]]) -> None:
        for run_id, each in places.items():
            with suppress(OSError):
                _with_lock(RunFolder(self._folder / "runs" / run_id), partial(_remove, each))


def _with_lock(folder: RunFolder, act: Callable[[], object]) -> None:
    """Call *act*, unless a process has the lock of the run."""
    lock = ProcessLock(folder.lock)
    try:
        if lock.take():
            act()
    finally:
        lock.release()


def _unlink(paths: Sequence[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def _remove(folders: Sequence[Path]) -> None:
    for folder in folders:
        remove_tree(folder)


def _files(folder: Path) -> list[Path]:
    return [Path(parent, name) for parent, _, names in walk_folders(str(folder)) for name in names]


def _collected(kind: str, paths: Sequence[Path], delete: Callable[[], object] | None) -> Garbage:
    """The number and the size of the files *paths*, or of those that *delete* has deleted."""
    sizes = {path: path.lstat().st_size for path in paths if os.path.lexists(path)}
    if delete is not None:
        delete()
    gone = [size for path, size in sizes.items() if delete is None or not os.path.lexists(path)]
    return Garbage(kind, len(gone), sum(gone))
