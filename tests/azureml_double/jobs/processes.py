"""The processes of a job: their number, nodes, variables, start and end. Also the life cycle of every kind of job,
and the reasons for failures.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.azureml_double.frame import ServiceError, error_document
from tests.azureml_double.log import Seen
from tests.azureml_double.state import Json, Principal, Run, Workspace

if TYPE_CHECKING:
    from tests.azureml_double.seeding import StagedWorkspace

GRACE = 30.0  # seconds between the request to exit and the kill
HERE = "127.0.0.1"
KILL = getattr(signal, "SIGKILL", signal.SIGTERM)
OF_THE_MACHINE = ("SYSTEMROOT", "COMSPEC", "PATHEXT", "WINDIR", "LD_LIBRARY_PATH", "TESTED_WITH_MARK")
"""Variables that jobs inherit from this machine. The tests use the last one to find processes that were left running.
"""


class JobCanceled(Exception):
    pass


class JobPreempted(Exception):
    """The job's node was preempted. The job restarts."""


class JobFailed(Exception):
    """A job failed. The text is the run's `error`, and `inner` is its machine-readable cause."""

    def __init__(self, message: str, inner: str = "ExecutionFailed", component: str = "execution-wrapper") -> None:
        super().__init__(message)
        self.inner, self.component = inner, component

    def document(self) -> Json:
        return error_document(ServiceError(400, "UserError", str(self), inner=self.inner), self.component)


class DataMissing(JobFailed):
    """An input does not exist, or refers to data that the job cannot access. The service reports this when it mounts
    the data, not at submission.
    """

    def __init__(self, uri: str, reason: str = "NotFound") -> None:
        super().__init__(
            f"Failed to start data session for {uri}: DataAccessError({reason})",
            f"DataAccessError({reason})",
            "data-capability",
        )


class Course:
    def __init__(self, staged: StagedWorkspace, run: Run, submitter: Principal | None) -> None:
        self._staged, self._workspace, self._run, self._submitter = staged, staged.state, run, submitter
        self._job: Json = run.job or {}
        self._released, self._canceled = threading.Event(), threading.Event()
        # Held while a status changes, so that a cancellation cannot occur between two statuses.
        self._turn = threading.Lock()
        self._thread = threading.Thread(target=self._live, name=f"job {run.run_id}", daemon=True)

    def begin(self) -> None:
        self._thread.start()

    def release(self) -> None:
        self._released.set()

    def cancel(self) -> None:
        with self._turn:
            if self._run.is_ended or self._run.status == "Finalizing":
                return
            self._canceled.set()
            self._run.move("CancelRequested")

    def preempt(self) -> None: ...

    def join(self) -> None:
        self._thread.join()

    def _live(self) -> None:
        try:
            self._go()
        finally:
            # The double itself failed. This fails the test, like an unsupported request does.
            if not self._run.is_ended:
                text = f"the double could not run this job: {traceback.format_exc()}"
                self._staged.stage.log.note(Seen("RUN", "job", f"/{self._run.run_id}", "", {}, unknown=text))
                self._end("Failed", JobFailed("InternalServerError", "SystemError"))

    def _go(self) -> None:
        raise NotImplementedError

    def _end(self, status: str, reason: JobFailed | None = None) -> None:
        with self._turn:
            self._run.error = reason.document() if reason else None
            self._run.move(status)


class Process:
    """One `bash -c` in a separate process group. Its output goes to the file *log*."""

    def __init__(self, command: str, folder: Path, variables: Mapping[str, str], log: Path) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as output:
            streams = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": subprocess.STDOUT}
            self._popen = subprocess.Popen(
                ["bash", "-c", command], cwd=folder, env=dict(variables), start_new_session=True, **streams
            )  # type: ignore[call-overload]

    @property
    def code(self) -> int | None:
        code: int | None = self._popen.poll()
        return code if code is None or code >= 0 else 128 - code

    def signal(self, number: int) -> None:
        if sys.platform == "win32":
            subprocess.run(["taskkill", "/F", "/T", "/PID", str(self._popen.pid)], capture_output=True, check=False)
        else:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._popen.pid, number)

    def wait(self, seconds: float) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(seconds)


def end(processes: Sequence[Process]) -> None:
    running = [process for process in processes if process.code is None]
    for process in running:
        process.signal(signal.SIGTERM)
    deadline = time.monotonic() + GRACE
    for process in running:
        process.wait(max(0.0, deadline - time.monotonic()))
    kill(processes)


def kill(processes: Sequence[Process]) -> None:
    for process in processes:
        process.signal(KILL)
    for process in processes:
        process.wait(GRACE)


def end_strays(mark: str) -> None:
    """Kill the processes that left their group but still have *mark* (`NAME=value`) in their environment, as the end
    of a container does. Requires /proc.
    """
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark.encode() in (folder / "environ").read_bytes().split(b"\0"):
                os.kill(int(folder.name), KILL)


@dataclass(frozen=True)
class Rank:
    node: int
    log: str
    variables: Mapping[str, str]


