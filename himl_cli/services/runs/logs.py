"""Reading the log of a run, also while it grows."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from typing import NamedTuple

from himl_cli.core.errors import HimlError, Interrupted, JobFailed, NotFound, ServiceFailed
from himl_cli.core.events import Notice, Notify, ignore
from himl_cli.core.runs import Run, RunStatus
from himl_cli.workspaces.base import BlobStore, Workspace
from himl_cli.workspaces.retry import OutageTolerance

SWEEP_LOG = "azureml-logs/hyperdrive.txt"
PIPELINE_LOG = "logs/azureml/executionlogs.txt"
USER_LOGS = "user_logs/"
MAIN_LOG = "user_logs/std_log.txt"
MAIN_NAMES = tuple(
    re.compile(name)
    for name in (r"std_log\.txt", r"std_log_process_0+\.txt", r"std_log\D*0*_worker\.txt", r"std_log\D*0*(_ps)?\.txt")
)
"""What the first rank's log is called below `user_logs/`, by the kind of job; the last one is what the vendor's client
streams."""
OLD_DRIVER = re.compile(r"azureml-logs/\d\d_driver_log([-_]\D*0+)?\.txt")
OF_TRY = re.compile(r"user_logs/(?:(?P<kind>re)?try_(?P<number>\d{1,9})/)?(?P<base>[^/]+)")
RANK_LOG = re.compile(r"std_log_process_(\d{1,9})\.txt")
LOG_FOLDERS = ("user_logs/", "logs/", "azureml-logs/", "system_logs/")
LOOKS = (0.05, 0.05)
"""Seconds between two looks at a run that is kept here: its output is to appear as it comes."""
GROWTH = 1.5
TAIL_BYTES = 64 * 1024


def read_log(
    workspace: Workspace, run_id: str, name: str | None = None, notify: Notify = ignore, *, attempt: int | None = None
) -> Iterator[bytes]:
    """The log called *name*, else the main one, of the try *attempt* (from 1), else of the last try that has it, piece
    by piece as it is now.

    *notify* hears that there are other tries. Raises NotFound naming the logs there are.
    """
    files = workspace.run_files(run_id)
    found = _find(files, name, attempt) or (_called(files, name) if attempt is None else None)
    if found is None:
        raise _no_log(files, workspace.run(run_id), name, attempt)
    if attempt is None and found.before:
        notify(
            Notice(
                f"This is the log of try {found.attempt}; that of the one before: himl runs logs {run_id} --try "
                f"{found.before}"
            )
        )
    return files.read(found.name)


def follow_log(
    workspace: Workspace,
    run_id: str,
    name: str | None = None,
    notify: Notify = ignore,
    *,
    start: int = 0,
    attempt: int | None = None,
) -> Iterator[bytes]:
    """As `read_log`, from the byte *start* on, and then what is added, until the run has ended; a log that is not there
    yet is waited for.

    Where another try of the job begins, its log comes next, unless *attempt* says which one is meant.

    Only new bytes are asked for. A service is asked seldom, and more seldom while nothing new comes; one that does not
    answer is borne with for ten minutes. *notify* hears of that, of tries, and of a run's state as long as a service
    has no log of it.
    """
    first_pause, longest_pause = workspace.home_of(run_id).poll_interval
    is_here = (first_pause, longest_pause) == LOOKS
    outage, pause = OutageTolerance(notify), first_pause
    files: BlobStore | None = None
    found: _Log | None = None
    status: RunStatus | None = None
    done, has_grown, was_running, is_requeued = start, False, False, False

    def new_pieces(files: BlobStore, log: _Log, *, is_another_try: bool = False) -> Iterator[bytes]:
        nonlocal found, done, has_grown, was_running, is_requeued
        if is_another_try:
            found, done, was_running, is_requeued = log, 0, False, False
            if not is_here:
                notify(Notice(f"Another try of run '{run_id}' has begun; its log: {log.name}"))
        with suppress(NotFound):  # another try is about to replace it
            for piece in files.read(log.name, done):
                done += len(piece)
                has_grown = True
                yield piece

    while status is None or not status.is_final:
        has_grown = False
        try:
            now = workspace.run(run_id).status  # asked before reading, so that no last bytes are missed
            files = workspace.run_files(run_id) if files is None else files
            if found is None:
                found = _find(files, name, attempt)
                if found is None and attempt is None and (status is None or now.is_final):
                    found = _called(files, name)
            if found is not None:
                ran_before, was_running = was_running, was_running or now is RunStatus.running
                if not is_requeued:
                    yield from new_pieces(files, found)
                if attempt is None and found.attempt and (now.is_final or not has_grown):
                    for later in _later_tries(files, found, name, done, is_requeued=is_requeued):
                        yield from new_pieces(files, later, is_another_try=True)
                if ran_before and not has_grown and now is RunStatus.queued:
                    is_requeued = True  # and its log is read to the end: what changes it belongs to another try
            elif now is not status and not now.is_final and not is_here:
                notify(Notice(f"Run '{run_id}' is {now.value.lower()}; it has no log yet."))
            status = now
            outage.succeeded()
        except ServiceFailed as err:
            outage.failed(err)
        pause = first_pause if has_grown else min(longest_pause, pause * GROWTH)
        if status is None or not status.is_final:
            time.sleep(pause)
    if found is None:
        raise _no_log(workspace.run_files(run_id), workspace.run(run_id), name, attempt)


def _later_tries(files: BlobStore, log: _Log, name: str | None, done: int, *, is_requeued: bool) -> list[_Log]:
    """The logs of tries that began since *log* was read up to *done*, each in a folder of its own or in the place of
    the one before."""
    sizes = {blob.name: blob.size for page in files.list(USER_LOGS) for blob in page}
    size = sizes.get(log.name, done)
    later = [log] if size < done or (is_requeued and size != done) else []
    for number, logs in sorted(_tries(sizes).items()):
        found = _of_try(logs, name or log.name, is_main=name is None)
        if found and number > log.attempt and "/" not in (name or ""):
            later.append(_Log(found, number))
    return later


def last_lines(
    workspace: Workspace, run_id: str, name: str | None = None, *, count: int = 20
) -> tuple[str, bytes] | None:
    """The log's name (the main one's, unless *name* says which) and its last *count* lines; None where there is
    none."""
    files = workspace.run_files(run_id)
    found = _find(files, name)
    blob = files.stat(found.name) if found else None
    if found is None or blob is None:
        return None
    tail = b"".join(files.read(found.name, max(0, blob.size - TAIL_BYTES)))
    return found.name, b"".join(tail.splitlines(keepends=True)[-count:])


@contextmanager
def watching(run_id: str) -> Iterator[None]:
    """Within it, Ctrl-C ends the watching and not the run. Raises Interrupted, which says so; failures of every kind
    say it too."""
    with naming(run_id):
        try:
            yield
        except KeyboardInterrupt as err:
            raise Interrupted(
                f"Stopped watching; run '{run_id}' goes on.", hint=f"To cancel it: himl runs cancel {run_id}"
            ) from err


@contextmanager
def naming(run_id: str) -> Iterator[None]:
    """Within it, what goes wrong with looking at the run says that the run does not end by that; what is said of the
    run itself stays as it is."""
    way_on = (
        f"Run '{run_id}' goes on, unless it has ended; to see it: himl runs show {run_id}, to cancel it: himl "
        f"runs cancel {run_id}"
    )
    try:
        yield
    except (JobFailed, NotFound, Interrupted):
        raise
    except HimlError as err:
        err.hint = f"{err.hint} {way_on}".strip()
        raise
    except Exception as err:
        err.__notes__ = [*getattr(err, "__notes__", ()), way_on]  # type: ignore[attr-defined]
        raise


class _Log(NamedTuple):
    """A log by its full name; `attempt` is the try that wrote it, from 1, `before` the one before that left logs; 0
    where there is none."""

    name: str
    attempt: int = 0
    before: int = 0


def _find(files: BlobStore, name: str | None, attempt: int | None = None) -> _Log | None:
    """The log that *name* says, None the main one. A name with a folder is that very log; any other is looked for in
    the last try first."""
    exact = name is not None and "/" in name and attempt is None
    if name is not None and exact and (found := _existing(files, name)):
        return found
    tries = _tries(blob.name for page in files.list(USER_LOGS) for blob in page)
    for number in sorted(tries, reverse=True) if attempt is None else [attempt]:
        found_name = _of_try(tries.get(number, {}), name or MAIN_LOG, is_main=name is None)
        if found_name:
            return _Log(found_name, number, max((each for each in tries if each < number), default=0))
    if attempt is not None or exact:
        return None
    return _existing(files, name) if name is not None else _other_main(files)


def _existing(files: BlobStore, name: str) -> _Log | None:
    return next(
        (_Log(each) for each in (name, *(folder + name for folder in LOG_FOLDERS)) if files.stat(each) is not None),
        None,
    )


def _other_main(files: BlobStore) -> _Log | None:
    """The main log of a run that has none in `user_logs/`: that of an older driver, a sweep or a pipeline."""
    old = [blob.name for page in files.list("azureml-logs/") for blob in page]
    drivers = sorted(name for name in old if OLD_DRIVER.fullmatch(name))
    if drivers or SWEEP_LOG in old:
        return _Log(drivers[-1] if drivers else SWEEP_LOG)
    return _existing(files, "std_log_process_0.txt") or (
        _Log(PIPELINE_LOG) if files.stat(PIPELINE_LOG) is not None else None
    )


def _tries(names: Iterable[str]) -> dict[int, dict[str, str]]:
    """The logs below `user_logs/` of each try of the job, counted from 1, by their base names.

    Azure ML keeps those of later tries in `retry_001`, …, or has the last try's only; a run here, those of earlier
    tries in `try_1`, ….
    """
    told = [found for found in map(OF_TRY.fullmatch, names) if found]
    last_here = 1 + max((int(each["number"]) for each in told if each["number"] and not each["kind"]), default=0)
    tries: dict[int, dict[str, str]] = {}
    for each in told:
        number = last_here if each["number"] is None else int(each["number"]) + (1 if each["kind"] else 0)
        tries.setdefault(number, {})[each["base"]] = each[0]
    return tries


def _of_try(logs: Mapping[str, str], name: str, *, is_main: bool) -> str | None:
    """Of the *logs* of one try that which *name* means; the numbers of ranks may be padded with zeros, as the service
    does where ranks are many."""
    base = name.removeprefix(USER_LOGS)
    rank = RANK_LOG.fullmatch(base)
    named = re.compile(rf"std_log_process_0*{int(rank[1])}\.txt" if rank else re.escape(base))
    patterns = MAIN_NAMES if is_main else (named,)
    return next((logs[each] for pattern in patterns for each in sorted(logs) if pattern.fullmatch(each)), None)


def _called(files: BlobStore, name: str | None) -> _Log | None:
    """The one log in whatever folder whose last part is *name*; None where there is none, or several."""
    if not name:
        return None
    alike = [log for log in _logs(files) if log.endswith(f"/{name}")]
    return _Log(alike[0]) if len(alike) == 1 else None


def _logs(files: BlobStore) -> list[str]:
    return [blob.name for folder in LOG_FOLDERS for page in files.list(folder) for blob in page]


def _no_log(files: BlobStore, run: Run, name: str | None, attempt: int | None) -> NotFound:
    there = _logs(files)
    if not there and name is None:
        if run.status.is_final:
            return NotFound(f"Run '{run.id}' ended without a log.", hint=f"See himl runs show {run.id}")
        return NotFound(f"Run '{run.id}' has no log yet.", hint=f"To wait for it: himl runs logs {run.id} --follow")
    what = f"log '{name}'" if name is not None else "main log"
    tries = sorted(_tries(there))
    if attempt is not None and attempt not in tries:
        told = f"There are logs of: {', '.join(map(str, tries))}." if tries else "Leave --try out."
        return NotFound(f"Run '{run.id}' has no log of try {attempt}.", hint=told)
    alike = [log for log in there if name and log.endswith(f"/{name}")]
    near = alike[:5] or get_close_matches(name or "", there, n=3, cutoff=0.4) or there[:5]
    of_try = f" of try {attempt}" if attempt is not None else ""
    return NotFound(
        f"Run '{run.id}' has no {what}{of_try}.", hint=f"There are: {', '.join(near)}." if near else "It has no logs."
    )
