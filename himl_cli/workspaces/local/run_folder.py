"""What lies where in the folder of one local run, whether its supervisor is alive, and what failures of the disk are
called."""

from __future__ import annotations

import json
import os
import shutil
import stat
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from himl_cli.core.errors import FULL_DISK, DiskFailed
from himl_cli.core.files import Globs, is_event_file
from himl_cli.core.processes import is_held
from himl_cli.core.text import read_json

FREE_SPACE = "Free some space; 'himl runs delete' removes runs with their files."
CHECK_PERMISSIONS = "Check the folder's permissions, or name another with --workspace."
RECORD = "job.json"  # facts about the job: where its inputs and outputs lie
TRACKED = "mlflow.json"  # what MLflow's clients recorded beside values: data sets and models
WHY = "why"
STARTING = "starting"  # the folder, in the workspace's, of locked files named after runs that are being started
PLAN = "plan.json"  # what the run is for, so that it can be resumed
LIGHTNING_LOGS = "lightning_logs"  # where Lightning's loggers write unless they are told another folder
COLLECTED = ("outputs", "logs")  # the folders of results where the script runs
RESERVE_BYTES = 128 * 1024
SECONDS_IN_USE = 1.0 if sys.platform == "win32" else 0.0
T = TypeVar("T")


class RunFolder:
    """`path` is `.himl/runs/<run_id>`, in the folder `workspace`.

    `code` is the snapshot: where the script runs, and its `outputs/` and `logs/` grow. `artifacts` are what was logged
    through MLflow; it shows at the root of the run's artifacts. `lock` is held by the supervisor until the end is on
    record; the operating system frees it, whatever happens.
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
        """Whether a supervisor holds the lock. No process id is trusted: after a reboot it may be another's."""
        return is_held(self.lock)

    def allow_to_run(self) -> None:
        """Make the file whose absence tells the supervisor to stop: taking it away works on a full disk, making one
        would not."""
        (self.path / WHY).unlink(missing_ok=True)
        (self.path / "go").touch()

    def ask_to_cancel(self, why: str = "") -> None:
        """Leave word for the supervisor, which looks for it several times a second, and the reason to record. Raises
        DiskFailed."""
        if why:
            with suppress(OSError):  # on a full disk it is stopped without saying why
                (self.path / WHY).write_text(why, encoding="utf-8")
        try:
            (self.path / "go").unlink(missing_ok=True)
        except OSError as err:
            raise explain_disk_error(err, f"Cannot ask run '{self.run_id}' to stop", self.path) from err

    def is_cancel_asked(self) -> bool:
        return not (self.path / "go").exists()

    def why_canceled(self) -> str:
        try:
            return (self.path / WHY).read_text(encoding="utf-8") or "canceled"
        except (OSError, ValueError):
            return "canceled"

    def reserve_space(self) -> None:
        """Take the bytes that recording the end will need, while there are any."""
        (self.path / "reserve").write_bytes(os.urandom(RESERVE_BYTES))

    def free_reserve(self) -> None:
        (self.path / "reserve").unlink(missing_ok=True)

    def is_disk_full(self) -> bool:
        return shutil.disk_usage(self.path).free < RESERVE_BYTES

    def write(self, name: str, content: dict[str, Any]) -> None:
        """Store RECORD, PLAN or TRACKED, whole or not at all: whoever writes may be killed. Without variables: they may
        hold secrets. Raises OSError."""
        part = self.path / f"{name}.part"
        part.write_text(json.dumps(content, indent=1), encoding="utf-8")
        once_free(lambda: part.replace(self.path / name))

    def read(self, name: str) -> dict[str, Any]:
        """What was stored, or {} where nothing was."""
        path = self.path / name
        try:
            found = read_json(once_free(lambda: path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as err:
            raise DiskFailed(f"Cannot read '{path}': {err}.") from err
        return found if isinstance(found, dict) else {}

    def files_elsewhere(self) -> Iterator[tuple[str, Path]]:
        """Files that the script wrote outside `outputs/`, `logs/` and Python's caches, with their names in the folder
        it runs in, but for those that `keep_files` has kept; none of a job in place, where they lie as it left them."""
        if self.read(RECORD).get("in_place", True):
            return
        since = (self.path / RECORD).stat().st_mtime_ns  # it is written once the files are staged
        for parent, folders, names in os.walk(self.code):
            is_top = Path(parent) == self.code
            folders[:] = [name for name in folders if name != "__pycache__" and not (is_top and name in COLLECTED)]
            for path in (Path(parent, name) for name in names):
                with suppress(OSError):
                    facts, name = path.lstat(), path.relative_to(self.code).as_posix()
                    is_new = stat.S_ISREG(facts.st_mode) and max(facts.st_mtime_ns, facts.st_ctime_ns) > since
                    if is_new and not any(_is_same(facts, self.code / top / name) for top in COLLECTED):
                        yield name, path

    def keep_files(self, globs: Sequence[str]) -> None:
        """Make files elsewhere results: as logs, those in Lightning's default folder or beside and below event files;
        as outputs, those that *globs* match. What the script wrote there itself by that name stays. A result has a
        link's cost where links to files are. Raises OSError, BadUsage for what is no glob."""
        found, wanted = dict(self.files_elsewhere()), Globs(globs)
        since = (self.path / RECORD).stat().st_mtime_ns
        folders = {LIGHTNING_LOGS, *(os.path.dirname(name) for name in found if is_event_file(name))} - {""}
        for name, path in found.items():
            above = {parent.as_posix() for parent in PurePosixPath(name).parents}
            top = "logs" if above & folders or is_event_file(name) else "outputs"
            if top == "logs" or wanted.matches(name):
                target = self.code / top / name
                if target.exists() and target.stat().st_mtime_ns > since:
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                target.unlink(missing_ok=True)  # an earlier attempt's
                try:
                    os.link(path, target)
                except OSError:  # a file system without links
                    shutil.copy2(path, target)

    def remove(self) -> None:
        """Delete the folder with all in it. Raises DiskFailed naming the first file that would not go."""
        while self.path.exists():
            try:
                if sys.platform != "win32" and not self.path.is_symlink():
                    _unlink_files(self.path)
                shutil.rmtree(self.path)
            except FileNotFoundError:
                continue  # somebody else removes it too
            except OSError as err:
                raise explain_disk_error(err, "Cannot delete the run's files", self.path) from err


def _is_same(facts: os.stat_result, path: Path) -> bool:
    """Whether *path* is a link to the file with *facts*, or a copy of it."""
    with suppress(OSError):
        there = path.stat()
        return (there.st_size, there.st_mtime_ns) == (facts.st_size, facts.st_mtime_ns)
    return False


def _unlink_files(folder: Path) -> None:
    """Remove the files below *folder* in the order of their inodes, as `rm` does: in a folder's own order a disk may
    take many times as long.

    What does not go, and the folders, are left to rmtree.
    """
    folders = [str(folder)]
    while folders:
        with suppress(OSError), os.scandir(folders.pop()) as entries:
            for entry in sorted(entries, key=lambda entry: entry.inode()):
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                else:
                    os.unlink(entry.path)


def once_free(act: Callable[[], T], seconds: float = SECONDS_IN_USE) -> T:
    """What *act* gives, tried for so long where the file is in use: Windows replaces no file that another process reads
    at that moment."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return act()
        except PermissionError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(0.02)


def explain_disk_error(err: OSError, what: str, where: Path) -> DiskFailed:
    """One line about what could not be read or written: the file itself where it is known, else *where*; a full disk is
    that of *where*."""
    if err.errno in FULL_DISK:
        return DiskFailed(f"{what}: {err.strerror}: '{where}'.", hint=FREE_SPACE)
    named = err.filename if err.filename and os.path.isabs(err.filename) else where
    return DiskFailed(f"{what}: {err.strerror or err}: '{named}'.", hint=CHECK_PERMISSIONS)