def ranks_of(job: Json) -> Sequence[Rank]:
    """The processes that *job* (the `properties` of PUT job) requests. Without a distribution, there is one per
    node.
    """
    nodes = int((job.get("resources") or {}).get("instanceCount") or 1)
    distribution = job.get("distribution") or {}
    kind, each = distribution.get("distributionType"), int(distribution.get("processCountPerInstance") or 1)
    world = nodes * each
    # The ranks need a free port to meet on. All nodes are this machine, so the service's fixed port may be in use.
    with socket.socket() as probe:
        probe.bind((HERE, 0))
        port: int = probe.getsockname()[1]
    of_nodes = {"AZ_BATCHAI_MPI_MASTER_NODE": HERE if nodes > 1 else "localhost", "AZ_BATCHAI_JOB_MASTER_NODE_IP": HERE}
    if nodes > 1:
        of_nodes |= {"AZ_BATCH_MASTER_NODE": f"{HERE}:{port}", "AZ_BATCH_HOST_LIST": ",".join([HERE] * nodes)}
    ranks = []
    for index in range(world):
        node, local = divmod(index, each)
        numbers: dict[str, int] = {"AZUREML_CR_NODE_RANK": node}
        if kind == "PyTorch":
            numbers |= {"RANK": index, "LOCAL_RANK": local, "NODE_RANK": node, "WORLD_SIZE": world, "MASTER_PORT": port}
        elif kind == "Mpi":
            of_mpi = {"RANK": index, "LOCAL_RANK": local, "SIZE": world, "LOCAL_SIZE": each}
            numbers |= {f"OMPI_COMM_WORLD_{name}": number for name, number in of_mpi.items()}
        log = (
            f"user_logs/std_log_process_{index:0{len(str(world - 1))}}.txt"
            if kind or world > 1
            else "user_logs/std_log.txt"
        )
        address = {"MASTER_ADDR": HERE} if kind == "PyTorch" else {}
        ranks.append(
            Rank(node, log, {**of_nodes, **address, **{name: str(number) for name, number in numbers.items()}})
        )
    return ranks


def machine_variables(home: Path, temp: Path, python: Path) -> dict[str, str]:
    """The variables of a container: a home, a folder for temporary files, and programs. The command `python` is
    *python*.
    """
    programs = os.pathsep.join([str(python.parent), os.environ.get("PATH", os.defpath)])
    kept = {name: os.environ[name] for name in OF_THE_MACHINE if name in os.environ}
    places = {"HOME": str(home), "USERPROFILE": str(home), "TMPDIR": str(temp), "TEMP": str(temp), "TMP": str(temp)}
    return {**kept, **places, "PATH": programs, "LANG": "C.UTF-8", "AZ_BATCHAI_JOB_TEMP": str(temp)}


def context_variable(workspace: Workspace, run: Run, token: str) -> dict[str, str]:
    base = f"https://{workspace.data_plane_host}"
    facts: Json = {
        "subscription_id": workspace.subscription,
        "resource_group": workspace.group,
        "workspace_name": workspace.name,
    }
    facts |= {
        "workspace_id": workspace.workspace_id,
        "service_endpoint": base,
        "discovery_endpoint": f"{base}/discovery",
    }
    facts |= {
        "experiment_name": run.experiment.name,
        "experiment_id": run.experiment.experiment_id,
        "root_run_id": run.root_id,
    }
    facts |= {
        "run_id": run.run_id,
        "run_token": token,
        "run_history_service_endpoint": base,
        "data_container_id": run.data_container_id,
    }
    facts |= {"run_uuid": run.uuid}
    return {"AZUREML_CR_AZUREML_CONTEXT": json.dumps(facts)}


def data_variables(inputs: Mapping[str, str], outputs: Mapping[str, str], *, is_legacy: bool) -> dict[str, str]:
    """The variables with the paths of inputs and outputs, without literals. With *is_legacy* they have the form that
    azureml-core's `Run` reads: each has the name of its data, and there are lists of all names.
    """
    if not is_legacy:
        return {f"AZURE_ML_INPUT_{name}": path for name, path in inputs.items()} | {
            f"AZURE_ML_OUTPUT_{name}": path for name, path in outputs.items()
        }
    data = {**inputs, **outputs}
    lists = {
        "AZUREML_DATASET_ENVIRONMENT_VARS": ",".join(f"{name}:mount" for name in inputs),
        "AZUREML_DATASET_FILE_OUTPUTS": ";".join(outputs),
    }
    return {
        **data,
        **{f"AZUREML_DATAREFERENCE_{name}": path for name, path in data.items()},
        **{name: text for name, text in lists.items() if text},
    }


def identity_variables(staged: StagedWorkspace, identity: Json | None, submitter: Principal | None) -> dict[str, str]:
    kind = (identity or {}).get("identityType", "AMLToken")
    if kind == "UserIdentity":
        principal = submitter or staged.state.principal
        return {
            "OBO_ENDPOINT": f"http://127.0.0.1:{staged.stage.port}/identity/obo/{principal.client_id}",
            "AZUREML_OBO_ENABLED": "True",
        }
    if kind == "Managed":
        wanted = (identity or {}).get("clientId")
        found = staged.stage.azure.principals.get(wanted) if wanted else staged.state.principal
        if found is None:
            raise JobFailed(
                f"The managed identity with client id {wanted} is not assigned to the compute.",
                "IdentityNotFound",
                "identity-responder",
            )
        return {**staged.identity_environment(found), "AZUREML_IDENTITY_IN_USE": "Managed"}
    return {}
