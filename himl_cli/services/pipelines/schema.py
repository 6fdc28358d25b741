"""The pipeline's JSON file: its steps as they are written there, each field checked for what it can be."""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from himl_cli.core.errors import BadUsage
from himl_cli.core.json_texts import NotJson, read_json
from himl_cli.core.redaction import redact
from himl_cli.core.spelling import did_you_mean
from himl_cli.services.submission.quantities import LONGEST_SHOWN, MOST, count_wanted, whole_number
from himl_cli.services.text_files import read_text

PYTHON_STEP, MPI_STEP = "PythonScriptStep", "MpiStep"
TYPES = (PYTHON_STEP, MPI_STEP)
STEP_KEY = re.compile(r"step\d+", re.ASCII)
REQUIRED = ("type", "script", "source_directory")
TEXTS = (
    *REQUIRED,
    "name",
    "requirements",
    "base_image",
    "input_datareference_path",
    "input_datareference_name",
    "input_dataset_name",
    "output",
)
COUNTS = ("node_count", "processes_per_node")
LONGEST_LINE = 100_000
"""Characters of arguments in one text; Linux gives a program no more than 131,072 in one."""
PASSED_OVER = ("output_path",)
"""Fields that DeepSeismic's program knew beside those of its documents, and that have no meaning here."""
KNOWN = (*TEXTS, *COUNTS, "arguments")


@dataclass(frozen=True)
class Step:
    """One step, fields as in the file; empty where there is none. `key` is its key (`step1`)."""

    key: str
    type: str
    script: str
    source_directory: str
    name: str
    arguments: Sequence[str] = ()
    requirements: str = ""
    base_image: str = ""
    node_count: int = 1
    processes_per_node: int = 1
    input_datareference_path: str = ""
    input_datareference_name: str = ""
    input_dataset_name: str = ""
    output: str = ""
    passed_over: Sequence[str] = ()


@dataclass(frozen=True)
class PipelineFile:
    """The steps in the file's order; `shown` is what messages call the file."""

    path: Path
    shown: str
    steps: Sequence[Step] = field(default_factory=tuple)

    def wrong(self, step: str, key: str, what: str, *, hint: str = "") -> BadUsage:
        """An error about a field of a step; *what* completes the sentence `'pipeline.json', step1: 'script' …`."""
        about = f"'{key}' {what}" if key else what
        return BadUsage(redact(f"'{self.shown}', {step}: {about}"), hint=hint)


def read_pipeline(path: Path, shown: str) -> PipelineFile:
    """The file at *path*, all of it checked by itself: no other file is looked for. Raises BadUsage naming the step and
    the key."""
    file = PipelineFile(path, shown)
    content = _parsed(file)
    if not isinstance(content, Mapping):
        raise BadUsage(
            f"'{shown}' holds no steps, but {_kind(content)}.",
            hint='A pipeline looks like {"step1": {"type": "PythonScriptStep", …}}',
        )
    if not content:
        raise BadUsage(f"'{shown}' holds no steps.", hint="They are called step1, step2, …")
    for key in content:
        if not STEP_KEY.fullmatch(key):
            raise BadUsage(redact(f"'{shown}': '{key}' is no name of a step."), hint="Steps are called step1, step2, …")
    return PipelineFile(path, shown, [_step(file, key, value) for key, value in content.items()])


def _parsed(file: PipelineFile) -> Any:
    text = read_text(file.path, "TARGET")

    def without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) < len(pairs):
            twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
            raise BadUsage(
                redact(f"'{file.shown}': the key '{twice}' stands there twice."),
                hint="Of two the first would be lost; rename or remove one.",
            )
        return made

    try:
        return read_json(text, pairs=without_doubles)
    except NotJson as err:
        where = f", line {err.line}, column {err.column}" if err.line else ""
        raise BadUsage(
            f"'{file.shown}'{where}: {err}.",
            hint="The file is no valid JSON; no comments, no comma behind the last entry.",
        ) from err


