"""Which step of a pipeline a run is, and what that waited for: the definition of the pipeline tells, the record of the
run does not."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import quote

from himl_cli.core.errors import HimlError
from himl_cli.core.jobs import STEP, STEP_AFTER
from himl_cli.core.runs import Run
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.places import api_versions
from himl_cli.workspaces.azure.requests.answers import understood
from himl_cli.workspaces.azure.runs.records import RawRun

log = logging.getLogger(__name__)

STEP_RUN = "azureml.steprun"
_BOUND = re.compile(r"\$\{\{\s*parent\.jobs\.([^.\s{}]+)\.")


class PipelineSteps:
    """The steps of pipelines, asked for once each: they never change."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._known: dict[str, Mapping[str, Mapping[str, str]]] = {}

    def labelled(self, raw: RawRun, run: Run) -> Run:
        """*run*, of *raw*, with the tags that tell its step; as it is where it is none, or where that is not told."""
        if str(raw.get("runType") or "").lower() != STEP_RUN or not run.parent:
            return run
        return replace(run, tags={**run.tags, **self._tags(run.parent).get(run.display_name, {})})

    def _tags(self, pipeline: str) -> Mapping[str, Mapping[str, str]]:
        """The tags of each step of the *pipeline* by the name under which its run is shown. One request, none within a
        job."""
        if pipeline not in self._known:
            try:
                self._known[pipeline] = {} if self._connection.in_job else self._asked(pipeline)
            except HimlError as err:  # a name is not worth an error
                log.debug("the steps of %s are not known: %s", pipeline, err)
                self._known[pipeline] = {}
        return self._known[pipeline]

    def _asked(self, pipeline: str) -> Mapping[str, Mapping[str, str]]:
        url = self._connection.arm(f"/jobs/{quote(pipeline, safe='')}")
        answer = self._connection.rest.get_object(url, "job", params={"api-version": api_versions.JOBS})
        with understood(url, "the pipeline"):
            jobs = answer["properties"].get("jobs") or {}
            keys = {node: _own_key(node, given) for node, given in jobs.items()}
            shown = [given.get("display_name") or node for node, given in jobs.items()]
            tags = {name: _tags_of(keys, node, jobs[node]) for name, node in zip(shown, jobs, strict=True)}
        return {name: tags[name] for name in tags if shown.count(name) == 1}


def _own_key(node: str, given: Mapping[str, Any]) -> str:
    """The step's key: where himl made the node it stands beside, since not every key may be a node's name."""
    return str((given.get("tags") or {}).get(STEP) or node)


def _tags_of(keys: Mapping[str, str], node: str, given: Mapping[str, Any]) -> dict[str, str]:
    after = [keys[other] for other in dict.fromkeys(_waited_for(given)) if other in keys]
    return {STEP: keys[node], **({STEP_AFTER: ",".join(after)} if after else {})}


def _waited_for(given: Mapping[str, Any]) -> Iterator[str]:
    """The nodes whose outputs the node reads."""
    for one in (given.get("inputs") or {}).values():
        text = one.get("value") or one.get("uri") if isinstance(one, Mapping) else one
        yield from _BOUND.findall(str(text or ""))
