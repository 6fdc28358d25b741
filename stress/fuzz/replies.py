"""Answers of Azure ML's services: the whole workspace reads them, all of them real ones but for one that is another document.

The real ones are recorded once from the double: what it answers is what the vendor's clients take.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from hypothesis import strategies as st

from himl_cli.core.errors import HimlError, ServiceFailed
from himl_cli.core.redaction import parts_of
from himl_cli.core.runs import RunQuery
from himl_cli.core.text import NotJson, read_json, read_valid_json
from himl_cli.workspaces.azure.config import azure_settings
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.responses import Response
from himl_cli.workspaces.azure.service_errors import ServiceNotFound
from himl_cli.workspaces.azure.workspace import AzureWorkspace
from stress.fuzz.strategies import documents
from stress.fuzz.target import Target
from stress.fuzz.workspace import ADDRESS

RECORDED = Path(__file__).with_name("answers.json")
RUN, SWEEP = "run_1", "sweep_1"
MOST_REQUESTS = 200
"""Of one example: lists that go on for ever are refused long before."""

Ask = Callable[[AzureWorkspace], object]
ASKED: Mapping[str, Ask] = {
    "runs": lambda workspace: [*workspace.runs(RunQuery(limit=10))],
    "runs_of_experiment": lambda workspace: [*workspace.runs(RunQuery("exp", limit=10))],
    "children": lambda workspace: [*workspace.runs(RunQuery(parent=SWEEP))],
    "run": lambda workspace: workspace.run(RUN),
    "tag": lambda workspace: workspace.tag(RUN, {"a": "b"}),
    "cancel": lambda workspace: workspace.cancel(RUN),
    "metrics": lambda workspace: workspace.metrics(RUN),
    "values": lambda workspace: workspace.values(RUN),
    "parameters": lambda workspace: workspace.parameters(RUN),
    "results": lambda workspace: workspace.results([workspace.run(RUN)], wanted=lambda name: True, whole=True),
    "run_files": lambda workspace: (workspace.run_files(RUN), workspace.artifact_location(RUN)),
    "output_files": lambda workspace: workspace.output_files(RUN, "data"),
    "datastores": lambda workspace: workspace.datastores(),
    "datastore": lambda workspace: workspace.datastore(),
    "has_cluster": lambda workspace: workspace.has_cluster("cpu-cluster"),
    "describe": lambda workspace: workspace.describe(),
}


class Answering:
    """In place of what sends requests: answers as they were recorded. The one at *place* among them, where it is asked for, is *other*.

    As himl's own it asks behind TLS alone, and refuses JSON with half a character in it.
    """

    def __init__(self, recorded: Mapping[str, Any], place: str, other: Any) -> None:
        self._recorded = recorded
        self._place = place
        self._other = other
        self._count = 0

    def send(self, method: str, url: str, **options: Any) -> Response:
        self._count += 1
        assert self._count < MOST_REQUESTS, "it asks for ever"
        if parts_of(url).scheme != "https":
            raise ServiceFailed("It asks a place that is none.")
        line = line_of(method, url)
        if line == self._place:
            return Response(method, url, 200, {}, self._document())
        if line not in self._recorded:
            raise ServiceNotFound(f"There is nothing at '{urlsplit(url).path}'.")
        return Response(method, url, 200, {}, read_json(json.dumps(self._recorded[line])))

    def _document(self) -> Any:
        try:
            return read_valid_json(json.dumps(self._other).encode())
        except NotJson as err:
            raise ServiceFailed(f"The answer is no JSON: {err}.") from err


def line_of(method: str, url: str) -> str:
    """What tells one request from others, as far as a recording does: `GET /history/v1.0/…/runs/run_1`."""
    return f"{method} {unquote(urlsplit(url).path)}"


@cache
def recorded() -> dict[str, dict[str, Any]]:
    """What each of ASKED asks for, and what it is told: answers by lines of requests."""
    found: dict[str, dict[str, Any]] = json.loads(RECORDED.read_text(encoding="utf-8"))
    return found


@cache
def _record() -> Any:
    """What is told of the workspace itself."""
    return next(iter(recorded()["workspace"].values()))


def _asking(name: str) -> Callable[[tuple[str, Any]], object]:
    def run(given: tuple[str, Any]) -> object:
        place, other = given
        known = {**recorded()["workspace"], **recorded()[name]}
        return ASKED[name](answered(Answering(known, place, other)))

    return run


def answered(answering: Answering) -> AzureWorkspace:
    """A workspace that is told what *answering* says."""
    connection = Connection.open(ADDRESS, settings=azure_settings(Path.cwd()))
    connection.rest.send = answering.send  # type: ignore[method-assign]
    return AzureWorkspace(connection)


def _answers(name: str) -> st.SearchStrategy[Any]:
    places = sorted(recorded()[name])
    return st.one_of([st.tuples(st.just(place), documents([recorded()[name][place]]).map(_as_json)) for place in places])


def _as_json(document: Any) -> Any:
    """*document* as it arrives: numbers that JSON does not have are refused before, or come as they are."""
    return json.loads(json.dumps(document))


def targets() -> list[Target]:
    return [Target(f"replies/{name}", lambda name=name: _answers(name), _asking(name), (HimlError,)) for name in ASKED]  # type: ignore[misc]
