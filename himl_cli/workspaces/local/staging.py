"""The files of a job: staged before its script starts, collected after it."""

from __future__ import annotations

import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from himl_cli.core.jobs import JobSpec
from himl_cli.workspaces.local.launch_request import LaunchRequest, stored_form
from himl_cli.workspaces.local.run_folder import COLLECTED, PLAN, RECORD, RunFolder

STAGED, ATTEMPTS, RETRIES = "laid", "tries", "retries"  # keys of a run's record

Stamp = tuple[int, int, int]  # inode, size in bytes, modification time in nanoseconds


class Stopped(Exception):
    """The job was canceled while its files were staged."""


class JobFiles:
    """`cwd` is where the script runs, `logs` are the logs of its ranks."""

    def __init__(self, request: LaunchRequest, folder: RunFolder) -> None:
        spec = request.spec
        self._request = request
        self._folder = folder
        self._before: dict[str, Stamp] = {}
        self._made: list[Path] = []
        self.cwd = spec.snapshot.root if spec.in_place else folder.code
        names = ["std_log.txt"]
        if (request.rank_count or 1) > 1:
            names = [f"std_log_process_{number}.txt" for number in range(request.rank_count or 1)]
        self.logs = [folder.user_logs / name for name in names]

    def stage(self, *, is_stopped: Callable[[], bool], is_attempt: bool = True) -> None:
        """Stage the snapshot and make the folders; for another attempt, those of the earlier ones stay. Without
        *is_attempt* the job is to begin later. Raises OSError, Stopped."""
        folder, spec, again = self._folder, self._request.spec, self._request.again
        known = folder.read(RECORD) if again else {}
        attempts = known.get(ATTEMPTS, 0)
        earlier = folder.user_logs / f"try_{attempts}"
        folder.user_logs.mkdir(exist_ok=again)
        for log in self.logs:
            if known and log.exists() and log.stat().st_size:  # whoever follows this attempt's log is not to see that
                earlier.mkdir(exist_ok=True)
                with suppress(OSError):  # somebody reads it, on Windows: this attempt's lines then follow the earlier
                    log.replace(earlier / log.name)
            log.touch()
        if not spec.parent:
            folder.write(PLAN, {"job": stored_form(spec)})
        for path in self._request.outputs.values():
            Path(path).mkdir(parents=True, exist_ok=True)
        data = {"inputs": dict(self._request.inputs), "outputs": dict(self._request.outputs)}
        facts = {**known, **data, "python": spec.python, "in_place": spec.in_place}
        folder.write(RECORD, {**facts, STAGED: known.get(STAGED, False), ATTEMPTS: attempts})
        if spec.in_place:
            folder.code.mkdir(exist_ok=again)
        elif not known.get(STAGED):
            with suppress(FileNotFoundError):
                shutil.rmtree(folder.code)  # what an earlier attempt was staging when it was killed
            folder.code.mkdir()
            stage_files(spec, folder.code, is_stopped=is_stopped)
        if not is_attempt:
            return folder.write(RECORD, {**facts, STAGED: True, ATTEMPTS: attempts})
        self._made = [self.cwd / name for name in COLLECTED if not (self.cwd / name).exists()]
        for made in self._made:  # as a job finds them everywhere
            made.mkdir(exist_ok=True)
        self._before = self._stamps()
        folder.write(RECORD, {**facts, STAGED: True, ATTEMPTS: attempts + 1})

    @property
    def attempt(self) -> int:
        """The number of the latest try that was staged, from 1; 0 before that."""
        return int(self._folder.read(RECORD).get(ATTEMPTS, 0))

    @property
    def retries(self) -> int:
        """How often Slurm was asked to start the job again after a failure."""
        return int(self._folder.read(RECORD).get(RETRIES, 0))

    def note_retry(self) -> None:
        self._folder.write(RECORD, {**self._folder.read(RECORD), RETRIES: self.retries + 1})

    def collect(self) -> None:
        """Keep what the job wrote: of one that ran in place, copy its results to the run's folder; of others, what
        `RunFolder.keep_files` says. Raises OSError."""
        self._folder.keep_files(self._request.spec.keep)
        for name, stamp in self._stamps().items():
            if self._before.get(name) != stamp:
                for _ in _copy_file(self.cwd / name, self._folder.code / name):
                    pass
        for folder in self._made if self._request.spec.in_place else ():
            with suppress(OSError):
                folder.rmdir()  # where the job wrote nothing into it

    def _stamps(self) -> dict[str, Stamp]:
        found: dict[str, Stamp] = {}
        for top in COLLECTED if self._request.spec.in_place else ():
            for folder, _, names in os.walk(self.cwd / top):
                for path in (Path(folder, name) for name in names):
                    with suppress(OSError):  # a dangling link, or gone in the meantime: nothing to collect
                        facts = path.stat()
                        if stat.S_ISREG(facts.st_mode):
                            stamp = (facts.st_ino, facts.st_size, facts.st_mtime_ns)
                            found[path.relative_to(self.cwd).as_posix()] = stamp
        return found


def stage_files(spec: JobSpec, target: Path, *, is_stopped: Callable[[], bool]) -> None:
    """Copy the snapshot's files, with their permissions, and the others that the job asked for below *target*. Raises
    OSError, or Stopped once *is_stopped* says so."""
    looked = 0.0
    for name in (*spec.snapshot.files, *spec.brought):
        source = Path(spec.brought.get(name, spec.snapshot.root / name))
        if name in spec.brought:
            source.stat()  # one that is not there any more is not passed over
        for _ in _copy_file(source, target / name):
            if time.monotonic() - looked > 0.05:
                looked = time.monotonic()
                if is_stopped():
                    raise Stopped


def _copy_file(source: Path, target: Path) -> Iterator[None]:
    """Copy one file with its permissions, a block at each step. Raises OSError.

    A file that vanished since it was listed is passed over, as an editor's temporary files do all the time.
    """
    try:
        stream = source.open("rb")
    except FileNotFoundError:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with stream, target.open("wb") as copy:
        while block := stream.read(8 << 20):
            copy.write(block)
            yield
        os.chmod(target, os.fstat(stream.fileno()).st_mode & 0o777)
