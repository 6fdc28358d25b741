"""The layout of the folder of a local run, the check whether its supervisor is alive, and errors of the disk."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from himl_cli.core.errors import FULL_DISK, DiskFailed, shortage
from himl_cli.core.files import Globs, flush_file, is_board_file, make_folder, once_free, remove_tree
from himl_cli.core.json_text import read_json
from himl_cli.core.locks import is_held, is_locked

FREE_SPACE = "Free some disk space. To delete runs with their files: himl runs delete"
CHECK_PERMISSIONS = "Check the folder's permissions, or choose another one with --workspace."
RECORD = "job.json"  # facts about the job, such as the folders of its inputs and outputs
WHY, CANCELED = "why", "canceled"  # the reason to cancel, and the request to do so
END = "end.json"  # how the run ended, for readers if the database could not be written
WAITING = "waiting"  # the file of a job that waits for GPUs or a slot of this machine
STARTING = "starting"  # the workspace's folder of locked files with the ids of runs that are being started
PLAN = "plan.json"  # the job or the plan of the run, to resume it
ENVIRONMENT = "environment.json"  # what the job runs on
LIGHTNING_LOGS = "lightning_logs"  # the default folder of Lightning's loggers
COLLECTED = ("outputs", "logs")  # the folders of results in the script's folder
RESERVE_BYTES = 128 * 1024


class RunFolder:
    """The folder `path` of a run, `.himl/runs/<run_id>` in the folder `workspace`.

    `code` is the snapshot, in which the script runs and writes `outputs/` and `logs/`. `artifacts` has the files that
    were logged through MLflow, which appear at the root of the run's artifacts. The supervisor holds `lock` until the
    end is recorded. The operating system frees it in any case.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.run_id = path.name
        self.code, self.user_logs = path / "code", path / "user_logs"
        self.artifacts, self.lock = path / "artifacts", path / "lock"

    @property
    def workspace(self) -> Path:
        return self.path.parents[1]

    def is_supervised(self) -> bool:
        """Whether a supervisor is known to hold the lock. A process id alone would be unreliable, since it may be
        reused after a reboot."""
        return is_locked(self.lock)

    def may_be_supervised(self) -> bool:
        """Whether a supervisor holds the lock, or may hold it where this machine does not see it."""
        return is_held(self.lock)

    def forget_holder(self) -> None:
        """Let nothing wait for a supervisor that this machine cannot see."""
        with suppress(OSError):
            os.truncate(self.lock, 0)

    def allow_to_run(self) -> None:
        """Withdraw a request to stop, and forget an earlier end. Creates the file of the next request, which then only
        gets another name, since that works on a full disk."""
        for name in (WHY, CANCELED, END, WAITING):
            (self.path / name).unlink(missing_ok=True)
        (self.path / "go").touch()

    def ask_to_cancel(self, why: str = "") -> None:
        """Request the supervisor to stop the run for the reason *why*. Raises DiskFailed."""
        if why:
            with suppress(OSError):  # on a full disk, it stops without the reason
                (self.path / WHY).write_text(why, encoding="utf-8")
        try:
            try:
                (self.path / "go").replace(self.path / CANCELED)
            except FileNotFoundError:
                (self.path / CANCELED).touch()
        except OSError as err:
            raise explain_disk_error(err, f"Cannot stop run '{self.run_id}'", self.path) from err

    def is_cancel_asked(self) -> bool:
        """A folder that was renamed, or that cannot be read for a while, asks for nothing."""
        return (self.path / CANCELED).is_file()

    def why_canceled(self) -> str:
        try:
            return (self.path / WHY).read_text(encoding="utf-8") or "canceled"
        except (OSError, ValueError):
            return "canceled"

    def reserve_space(self) -> None:
        """Reserve the disk space for recording the end."""
        (self.path / "reserve").write_bytes(os.urandom(RESERVE_BYTES))

    def free_reserve(self) -> None:
        (self.path / "reserve").unlink(missing_ok=True)

    def is_disk_full(self) -> bool:
        return shutil.disk_usage(self.path).free < RESERVE_BYTES

    def write(self, name: str, content: dict[str, Any]) -> None:
        """Store RECORD or PLAN atomically, since this process may be killed. *content* must not have
        environment variables, which may be secrets. Raises OSError."""
        part, target = self.path / f"{name}.part", self.path / name
        part.write_text(json.dumps(content, indent=1), encoding="utf-8")
        if target.exists():  # else the staging of the job's files follows, which writes all to the disk
            flush_file(str(part))
        once_free(lambda: part.replace(target))

    def read(self, name: str) -> dict[str, Any]:
        """The stored content, {} if there is none, as in an empty file after a power cut."""
        path = self.path / name
        try:
            found = read_json(once_free(lambda: path.read_text(encoding="utf-8")) or "{}")
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as err:
            raise DiskFailed(f"Cannot read '{path}': {err}.") from err
        return found if isinstance(found, dict) else {}

    def files_elsewhere(self) -> Iterator[tuple[str, Path]]:
        """Files that the script wrote outside of `outputs/`, `logs/` and Python's caches, with their names relative to
        its folder, except those that `keep_files` has kept. None for an in-place job, whose files stay in place."""
        since = self._staged_at()
        return ((name, Path(path)) for name, path in self._names_elsewhere() if self._is_written(name, path, since))

    def keep_files(self, globs: Sequence[str]) -> None:
        """Add files from other folders to the results: as logs, those in Lightning's default folder and in folders with
        event files or files of TensorBoard's plugins, as outputs, those that match *globs*. Results that the script
        wrote itself stay. Uses hard links if the file system has them. Raises OSError, BadUsage for an invalid glob."""
        found, wanted, since = dict(self._names_elsewhere()), Globs(globs), self._staged_at()
        boards = {name for name in filter(is_board_file, found) if self._is_written(name, found[name], since)}
        folders = tuple(f"{folder}/" for folder in {LIGHTNING_LOGS, *map(os.path.dirname, boards)} - {""})
        for name, path in found.items():
            top = "logs" if name in boards or name.startswith(folders) else "outputs"
            # The state of a file is read only if its name is wanted, since code may have many files
            if (top == "logs" or (globs and wanted.matches(name))) and self._is_written(name, path, since):
                target = self.code / top / name
                if target.exists() and target.stat().st_mtime_ns > since:
                    continue
                make_folder(target.parent)
                target.unlink(missing_ok=True)  # an earlier attempt's
                try:
                    os.link(path, target)
                except OSError:  # the file system has no hard links
                    shutil.copy2(path, target)

    def _staged_at(self) -> int:
        """When the record was written, after the files of the latest attempt were staged. 0 if there is none."""
        with suppress(FileNotFoundError):
            return (self.path / RECORD).stat().st_mtime_ns
        return 0

    def _names_elsewhere(self) -> Iterator[tuple[str, str]]:
        """The names and paths of the files in the folder of the code, except results and Python's caches. None for an
        in-place job."""
        folders = [] if self.read(RECORD).get("in_place", True) else [""]
        while folders:
            under = folders.pop()
            with suppress(OSError), os.scandir(os.path.join(self.code, under)) as entries:
                for entry in entries:
                    name = under + entry.name
                    if not entry.is_dir(follow_symlinks=False):
                        yield name, entry.path
                    elif entry.name != "__pycache__" and name not in COLLECTED:
                        folders.append(f"{name}/")

    def _is_written(self, name: str, path: str, since: int) -> bool:
        """Whether the script wrote the file, and `keep_files` has not kept it."""
        try:
            facts = os.lstat(path)
        except OSError:
            return False
        is_new = facts.st_mtime_ns > since or facts.st_ctime_ns > since
        is_file = is_new and stat.S_ISREG(facts.st_mode)
        return is_file and not any(_is_same(facts, self.code / top / name) for top in COLLECTED)

    def remove(self) -> None:
        """Delete the folder and its contents. Raises DiskFailed with the first file that cannot be deleted."""
        try:
            remove_tree(self.path)
        except OSError as err:
            raise explain_disk_error(err, "Cannot delete the run's files", self.path) from err


def _is_same(facts: os.stat_result, path: Path) -> bool:
    """Whether *path* is a link to the file with *facts*, or a copy of it."""
    with suppress(OSError):
        there = path.stat()
        return (there.st_size, there.st_mtime_ns) == (facts.st_size, facts.st_mtime_ns)
    return False


def explain_disk_error(err: OSError, what: str, where: Path) -> DiskFailed:
    """A one-line error with the file that could not be read or written, or with *where* if the file is unknown. For a
    full disk, the error names *where*."""
    if lack := shortage(str(err), str(next(each for each in (where, *where.parents) if os.path.exists(each)))):
        return DiskFailed(f"{what}: {lack[0]}: '{where}'.", hint=lack[1])
    if err.errno in FULL_DISK:
        return DiskFailed(f"{what}: {err.strerror}: '{where}'.", hint=FREE_SPACE)
    named = err.filename if err.filename and os.path.isabs(err.filename) else where
    return DiskFailed(f"{what}: {err.strerror or err}: '{named}'.", hint=CHECK_PERMISSIONS)
