"""Runs the jobs of one workspace: each is set up and executed in a folder, and its logs and outputs are uploaded to
storage.
"""

from __future__ import annotations

import shlex
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from tests.azureml_double.jobs import processes
from tests.azureml_double.jobs.command import Manner, filled, seconds_of
from tests.azureml_double.jobs.data import LITERAL, GrowingLog, LaidOutput, Layer, Place, code_place, files_below
from tests.azureml_double.jobs.pipelines import PipelineCourse
from tests.azureml_double.jobs.processes import Course, JobCanceled, JobFailed, JobPreempted
from tests.azureml_double.jobs.records import job_type_of, sweep_variables
from tests.azureml_double.jobs.sweeps import SweepCourse
from tests.azureml_double.state import Principal, Run

if TYPE_CHECKING:
    from tests.azureml_double.seeding import StagedWorkspace

# The files of these folders are uploaded when a node is preempted, and the next attempt has them if the disk
# is restored.
KEPT = ("outputs", "logs")
IMAGE_LOG = "azureml-logs/20_image_build_log.txt"
LOOK = 0.02  # seconds between two checks of the processes and their logs


class Attempt:
    """One attempt of a job: its folders, its processes and its results. The attempt is the only user of *folder*.

    `lay` and `start` begin the attempt, `watch` waits for its end, and `leave` uploads its results. Always call
    `clear`.
    """

    def __init__(
        self, staged: StagedWorkspace, run: Run, folder: Path, submitter: Principal | None, manner: Manner
    ) -> None:
        assert run.job is not None, "a run without a job"
        self._staged, self._run, self._job = staged, run, run.job
        self._folder, self._submitter, self._manner = folder, submitter, manner
        self._data, self._home, self._temp = folder / "cap" / "data-capability" / "wd", folder / "home", folder / "tmp"
        self._ranks = processes.ranks_of(self._job)
        self._working = {
            rank.node: folder / (f"node_{rank.node}" if rank.node else "exe") / "wd" for rank in self._ranks
        }
        self._layer = Layer(staged.state, self._data, self._working[0])
        self._inputs: dict[str, str] = {}
        self._outputs: dict[str, LaidOutput] = {}
        self._processes: list[processes.Process] = []
        self._logs: dict[Path, GrowingLog] = {}
        self._is_stopped = False

    def lay(self) -> None:
        is_again = self._run.attempt > 1
        for working in self._working.values():
            working.mkdir(parents=True)
            if self._job.get("codeId"):
                code_place(self._staged.state, self._job["codeId"]).fetch_folder(working)
            for name in KEPT if self._is_restored and is_again else ():
                if self._artifact(name).fetch_folder(working / name) == 0:
                    (working / name).rmdir()
        for folder in (self._data, self._home, self._temp):
            folder.mkdir(parents=True)
        self._inputs = {name: self._layer.input(name, given) for name, given in (self._job.get("inputs") or {}).items()}
        self._outputs = {
            name: self._layer.output(self._run, name, given)
            for name, given in (self._job.get("outputs") or {}).items()
            if name != "default"
        }
        for output in self._outputs.values() if is_again else ():
            output.restore()

    def start(self) -> None:
        shown = {name: output.shown for name, output in self._outputs.items()}
        command = filled(self._job["command"], self._run.run_id, self._inputs, shown)
        common = self._common_variables(shown)
        for rank in self._ranks:
            working = self._working[rank.node]
            own = {"AZUREML_CR_EXECUTION_WORKING_DIR_PATH": str(working), **rank.variables}
            self._processes.append(processes.Process(command, working, common | own, self._folder / rank.log))
            self._follow(self._folder / rank.log, self._log_name(rank.log))
        if (self._job.get("distribution") or {}).get("distributionType") == "Mpi":
            log = "user_logs/mpi_log.txt"
            (self._folder / log).write_text(
                f"{len(self._ranks)} processes on {len(self._working)} nodes\n", encoding="utf-8"
            )
            self._follow(self._folder / log, self._log_name(log))

    def watch(self, interrupted: threading.Event, seconds: float | None) -> bool:
        """Upload logs as they grow, until all processes have succeeded (true), or until *interrupted* is set or the
        time limit is reached (false). Raises JobFailed as soon as one process fails.
        """
        deadline = None if seconds is None else time.monotonic() + seconds
        while not interrupted.wait(LOOK):
            codes = [process.code for process in self._processes]
            self._push_logs()
            for rank, code in zip(self._ranks, codes, strict=True):
                if code:
                    raise self._exited(rank.log, code)
            if all(code == 0 for code in codes):
                return True
            if deadline is not None and time.monotonic() > deadline:
                return False
        return False

    def leave(self, *, succeeded: bool) -> None:
        self._send(succeeded=succeeded)
        for output in self._outputs.values():
            output.record(self._staged.state, self._run)

    def lose(self) -> None:
        processes.kill(self._processes)
        self._send(succeeded=False)

    def _send(self, *, succeeded: bool) -> None:
        self.stop()
        self._push_logs()
        # The results of an earlier attempt stay in storage.
        is_beside = self._run.attempt > 1 and not self._is_restored
        for working in self._working.values():
            self._artifact(f"outputs/retry_{self._run.attempt - 1:03d}" if is_beside else "outputs").send_folder(
                working / "outputs"
            )
        for output in self._outputs.values():
            output.send(succeeded=succeeded)

    def stop(self) -> None:
        if not self._is_stopped:
            processes.end(self._processes)
            processes.end_strays(f"AZ_BATCHAI_JOB_TEMP={self._temp}")
        self._is_stopped = True

    def clear(self) -> None:
        self.stop()
        self._layer.remove()

    def _common_variables(self, shown: Mapping[str, str]) -> dict[str, str]:
        """The variables of all processes. The service's variables override the user's."""
        service = self._staged.job_environment(self._run)
        kinds = {name: given["jobInputType"] for name, given in (self._job.get("inputs") or {}).items()}
        inputs = {name: path for name, path in self._inputs.items() if kinds[name] != LITERAL}
        own = {name: str(value) for name, value in (self._job.get("environmentVariables") or {}).items()}
        machine = processes.machine_variables(self._home, self._temp, self._manner.python)
        context = processes.context_variable(self._staged.state, self._run, service["AZUREML_RUN_TOKEN"])
        data = processes.data_variables(inputs, shown, is_legacy=self._run.definition is not None) | {
            "AZUREML_CR_DATA_CAPABILITY_PATH": str(self._data)
        }
        identity = processes.identity_variables(self._staged, self._job.get("identity"), self._submitter)
        return {
            **machine,
            **own,
            **service,
            **context,
            **data,
            **sweep_variables(self._staged.state, self._run, {**inputs, **shown}),
            **identity,
        }

    def _exited(self, log: str, code: int) -> JobFailed:
        try:
            first = shlex.split(self._job["command"])[0]
        except (ValueError, IndexError):
            first = ""
        program, text = first if first[:1].isalpha() else "bash", self._logs[self._folder / log].last_lines()
        where = f"Please check log file '{self._log_name(log)}' for error details."
        return JobFailed(
            f"Execution failed. User process '{program}' exited with status code {code}. {where} Error: {text}"
        )

    def _push_logs(self) -> None:
        for working in self._working.values():
            for path in files_below(working / "logs"):
                self._follow(path, path.relative_to(working).as_posix())
        for log in list(self._logs.values()):
            log.push()

    def _follow(self, path: Path, name: str) -> None:
        if path not in self._logs:
            self._logs[path] = GrowingLog(path, self._artifact(name), whole=self._manner.whole_logs)

    def _log_name(self, name: str) -> str:
        """The path of the log *name* of this attempt: the path of the previous attempt's log, or a path in a separate
        folder.
        """
        if not self._manner.retry_logs or self._run.attempt == 1:
            return name
        return name.replace("user_logs/", f"user_logs/retry_{self._run.attempt - 1:03d}/")

    def _artifact(self, name: str) -> Place:
        return Place(self._staged.state.storage, "azureml", self._run.artifact_prefix + name)

    @property
    def _is_restored(self) -> bool:
        return self._manner.disk == "restored"


