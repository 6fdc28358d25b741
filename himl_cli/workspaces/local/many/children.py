"""The jobs that a keeper has started: each has a supervisor of its own, which outlives the keeper if need be."""

from __future__ import annotations

import queue
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path

from himl_cli.core.errors import DiskFailed, HimlError
from himl_cli.workspaces.local.disk_errors import explain_disk_error
from himl_cli.workspaces.local.keeping import BUSY
from himl_cli.workspaces.local.order import Order
from himl_cli.workspaces.local.run_folder import RunFolder
from himl_cli.workspaces.local.starting import SUPERVISOR, events_of, spawn, trouble_in

SECONDS_BETWEEN_LOOKS = 0.1


class Children:
    """Those that are at work, by run id."""

    def __init__(self, runs: Path) -> None:
        self._runs = runs
        self._ended: queue.Queue[tuple[str, str]] = queue.Queue()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._at_work: set[str] = set()

    def __len__(self) -> int:
        return len(self._at_work)

    def start(self, order: Order) -> None:
        """Start the job; what goes wrong with that is told when it has ended."""
        folder = RunFolder(Path(order.run_folder))
        self._at_work.add(folder.run_id)
        try:
            folder.path.mkdir(parents=True, exist_ok=True)
            if not order.again:
                folder.let_it_run()
        except OSError as err:
            self._ended.put((folder.run_id, str(explain_disk_error(err, "Cannot start the job", folder.path))))
            return
        self._watch(folder, order)

    def adopt(self, run_id: str) -> None:
        """Watch a job that an earlier keeper started, and whose supervisor lives."""
        self._at_work.add(run_id)
        self._watch(RunFolder(self._runs / run_id), None)

    def refuse(self, run_id: str, trouble: str) -> None:
        """A job that cannot even be ordered: it ends as one that could not be started."""
        self._at_work.add(run_id)
        self._ended.put((run_id, trouble))

    def ended(self, seconds: float) -> tuple[str, str] | None:
        """A job that has ended, waited for so long: its run's id, and what kept it from being recorded; None where none
        has."""
        try:
            run_id, trouble = self._ended.get(timeout=seconds)
        except queue.Empty:
            return None
        self._at_work.discard(run_id)
        self._processes.pop(run_id, None)
        return run_id, trouble

    def put_back(self, run_id: str, trouble: str) -> None:
        """The end of a job, to be told once more."""
        self._at_work.add(run_id)
        self._ended.put((run_id, trouble))

    def cancel(self, run_id: str, why: str) -> HimlError | None:
        """Ask the job to stop; why that failed. To be called again and again to its end: a job that is just starting
        may miss it."""
        folder = RunFolder(self._runs / run_id)
        if folder.is_cancel_asked():  # the reason beside it may be just being read
            return None
        try:
            folder.ask_to_cancel(why)
        except DiskFailed as err:
            return err
        return None

    def cancel_all(self, why: str) -> HimlError | None:
        """Ask all to stop, as `cancel` does; the first that failed."""
        troubles = [self.cancel(run_id, why) for run_id in self._at_work]
        return next(filter(None, troubles), None)

    def terminate_all(self) -> HimlError | None:
        """Pass the order to terminate on, as `cancel` does; those that an earlier keeper started are asked to stop,
        since only their lock is known."""
        troubles: list[HimlError | None] = []
        for run_id in self._at_work:
            process = self._processes.get(run_id)
            if process is None:
                troubles.append(self.cancel(run_id, "the keeper of its parent was told to terminate"))
            elif process.poll() is None:
                process.terminate()
        return next(filter(None, troubles), None)

    def _watch(self, folder: RunFolder, order: Order | None) -> None:
        threading.Thread(target=self._live, args=(folder, order), daemon=True).start()

    def _live(self, folder: RunFolder, order: Order | None) -> None:
        trouble = ""
        try:
            is_kept_by_another = order is None or self._run(folder, order.to_json())
        except (OSError, HimlError, ValueError) as err:
            is_kept_by_another, trouble = False, str(err)
        while is_kept_by_another and folder.is_supervised():
            time.sleep(SECONDS_BETWEEN_LOOKS)
        self._ended.put((folder.run_id, trouble))

    def _run(self, folder: RunFolder, order: str) -> bool:
        """Start it and wait for its end. Whether somebody else keeps the run. Raises OSError, HimlError where there is
        no run."""
        process = spawn(SUPERVISOR, order, folder)
        self._processes[folder.run_id] = process
        try:
            events = list(events_of(process))
        finally:  # as long as it lives the job is at work, whatever it says
            process.wait()
            with suppress(OSError):
                assert process.stdout is not None
                process.stdout.close()
        if events and events[-1].get("why") == BUSY:
            return True
        if (trouble := trouble_in(events, folder)) is not None:
            raise trouble
        return False
