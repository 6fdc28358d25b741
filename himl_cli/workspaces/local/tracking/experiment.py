"""The job's one experiment: whatever name or id a client asks for, this is the answer."""

from __future__ import annotations

from himl_cli.workspaces.local.tracking.fields import Fields, Refused
from himl_cli.workspaces.local.tracking.records import Json, json_pairs
from himl_cli.workspaces.local.tracking.runs import JobRuns


class JobExperiment:
    """A script that names another experiment still logs to its job: clients die when ids differ."""

    def __init__(self, runs: JobRuns) -> None:
        self.runs = runs
        self._tags: dict[str, str] = {}

    def get(self, _request: Fields) -> Json:
        return {"experiment": self._as_json()}

    def search(self, _request: Fields) -> Json:
        return {"experiments": [self._as_json()]}

    def create(self, request: Fields) -> Json:
        request.key("name")
        return {"experiment_id": self.runs.experiment_id}

    def set_tag(self, request: Fields) -> Json:
        self._tags[request.key("key")] = request.text("value", "")
        return {}

    def delete_tag(self, request: Fields) -> Json:
        self._tags.pop(request.key("key"), None)
        return {}

    def refuse_change(self, _request: Fields) -> Json:
        raise Refused("The experiment of a job cannot be changed or deleted by its script.")

    def _as_json(self) -> Json:
        return {
            "experiment_id": self.runs.experiment_id,
            "name": self.runs.experiment,
            "artifact_location": self.runs.artifacts_of(self.runs.job_id).as_uri(),
            "lifecycle_stage": "active",
            "tags": json_pairs(dict(self._tags)),
        }
