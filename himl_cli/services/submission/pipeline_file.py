"""Reader of a pipeline's JSON file in DeepSeismic's schema, its files, and the `.env` with its storage and cluster."""

from __future__ import annotations

import json
import os
import posixpath
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import field, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from himl_cli.core.errors import BadUsage
from himl_cli.core.files import as_found, with_slashes
from himl_cli.core.jobs import ClusterSpec, ContainerSpec
from himl_cli.core.json_text import NotJson, read_json
from himl_cli.core.records import dataclass
from himl_cli.core.redaction import redact
from himl_cli.core.settings import find_upward
from himl_cli.core.text import did_you_mean, parse_dotenv, read_text
from himl_cli.services.submission.request import LONGEST_SHOWN, MOST, MOST_NODES, count_problem, refuse

MPI_STEP = "MpiStep"
TYPES = ("PythonScriptStep", MPI_STEP)
REQUIRED = ("type", "script", "source_directory")
TEXTS = (
    *(*REQUIRED, "name", "requirements", "base_image"),
    *("input_datareference_path", "input_datareference_name", "input_dataset_name", "output"),
)
COUNTS = ("node_count", "processes_per_node")
KNOWN = (*TEXTS, *COUNTS, "arguments")
# A field without effect that DeepSeismic accepted but did not document
PASSED_OVER = ("output_path",)
# Characters of arguments in one text. Linux passes a program at most 131,072 in one argument.
LONGEST_LINE = 100_000
TYPE_NAMES: Mapping[type, str] = {
    type(None): "nothing (null)",
    bool: "a truth value",
    int: "a number",
    float: "a number",
    str: "a text",
    list: "a list",
    dict: "an object",
}

ACCOUNT, CONTAINER, KEY, SUBSCRIPTION = "BLOB_ACCOUNT_NAME", "BLOB_CONTAINER_NAME", "BLOB_ACCOUNT_KEY", "BLOB_SUB_ID"
CLUSTER, SIZE = "AML_COMPUTE_CLUSTER_NAME", "AML_COMPUTE_CLUSTER_SKU"
MIN_NODES, MAX_NODES = "AML_COMPUTE_CLUSTER_MIN_NODES", "AML_COMPUTE_CLUSTER_MAX_NODES"
NAMES = (ACCOUNT, CONTAINER, KEY, SUBSCRIPTION, CLUSTER, MIN_NODES, MAX_NODES, SIZE)


@dataclass(frozen=True)
class Step:
    """One step with the fields of the file. Missing fields are empty. `key` is its key (`step1`)."""

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
    """The steps in the order of the file. `shown` is the file's name in messages."""

    path: Path
    shown: str
    steps: Sequence[Step] = ()

    def wrong(self, step: str, key: str, what: str, *, hint: str = "") -> BadUsage:
        """An error about a field of a step; *what* completes the sentence `'pipeline.json', step1: 'script' …`."""
        about = f"'{key}' {what}" if key else what
        return BadUsage(redact(f"'{self.shown}', {step}: {about}"), hint=hint)


def read_pipeline(path: Path, shown: str) -> PipelineFile:
    """The file at *path*, checked without access to other files. Raises BadUsage, with the step and the key."""

    def without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) < len(pairs):
            twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
            raise BadUsage(
                redact(f"'{shown}': the key '{twice}' occurs twice."),
                hint="Rename or remove one of them.",
            )
        return made

    try:
        content = read_json(read_text(path, "TARGET"), pairs=without_doubles)
    except NotJson as err:
        where = f", line {err.line}, column {err.column}" if err.line else ""
        raise BadUsage(
            f"'{shown}'{where}: {err}.",
            hint="JSON allows neither comments nor a comma after the last entry.",
        ) from err
    if not isinstance(content, Mapping) or not content:
        what = "" if isinstance(content, Mapping) else f", but {TYPE_NAMES[type(content)]}"
        hint = 'Example of a pipeline: {"step1": {"type": "PythonScriptStep", …}}'
        raise BadUsage(f"'{shown}' contains no steps{what}.", hint=hint)
    for key in content:
        if not re.fullmatch(r"step\d+", key, re.ASCII):
            raise BadUsage(redact(f"'{shown}': '{key}' is not a valid key of a step."), hint="Use step1, step2, …")
    file = PipelineFile(path, shown)
    return replace(file, steps=[_step(file, key, value) for key, value in content.items()])


