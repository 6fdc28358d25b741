"""Where the ranks of one node meet over a call that each of them makes: files in himl's cache."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from himl_cli.core.processes import is_held
from himl_cli.services.transfer.disk import explained
from himl_cli.services.transfer.launch import LocalRank
from himl_cli.services.transfer.processes import Process, now
from himl_cli.services.transfer.state import short_hash
from himl_cli.services.user_cache import cache_of

IDLE_SECONDS = 3600.0


class Meeting:
    """The calls with one key that the ranks of one launch make for a folder, numbered from 1 as rank 0 makes them.

        0-N         rank 0 makes call N: when it was last there, and what process the launcher started as rank 0
        lock-N      held by rank 0 until it is done
        outcome-N   how that ended
        K-N         rank K goes along: the same of it

    Raises BadUsage for a user without a home, DiskFailed where the files cannot be written.
    """

    def __init__(self, folder: Path, key: str, me: LocalRank) -> None:
        self._launches = cache_of("ranks", "to meet other ranks in", "")
        self._launch = self._launches / me.launch
        self._folder = self._launch / short_hash(f"{os.path.realpath(folder)}\n{key}")
        self.me = me
        with self._writing():
            self._folder.mkdir(parents=True, exist_ok=True)

    def next_number(self) -> int:
        """That of the call that nobody has begun."""
        return max(self._numbers(), default=0) + 1

    @contextlib.contextmanager
    def begun(self, number: int) -> Iterator[bool]:
        """Call *number*, for as long as this process acts, where nobody else began it. A lock that is free after the
        beginning means the end."""
        from filelock import FileLock

        with FileLock(self._folder / f"lock-{number}"):
            yield self._enter(0, number)

    def join(self) -> int | None:
        """The first call of rank 0 that this rank has not made yet and that somebody was still at when this rank was
        started.

        What was over before is of an earlier launch: one launcher may start ranks twice. None where rank 0 has made no
        such call.
        """
        for number in self._free():
            if self._was_on(number) and self._enter(self.me.rank, number):
                return number
        return None

    def last_before(self) -> float | None:
        """When the last call was over that this rank might have joined had it been started earlier; None where there is
        none."""
        return max(
            (moment for number in self._free() if not self._was_on(number) for moment, _ in self._seen_at(number)),
            default=None,
        )

    def is_over(self, number: int) -> bool:
        return not is_held(self._folder / f"lock-{number}")

    def tell(self, number: int, outcome: dict[str, Any]) -> None:
        """Write the outcome so that it is there whole or not at all."""
        part = self._folder / f"outcome-{number}.part"
        with self._writing("Cannot tell the other ranks of this node how it ended"):
            self._folder.mkdir(
                parents=True, exist_ok=True
            )  # another launch may have taken it for one that nobody needs
            part.write_text(json.dumps(outcome))
            os.replace(part, self._folder / f"outcome-{number}")

    def outcome(self, number: int) -> dict[str, Any] | None:
        """What was told of call *number*; None as long as nothing was (or, on Windows, is just being told)."""
        try:
            outcome: dict[str, Any] = json.loads((self._folder / f"outcome-{number}").read_text())
        except OSError:
            return None
        return outcome

    def forget(self, number: int) -> None:
        """Remove the outcome that an earlier launch of this name may have left."""
        (self._folder / f"outcome-{number}").unlink(missing_ok=True)

    def sign(self, number: int, *, rank: int | None = None) -> None:
        """Say that this process, as *rank* (default: its own), is still there at call *number*."""
        first = self.me.first
        with self._writing():
            text = f"{now():.3f} {first.pid} {first.ticks}" if first else f"{now():.3f}"
            (self._folder / f"{self.me.rank if rank is None else rank}-{number}").write_text(text)

    def is_known_elsewhere(self) -> bool:
        """Whether a rank 0 of another launch made such a call."""
        return any(path.parent.parent != self._launch for path in self._launches.glob(f"*/{self._folder.name}/0-*"))

    def clean_up(self) -> None:
        """Remove what launches left that nothing has touched for an hour, unless one of their ranks is still at
        work."""
        for launch in self._launches.iterdir():
            try:
                is_idle = launch != self._launch and time.time() - _last_touched(launch) > IDLE_SECONDS
                if is_idle and not any(is_held(lock) for lock in launch.glob("*/lock-*")):
                    shutil.rmtree(launch, ignore_errors=True)
            except OSError:  # another node cleans up at the same time
                continue

    def _numbers(self) -> list[int]:
        return sorted(int(path.name[2:]) for path in self._folder.glob("0-*"))

    def _free(self) -> list[int]:
        """Numbers of the calls that this rank has not joined."""
        return [number for number in self._numbers() if not (self._folder / f"{self.me.rank}-{number}").exists()]

    def _was_on(self, number: int) -> bool:
        """Whether call *number* was not over for all when this rank was started, or the launcher still has to do with
        one that made it."""
        if not self.is_over(number):
            return True
        seen = self._seen_at(number)
        return any(moment > self.me.began for moment, _ in seen) or any(
            process is not None and process not in self.me.line and process.is_there for _, process in seen
        )

    def _seen_at(self, number: int) -> list[tuple[float, Process | None]]:
        """When the ranks that made call *number* were last there, and what the launcher had started as them."""
        return [_signed(path) for path in self._folder.glob(f"[0-9]*-{number}")]

    def _enter(self, rank: int, number: int) -> bool:
        """Whether call *number* was free for *rank*, which makes it from here on."""
        with self._writing():
            try:
                (self._folder / f"{rank}-{number}").open("x").close()
            except FileExistsError:
                return False
        self.sign(number, rank=rank)
        return True

    @contextlib.contextmanager
    def _writing(self, what: str = "") -> Iterator[None]:
        try:
            yield
        except OSError as err:
            raise explained(err, what or f"Cannot write to himl's cache '{self._launches}'") from err


def _signed(path: Path) -> tuple[float, Process | None]:
    try:
        moment, *process = path.read_text().split()
        return float(moment), Process(int(process[0]), int(process[1]), 0) if process else None
    except (OSError, ValueError):  # removed, or just being written
        return 0.0, None


def _last_touched(launch: Path) -> float:
    return max((path.stat().st_mtime for path in (launch, *launch.rglob("*"))), default=0.0)
