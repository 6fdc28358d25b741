"""What the request for a job of a given shape looks like: found out from azure-ai-ml once, then kept.

Importing azure-ai-ml takes longer than all else of a submission. So it builds a job in which each text is a mark; the
request that it composes is kept, and for the next job of the same shape the marks are replaced by that job's texts.
Every job goes this way, the first one too, so that two jobs never differ by which of them was the first. Where the
marks do not come out as they went in (a later azure-ai-ml that makes something of a text), nothing is kept, and
azure-ai-ml builds each job itself.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from himl_cli import __version__
from himl_cli.workspaces.azure.jobs.job_form import JobForm, JobShape, JobTexts
from himl_cli.workspaces.azure.jobs.sdk import load_sdk
from himl_cli.workspaces.azure.places.address import WorkspaceAddress
from himl_cli.workspaces.azure.requests.kept import LONGEST_SECONDS, Kept

log = logging.getLogger(__name__)

KIND = "job-templates"
_MARK = "himl-mark"


@dataclass(frozen=True)
class Template:
    """The body of a request with marks in place of texts, and the version of the service that it is for."""

    api_version: str
    body: Mapping[str, Any]

    def filled(self, address: WorkspaceAddress, form: JobForm) -> dict[str, Any]:
        """The body for *form*."""
        texts, maps = _replacements(_marked(address, form.shape), form.texts)
        found: dict[str, Any] = _filled(self.body, texts, maps)
        return found


class Templates:
    """Templates of one workspace."""

    def __init__(self, kept: Kept, address: WorkspaceAddress) -> None:
        self._kept = kept
        self._address = address

    def is_kept(self, shape: JobShape) -> bool:
        """Whether a job of *shape* can be sent without azure-ai-ml."""
        return self._known(shape) is not None

    def request(self, form: JobForm) -> tuple[str, dict[str, Any]]:
        """The version of the service and the body for *form*. Raises BadUsage where azure-ai-ml does not take the
        job."""
        template = self._known(form.shape) or self._made(form.shape)
        if template is not None:
            return template.api_version, template.filled(self._address, form)
        load_sdk()
        from himl_cli.workspaces.azure.jobs.builder import build_job

        built = build_job(self._address, form)
        return built.api_version, dict(built.body)

    def forget(self, shape: JobShape) -> None:
        """Drop what is kept for *shape*: the service did not take it."""
        self._kept.forget(KIND, self._key(shape))

    def _known(self, shape: JobShape) -> Template | None:
        value = self._kept.get(KIND, self._key(shape))
        if (
            not isinstance(value, dict)
            or not isinstance(value.get("api_version"), str)
            or not isinstance(value.get("body"), dict)
        ):
            return None
        template = Template(value["api_version"], value["body"])
        return template if _has_all_marks(template, _marked(self._address, shape)) else None

    def _made(self, shape: JobShape) -> Template | None:
        load_sdk()
        from himl_cli.workspaces.azure.jobs.builder import build_job

        marked = _marked(self._address, shape)
        built = build_job(self._address, JobForm(shape, marked))
        template = Template(built.api_version, built.body)
        if not _has_all_marks(template, marked):
            log.debug("azure-ai-ml changes texts of a job; it builds each job by itself")
            return None
        self._kept.put(KIND, self._key(shape), asdict(template), seconds=LONGEST_SECONDS)
        return template

    def _key(self, shape: JobShape) -> str:
        from importlib.metadata import version

        made_by = f"himl {__version__}, azure-ai-ml {version('azure-ai-ml')}"
        return (
            f"{made_by} {self._address.cloud.name} {self._address.path.lower()} "
            f"{json.dumps(asdict(shape), sort_keys=True)}"
        )


def _marked(address: WorkspaceAddress, shape: JobShape) -> JobTexts:
    """Texts that are marks, each of the kind that azure-ai-ml expects in its place."""

    def mark(what: str) -> str:
        return f"{_MARK}-{what}"

    def map_mark(what: str) -> dict[str, str]:
        return {mark(what): mark(what)}

    return JobTexts(
        display_name=mark("display-name"),
        description=mark("description") if shape.has_description else "",
        experiment=mark("experiment"),
        command=mark("command"),
        docker_args=mark("docker-args") if shape.has_docker_args else "",
        code=f"{address.path}/codes/{mark('code')}/versions/1",
        environment=f"{address.path}/environments/{mark('environment')}/versions/1",
        tags=map_mark("tags"),
        variables=map_mark("variables"),
        properties=map_mark("properties"),
        inputs={one.key: f"azureml://datastores/{_MARK}/paths/inputs/{one.key}/" for one in shape.inputs},
        outputs={one.key: f"azureml://datastores/{_MARK}/paths/outputs/{one.key}/" for one in shape.outputs},
        assets={one.key: mark(f"asset-{one.key}") for one in shape.outputs if one.is_registered},
    )


def _replacements(marks: JobTexts, texts: JobTexts) -> tuple[dict[str, str], dict[str, Mapping[str, str]]]:
    """What stands for each mark that is a text, and for each that is the one name of an object."""
    plain = ("display_name", "description", "experiment", "command", "docker_args", "code", "environment")
    found = {getattr(marks, name): getattr(texts, name) for name in plain if getattr(marks, name)}
    for name in ("inputs", "outputs", "assets"):
        found |= {mark: getattr(texts, name)[key] for key, mark in getattr(marks, name).items()}
    maps = {next(iter(getattr(marks, name))): getattr(texts, name) for name in ("tags", "variables", "properties")}
    return found, maps


def _filled(value: Any, texts: Mapping[str, str], maps: Mapping[str, Mapping[str, str]]) -> Any:
    if isinstance(value, str):
        return texts.get(value, value)
    if isinstance(value, list):
        return [_filled(item, texts, maps) for item in value]
    if isinstance(value, Mapping):
        only = next(iter(value)) if len(value) == 1 else ""
        return dict(maps[only]) if only in maps else {name: _filled(item, texts, maps) for name, item in value.items()}
    return value


def _has_all_marks(template: Template, marks: JobTexts) -> bool:
    """Whether each mark stands in the body once, as it is, and nowhere inside another text."""
    texts, maps = _replacements(marks, marks)
    there = sorted(text for text in _texts(template.body) if _MARK in text)
    return there == sorted([*texts, *maps, *maps])


def _texts(value: Any) -> Iterator[str]:
    """All names and texts in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield name
            yield from _texts(item)
