"""himl's records in the JSON that MLflow's clients read."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from himl_cli.core.runs import Run, RunStatus

Json = dict[str, object]

RUN_NAME = "mlflow.runName"
PARENT_RUN = "mlflow.parentRunId"
USER = "mlflow.user"
MODEL_HISTORY = "mlflow.log-model.history"
DATASET_CONTEXT = "mlflow.data.context"

STATUS_NAMES = {
    RunStatus.queued: "SCHEDULED",
    RunStatus.running: "RUNNING",
    RunStatus.completed: "FINISHED",
    RunStatus.failed: "FAILED",
    RunStatus.canceled: "KILLED",
}
STATUSES = {name: status for status, name in STATUS_NAMES.items()}


def milliseconds(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


def json_number(value: float) -> float | str:
    """JSON has no NaN or infinity; protocol buffers write their names."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def json_pairs(pairs: Mapping[str, str]) -> list[Json]:
    return [{"key": key, "value": value} for key, value in pairs.items()]


def json_metric(name: str, value: float, step: int, time: int) -> Json:
    """*time* in milliseconds since 1970 UTC."""
    return {"key": name, "value": json_number(value), "timestamp": time, "step": step}


@dataclass(frozen=True)
class TrackedRun:
    """A run with what MLflow shows of it beside himl's record."""

    run: Run
    experiment_id: str
    artifacts: Path
    is_deleted: bool = False

    @property
    def tags(self) -> dict[str, str]:
        name = {RUN_NAME: self.run.display_name} if self.run.display_name else {}
        return {**self.run.tags, **name}

    @property
    def info(self) -> Json:
        run = self.run
        info: Json = {
            "run_id": run.id,
            "run_uuid": run.id,
            "run_name": run.display_name or run.id,
            "experiment_id": self.experiment_id,
            "user_id": run.tags.get(USER, ""),
            "status": STATUS_NAMES[run.status],
            "start_time": milliseconds(run.started or run.created),
            "artifact_uri": self.artifacts.as_uri(),
            "lifecycle_stage": "deleted" if self.is_deleted else "active",
        }
        if run.ended is not None:
            info["end_time"] = milliseconds(run.ended)
        return info

    def as_json(self, metrics: Iterable[Json], params: Mapping[str, str], inputs: Json, outputs: Json) -> Json:
        """The whole run; *metrics* are the last values."""
        data: Json = {"metrics": list(metrics), "params": json_pairs(params), "tags": json_pairs(self.tags)}
        return {"info": self.info, "data": data, "inputs": inputs, "outputs": outputs}


def next_page(start: int, size: int, total: int) -> Json:
    """What a reply says of the page after *size* items from *start*: nothing where there is none."""
    return {"next_page_token": str(start + size)} if start + size < total else {}
