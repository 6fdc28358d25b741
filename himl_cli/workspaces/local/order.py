"""A job on its way from `submit` to its supervisor: one JSON document through a pipe, so that no file holds its variables."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from himl_cli.core.jobs import DataSpec, Entry, EntryKind, JobSpec, Snapshot


@dataclass(frozen=True)
class Order:
    """A job with the folders that its inputs and outputs resolve to (absolute, by key), and its command as the record shows it.

    `terminal` names the device that the job's standard input is read from; '' means that there is nothing to read.
    """

    run_folder: str
    workspace: str
    spec: JobSpec
    command: str
    inputs: dict[str, str]
    outputs: dict[str, str]
    terminal: str = ""

    def to_json(self) -> str:
        fields = asdict(self)
        fields["spec"]["snapshot"]["root"] = str(self.spec.snapshot.root)
        fields["spec"]["entry"]["kind"] = self.spec.entry.kind.value
        return json.dumps(fields)


def order_from_json(text: str) -> Order:
    fields: dict[str, Any] = json.loads(text)
    spec = fields.pop("spec")
    spec["entry"] = Entry(EntryKind(spec["entry"]["kind"]), spec["entry"]["target"])
    snapshot = spec["snapshot"]
    spec["snapshot"] = Snapshot(Path(snapshot["root"]), snapshot["files"], snapshot["size"])
    for name in ("inputs", "outputs"):
        spec[name] = [DataSpec(**item) for item in spec[name]]
    return Order(spec=JobSpec(**spec), **fields)
