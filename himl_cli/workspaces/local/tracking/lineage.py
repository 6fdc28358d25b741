"""The data sets and models that runs read and wrote, for as long as the job runs."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass

from himl_cli.workspaces.local.tracking.fields import Fields
from himl_cli.workspaces.local.tracking.records import DATASET_CONTEXT, Json, json_pairs

DATASET_TEXTS = ("source_type", "source", "schema", "profile")


@dataclass(frozen=True)
class _Dataset:
    described: Json
    tags: dict[str, str]


class Lineage:
    """Safe between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._datasets: dict[str, dict[tuple[str, str], _Dataset]] = {}
        self._read: dict[str, dict[str, Json]] = {}
        self._written: dict[str, dict[str, Json]] = {}

    def add_inputs(self, run_id: str, datasets: Iterable[Fields], models: Iterable[Fields]) -> None:
        """A data set that the run has by name and digest stays as it was first logged. Raises `Refused`."""
        read = [_dataset_input(item) for item in datasets]
        model_ids = [item.key("model_id") for item in models]
        with self._lock:
            known = self._datasets.setdefault(run_id, {})
            for key, dataset in read:
                known.setdefault(key, dataset)
            self._read.setdefault(run_id, {}).update({model_id: {"model_id": model_id} for model_id in model_ids})

    def add_outputs(self, run_id: str, models: Iterable[Fields]) -> None:
        """Raises `Refused`."""
        written: dict[str, Json] = {
            item.key("model_id"): {"model_id": item.key("model_id"), "step": item.integer("step", 0)} for item in models
        }
        with self._lock:
            self._written.setdefault(run_id, {}).update(written)

    def inputs(self, run_id: str) -> Json:
        with self._lock:
            datasets = [
                {"dataset": dataset.described, "tags": json_pairs(dataset.tags)}
                for dataset in self._datasets.get(run_id, {}).values()
            ]
            return {"dataset_inputs": datasets, "model_inputs": list(self._read.get(run_id, {}).values())}

    def outputs(self, run_id: str) -> Json:
        with self._lock:
            return {"model_outputs": list(self._written.get(run_id, {}).values())}

    def searchable(self, run_id: str) -> list[dict[str, object]]:
        """Name, digest and context of the run's data sets."""
        with self._lock:
            return [
                {"name": key[0], "digest": key[1], "context": dataset.tags.get(DATASET_CONTEXT)}
                for key, dataset in self._datasets.get(run_id, {}).items()
            ]


def _dataset_input(item: Fields) -> tuple[tuple[str, str], _Dataset]:
    dataset = item.item("dataset")
    name, digest = dataset.key("name"), dataset.key("digest")
    described: Json = {
        "name": name,
        "digest": digest,
        **{field: dataset.text(field) for field in DATASET_TEXTS if dataset.has(field)},
    }
    return (name, digest), _Dataset(described, item.pairs("tags"))