class CommandCourse(Course):
    def __init__(self, runner: JobRunner, run: Run, submitter: Principal | None) -> None:
        super().__init__(runner.staged, run, submitter)
        self._manner = runner.manner
        self._interrupted = threading.Event()

    def cancel(self) -> None:
        super().cancel()
        if self._canceled.is_set():
            self._interrupted.set()
            self._released.set()

    def preempt(self) -> None:
        if self._run.status == "Running":
            self._interrupted.set()

    def _go(self) -> None:
        try:
            while True:
                try:
                    self._try()
                    self._enter("Completed")
                    return
                except JobPreempted:
                    self._run.attempt += 1
        except JobCanceled:
            with self._turn:
                self._run.cancel()
        except JobFailed as e:
            self._end("Failed", e)

    def _try(self) -> None:
        self._enter("Preparing")
        if self._manner.image_log and self._run.attempt == 1:
            self._build_image()
        self._enter("Queued")
        with tempfile.TemporaryDirectory(prefix="himl-azureml-job-", ignore_cleanup_errors=True) as folder:
            attempt = Attempt(self._staged, self._run, Path(folder).resolve(), self._submitter, self._manner)
            try:
                self._enter("Running")
                self._run.properties |= {
                    "ProcessInfoFile": "azureml-logs/process_info.json",
                    "ProcessStatusFile": "azureml-logs/process_status.json",
                }
                attempt.lay()
                attempt.start()
                self._staged.start_services(self._run, self._manner.service_status)
                self._watch(attempt)
            finally:
                attempt.clear()

    def _build_image(self) -> None:
        self._staged.append_log(self._run, self._manner.image_log, name=IMAGE_LOG)
        if self._manner.image_fails:
            raise JobFailed(
                f"Image build failed. For more details, check log file {IMAGE_LOG}.",
                "ImageBuildFailure",
                "environment-management",
            )

    def _watch(self, attempt: Attempt) -> None:
        timeout = (self._job.get("limits") or {}).get("timeout")
        limit = seconds_of(timeout) if timeout else None
        real = None if limit is None else limit * self._manner.minute / 60
        try:
            ended = attempt.watch(self._interrupted, real)
        except JobFailed:
            self._finalize(attempt, succeeded=False)
            raise
        if ended:
            self._finalize(attempt, succeeded=True)
            return
        if self._interrupted.is_set() and not self._canceled.is_set():
            self._interrupted.clear()
            attempt.lose()
            raise JobPreempted
        attempt.leave(succeeded=False)
        if limit and real and not self._canceled.is_set() and self._run.started:
            # The record shows the full time limit as the duration.
            self._run.started -= timedelta(seconds=limit - real)
        raise JobCanceled

    def _finalize(self, attempt: Attempt, *, succeeded: bool) -> None:
        attempt.stop()
        self._enter("Finalizing")
        attempt.leave(succeeded=succeeded)

    def _enter(self, status: str) -> None:
        with self._turn:
            if self._canceled.is_set():
                raise JobCanceled
            self._run.move(status)
        if status == "Queued" and self._manner.hold:
            self._released.wait()
            if self._canceled.is_set():
                raise JobCanceled


