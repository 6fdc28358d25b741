"""Traces (`mlflow.trace`). The client writes the spans of each as a file of the run, `traces/ID/traces.json`.

What else is known of a trace is forgotten when the job ends.
"""

from __future__ import annotations

import re
import threading
import uuid

from himl_cli.workspaces.local.tracking.fields import Fields, Refused, missing
from himl_cli.workspaces.local.tracking.records import Json, json_pairs
from himl_cli.workspaces.local.tracking.runs import JobRuns

LOCATION = "mlflow.artifactLocation"
SOURCE_RUN = "mlflow.sourceRun"
ID = re.compile(r"[\w-]{1,100}", re.ASCII)  # it names a folder


class Traces:
    """MLflow 3 sends a trace once it has ended. MLflow 2 says when it starts and ends, and has pairs for maps."""

    def __init__(self, runs: JobRuns) -> None:
        self._runs = runs
        self._lock = threading.Lock()
        self._known: dict[str, Json] = {}

    def start(self, request: Fields) -> Json:
        is_new = request.has("trace")
        info = dict((request.item("trace").item("trace_info") if is_new else request).values)
        trace_id = Fields(info).key("trace_id") if is_new else f"tr-{uuid.uuid4().hex}"
        if not ID.fullmatch(trace_id):
            raise Refused(f"Invalid id of a trace: {trace_id[:100]!r}.")
        metadata = _pairs(Fields(info), "trace_metadata" if is_new else "request_metadata")
        job_id = self._runs.job_id
        run_id = metadata.get(SOURCE_RUN, job_id)
        if self._runs.store.job_of(run_id) != job_id:
            run_id = job_id
        folder = self._runs.artifacts_of(run_id) / "traces" / trace_id
        tags = {**_pairs(Fields(info), "tags"), LOCATION: folder.as_uri()}
        info["tags"] = tags
        if not is_new:
            info |= {"request_id": trace_id, "status": "IN_PROGRESS", "request_metadata": metadata}
        with self._lock:
            self._known[trace_id] = info
        return {"trace": {"trace_info": info}} if is_new else {"trace_info": _of_mlflow_2(info)}

    def end(self, request: Fields) -> Json:
        """MLflow 2's."""
        with self._lock:
            info = self._find(request)
            metadata = {**_pairs(Fields(info), "request_metadata"), **request.pairs("request_metadata")}
            tags = {**_pairs(Fields(info), "tags"), **request.pairs("tags")}
            took = request.moment("timestamp_ms", 0) - Fields(info).moment("timestamp_ms", 0)
            info |= {"status": request.text("status", ""), "execution_time_ms": took}
            info |= {"request_metadata": metadata, "tags": tags}
            return {"trace_info": _of_mlflow_2(info)}

    def get(self, request: Fields) -> Json:
        with self._lock:
            return {"trace": {"trace_info": self._find(request)}}

    def get_info(self, request: Fields) -> Json:
        """MLflow 2's."""
        with self._lock:
            return {"trace_info": _of_mlflow_2(self._find(request))}

    def set_tag(self, request: Fields) -> Json:
        with self._lock:
            info = self._find(request)
            info["tags"] = {**_pairs(Fields(info), "tags"), request.key("key"): request.text("value", "")}
        return {}

    def delete_tag(self, request: Fields) -> Json:
        with self._lock:
            info = self._find(request)
            tags = _pairs(Fields(info), "tags")
            tags.pop(request.key("key"), None)
            info["tags"] = tags
        return {}

    def _find(self, request: Fields) -> Json:
        trace_id = request.key("trace_id")
        if trace_id not in self._known:
            raise missing(f"Trace '{trace_id[:250]}'")
        return self._known[trace_id]


def _pairs(info: Fields, name: str) -> dict[str, str]:
    """A map, or a list of pairs."""
    found = info.values.get(name)
    if isinstance(found, dict):
        return {key: Fields(found).text(key) for key in found}
    return info.pairs(name)


def _of_mlflow_2(info: Json) -> Json:
    return {**info, **{name: json_pairs(_pairs(Fields(info), name)) for name in ("tags", "request_metadata")}}
