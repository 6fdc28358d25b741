"""Queries for many runs: run history's filters, orders and pages, and the index of a workspace, which Studio uses for
its lists.

The filter language, `(Status eq Running) and (Tags/kind eq "best")`, is not published. This is the language that
azureml-core and azure-ai-ml send. A name that the item does not have makes every comparison false, which turns
`(Tags/k ne null or Tags/k eq null)` into "has the tag", as those clients intend. A field that exists without a value
is null. Values are bare (up to `and`, `or` or a bracket) or in double or single quotes. Within single quotes, two
single quotes are one.

The index is not documented. The formats are those that public clients send and read: the vendor's promptflow (`POST
{data plane}/index/v1.0{workspace}/entities`), and others through Studio's address.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from enum import Enum
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.azureml_double.frame import bad_request, name_in, token_after, workspace_of
from tests.azureml_double.state import Experiment, Json, Run, Workspace, time_text

Item = TypeVar("Item")
Field = Callable[[Item, str], object]
Test = Callable[[Item], bool]


class BadFilter(ValueError):
    pass


class Nothing(Enum):
    """The value of a field for a name that the item does not have, as opposed to null."""

    absent = 0


ABSENT = Nothing.absent
COMPARISON = re.compile(
    r"""(?P<field>[A-Za-z]\w*)(?:/(?P<rest>[^()]*?))?\s+(?P<operator>eq|ne|gt|ge|lt|le)\s+"""
    r"""(?:"(?P<double>[^"]*)"|'(?P<single>(?:[^']|'')*)'|(?P<bare>[^()"']+?)(?=\s+(?:and|or)\b|\s*\)|\s*\Z))""",
    re.IGNORECASE,
)
LOGIC = re.compile(r"(?:\s|and\b|or\b|not\b|[()]|tests\[\d+\]\(item\))*")
# Page size of a query without a number, according to public reports about children.
UNASKED = 50
LONG_AGO = datetime.min.replace(tzinfo=timezone.utc)


def compiled(text: str, fields: Mapping[str, Field[Item]]) -> Test[Item]:
    """Compile a filter into a test for items. *fields* maps lower-case names to `(item, rest of the path) -> value or
    ABSENT`. Raises BadFilter.
    """
    tests: list[Test[Item]] = []

    def noted(found: re.Match[str]) -> str:
        read = fields.get(found["field"].lower())
        if read is None:
            raise BadFilter(f"Invalid filter: could not find a property named '{found['field']}'.")
        quoted = found["double"] if found["single"] is None else found["single"].replace("''", "'")
        wanted = quoted if quoted is not None else None if found["bare"].lower() == "null" else found["bare"]
        tests.append(_comparing(read, found["rest"] or "", found["operator"].lower(), wanted))
        return f"tests[{len(tests) - 1}](item)"

    logic = COMPARISON.sub(noted, text).strip()
    # The remaining text is valid Python, or an error.
    lowered = re.sub(r"\b(and|or|not)\b", lambda word: word[0].lower(), logic, flags=re.IGNORECASE)
    try:
        if not LOGIC.fullmatch(lowered):
            raise SyntaxError
        holds: Test[Item] = eval(f"lambda item: {lowered}", {"tests": tests})
    except SyntaxError as e:
        raise BadFilter(f"Invalid filter: '{text[:200]}'.") from e
    return holds


def _comparing(read: Field[Item], rest: str, operator: str, wanted: str | None) -> Test[Item]:
    if operator not in ("eq", "ne") and wanted is None:
        raise BadFilter(f"Invalid filter: '{operator}' does not go with null.")

    def holds(item: Item) -> bool:
        found = read(item, rest)
        if found is ABSENT:
            return False
        if found is None or wanted is None:
            return operator in ("eq", "ne") and (found is wanted) is (operator == "eq")
        sign = _sign(found, wanted)
        return {"eq": sign == 0, "ne": sign != 0, "gt": sign > 0, "ge": sign >= 0, "lt": sign < 0, "le": sign <= 0}[
            operator
        ]

    return holds


def _sign(found: object, wanted: str) -> int:
    """Return a number below, at or above zero if *found* is less than, equal to or greater than *wanted*."""
    if isinstance(found, datetime):
        time = instant(wanted)
        return (found > time) - (found < time)
    if isinstance(found, bool):
        return int(found) - int(wanted.lower() == "true")
    if isinstance(found, (int, float)):
        try:
            number = float(wanted)
        except ValueError as error:
            raise BadFilter(f"Invalid filter: '{wanted}' is not a number.") from error
        return (found > number) - (found < number)
    text = str(found)
    return (text > wanted) - (text < wanted)


