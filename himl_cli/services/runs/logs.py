"""Logs among a run's files: find the main log of each kind of job, of a rank, an attempt or an image build, or a log by
name, and read it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from difflib import get_close_matches
from itertools import chain
from typing import NamedTuple

from himl_cli.core.errors import NotFound
from himl_cli.core.events import Notice, Notify, ignore
from himl_cli.core.patterns import lazy_pattern
from himl_cli.core.runs import Run
from himl_cli.core.text import iso_time
from himl_cli.workspaces.base import BlobStore, LocalStore, ManagedWorkspace, Workspace

ROUNDED_DOWN = timedelta(seconds=2)  # at most, the time of a file by FAT, 1 s by HTTP, 10 ms by Linux
SWEEP_LOG = "azureml-logs/hyperdrive.txt"
PIPELINE_LOG = "logs/azureml/executionlogs.txt"
USER_LOGS = "user_logs/"
MAIN_LOG = "user_logs/std_log.txt"
MAIN_NAMES = tuple(
    lazy_pattern(name)
    for name in (r"std_log\.txt", r"std_log_process_0+\.txt", r"std_log\D*0*_worker\.txt", r"std_log\D*0*(_ps)?\.txt")
)
"""Name of the first rank's log below `user_logs/`, by kind of job. The vendor's client streams the last one."""
OLD_DRIVER = lazy_pattern(r"azureml-logs/\d\d_driver_log([-_]\D*0+)?\.txt")
IMAGE_LOG = lazy_pattern(r"azureml-logs/20_image_build_log.*\.txt")
"""Log of the image build on Azure ML, for an environment that no earlier job has used."""
OF_ATTEMPT = lazy_pattern(r"user_logs/(?:(?P<kind>re)?try_(?P<number>\d{1,9})/)?(?P<base>[^/]+)")
RANK_LOG = lazy_pattern(r"std_log_process_(\d{1,9})\.txt")
LOG_FOLDERS = ("user_logs/", "logs/", "azureml-logs/", "system_logs/")
TAIL_BYTES = 64 * 1024
TIMED = lazy_pattern(rb"\W?(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)(?:[.,](\d+))? ?(Z|UTC|[+-]\d\d:?\d\d)?(?!\w)")
"""The time at the beginning of a line, in ISO 8601 or as `logging` writes it."""


class Log(NamedTuple):
    """A log with its full name, its `attempt` (from 1), and the previous attempt with logs (`before`), 0 if none.
    `is_build` marks the log of the image build, which replaces the main log until there is one."""

    name: str
    attempt: int = 0
    before: int = 0
    is_build: bool = False


def find_log(files: BlobStore, name: str | None, attempt: int | None = None) -> Log | None:
    """Find the log *name*, or the main log. A name with a folder is exact. Any other is searched for in the last
    attempt first."""
    exact = name is not None and "/" in name and attempt is None
    if name is not None and exact and (found := _existing(files, name)):
        return found
    attempts = logs_by_attempt(blob.name for page in files.list(USER_LOGS) for blob in page)
    for number in sorted(attempts, reverse=True) if attempt is None else [attempt]:
        if found_name := log_of_attempt(attempts.get(number, {}), name):
            return Log(found_name, number, max((each for each in attempts if each < number), default=0))
    if attempt is not None or exact:
        return None
    return _existing(files, name) if name is not None else _other_main(files)


def _existing(files: BlobStore, name: str) -> Log | None:
    return next(
        (Log(each) for each in (name, *(folder + name for folder in LOG_FOLDERS)) if files.stat(each) is not None),
        None,
    )


def _other_main(files: BlobStore) -> Log | None:
    """Main log of a run without `user_logs/`: of an older driver, a sweep, a pipeline or an image build."""
    old = [blob.name for page in files.list("azureml-logs/") for blob in page]
    drivers = sorted(name for name in old if OLD_DRIVER.fullmatch(name))
    if drivers or SWEEP_LOG in old:
        return Log(drivers[-1] if drivers else SWEEP_LOG)
    found = _existing(files, "std_log_process_0.txt")
    if found is None and files.stat(PIPELINE_LOG) is not None:
        found = Log(PIPELINE_LOG)
    builds = sorted(filter(IMAGE_LOG.fullmatch, old))
    return found or (Log(builds[-1], is_build=True) if builds else None)


def logs_by_attempt(names: Iterable[str]) -> dict[int, dict[str, str]]:
    """Logs below `user_logs/` by attempt (from 1) and base name.

    Azure ML stores later attempts in `retry_001`, …, or the last attempt only. A local run stores earlier attempts in
    `try_1`, ….
    """
    told = [found for found in map(OF_ATTEMPT.fullmatch, names) if found]
    last_here = 1 + max((int(each["number"]) for each in told if each["number"] and not each["kind"]), default=0)
    attempts: dict[int, dict[str, str]] = {}
    for each in told:
        number = last_here if each["number"] is None else int(each["number"]) + (1 if each["kind"] else 0)
        attempts.setdefault(number, {})[each["base"]] = each[0]
    return attempts


def log_of_attempt(logs: Mapping[str, str], name: str | None) -> str | None:
    """Find the log *name*, or the main log, among the *logs* of one attempt. Ranks may have leading zeros, as the
    service adds them for many ranks."""
    patterns = MAIN_NAMES
    if name is not None:
        base = name.removeprefix(USER_LOGS)
        rank = RANK_LOG.fullmatch(base)
        patterns = (re.compile(rf"std_log_process_0*{int(rank[1])}\.txt" if rank else re.escape(base)),)
    return next((logs[each] for pattern in patterns for each in sorted(logs) if pattern.fullmatch(each)), None)


class AttemptLogs:
    """Distinguishes the log of one attempt from that of the next one, which takes its name once himl has moved it.
    `inode` is that of the log if its file is on this machine, once it is known, else 0."""

    def __init__(self, home: Workspace) -> None:
        self._moves_logs = isinstance(home, ManagedWorkspace)
        self.inode = 0

    def is_replaced(self, files: BlobStore, log: Log, name: str | None) -> bool:
        """Whether the log of another attempt has the name of *log*, which was found by *name*. Call it once the log is
        open, since bytes of a log that is opened later may be those of another attempt."""
        if not self._moves_logs or not log.attempt:
            return False
        inode = 0
        if isinstance(files, LocalStore) and (path := files.path_of(log.name)):
            try:
                inode = os.stat(path).st_ino
            except OSError:
                return True
        if not inode or inode != self.inode:
            found = find_log(files, name, log.attempt)
            if found is None or found.name != log.name:
                return True
            self.inode = inode
        return False


def log_called(files: BlobStore, name: str | None) -> Log | None:
    """Find the only log with base name *name* in any folder. None if there is none or several."""
    if not name:
        return None
    alike = [log for log in log_names(files) if log.endswith(f"/{name}")]
    return Log(alike[0]) if len(alike) == 1 else None


def log_names(files: BlobStore) -> list[str]:
    """The names of all logs of the run."""
    return [blob.name for folder in LOG_FOLDERS for page in files.list(folder) for blob in page]


def no_log(files: BlobStore, run: Run, name: str | None, attempt: int | None) -> NotFound:
    there = log_names(files)
    if not there and name is None:
        if run.status.is_final:
            return NotFound(f"Run '{run.id}' ended without a log.", hint=f"See himl runs show {run.id}")
        return NotFound(f"Run '{run.id}' has no log yet.", hint=f"To wait for it: himl runs logs {run.id} --follow")
    what = f"log '{name}'" if name is not None else "main log"
    attempts = sorted(logs_by_attempt(there))
    if attempt is not None and attempt not in attempts:
        told = f"Attempts with logs: {', '.join(map(str, attempts))}." if attempts else "Omit --try."
        return NotFound(f"Run '{run.id}' has no log of attempt {attempt}.", hint=told)
    alike = [log for log in there if name and log.endswith(f"/{name}")]
    near = alike[:5] or get_close_matches(name or "", there, n=3, cutoff=0.4) or there[:5]
    of_attempt = f" of attempt {attempt}" if attempt is not None else ""
    return NotFound(
        f"Run '{run.id}' has no {what}{of_attempt}.",
        hint=f"Its logs: {', '.join(near)}." if near else "It has no logs.",
    )


def read_log(
    workspace: Workspace,
    run_id: str,
    name: str | None = None,
    notify: Notify = ignore,
    *,
    start: int = 0,
    attempt: int | None = None,
) -> Iterator[bytes]:
    """Read the log *name* (default: the main log) as it is now, in pieces, from byte *start*.

    *attempt* counts from 1. The default is the last attempt that has this log. While a job on Azure ML has no log,
    this is the log of its image build. *notify* receives a notice of this, and of earlier attempts. Raises NotFound,
    which lists the available logs.
    """
    files = workspace.run_files(run_id)
    found = find_log(files, name, attempt) or (log_called(files, name) if attempt is None else None)
    if found is None:
        raise no_log(files, workspace.run(run_id), name, attempt)
    if found.is_build:
        notify(said_of_build(run_id, found))
    if attempt is None and found.before:
        notify(
            Notice(
                f"This log is from attempt {found.attempt}. For the previous one: himl runs logs {run_id} --try "
                f"{found.before}"
            )
        )
    return files.read(found.name, start)


def tail_start(
    workspace: Workspace, run_id: str, name: str | None = None, *, lines: int, attempt: int | None = None
) -> int:
    """The position in bytes of the last *lines* lines of a log, 0 for a shorter or missing one. Raises RunNotFound."""
    files = workspace.run_files(run_id)
    found = find_log(files, name, attempt) or (log_called(files, name) if attempt is None else None)
    blob, reach = files.stat(found.name) if found else None, TAIL_BYTES
    while found is not None and blob is not None:
        begin = max(0, blob.size - reach)
        there = b"".join(files.read(found.name, begin)).splitlines(keepends=True)
        if len(there) > lines or not begin:  # the first one may be the end of a line
            return begin + sum(map(len, there[:-lines]))
        reach *= 8
    return 0


def since_start(
    workspace: Workspace,
    run_id: str,
    name: str | None = None,
    *,
    since: datetime,
    attempt: int | None = None,
    notify: Notify = ignore,
) -> int:
    """The position in bytes of the first line of a log that was written at or after *since*, or some seconds before,
    0 for a missing log.

    This follows from the times of the run and of the log, from the sizes that the workspace has noted, or else from
    lines that begin with a time. *notify* receives a notice if these have no time zone. Raises RunNotFound, and
    NotFound if nothing shows when the log was written.
    """
    files = workspace.run_files(run_id)
    found = find_log(files, name, attempt) or (log_called(files, name) if attempt is None else None)
    blob = files.stat(found.name) if found else None
    if found is None or blob is None or workspace.run(run_id).created >= since:
        return 0
    if blob.modified is not None and blob.modified + ROUNDED_DOWN < since:
        return blob.size
    if (position := workspace.log_position(run_id, found.name, since)) is not None:
        return _line_start(files, found.name, position)
    position = _timed_line(files, found.name, since, notify)
    if position is None:
        raise NotFound(
            f"himl does not know when the lines of '{found.name}' of run '{run_id}' were written: it did not note "
            "their times, and they do not begin with one.",
            hint=f"To print the last lines: himl runs logs {run_id} --tail 100",
        )
    return position


def _line_start(files: BlobStore, name: str, position: int) -> int:
    """The start of the line with the byte *position*, or that position if the line began long before."""
    begin, before = max(0, position - TAIL_BYTES), bytearray()
    for piece in files.read(name, begin):
        before += piece[: position - begin - len(before)]
        if begin + len(before) >= position:
            break
    newline = before.rfind(b"\n")
    return begin + newline + 1 if newline >= 0 or not begin else position


def _timed_line(files: BlobStore, name: str, since: datetime, notify: Notify) -> int | None:
    """The position of the first line that begins with a time at or after *since*: the size of the log if all times are
    earlier, None if no line begins with one."""
    position, is_timed, has_told, rest = 0, False, False, b""
    for piece in chain(files.read(name), [b"\n"]):
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            if (parts := TIMED.match(line)) is not None:
                day, clock, fraction, zone = (part.decode() if part else "" for part in parts.groups())
                with suppress(ValueError):  # of another meaning
                    is_timed, moment = True, iso_time(f"{day}T{clock}.{fraction or 0}")
                    if not zone and not has_told:
                        notify(Notice(f"The times in '{name}' have no zone. himl takes them as UTC."))
                        has_told = True
                    offset = datetime.strptime(zone.replace(":", ""), "%z").tzinfo if zone[:1] in ("+", "-") else None
                    if moment.replace(tzinfo=offset or timezone.utc) >= since:
                        return position
            position += len(line) + 1
    return position - 1 if is_timed else None


def said_of_build(run_id: str, log: Log) -> Notice:
    return Notice(f"Run '{run_id}' has no log yet. This is the log of its image build: {log.name}")


def last_lines(workspace: Workspace, run_id: str, name: str | None = None) -> tuple[str, bytes] | None:
    """Name and last 20 lines of the main log, or of the log *name*. None if there is no such log."""
    files = workspace.run_files(run_id)
    found = find_log(files, name)
    blob = files.stat(found.name) if found else None
    if found is None or blob is None:
        return None
    tail = b"".join(files.read(found.name, max(0, blob.size - TAIL_BYTES)))
    return found.name, b"".join(tail.splitlines(keepends=True)[-20:])
