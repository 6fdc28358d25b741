"""Runs that programs keep themselves, and what they write to any run, as azureml-core tells the services.

A run without a job moves its status by events. Metrics go to the metric service, each row with an id by which it knows
a row that is sent again; parameters to MLflow's routes, which keep them where Studio and MLflow look.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from itertools import islice
from typing import Any
from urllib.parse import quote

from himl_cli.core.errors import BadUsage, HimlError
from himl_cli.core.redaction import redact
from himl_cli.core.results import Logged, NewRun, RunEnd
from himl_cli.core.runs import RunStatus
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.requests.answers import understood
from himl_cli.workspaces.azure.requests.errors import ServiceNotFound, ServiceRefused
from himl_cli.workspaces.azure.runs.history import RunFacts
from himl_cli.workspaces.azure.runs.metric_forms import batches
from himl_cli.workspaces.azure.runs.states import LOCAL_TARGET

log = logging.getLogger(__name__)

EVENT = "Microsoft.MachineLearning.Run."
_ENDS = {RunStatus.completed: "Completed", RunStatus.failed: "Failed", RunStatus.canceled: "Canceled"}
MOST_PARAMETERS = 100  # in one batch, as MLflow allows
LONGEST_REASON = 2000
SECONDS_BETWEEN_LOOKS = 1.0


class RunWriting:
    """Sends what is written to runs. The run has to exist for all but `start`: the services would make some of it
    up."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def start(self, new: NewRun) -> None:
        """Make the run, with its experiment where that is new, and let it begin."""
        self._ensure_experiment(new.experiment)
        url = self._connection.history(f"/experiments/{quote(new.experiment, safe='')}/runs/{quote(new.id, safe='')}")
        body: dict[str, Any] = {
            "runId": new.id,
            "displayName": new.display_name or new.id,
            "description": new.description or None,
            "parentRunId": new.parent,
            "target": LOCAL_TARGET,
            "tags": dict(new.tags),
            "scriptName": new.command or None,
            "runTypeV2": {"orchestrator": "External", "traits": ["unspecified"]},
        }
        self._connection.rest.patch(url, json={name: value for name, value in body.items() if value is not None})
        self.begin(new.id)

    def begin(self, run_id: str) -> None:
        """Let a run begin that was made."""
        self._tell(run_id, "Start", {"StartTime": _now()})

    def end(self, run_id: str, end: RunEnd) -> None:
        """Move the run to its end; *end.reason* becomes the error that people see of a failed one."""
        reason = redact(" ".join(end.reason.split()))[:LONGEST_REASON]
        if end.status is RunStatus.failed and reason:
            self._tell(run_id, "Error", {"ErrorResponse": {"error": {"code": "UserError", "message": reason}}})
        self._tell(run_id, _ENDS[end.status], {"EndTime": _now()})

    def log(self, run_id: str, entries: Sequence[Logged], container_id: str) -> None:
        """Send *entries* in as few requests as the service takes. A metric that it will not have is named in a warning.

        Raises HimlError where it refuses a whole batch.
        """
        url = self._connection.metric(f"/runs/{quote(run_id, safe='')}/batch")
        for batch in batches(entries, container_id):
            try:
                answer = self._connection.rest.post(url, json={"values": batch, "reportErrors": True})
            except ServiceRefused as err:
                if err.status < 500 and err.status not in (408, 429):
                    raise HimlError(f"Metrics of run '{run_id}' were refused: {err}", hint=err.hint) from err
                raise
            for name, why in _refused(answer, url):
                log.warning("Metric '%s' of run '%s' was refused: %s", name, run_id, why)

    def log_parameters(self, run_id: str, parameters: Mapping[str, str]) -> None:
        """Raises BadUsage where one has another value already."""
        url, pairs = self._connection.mlflow("/runs/log-batch"), iter(parameters.items())
        while some := [{"key": key, "value": value} for key, value in islice(pairs, MOST_PARAMETERS)]:
            try:
                self._connection.rest.post(url, json={"run_id": run_id, "metrics": [], "params": some, "tags": []})
            except ServiceRefused as err:
                if err.status != 400:
                    raise
                raise BadUsage(
                    f"Parameters of run '{run_id}' were refused: {err}",
                    hint="A parameter keeps the value that it was logged with first.",
                ) from err

    def settle(self, run: RunFacts, seconds: float) -> None:
        """Wait until the metric service has taken in what it was sent, *seconds* at most: what comes later is only seen
        later."""
        url = self._connection.history(
            f"/experimentids/{quote(run.experiment_id, safe='')}/runs/{quote(run.id, safe='')}/metricsingest/wait"
        )
        deadline = time.monotonic() + seconds
        try:
            while self._connection.rest.send("GET", url).status == 202 and (left := deadline - time.monotonic()) > 0:
                time.sleep(min(SECONDS_BETWEEN_LOOKS, left))
        except ServiceNotFound:  # nothing was logged that it could wait for
            return

    def _ensure_experiment(self, name: str) -> None:
        url = self._connection.history(f"/experiments/{quote(name, safe='')}")
        try:
            self._connection.rest.get(url)
        except ServiceNotFound:
            try:
                self._connection.rest.post(url)
            except ServiceRefused as err:
                if err.status != 409:  # made by somebody else meanwhile, or by a try whose answer was lost
                    raise

    def _tell(self, run_id: str, what: str, data: Mapping[str, Any]) -> None:
        url = self._connection.history(f"/runs/{quote(run_id, safe='')}/events")
        self._connection.rest.post(
            url, json={"name": EVENT + what, "timestamp": _now(), "data": {"RunId": run_id, **data}}
        )


def _refused(answer: Any, url: str) -> list[tuple[str, str]]:
    """Name and reason of each metric that was not kept."""
    found = []
    for error in (answer or {}).get("errors") or [] if isinstance(answer, Mapping) else []:
        with understood(url, "an error in it"):
            metric, said = error.get("metric") or {}, (error.get("errorResponse") or {}).get("error") or {}
            found.append((str(metric.get("name") or "?"), str(said.get("message") or "the service does not say why")))
    return found


def _now() -> str:
    return datetime.now(timezone.utc).isoformat()
