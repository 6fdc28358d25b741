"""One try at a job: its folders, its processes, and what they leave."""

from __future__ import annotations

import shlex
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tests.servers.azureml.jobs import outputs
from tests.servers.azureml.jobs.code import code_place
from tests.servers.azureml.jobs.command import filled
from tests.servers.azureml.jobs.failures import JobFailed, exited
from tests.servers.azureml.jobs.fixed_folders import FixedFolders
from tests.servers.azureml.jobs.growing import GrowingLog
from tests.servers.azureml.jobs.identities import identity_variables
from tests.servers.azureml.jobs.inputs import LITERAL, Inputs
from tests.servers.azureml.jobs.manner import Manner
from tests.servers.azureml.jobs.places import Place
from tests.servers.azureml.jobs.processes import Process, end, end_strays, kill
from tests.servers.azureml.jobs.ranks import Rank, launcher_log, ranks_of
from tests.servers.azureml.jobs.sweeps.trials import sweep_variables
from tests.servers.azureml.jobs.transfers import fetch_folder, files_below, send_folder
from tests.servers.azureml.jobs.variables import context_variable, data_variables, legacy_data_variables, machine_variables
from tests.servers.azureml.principals import Principal
from tests.servers.azureml.state import Run

if TYPE_CHECKING:
    from tests.servers.azureml.seeding import StagedWorkspace

KEPT = ("outputs", "logs")
"""Folders below the working folder whose files are kept when a node is taken away, and are there again in the next try where the disk is restored."""
LOOK = 0.05  # seconds between two looks at the processes and their logs