def _step(file: PipelineFile, key: str, value: Any) -> Step:
    if not isinstance(value, Mapping):
        raise file.wrong(key, "", f"holds no fields, but {_kind(value)}.")
    for name in value:
        if name not in KNOWN and name not in PASSED_OVER:
            raise file.wrong(
                key, name, "is no field of a step.", hint=did_you_mean(name, KNOWN) or f"There are: {', '.join(KNOWN)}."
            )
    given = {name: entry for name, entry in value.items() if entry is not None}
    texts = {name: _text(file, key, name, given[name]) for name in TEXTS if name in given}
    for name in REQUIRED:
        if not texts.get(name):
            raise file.wrong(key, name, "is missing.", hint=f"A step has at least: {', '.join(REQUIRED)}.")
    if texts["type"] not in TYPES:
        raise file.wrong(
            key,
            "type",
            f"cannot be '{texts['type']}'.",
            hint=did_you_mean(texts["type"], TYPES) or f"It is one of: {', '.join(TYPES)}.",
        )
    counts = {name: _count(file, key, name, given[name]) for name in COUNTS if name in given}
    fields: dict[str, Any] = {**texts, **counts, "name": texts.get("name") or key}
    return Step(
        key=key,
        **fields,
        arguments=_arguments(file, key, given.get("arguments", ())),
        passed_over=[name for name in PASSED_OVER if name in given],
    )


def _text(file: PipelineFile, step: str, key: str, value: Any) -> str:
    if not isinstance(value, str):
        raise file.wrong(step, key, f"must be text, not {_kind(value)}.")
    return _without_nul(file, step, key, value.strip())


def _without_nul(file: PipelineFile, step: str, key: str, text: str) -> str:
    """*text*. Raises BadUsage where it has the character that no program can be given."""
    if "\0" in text:
        raise file.wrong(step, key, "has the character NUL, \\u0000.", hint="No name and no argument can have it.")
    return text


def _count(file: PipelineFile, step: str, key: str, value: Any) -> int:
    """A whole number from 1, which may be given as text."""
    number = value.strip() if isinstance(value, str) else value
    if isinstance(number, str) and number.isascii() and number.isdigit():
        number = int(
            number.lstrip("0")[: LONGEST_SHOWN + 1] or "0"
        )  # of thousands of digits Python makes no number; cut, it still is too large
    found = whole_number(number, MOST[key])
    if found is None:
        raise file.wrong(
            step, key, count_wanted(number if isinstance(number, int) and number > 0 else value, MOST[key])
        )
    return found


def _arguments(file: PipelineFile, step: str, value: Any) -> list[str]:
    """The script's arguments: a list of texts and numbers, or one text that is split as a shell does."""
    if isinstance(value, str):
        try:
            if len(value) > LONGEST_LINE:
                raise file.wrong(
                    step,
                    "arguments",
                    f"is longer than {LONGEST_LINE:,} characters.",
                    hint="Give the script a file instead.",
                )
            return shlex.split(_without_nul(file, step, "arguments", value))
        except ValueError as err:
            raise file.wrong(
                step, "arguments", "has a quote that does not end.", hint="Close it, or give the arguments as a list."
            ) from err
    if not isinstance(value, Sequence):
        raise file.wrong(step, "arguments", f"must be a list or a text, not {_kind(value)}.")
    for entry in value:
        if entry is None or isinstance(entry, (Mapping, list)):
            raise file.wrong(step, "arguments", f"holds {_kind(entry)}.", hint="Each of them is a text or a number.")
        _without_nul(file, step, "arguments", str(entry))
    return [
        entry if isinstance(entry, str) else json.dumps(entry) if not isinstance(entry, bool) else str(entry)
        for entry in value
    ]


def _kind(value: Any) -> str:
    """What a JSON value is, in words."""
    if value is None:
        return "nothing (null)"
    kinds = {
        bool: "a truth value",
        int: "a number",
        float: "a number",
        str: "a text",
        list: "a list",
        dict: "an object",
    }
    return kinds[type(value)]
