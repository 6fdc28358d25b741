"""A job's YAML file, or a part of it, read by key with errors that name the key. Importing this loads the YAML
library."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from himl_cli.core.errors import BadUsage
from himl_cli.core.jobs import HERE
from himl_cli.core.redaction import redact
from himl_cli.core.shortening import shortened
from himl_cli.core.spelling import did_you_mean
from himl_cli.services.submission.quantities import MOST_SECONDS, count_wanted
from himl_cli.services.text_files import read_text
from himl_cli.services.yaml_files import parse_mapping

COMMAND, SWEEP, PIPELINE = "command", "sweep", "pipeline"
SCHEMAS = {"commandjob": COMMAND, "sweepjob": SWEEP, "pipelinejob": PIPELINE}


@dataclass(frozen=True)
class Part:
    """A mapping of a file: `shown` is what messages call the file, `prefix` the keys above it with dots, `folder` what
    its paths are relative to."""

    shown: str
    folder: Path
    content: Mapping[str, Any]
    prefix: str = ""

    def wrong(self, key: str, what: str, *, hint: str = "") -> BadUsage:
        """An error about *key*; *what* completes the sentence `'job.yml': 'command' …`."""
        return BadUsage(redact(f"'{self.shown}': '{self.prefix}{key}' {what}"), hint=hint)

    def given(self, key: str) -> Any:
        """The value of *key*; None where there is none."""
        return self.content.get(key)

    def text(self, key: str) -> str:
        """The text of *key*, numbers as written; empty where there is none. Raises BadUsage for anything else."""
        value = self.content.get(key)
        if value is None:
            return ""
        if isinstance(value, (Mapping, list)):
            raise self.wrong(key, "must be text.")
        return self.written(key, value)

    def written(self, key: str, value: Any) -> str:
        """A plain value of *key* as text. Raises BadUsage for the character that no program can be given."""
        if "\0" in str(value):
            raise self.wrong(key, "has the character NUL, \\0.", hint="No program can be given that.")
        return str(value)

    def part(self, key: str) -> Part:
        """The mapping of *key*; an empty one where there is none. Raises BadUsage for anything else."""
        value = self.content.get(key)
        if value is None:
            value = {}
        if not isinstance(value, Mapping):
            raise self.wrong(key, f"must hold keys and values, not {shortened(repr(value))}.")
        return Part(
            self.shown, self.folder, {str(name): entry for name, entry in value.items()}, f"{self.prefix}{key}."
        )

    def count(self, key: str, default: int | None = None, *, most: int | None = None) -> int | None:
        """The whole number from 1 to *most* of *key*. Raises BadUsage for anything else."""
        value = self.content.get(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise self.wrong(key, f"must be a whole number from 1 on, not {shortened(repr(value))}.")
        if most is not None and value > most:
            raise self.wrong(key, count_wanted(value, most))
        return value

    def number(self, key: str) -> float | None:
        """The number of *key*, a finite one. Raises BadUsage for anything else."""
        value = self.content.get(key)
        if value is not None and (
            isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value)
        ):
            raise self.wrong(key, f"must be a number, not {shortened(repr(value))}.")
        return value

    def seconds(self, key: str) -> float | None:
        """The seconds, more than none, of *key*. Raises BadUsage for anything else."""
        found = self.number(key)
        if found is not None and not 0 < found <= MOST_SECONDS:
            raise self.wrong(key, f"must be a number of seconds, not {found:g}.")
        return None if found is None else float(found)

    def check_keys(self, known: Collection[str]) -> None:
        """Raises BadUsage for a key that is not *known*."""
        for key in self.content:
            if key not in known:
                raise self.wrong(
                    key,
                    "is no key that himl knows there.",
                    hint=did_you_mean(key, known) or f"There are: {', '.join(sorted(known))}.",
                )


@dataclass(frozen=True)
class JobDocument:
    """The whole file: `kind` is its type (`command`, `sweep`, `pipeline`, or another of Azure ML's)."""

    path: Path
    kind: str
    root: Part

    @property
    def compute(self) -> str:
        """The compute that the job runs on, without `azureml:`; `local` for here, empty where none is named."""
        if self.kind != PIPELINE:
            return _name(self.root.text("compute"))
        named = [_name(self.root.part("settings").text("default_compute")), _name(self.root.text("compute"))]
        jobs = self.root.part("jobs")
        named += [_name(jobs.part(key).text("compute")) for key in jobs.content]
        there = [name for name in named if name and name != HERE]
        return there[0] if there else next(filter(None, named), "")


def read_document(path: Path, shown: str) -> JobDocument:
    """The file at *path*. Raises BadUsage where it holds no job."""
    text = read_text(path, "TARGET")
    root = Part(shown, path.parent, parse_mapping(text, Path(shown)))
    return JobDocument(path, _kind(root), root)


def _kind(root: Part) -> str:
    if root.text("type"):
        return root.text("type")
    schema = root.text("$schema").rpartition("/")[2].partition(".")[0].lower()
    if schema in SCHEMAS:
        return SCHEMAS[schema]
    for key, kind in (("jobs", PIPELINE), ("trial", SWEEP), ("command", COMMAND)):
        if root.given(key) is not None:
            return kind
    raise BadUsage(
        f"'{root.shown}' holds no job: it has neither 'type' nor 'command'.",
        hint="It has to be a command, sweep or pipeline job of Azure ML.",
    )


def _name(compute: str) -> str:
    return compute.strip().removeprefix("azureml:").strip()
