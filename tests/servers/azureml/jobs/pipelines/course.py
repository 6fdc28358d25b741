"""The course of a pipeline: its steps are jobs of their own, each started once what it reads is there."""

from __future__ import annotations

import threading
import traceback
from typing import TYPE_CHECKING

from tests.servers.azureml.answers import time_text
from tests.servers.azureml.history_runs import move
from tests.servers.azureml.jobs.failures import JobFailed
from tests.servers.azureml.jobs.pipelines.graph import Node, nodes_of
from tests.servers.azureml.jobs.pipelines.records import earlier_step, step_record
from tests.servers.azureml.jobs.pipelines.steps import default_place, job_of
from tests.servers.azureml.log import Seen
from tests.servers.azureml.principals import Principal
from tests.servers.azureml.state import Output, Run, now

if TYPE_CHECKING:
    from tests.servers.azureml.jobs.runner import JobRunner

LOOK = 0.02  # seconds between two looks at the steps
LOG = "logs/azureml/executionlogs.txt"


class PipelineCourse:
    """The pipeline *run*, sent by *submitter*; *runner* runs its steps."""

    def __init__(self, runner: JobRunner, run: Run, submitter: Principal | None) -> None:
        self._runner, self._run, self._submitter = runner, run, submitter
        self._workspace = runner.staged.state
        self._ended = threading.Event()
        self._turn = threading.Lock()
        self._canceled = False
        self._steps: dict[str, Run] = {}
        self._thread = threading.Thread(target=self._live, name=f"pipeline {run.run_id}", daemon=True)

    def begin(self) -> None:
        settings = (self._run.job or {}).get("settings") or {}
        continues = bool(settings.get("continue_on_step_failure"))
        self._run.properties |= {
            "azureml.DevPlatv2": "true",
            "azureml.runsource": "azureml.PipelineRun",
            "runSource": "MFE",
            "runType": "HTTP",
            "azureml.parameters": "{}",
            "azureml.continue_on_step_failure": str(continues),
            "azureml.pipelineComponent": "pipelinerun",
        }
        self._thread.start()

    def release(self) -> None:
        """Its steps are released by themselves."""

    def cancel(self) -> None:
        """Ask for the end of all its steps; nothing where it has ended."""
        with self._turn:
            if self._run.is_ended:
                return
            self._canceled = True
            move(self._run, "CancelRequested")
        for step in list(self._steps.values()):
            self._runner.cancel(step)

    def preempt(self) -> None:
        """It runs on no node."""

    def join(self) -> None:
        self._thread.join()

    def _live(self) -> None:
        try:
            self._go()
        finally:
            if not self._run.is_ended:  # a fault of the double itself: the test fails by it
                text = f"the double could not run this pipeline: {traceback.format_exc()}"
                self._runner.staged.stage.log.note(Seen("RUN", "job", f"/{self._run.run_id}", "", {}, unknown=text))
                self._end("Failed", JobFailed("InternalServerError", "SystemError"))

    def _go(self) -> None:
        nodes = nodes_of(self._workspace, self._run.job or {})
        continues = bool(((self._run.job or {}).get("settings") or {}).get("continue_on_step_failure"))
        self._move("Preparing")
        self._move("Running")
        while not self._canceled:
            unlucky = [name for name, step in self._steps.items() if step.is_ended and step.status != "Completed"]
            if unlucky and not continues:
                break
            for node in [one for one in nodes.values() if one.name not in self._steps and self._is_ready(one)]:
                self._start(node)
            if all(step.is_ended for step in self._steps.values()) and not any(self._is_ready(one) for one in nodes.values() if one.name not in self._steps):
                break
            self._ended.wait(LOOK)
        self._finish(nodes)

    def _is_ready(self, node: Node) -> bool:
        return all(name in self._steps and self._steps[name].status == "Completed" for name in node.waits_for)

    def _finish(self, nodes: dict[str, Node]) -> None:
        """Steps that still run are canceled, others never begin."""
        for step in self._steps.values():
            if not step.is_ended:
                self._runner.cancel(step)
        while not all(step.is_ended for step in self._steps.values()):
            self._ended.wait(LOOK)
        for step in self._steps.values():
            self._say(f"Completing processing run id {step.run_id}.")
        if self._canceled:
            self._end("Canceled")
            return
        unlucky = [step for step in self._steps.values() if step.status != "Completed"]
        if not unlucky:
            self._pass_on(nodes)
            self._end("Completed")
            return
        names = ", ".join(step.display_name for step in unlucky)
        self._end(
            "Failed",
            JobFailed(f"Pipeline has failed child jobs. Failed nodes: {names}. For more details and logs, please go to the job detail page.", "PipelineFailed"),
        )

    def _start(self, node: Node) -> None:
        job = job_of(self._workspace, self._run, node, self._steps)
        for name, given in job["outputs"].items():
            given["uri"] = (given.get("uri") or default_place(self._workspace, self._run, "${{name}}", name)).replace("${{output_name}}", name)
        earlier = earlier_step(self._workspace, self._run, node, job)
        step = step_record(self._workspace, self._run, node, job, earlier)
        self._steps[node.name] = self._workspace.keep_run(step)
        self._say(f"Submitting 1 runs, first five are: {step.tags['azureml.nodeid']}:{step.run_id}")
        if earlier is not None:
            self._reuse(step, earlier)
            return
        self._runner.submit(step, self._submitter)
        if self._canceled:
            self._runner.cancel(step)

    def _reuse(self, step: Run, earlier: Run) -> None:
        step.outputs = {name: Output(output.uri, output.asset_id, output.kind) for name, output in earlier.outputs.items()}
        move(step, "Running")
        move(step, "Completed")

    def _pass_on(self, nodes: dict[str, Node]) -> None:
        """The pipeline's own outputs are those of the steps that are bound to them."""
        for node in nodes.values():
            for name, given in (node.given.get("outputs") or {}).items():
                bound = str(given.get("value") or "").removeprefix("${{parent.outputs.").removesuffix("}}")
                if bound in ((self._run.job or {}).get("outputs") or {}):
                    self._run.outputs[bound] = self._steps[node.name].outputs[name]

    def _move(self, status: str) -> None:
        with self._turn:
            if not self._canceled:
                move(self._run, status)

    def _end(self, status: str, reason: JobFailed | None = None) -> None:
        with self._turn:
            self._run.error = reason.document() if reason else None
            self._say("Finishing experiment: no runs left and nothing to schedule.")
            move(self._run, status)

    def _say(self, text: str) -> None:
        line = f"[{time_text(now())}] {text}\n"
        self._workspace.storage.append("azureml", self._run.artifact_prefix + LOG, line.encode())
