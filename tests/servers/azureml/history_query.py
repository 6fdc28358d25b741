"""Asking run history for many runs: which fields a filter may name, the order, and the pages."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

from tests.servers.azureml.answers import bad_request
from tests.servers.azureml.history_forms import traits_of
from tests.servers.azureml.paging import name_in, token_after
from tests.servers.azureml.queries import ABSENT, BadFilter, Field, compiled
from tests.servers.azureml.state import Experiment, Run

UNASKED = 50
"""Runs on a page of a query that names no number, as public reports have it of children."""
LONG_AGO = datetime.min.replace(tzinfo=timezone.utc)


def _of_map(holder: Callable[[Run], Mapping[str, object]]) -> Field[Run]:
    return lambda run, key: holder(run).get(key, ABSENT)


def _run_type(run: Run, path: str) -> object:
    name, _, trait = path.partition("/")
    if name.lower() == "traits" and trait:
        return None if trait in traits_of(run) else ABSENT
    return {"orchestrator": "Execution", "computetype": "AmlcTrain"}.get(name.lower(), ABSENT)


FIELDS: Mapping[str, Field[Run]] = {
    "runid": lambda run, _: run.run_id,
    "runnumber": lambda run, _: run.number,
    "parentrunid": lambda run, _: run.parent_id,
    "rootrunid": lambda run, _: run.root_id,
    "experimentid": lambda run, _: run.experiment.experiment_id,
    "status": lambda run, _: run.status,
    "createdutc": lambda run, _: run.created,
    "starttimeutc": lambda run, _: run.started,
    "endtimeutc": lambda run, _: run.ended,
    "displayname": lambda run, _: run.display_name,
    "description": lambda run, _: run.description,
    "hidden": lambda run, _: run.hidden,
    "runtype": lambda run, _: run.run_type,
    "runtypev2": _run_type,
    "target": lambda run, _: run.target,
    "scriptname": lambda run, _: run.script,
    "tags": _of_map(lambda run: run.tags),
    "properties": _of_map(lambda run: run.properties),
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
    """What a client asks of run history; `top` None leaves the size of a page to the service."""

    filter: str | None = None
    order: str | None = None
    top: int | None = None
    token: str | None = None


@dataclass(frozen=True)
class Page:
    """Some of the runs that match, and what brings the next ones; None at the end."""

    runs: Sequence[Run]
    token: str | None


def page_of(runs: Iterable[Run], query: RunQuery, *, limit: int, refused: Collection[str] = ()) -> Page:
    """The page that *query* asks for; the service gives *limit* runs at most. Runs come oldest first.

    Raises ServiceError 400, for an order of *refused* too.
    """
    if query.order in refused:
        raise bad_request(f"Invalid order '{query.order}'.")
    size = min(query.top if query.top and query.top > 0 else UNASKED, limit)
    found: list[Run] = []
    for run in _matching(_behind(_ordered(runs, query.order), query.token), query.filter):
        if len(found) == size:
            return Page(found, token_after(found[-1].run_id))
        found.append(run)
    return Page(found, None)


def _ordered(runs: Iterable[Run], order: str | None) -> list[Run]:
    field, _, direction = (order or "CreatedUtc desc").strip().partition(" ")
    key = ORDERS.get(field.lower())
    if key is None or direction.strip().lower() not in ("", "asc", "desc"):
        raise bad_request(f"Invalid order '{order}'.")
    newest_last = list(runs)
    newest_last.sort(key=key)  # type: ignore[arg-type]  # each key gives values of one type
    if direction.strip().lower() == "desc":
        newest_last.reverse()
    return newest_last


def _behind(runs: Sequence[Run], token: str | None) -> Iterator[Run]:
    if not token:
        return iter(runs)
    last = name_in(token)
    places = [place for place, run in enumerate(runs) if run.run_id == last]
    if not places:
        raise bad_request("The continuation token is not valid.")
    return iter(runs[places[0] + 1 :])


def _matching(runs: Iterator[Run], text: str | None) -> Iterator[Run]:
    if not text:
        yield from runs
        return
    try:
        holds = compiled(text, FIELDS)
        yield from (run for run in runs if holds(run))
    except BadFilter as error:
        raise bad_request(str(error)) from error


def experiments_matching(experiments: Iterable[Experiment], text: str | None) -> list[Experiment]:
    """Experiments by *text*, a filter in the same language. Raises ServiceError 400."""
    try:
        holds = compiled(text, EXPERIMENT_FIELDS) if text else None
        return [experiment for experiment in experiments if holds is None or holds(experiment)]
    except BadFilter as error:
        raise bad_request(str(error)) from error
