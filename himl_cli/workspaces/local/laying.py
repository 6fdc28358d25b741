"""The files of a job: laid before its script starts, kept after it, and found again by another try of the same job."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from himl_cli.workspaces.local.job_form import kept_form
from himl_cli.workspaces.local.kept_files import (
    Stamp,
    bring_file,
    keep_changed,
    lay_snapshot,
    make_kept_folders,
    remove_if_empty,
    stamps,
)
from himl_cli.workspaces.local.order import Order
from himl_cli.workspaces.local.run_folder import RunFolder

LAID, TRIES = "laid", "tries"


class JobFiles:
    """`cwd` is where the script runs."""

    def __init__(self, order: Order, folder: RunFolder) -> None:
        self._order = order
        self._spec = order.spec
        self._folder = folder
        self._before: dict[str, Stamp] = {}
        self._made: list[Path] = []
        self.cwd = self._spec.snapshot.root if self._spec.in_place else folder.code

    def lay(self, *, is_stopped: Callable[[], bool]) -> None:
        """Lay the snapshot and make the folders; for another try, those of the earlier ones stay. Raises OSError,
        Stopped."""
        known = self._folder.read_record() if self._order.again else {}
        tries = known.get(TRIES, 0)
        if known:
            self._put_logs_away(tries)
        self._folder.user_logs.mkdir(exist_ok=self._order.again)
        for log in self.logs():
            log.touch()
        if not self._spec.parent:
            self._folder.write_plan({"job": kept_form(self._spec)})
        for path in self._order.outputs.values():
            Path(path).mkdir(parents=True, exist_ok=True)
        self._note(tries, is_laid=known.get(LAID, False))
        if self._spec.in_place:
            self._folder.code.mkdir(exist_ok=self._order.again)
            self._made = make_kept_folders(self.cwd)
            self._before = stamps(self.cwd)
        elif not known.get(LAID):
            self._lay_snapshot(is_stopped)
        self._note(tries + 1, is_laid=True)

    def logs(self) -> list[Path]:
        """The log of each rank."""
        if self._spec.processes is None or self._spec.processes == 1:
            return [self._folder.user_logs / "std_log.txt"]
        return [self._folder.user_logs / f"std_log_process_{number}.txt" for number in range(self._spec.processes)]

    def keep(self) -> None:
        """Of a job that ran in place, copy what it wrote to the run's folder. Raises OSError."""
        if self._spec.in_place:
            keep_changed(self.cwd, self._before, self._folder.code)
            remove_if_empty(self._made)

    def _lay_snapshot(self, is_stopped: Callable[[], bool]) -> None:
        with suppress(FileNotFoundError):
            shutil.rmtree(self._folder.code)  # what an earlier try was laying when it was killed
        self._folder.code.mkdir()
        lay_snapshot(self._spec.snapshot, self._folder.code, is_stopped=is_stopped)
        make_kept_folders(self._folder.code)
        for name, source in self._spec.brought.items():
            bring_file(Path(source), self._folder.code / name, is_stopped=is_stopped)

    def _note(self, tries: int, *, is_laid: bool) -> None:
        facts = {
            "inputs": dict(self._order.inputs),
            "outputs": dict(self._order.outputs),
            "python": self._spec.python,
            "in_place": self._spec.in_place,
        }
        self._folder.write_record({**facts, LAID: is_laid, TRIES: tries})

    def _put_logs_away(self, tries: int) -> None:
        """Whoever follows this try's log is not to see the earlier one's first."""
        kept = self._folder.user_logs / f"try_{tries}"
        logs = [log for log in self.logs() if log.exists() and log.stat().st_size]
        if logs:
            kept.mkdir(exist_ok=True)
        for log in logs:
            with suppress(OSError):  # somebody reads it, on Windows: this try's lines then come behind the earlier ones
                log.replace(kept / log.name)