class Attempt:
    """It has *folder* for itself. `lay` and `start` begin it, `watch` sees it end, `leave` sends what it left; `clear` is called in any case."""

    def __init__(self, staged: StagedWorkspace, run: Run, folder: Path, submitter: Principal | None, manner: Manner) -> None:
        assert run.job is not None, "a run without a job"
        self._staged, self._run, self._job = staged, run, run.job
        self._folder, self._submitter, self._manner = folder, submitter, manner
        self._ranks = ranks_of(self._job, manner.log_digits)
        self._nodes = sorted({rank.node for rank in self._ranks})
        self._fixed = FixedFolders(self._working_folder(0))
        self._inputs: dict[str, str] = {}
        self._outputs: dict[str, outputs.LaidOutput] = {}
        self._processes: list[Process] = []
        self._logs: dict[Path, GrowingLog] = {}

    def lay(self) -> None:
        """Code on every node, inputs, folders for outputs. Raises JobFailed for data that is not there."""
        workspace, data = self._staged.state, self._folder / "cap" / "data-capability" / "wd"
        for node in self._nodes:
            self._working_folder(node).mkdir(parents=True)
            if self._job.get("codeId"):
                fetch_folder(code_place(workspace, self._job["codeId"]), self._working_folder(node))
            self._restore(self._working_folder(node))
        for place in (data, self._home, self._temp):
            place.mkdir(parents=True)
        reader = Inputs(workspace, data, self._fixed)
        self._inputs = {name: reader.lay(name, given) for name, given in (self._job.get("inputs") or {}).items()}
        writer = outputs.Outputs(workspace, self._run, data, self._fixed)
        self._outputs = {name: writer.lay(name, given) for name, given in (self._job.get("outputs") or {}).items() if name != outputs.DEFAULT}
        for output in self._outputs.values() if self._run.attempt > 1 else ():
            output.restore()

    def _restore(self, folder: Path) -> None:
        """What earlier tries left in `outputs` and `logs` is there again, at the same paths, where the disk is not new."""
        for name in KEPT if self._is_restored and self._run.attempt > 1 else ():
            fetch_folder(self._artifact(name), folder / name)
            if not any((folder / name).iterdir()):
                (folder / name).rmdir()

    def start(self) -> None:
        """All processes, together."""
        shown = {name: output.shown for name, output in self._outputs.items()}
        command = filled(self._job["command"], self._run.run_id, self._inputs, shown)
        common = self._common_variables(shown)
        for rank in self._ranks:
            path = self._folder / rank.log
            working = self._working_folder(rank.node)
            here = {"AZUREML_CR_EXECUTION_WORKING_DIR_PATH": str(working), **rank.variables}
            self._processes.append(Process(command, working, common | here, path))
            self._follow(path, self._log_name(rank.log))
        if launcher_log(self._job):
            path = self._folder / launcher_log(self._job)
            path.write_text(f"{len(self._ranks)} processes on {len(self._nodes)} nodes\n", encoding="utf-8")
            self._follow(path, self._log_name(launcher_log(self._job)))

    def watch(self, interrupted: threading.Event, seconds: float | None) -> bool:
        """Send logs while they grow, until all processes have ended well (true), or *interrupted* is set or the time is over (false).

        Raises JobFailed as soon as one of them ended otherwise.
        """
        deadline = None if seconds is None else time.monotonic() + seconds
        while not interrupted.wait(LOOK):
            codes = [process.code for process in self._processes]
            self._push_logs()
            failing = next((place for place, code in enumerate(codes) if code), None)
            if failing is not None:
                raise self._exited(self._ranks[failing], codes[failing] or 0)
            if all(code == 0 for code in codes):
                return True
            if deadline is not None and time.monotonic() > deadline:
                return False
        return False

    def leave(self, *, succeeded: bool) -> None:
        """Send what it wrote, once nothing of it runs any more, and note its outputs."""
        self.stop()
        self._send(succeeded=succeeded)
        for output in self._outputs.values():
            outputs.record(self._staged.state, self._run, output)

    def lose(self) -> None:
        """Its node is taken away: the processes end without a signal that they could hear; what they wrote is kept."""
        kill(self._processes)
        self.stop()
        self._send(succeeded=False)

    def _send(self, *, succeeded: bool) -> None:
        self._push_logs()
        for node in self._nodes:
            send_folder(self._working_folder(node) / "outputs", self._artifact(self._outputs_kept_in))
        for output in self._outputs.values():
            output.send(succeeded=succeeded)

    def stop(self) -> None:
        """End whatever of it still runs."""
        end(self._processes)
        end_strays(f"AZ_BATCHAI_JOB_TEMP={self._temp}")

    def clear(self) -> None:
        """Leave no process and no folder outside of its own."""
        self.stop()
        self._fixed.remove()

    def _common_variables(self, shown: Mapping[str, str]) -> dict[str, str]:
        """Of all processes; the user's own come before the service's, which cannot be replaced."""
        service = self._staged.job_environment(self._run)
        kinds = {name: given["jobInputType"] for name, given in (self._job.get("inputs") or {}).items()}
        inputs = {name: path for name, path in self._inputs.items() if kinds[name] != LITERAL}
        is_legacy = self._run.definition is not None  # azureml-core's own
        data = legacy_data_variables(inputs, shown) if is_legacy else data_variables(inputs, shown, self._manner.data_names)
        return {
            **machine_variables(self._home, self._temp, self._manner.python),
            **{name: str(value) for name, value in (self._job.get("environmentVariables") or {}).items()},
            **service,
            **context_variable(self._staged.state, self._run, service["AZUREML_RUN_TOKEN"]),
            "AZUREML_CR_DATA_CAPABILITY_PATH": str(self._folder / "cap" / "data-capability" / "wd"),
            **data,
            **sweep_variables(self._staged.state, self._run, {**inputs, **shown}),
            **identity_variables(self._staged, self._job.get("identity"), self._submitter),
        }

    def _exited(self, rank: Rank, code: int) -> JobFailed:
        try:
            first = shlex.split(self._job["command"])[0]
        except (ValueError, IndexError):
            first = ""
        program = first if first[:1].isalpha() else "bash"
        return exited(program, code, self._log_name(rank.log), self._logs[self._folder / rank.log].last_lines())

    def _push_logs(self) -> None:
        for node in self._nodes:
            folder = self._working_folder(node)
            for path in files_below(folder / "logs"):
                self._follow(path, path.relative_to(folder).as_posix())
        for log in list(self._logs.values()):
            log.push()

    def _follow(self, path: Path, name: str) -> None:
        if path not in self._logs:
            self._logs[path] = GrowingLog(path, self._artifact(name), whole=self._manner.whole_logs)

    def _log_name(self, name: str) -> str:
        """Where the run has the log *name* of this try: in the place of the one before, or in a folder of its own."""
        if not self._manner.retry_logs or self._run.attempt == 1:
            return name
        return name.replace("user_logs/", f"user_logs/retry_{self._run.attempt - 1:03d}/")

    def _artifact(self, name: str) -> Place:
        return Place(self._staged.state.storage, "azureml", self._run.artifact_prefix + name)

    @property
    def _is_restored(self) -> bool:
        return self._manner.disk == "restored"

    @property
    def _outputs_kept_in(self) -> str:
        """Where the run has what this try writes to `outputs`: beside what is there, unless it began with that."""
        return "outputs" if self._is_restored or self._run.attempt == 1 else f"outputs/retry_{self._run.attempt - 1:03d}"

    def _working_folder(self, node: int) -> Path:
        return self._folder / (f"node_{node}" if node else "exe") / "wd"

    @property
    def _home(self) -> Path:
        return self._folder / "home"

    @property
    def _temp(self) -> Path:
        return self._folder / "tmp"