class JobRunner:
    def __init__(self, staged: StagedWorkspace, manner: Manner) -> None:
        self.staged, self.manner = staged, manner
        self._courses: dict[str, Course] = {}
        self._guard = threading.Lock()
        self._is_closed = False
        staged.state.jobs = self

    def submit(self, run: Run, submitter: Principal | None) -> None:
        course = KINDS[job_type_of(run)](self, run, submitter)
        with self._guard:
            if not self._is_closed:
                self._courses[run.run_id] = course
                course.begin()
                return
        run.cancel()

    def cancel(self, run: Run) -> bool:
        course = self._courses.get(run.run_id)
        if course is not None:
            course.cancel()
        return course is not None

    def release(self, run_id: str = "") -> None:
        for course in [self._courses[run_id]] if run_id else list(self._courses.values()):
            course.release()

    def preempt(self, run_id: str) -> None:
        self._courses[run_id].preempt()

    def close(self) -> None:
        if self.staged.state.jobs is self:
            self.staged.state.jobs = None
        with self._guard:
            self._is_closed = True
            courses = list(self._courses.values())
        for course in courses:
            course.release()
            course.cancel()
        for course in courses:
            course.join()

    def __enter__(self) -> JobRunner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


KINDS: Mapping[str, Callable[[JobRunner, Run, Principal | None], Course]] = {
    "Command": CommandCourse,
    "Sweep": SweepCourse,
    "Pipeline": PipelineCourse,
}
