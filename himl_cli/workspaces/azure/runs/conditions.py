"""The conditions of a query in the languages of the service, and checked here.

The run history takes OData-like text. What is not sure to survive in it (quotes, other scripts, odd names of tags) is
left out there, and every run that comes is checked here once more: a condition may cost a page, never a wrong run.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from himl_cli.core.runs import Run, RunQuery
from himl_cli.workspaces.azure.runs.states import history_condition, states_of

_PLAIN_NAME = re.compile(r"[A-Za-z0-9_.-]+")
_PLAIN_VALUE = re.compile(r"[A-Za-z0-9_.:/@+=, -]*")


def fulfils(run: Run, query: RunQuery) -> bool:
    """Whether *run* meets the conditions of *query*, its limit aside."""
    return (
        (query.experiment is None or run.experiment.lower() == query.experiment.lower())
        and (not query.statuses or run.status in query.statuses)
        and all(run.tags.get(name) == value for name, value in query.tags.items())
        and run.parent == query.parent
    )


def is_plain(query: RunQuery) -> bool:
    """Whether the service can check all conditions on tags itself."""
    return all(_PLAIN_NAME.fullmatch(name) and _PLAIN_VALUE.fullmatch(value) for name, value in query.tags.items())


def history_filter(query: RunQuery) -> str:
    """The conditions for the run history, as far as they can be said; "" for none."""
    said = [] if query.parent else ["ParentRunId eq null"]
    said.append(history_condition(query.statuses))
    said += [f'Tags/{name} eq "{value}"' for name, value in _plain_tags(query)]
    return " and ".join(f"({condition})" for condition in said if condition)


def roots_in_index() -> list[dict[str, Any]]:
    """The filters of the index that give runs of their own that were not archived."""
    return [_equals("type", "runs"), _equals("annotations/archived", "false"), _equals("properties/parentRunId", None)]


def index_conditions(query: RunQuery) -> list[dict[str, Any]]:
    """The conditions for the index of the workspace, as far as they can be said."""
    wanted = [_equals("annotations/status", *states_of(query.statuses))] if query.statuses else []
    return wanted + [_equals(f"annotations/tags/{name}", value) for name, value in _plain_tags(query)]


def is_met_in_index(entity: Mapping[str, Any], query: RunQuery) -> bool:
    """Whether a run, as the index shows it, meets all that `index_conditions` asks for."""
    shown: Mapping[str, Any] = entity.get("annotations") or {}
    tags: Mapping[str, Any] = shown.get("tags") or {}
    is_wanted = not query.statuses or shown.get("status") in states_of(query.statuses)
    return is_wanted and all(tags.get(name) == value for name, value in _plain_tags(query))


def _equals(field: str, *values: str | None) -> dict[str, Any]:
    return {"field": field, "operator": "eq", "values": list(values)}


def _plain_tags(query: RunQuery) -> list[tuple[str, str]]:
    return [
        (name, value)
        for name, value in query.tags.items()
        if _PLAIN_NAME.fullmatch(name) and _PLAIN_VALUE.fullmatch(value)
    ]
