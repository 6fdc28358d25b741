"""When a job wrote its logs: their sizes over time, which its supervisor notes while it waits for the job."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from itertools import takewhile
from pathlib import Path

from himl_cli.core.patterns import lazy_pattern
from himl_cli.workspaces.local.run_folder import RECORD, RunFolder
from himl_cli.workspaces.local.staging import TRIES

LOG_TIMES = "log_times"  # lines `ATTEMPT LOG MILLISECONDS SIZE`, for any number of attempts
LEAST_GAP, LONGEST_GAP = 1.0, 10.0  # seconds between two notes, in the first hour and after ten hours
NAME = lazy_pattern(r"user_logs/(?:try_(?P<attempt>\d{1,9})/)?(?P<log>[^/]+)")
AGE_A_GAP = 3600  # the gap is at least this part of the job's age, so that days of output take few notes


class LogTimes:
    """Notes the sizes of the *logs* of an attempt, at most once in *gap* seconds. A log that does not grow takes one
    call of the file system each time, and no note."""

    def __init__(self, folder: RunFolder, logs: Sequence[Path], attempt: int, gap: float = LEAST_GAP) -> None:
        self._path, self._attempt, self._gap = folder.path / LOG_TIMES, attempt, gap
        self._sizes = dict.fromkeys(logs, -1)
        self._begin = self._noted = time.monotonic()
        self.note(now=True)

    def note(self, *, now: bool = False) -> None:
        """Note the sizes that have changed, if it is time, or *now*."""
        moment = time.monotonic()
        gap = min(LONGEST_GAP, max(self._gap, (moment - self._begin) / AGE_A_GAP))
        if not now and moment - self._noted < gap:
            return
        self._noted, lines = moment, ""
        with suppress(OSError):  # on a full disk, the times of some lines stay unknown
            for log, before in self._sizes.items():
                if (size := log.stat().st_size) != before:
                    self._sizes[log] = size
                    lines += f"{self._attempt} {log.name} {math.ceil(time.time() * 1000)} {size}\n"
            if lines:
                with self._path.open("a", encoding="utf-8") as stream:
                    stream.write(lines)


def log_position(folder: RunFolder, name: str, since: datetime) -> int | None:
    """The position in the log *name* before which everything was written before *since*. None if no size of it is
    noted. Raises DiskFailed."""
    if (found := NAME.fullmatch(name)) is None:
        return None
    attempt = found["attempt"] or str(folder.read(RECORD).get(TRIES, 0))
    notes = list[tuple[int, int]]()
    with suppress(OSError), (folder.path / LOG_TIMES).open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            with suppress(ValueError):  # a part of a line, after the supervisor was killed
                of_attempt, log, moment, size = line.split(" ")
                if (of_attempt, log) == (attempt, found["log"]):
                    notes.append((int(moment), int(size)))
    limit = since.timestamp() * 1000
    before = [*takewhile(lambda note: note[0] <= limit, notes)]  # a clock may have been set back
    # A log that became smaller was rewritten since
    return min(size for _, size in notes[max(0, len(before) - 1) :]) if before else 0 if notes else None
