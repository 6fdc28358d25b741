"""Trials whose record does not tell their values: the record of their sweep does."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from himl_cli.core.sweeps import HYPERPARAMETERS, TRIAL
from himl_cli.workspaces.azure.requests.errors import ServiceNotFound
from himl_cli.workspaces.azure.runs.history import RunHistory
from himl_cli.workspaces.azure.runs.records import RawRun
from himl_cli.workspaces.azure.runs.sweep_tags import SYSTEM_TAG, is_sweep, number_of

_JSON = re.compile(r"\s*\{")


class Trials:
    """Completes records of trials by what their sweeps tell, which are asked for where that is needed alone."""

    def __init__(self, history: RunHistory) -> None:
        self._history = history
        self._values: dict[str, str] = {}
        self._others: set[str] = set()  # runs with children that are called like trials, which are no sweeps

    def completed(self, page: Sequence[RawRun]) -> list[RawRun]:
        """The runs of *page*, a trial without values with tags for its values and its number; a request for each sweep
        that has such ones."""
        asked: dict[str, RawRun] = {raw["runId"]: raw for raw in page}
        return [self._with_values(raw, asked) if self._lacks_values(raw) else raw for raw in page]

    def _lacks_values(self, raw: RawRun) -> bool:
        tags = raw.get("tags") or {}
        is_told = HYPERPARAMETERS in tags or SYSTEM_TAG + HYPERPARAMETERS in tags
        return not is_told and bool(number_of(raw)) and raw["parentRunId"] not in self._others

    def _with_values(self, raw: RawRun, asked: dict[str, RawRun]) -> RawRun:
        run_id, parent = str(raw["runId"]), str(raw["parentRunId"])
        if run_id not in self._values:
            sweep = self._sweep(parent, asked)
            if not is_sweep(sweep):
                self._others.add(parent)
                return raw
            tags = sweep.get("tags") or {}
            text = str(tags.get(SYSTEM_TAG + run_id) or tags.get(run_id) or "")
            if not _JSON.match(text):
                return _with_tags(raw, {TRIAL: number_of(raw)})
            self._values[run_id] = text
        return _with_tags(raw, {TRIAL: number_of(raw), HYPERPARAMETERS: self._values[run_id]})

    def _sweep(self, run_id: str, asked: dict[str, RawRun]) -> RawRun:
        if run_id not in asked:
            try:
                asked[run_id] = self._history.get(run_id)
            except ServiceNotFound:
                asked[run_id] = {}
        return asked[run_id]


def _with_tags(raw: RawRun, tags: Mapping[str, Any]) -> RawRun:
    return {**raw, "tags": {**(raw.get("tags") or {}), **tags}}