def _step(file: PipelineFile, key: str, content: Any) -> Step:
    def wrong(name: str, what: str, hint: str = "") -> BadUsage:
        return file.wrong(key, name, what, hint=hint)

    if not isinstance(content, Mapping):
        raise wrong("", f"must be an object, not {TYPE_NAMES[type(content)]}.")
    fields: dict[str, Any] = {"arguments": []}
    for name, value in content.items():
        if name not in KNOWN and name not in PASSED_OVER:
            hint = did_you_mean(name, KNOWN) or f"Use one of: {', '.join(KNOWN)}."
            raise wrong(name, "is not a field of a step.", hint)
        if value is None or name in PASSED_OVER:
            continue
        if name in COUNTS:
            text = value.strip() if isinstance(value, str) else ""
            if text.isascii() and text.isdigit() and text.strip("0"):
                # Python refuses to convert thousands of digits
                value = int(text.lstrip("0")[: LONGEST_SHOWN + 1])
            fields[name] = value
            if problem := count_problem(value, MOST[name]):
                raise wrong(name, problem)
        elif name == "arguments":
            fields[name] = _arguments(value, partial(wrong, name))
        elif not isinstance(value, str):
            raise wrong(name, f"must be text, not {TYPE_NAMES[type(value)]}.")
        else:
            fields[name] = value.strip()
    for name in (*TEXTS, "arguments"):
        if "\0" in "".join(fields.get(name, ())):
            raise wrong(name, "has the character NUL, \\u0000.", "Remove it.")
    for name in REQUIRED:
        if not fields.get(name):
            raise wrong(name, "is missing.", f"A step needs: {', '.join(REQUIRED)}.")
    if fields["type"] not in TYPES:
        hint = did_you_mean(fields["type"], TYPES) or f"Use one of: {', '.join(TYPES)}."
        raise wrong("type", f"cannot be '{fields['type']}'.", hint)
    fields["name"] = fields.get("name") or key
    return Step(key, **fields, passed_over=[name for name in PASSED_OVER if content.get(name) is not None])


def _arguments(value: Any, wrong: Callable[[str, str], BadUsage]) -> list[str]:
    if isinstance(value, str):
        if len(value) > LONGEST_LINE:
            raise wrong(f"is longer than {LONGEST_LINE:,} characters.", "Pass a file to the script instead.")
        try:
            return shlex.split(value)
        except ValueError as err:
            raise wrong("has an unclosed quote.", "Close it, or write the arguments as a list.") from err
    if not isinstance(value, list):
        raise wrong(f"must be a list or a text, not {TYPE_NAMES[type(value)]}.", "")
    for entry in value:
        if entry is None or isinstance(entry, (Mapping, list)):
            raise wrong(f"contains {TYPE_NAMES[type(entry)]}.", "Use texts and numbers only.")
    return [str(entry) if isinstance(entry, (str, bool)) else json.dumps(entry) for entry in value]


def step_files(file: PipelineFile, step: Step, cwd: Path) -> tuple[Path, str, Path | None]:
    """The source folder of *step*, its script relative to that folder (with `/` separators), and its requirements file,
    if any. Paths are relative to the file's folder, else to *cwd*, as in DeepSeismic.

    Raises BadUsage, with the step and the key, for a file that does not exist.
    """
    folders = list(dict.fromkeys((file.path.parent.resolve(), cwd.resolve())))
    start = f"The path is relative to {' or '.join(repr(str(folder)) for folder in folders)}."

    def wrong(key: str, what: str, names: Iterable[str], hint: str) -> BadUsage:
        near = did_you_mean(posixpath.normpath(with_slashes(getattr(step, key))), dict.fromkeys(names))
        return file.wrong(step.key, key, f"'{getattr(step, key)}' {what}", hint=near or hint)

    sources = [folder / as_found(folder, step.source_directory) for folder in folders]
    # Unlike Path.is_dir, os.path.isdir accepts a name that is invalid in the file system
    source = next(filter(os.path.isdir, sources), None)
    if source is None:
        if any(map(os.path.exists, sources)):
            raise wrong("source_directory", "is not a folder.", (), "Name the folder that contains the script.")
        names = [path.name for folder in folders for path in folder.iterdir() if path.is_dir()]
        raise wrong("source_directory", "does not exist.", names, start)
    source = source.resolve()
    script = Path(os.path.normpath(source / as_found(source, step.script)))
    if not script.is_relative_to(source):
        what = f"is outside source_directory '{step.source_directory}'."
        raise wrong("script", what, (), "The snapshot contains that folder only.")
    if script.suffix != ".py":
        raise wrong("script", "is not a .py script.", (), "")
    if not os.path.isfile(script):
        beside = script.parent.glob("*.py") if os.path.isdir(script.parent) else ()
        names = [path.relative_to(source).as_posix() for path in beside]
        raise wrong("script", f"is not in '{source}'.", names, "The path is relative to the step's source_directory.")
    requirements = None
    if step.requirements:
        files = [folder / as_found(folder, step.requirements) for folder in folders]
        requirements = next(filter(os.path.isfile, files), None)
        if requirements is None:
            names = [
                Path(os.path.relpath(path, folder)).as_posix()
                for folder in folders
                for path in (folder / with_slashes(step.requirements)).parent.glob("*.txt")
            ]
            raise wrong("requirements", "is not a file.", names, start)
    return source, script.relative_to(source).as_posix(), requirements