def instant(text: str) -> datetime:
    """Parse a time in any format of clients: with `T` or a space, up to nine fractional digits, and `Z`, an offset or
    nothing (UTC).
    """
    micros = re.sub(r"\.(\d+)", lambda digits: "." + digits[1][:6].ljust(6, "0"), text.strip().replace(" ", "T", 1))
    try:
        time = datetime.fromisoformat(re.sub(r"[zZ]$", "+00:00", micros))
    except ValueError as error:
        raise BadFilter(f"Invalid filter: '{text}' is not a time.") from error
    return time if time.tzinfo else time.replace(tzinfo=timezone.utc)


def _run_type(run: Run, path: str) -> object:
    name, _, trait = path.partition("/")
    if name.lower() == "traits" and trait:
        return None if trait in run.traits else ABSENT
    return {"orchestrator": "Execution", "computetype": "AmlcTrain"}.get(name.lower(), ABSENT)


def _attribute(name: str) -> Field[Any]:
    return lambda item, _: getattr(item, name)


ATTRIBUTES = {
    "runid": "run_id",
    "runnumber": "number",
    "parentrunid": "parent_id",
    "rootrunid": "root_id",
    "status": "status",
    "createdutc": "created",
}
ATTRIBUTES |= {
    "starttimeutc": "started",
    "endtimeutc": "ended",
    "displayname": "display_name",
    "description": "description",
    "hidden": "hidden",
}
ATTRIBUTES |= {"runtype": "run_type", "target": "target", "scriptname": "script"}
FIELDS: Mapping[str, Field[Run]] = {
    **{name: _attribute(attribute) for name, attribute in ATTRIBUTES.items()},
    "experimentid": lambda run, _: run.experiment.experiment_id,
    "runtypev2": _run_type,
    "tags": lambda run, key: run.tags.get(key, ABSENT),
    "properties": lambda run, key: run.properties.get(key, ABSENT),
}
EXPERIMENT_FIELDS: Mapping[str, Field[Experiment]] = {
    "name": lambda experiment, _: experiment.name,
    "experimentid": lambda experiment, _: experiment.experiment_id,
    "createdutc": lambda experiment, _: experiment.created,
    "tags": lambda experiment, key: experiment.tags.get(key, ABSENT),
}
ORDERS: Mapping[str, Callable[[Run], object]] = {
    "starttimeutc": lambda run: run.started or LONG_AGO,
    "endtimeutc": lambda run: run.ended or LONG_AGO,
    "createdutc": lambda run: run.created,
    "runid": lambda run: run.run_id,
    "runnumber": lambda run: run.number,
}


@dataclass(frozen=True)
class RunQuery:
    filter: str | None = None
    order: str | None = None
    top: int | None = None
    token: str | None = None


@dataclass(frozen=True)
class Page:
    runs: Sequence[Run]
    token: str | None


def page_of(runs: Iterable[Run], query: RunQuery, *, limit: int, refused: Collection[str] = ()) -> Page:
    """Return the page that *query* requests, of at most *limit* runs. *runs* are oldest first. Raises ServiceError
    400, including for an order in *refused*.
    """
    if query.order in refused:
        raise bad_request(f"Invalid order '{query.order}'.")
    size = min(query.top if query.top and query.top > 0 else UNASKED, limit)
    ordered, found = _ordered(runs, query.order), list[Run]()
    begin = 0
    if query.token:
        last = name_in(query.token)
        begin = 1 + next((place for place, run in enumerate(ordered) if run.run_id == last), len(ordered))
        if begin > len(ordered):
            raise bad_request("The continuation token is not valid.")
    try:
        holds = compiled(query.filter, FIELDS) if query.filter else _anything
        for run in ordered[begin:]:
            if holds(run):
                if len(found) == size:
                    return Page(found, token_after(found[-1].run_id))
                found.append(run)
    except BadFilter as error:
        raise bad_request(str(error)) from error
    return Page(found, None)


def _anything(item: object) -> bool:
    return True


def _ordered(runs: Iterable[Run], order: str | None) -> list[Run]:
    field, _, direction = (order or "CreatedUtc desc").strip().partition(" ")
    key, direction = ORDERS.get(field.lower()), direction.strip().lower()
    if key is None or direction not in ("", "asc", "desc"):
        raise bad_request(f"Invalid order '{order}'.")
    # Each key gives values of one type.
    newest_last = sorted(runs, key=key)  # type: ignore[arg-type]
    return newest_last[::-1] if direction == "desc" else newest_last


