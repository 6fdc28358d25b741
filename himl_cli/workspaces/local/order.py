"""A job on its way from `submit` to its supervisor: one JSON document through a pipe, so that no file holds its
variables."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from himl_cli.core.jobs import JobSpec
from himl_cli.workspaces.local.job_form import job_form, job_from_form


@dataclass(frozen=True)
class Order:
    """A job with the folders that its inputs and outputs resolve to (absolute, by key), and its command as the record
    shows it.

    `stdin` is what the job reads: a terminal by its name, or by its number a file handle that the supervisor inherits,
    for the first rank alone; '' means that there is nothing to read. `again`: what is in the run's folder already is
    gone on with. `values` are those of a trial's hyperparameters: logged as parameters unless its script logs them
    itself.
    """

    run_folder: str
    workspace: str
    spec: JobSpec
    command: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    stdin: str = ""
    again: bool = False
    values: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        return json.dumps(
            {each.name: getattr(self, each.name) for each in fields(self)} | {"spec": job_form(self.spec)}
        )


def order_from_json(text: str) -> Order:
    fields: dict[str, Any] = json.loads(text)
    return Order(**{**fields, "spec": job_from_form(fields["spec"])})