# Storage and cluster of DeepSeismic's `.env`


@dataclass(frozen=True)
class PipelineVariables:
    """The variables that are set, and their sources: `variable` for the environment, else the file. The text of the
    object contains no values."""

    values: Mapping[str, str] = field(default_factory=dict, repr=False)
    sources: Mapping[str, str] = field(default_factory=dict)

    @property
    def cluster(self) -> str:
        return self.values.get(CLUSTER, "")

    def container(self, name: str) -> ContainerSpec | None:
        """The blob container of the data, with *name* as the name of its datastore, or None. Raises BadUsage, without
        values, if only one of account and container is set."""
        names = (ACCOUNT, CONTAINER, KEY, SUBSCRIPTION)
        account, container, key, subscription = (self.values.get(name, "") for name in names)
        if bool(account) != bool(container):
            given, lacking = (ACCOUNT, CONTAINER) if account else (CONTAINER, ACCOUNT)
            raise BadUsage(
                f"{given} is set, but {lacking} is not.",
                hint=f"Set both, in {self.sources.get(given)!r} or the environment, or neither.",
            )
        return ContainerSpec(account, container, key, subscription, name) if account else None

    def cluster_spec(self, name: str, nodes: int, step: str) -> ClusterSpec:
        """The specification of the new cluster *name*. By default, its maximum is *nodes*, the requirement of *step*.
        Raises BadUsage for invalid numbers, and for a maximum below *nodes*."""
        counts = {MIN_NODES: 0, MAX_NODES: nodes}
        for variable in counts:
            text = self.values.get(variable, "")
            if text and not (text.isascii() and text.isdigit()):
                raise BadUsage(f"{variable} cannot be '{text}'.", hint="Use an integer, the number of nodes.")
            if len(text.lstrip("0")) > len(str(MOST_NODES)) or int(text or 0) > MOST_NODES:
                raise BadUsage(f"{variable}: a cluster has at most {MOST_NODES:,} nodes.")
            counts[variable] = int(text) if text else counts[variable]
        least, most = counts.values()
        refuse(
            "",
            (least > most, f"{MIN_NODES} is {least}, but {MAX_NODES} is {most}.", "The minimum must be smaller."),
            (
                nodes > most,
                f"{MAX_NODES} is {most}, but {step} has a node_count of {nodes}.",
                f"Increase {MAX_NODES}.",
            ),
        )
        # The default is from DeepSeismic's documentation. The size of an existing cluster does not matter.
        return ClusterSpec(name, self.values.get(SIZE, "") or "Standard_NC6", least, most)


def pipeline_variables(start: Path, cwd: Path, env: Mapping[str, str]) -> PipelineVariables:
    """The variables of *env*, and of the nearest `.env` that sets any of them, from *start* upward, else from *cwd*.
    Raises BadUsage for an invalid file."""
    values: dict[str, str] = {}
    sources: dict[str, str] = {}
    searches = (find_upward((each, *each.parents), (".env",)) for each in (start, cwd))
    for path in chain.from_iterable(searches):
        text = read_text(path, ".env") if path.is_file() else ""
        if any(name in text for name in NAMES):
            values = {name: value for name, value in parse_dotenv(text, path).items() if name in NAMES and value}
            sources = dict.fromkeys(values, str(path))
        if values:
            break
    for name in NAMES:
        if env.get(name):
            values[name], sources[name] = env[name], "variable"
    return PipelineVariables(values, sources)
