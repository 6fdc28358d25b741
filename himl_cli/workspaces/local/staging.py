"""The files of a job: staged before its script starts, collected after it, and found again by another attempt."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from himl_cli.core.jobs import JobSpec
from himl_cli.workspaces.local.launch_request import LaunchRequest, stored_form
from himl_cli.workspaces.local.run_folder import PLAN, RECORD, RunFolder

COLLECTED = ("outputs", "logs")
BLOCK = 8 << 20
STAGED, ATTEMPTS = "laid", "tries"
"""Keys of a run's record."""

Stamp = tuple[int, int, int]  # inode, size in bytes, modification time in nanoseconds


class Stopped(Exception):
    """The job was canceled while its files were staged."""


class JobFiles:
    """`cwd` is where the script runs."""

    def __init__(self, request: LaunchRequest, folder: RunFolder) -> None:
        self._request = request
        self._spec = request.spec
        self._folder = folder
        self._before: dict[str, Stamp] = {}
        self._made: list[Path] = []
        self.cwd = self._spec.snapshot.root if self._spec.in_place else folder.code

    def stage(self, *, is_stopped: Callable[[], bool]) -> None:
        """Stage the snapshot and make the folders; for another attempt, those of the earlier ones stay. Raises OSError,
        Stopped."""
        folder, spec, again = self._folder, self._spec, self._request.again
        known = folder.read(RECORD) if again else {}
        attempts = known.get(ATTEMPTS, 0)
        if known:
            self._put_logs_away(attempts)
        folder.user_logs.mkdir(exist_ok=again)
        for log in self.logs():
            log.touch()
        if not spec.parent:
            folder.write(PLAN, {"job": stored_form(spec)})
        for path in self._request.outputs.values():
            Path(path).mkdir(parents=True, exist_ok=True)
        data = {"inputs": dict(self._request.inputs), "outputs": dict(self._request.outputs)}
        facts = {**data, "python": spec.python, "in_place": spec.in_place}
        folder.write(RECORD, {**facts, STAGED: known.get(STAGED, False), ATTEMPTS: attempts})
        if spec.in_place:
            folder.code.mkdir(exist_ok=again)
            self._made = _make_collected(self.cwd)
            self._before = _stamps(self.cwd)
        elif not known.get(STAGED):
            with suppress(FileNotFoundError):
                shutil.rmtree(folder.code)  # what an earlier attempt was staging when it was killed
            folder.code.mkdir()
            stage_files(spec, folder.code, is_stopped=is_stopped, between=_make_collected)
        folder.write(RECORD, {**facts, STAGED: True, ATTEMPTS: attempts + 1})

    def logs(self) -> list[Path]:
        """The log of each rank."""
        if self._spec.processes is None or self._spec.processes == 1:
            return [self._folder.user_logs / "std_log.txt"]
        return [self._folder.user_logs / f"std_log_process_{number}.txt" for number in range(self._spec.processes)]

    def collect(self) -> None:
        """Of a job that ran in place, copy what it wrote to the run's folder. Raises OSError."""
        if not self._spec.in_place:
            return
        for name, stamp in _stamps(self.cwd).items():
            if self._before.get(name) != stamp:
                for _ in _copy_file(self.cwd / name, self._folder.code / name):
                    pass
        for folder in self._made:
            with suppress(OSError):
                folder.rmdir()  # where the job wrote nothing into it

    def _put_logs_away(self, attempts: int) -> None:
        """Whoever follows this attempt's log is not to see the earlier one's first."""
        earlier = self._folder.user_logs / f"try_{attempts}"
        logs = [log for log in self.logs() if log.exists() and log.stat().st_size]
        if logs:
            earlier.mkdir(exist_ok=True)
        for log in logs:
            with suppress(OSError):  # somebody reads it, on Windows: this attempt's lines then follow the earlier ones
                log.replace(earlier / log.name)


def stage_files(
    spec: JobSpec, target: Path, *, is_stopped: Callable[[], bool], between: Callable[[Path], object] | None = None
) -> None:
    """Copy the snapshot's files, with their permissions, and the others that the job asked for below *target*; what
    *between* does comes between the two. Raises OSError, or Stopped once *is_stopped* says so."""
    copied = 0
    for number, name in enumerate(spec.snapshot.files):
        if number % 100 == 0 and is_stopped():
            raise Stopped
        for size in _copy_file(spec.snapshot.root / name, target / name):
            copied += size
            if copied >= BLOCK:
                copied = 0
                if is_stopped():
                    raise Stopped
    if between is not None:
        between(target)
    for name, source in spec.brought.items():
        Path(source).stat()  # one that is not there any more is not passed over
        for _ in _copy_file(Path(source), target / name):
            if is_stopped():
                raise Stopped


def _copy_file(source: Path, target: Path) -> Iterator[int]:
    """Copy one file with its permissions; gives the size of each block that was copied. Raises OSError.

    A file that vanished since it was listed is passed over, as an editor's temporary files do all the time.
    """
    try:
        stream = source.open("rb")
    except FileNotFoundError:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with stream, target.open("wb") as copy:
        while block := stream.read(BLOCK):
            copy.write(block)
            yield len(block)
        os.chmod(target, os.fstat(stream.fileno()).st_mode & 0o777)


def _make_collected(root: Path) -> list[Path]:
    """Make `outputs/` and `logs/` below *root*, as a job finds them everywhere; gives those that were not there."""
    missing = [root / name for name in COLLECTED if not (root / name).exists()]
    for folder in missing:
        folder.mkdir(exist_ok=True)
    return missing


def _stamps(root: Path) -> dict[str, Stamp]:
    """A stamp of every file below `outputs/` and `logs/` of *root*, by its path relative to *root*."""
    found: dict[str, Stamp] = {}
    for folder in COLLECTED:
        for place, _, names in os.walk(root / folder):
            for path in (Path(place, name) for name in names):
                with suppress(OSError):  # a dangling link, or gone in the meantime: nothing to collect
                    facts = path.stat()
                    if stat.S_ISREG(facts.st_mode):
                        stamp = (facts.st_ino, facts.st_size, facts.st_mtime_ns)
                        found[path.relative_to(root).as_posix()] = stamp
    return found


def files_elsewhere(folder: RunFolder) -> Iterator[Path]:
    """Files that the run's script wrote outside `outputs/`, `logs/` and Python's caches; none of a job in place, where
    they lie as it left them."""
    if folder.read(RECORD).get("in_place", True):
        return
    since = (folder.path / "job.json").stat().st_mtime_ns  # it is written once the files are staged
    for place, folders, names in os.walk(folder.code):
        above = Path(place)
        left_out = {"__pycache__", *(COLLECTED if above == folder.code else ())}
        folders[:] = [name for name in folders if name not in left_out]
        for path in map(above.joinpath, names):
            with suppress(OSError):
                facts = path.lstat()
                if stat.S_ISREG(facts.st_mode) and max(facts.st_mtime_ns, facts.st_ctime_ns) > since:
                    yield path