def experiments_matching(experiments: Iterable[Experiment], text: str | None) -> list[Experiment]:
    try:
        holds = compiled(text, EXPERIMENT_FIELDS) if text else _anything
        return [experiment for experiment in experiments if holds(experiment)]
    except BadFilter as error:
        raise bad_request(str(error)) from error


LARGEST_PAGE = 100
CREATED, TAGS = "properties/creationContext/createdTime", "annotations/tags/"
INDEXED: Mapping[str, Callable[[Run], object]] = {
    "type": lambda run: "runs",
    "annotations/archived": lambda run: run.hidden,
    "annotations/status": lambda run: run.indexed_status or run.status,
    "annotations/displayName": lambda run: run.display_name,
    "properties/parentRunId": lambda run: run.parent_id,
    "properties/experimentName": lambda run: run.experiment.name,
    "properties/experimentId": lambda run: run.experiment.experiment_id,
    "properties/runId": lambda run: run.run_id,
    "properties/runType": lambda run: run.run_type,
}
"""All names that a filter of the index may contain. The double rejects others."""


def entities(request: Request) -> Response:
    """List runs. The double has no other kinds of entities."""
    workspace = workspace_of(request)
    asked: Json = request.state.body
    filters, order, skip = asked.get("filters") or [], asked.get("order") or [], asked.get("skip")
    assert any(one.get("field") == "type" and one.get("values") == ["runs"] for one in filters), "only runs are played"
    size = asked.get("pageSize") or LARGEST_PAGE
    assert 1 <= size <= LARGEST_PAGE
    assert [one.get("field") for one in order] in ([], [CREATED]), "only this order is played"
    downward = not order or order[0].get("direction", "Asc").lower() == "desc"
    known = [] if workspace.hides_in_index else workspace.runs.values()
    runs = sorted(known, key=lambda run: (run.created, run.number), reverse=downward)
    start = int(name_in(asked["continuationToken"])) if asked.get("continuationToken") else skip or 0
    page, end = _index_page(runs, filters, start, min(size, workspace.page_size))
    behind = end if end < len(runs) else None
    by_skip = workspace.skips_in_index or skip is not None
    more = {
        "nextSkip": behind if by_skip else None,
        "continuationToken": token_after(str(behind)) if behind and not by_skip else None,
    }
    return JSONResponse({"totalCount": None, "value": [_entity(workspace, run) for run in page], **more})


def _index_page(
    runs: Sequence[Run], filters: Sequence[Mapping[str, Any]], start: int, size: int
) -> tuple[list[Run], int]:
    found: list[Run] = []
    for place in range(start, len(runs)):
        if len(found) == size:
            return found, place
        if all(_meets(runs[place], one) for one in filters):
            found.append(runs[place])
    return found, len(runs)


def _meets(run: Run, condition: Mapping[str, Any]) -> bool:
    field, operator = condition["field"], condition["operator"]
    assert operator in ("eq", "ne")
    found = run.tags.get(field[len(TAGS) :]) if field.startswith(TAGS) else INDEXED[field](run)
    text = str(found).lower() if isinstance(found, bool) else found
    return any(text == (str(value).lower() if isinstance(found, bool) else value) for value in condition["values"]) is (
        operator == "eq"
    )


def _entity(workspace: Workspace, run: Run) -> Json:
    annotations: Json = {
        "archived": run.hidden,
        "tags": run.tags,
        "displayName": run.display_name,
        "description": run.description,
    }
    annotations |= {
        "status": run.indexed_status or run.status,
        "error": run.error,
        "effectiveStartTimeUtc": time_text(run.started),
    }
    properties: Json = {
        "runId": run.run_id,
        "runNumber": run.number,
        "runType": run.run_type,
        "experimentName": run.experiment.name,
    }
    properties |= {"experimentId": run.experiment.experiment_id, "parentRunId": run.parent_id, "rootRunId": run.root_id}
    properties |= {
        "dataContainerId": run.data_container_id,
        "startTime": time_text(run.started),
        "endTime": time_text(run.ended),
    }
    properties |= {"userProperties": run.properties}
    properties |= {"creationContext": {"createdTime": time_text(run.created), "createdBy": {"userName": run.user_name}}}
    place = (
        f"azureml://location/{workspace.location}/workspaceId/{workspace.workspace_id}/type/runs/objectId/{run.run_id}"
    )
    head = {"entityId": place, "entityResourceName": workspace.name, "kind": "Unversioned"}
    return {**head, "annotations": annotations, "properties": properties}


routes = [Route("/index/entities", entities, methods=["POST"])]
