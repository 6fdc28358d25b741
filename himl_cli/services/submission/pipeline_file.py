"""A pipeline's JSON file in DeepSeismic's schema, its files, and the `.env` that names storage and cluster."""

from __future__ import annotations

import json
import os
import posixpath
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from himl_cli.core.errors import BadUsage
from himl_cli.core.jobs import ClusterSpec, ContainerSpec
from himl_cli.core.redaction import redact
from himl_cli.core.text import NotJson, as_found, did_you_mean, parse_dotenv, read_json, read_text, with_slashes
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
PASSED_OVER = ("output_path",)  # DeepSeismic's program knew it, its documents did not; it has no meaning here
LONGEST_LINE = 100_000  # characters of arguments in one text; Linux gives a program no more than 131,072 in one
KINDS: Mapping[type, str] = {
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
    steps: Sequence[Step] = ()

    def wrong(self, step: str, key: str, what: str, *, hint: str = "") -> BadUsage:
        """An error about a field of a step; *what* completes the sentence `'pipeline.json', step1: 'script' …`."""
        about = f"'{key}' {what}" if key else what
        return BadUsage(redact(f"'{self.shown}', {step}: {about}"), hint=hint)


def read_pipeline(path: Path, shown: str) -> PipelineFile:
    """The file at *path*, all of it checked by itself: no other file is looked for. Raises BadUsage naming the step and
    the key."""

    def without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) < len(pairs):
            twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
            raise BadUsage(
                redact(f"'{shown}': the key '{twice}' stands there twice."),
                hint="Of two the first would be lost; rename or remove one.",
            )
        return made

    try:
        content = read_json(read_text(path, "TARGET"), pairs=without_doubles)
    except NotJson as err:
        where = f", line {err.line}, column {err.column}" if err.line else ""
        raise BadUsage(
            f"'{shown}'{where}: {err}.",
            hint="The file is no valid JSON; no comments, no comma behind the last entry.",
        ) from err
    if not isinstance(content, Mapping) or not content:
        what = "" if isinstance(content, Mapping) else f", but {KINDS[type(content)]}"
        hint = 'A pipeline looks like {"step1": {"type": "PythonScriptStep", …}}'
        raise BadUsage(f"'{shown}' holds no steps{what}.", hint=hint)
    for key in content:
        if not re.fullmatch(r"step\d+", key, re.ASCII):
            raise BadUsage(redact(f"'{shown}': '{key}' is no name of a step."), hint="Steps are called step1, step2, …")
    file = PipelineFile(path, shown)
    return replace(file, steps=[_step(file, key, value) for key, value in content.items()])


def _step(file: PipelineFile, key: str, content: Any) -> Step:
    def wrong(name: str, what: str, hint: str = "") -> BadUsage:
        return file.wrong(key, name, what, hint=hint)

    if not isinstance(content, Mapping):
        raise wrong("", f"holds no fields, but {KINDS[type(content)]}.")
    fields: dict[str, Any] = {"arguments": []}
    for name, value in content.items():
        if name not in KNOWN and name not in PASSED_OVER:
            raise wrong(name, "is no field of a step.", did_you_mean(name, KNOWN) or f"There are: {', '.join(KNOWN)}.")
        if value is None or name in PASSED_OVER:
            continue
        if name in COUNTS:
            text = value.strip() if isinstance(value, str) else ""
            if text.isascii() and text.isdigit() and text.strip("0"):
                value = int(text.lstrip("0")[: LONGEST_SHOWN + 1])  # of thousands of digits Python makes no number
            fields[name] = value
            if problem := count_problem(value, MOST[name]):
                raise wrong(name, problem)
        elif name == "arguments":
            fields[name] = _arguments(value, partial(wrong, name))
        elif not isinstance(value, str):
            raise wrong(name, f"must be text, not {KINDS[type(value)]}.")
        else:
            fields[name] = value.strip()
    for name in (*TEXTS, "arguments"):
        if "\0" in "".join(fields.get(name, ())):
            raise wrong(name, "has the character NUL, \\u0000.", "No name and no argument can have it.")
    for name in REQUIRED:
        if not fields.get(name):
            raise wrong(name, "is missing.", f"A step has at least: {', '.join(REQUIRED)}.")
    if fields["type"] not in TYPES:
        hint = did_you_mean(fields["type"], TYPES) or f"It is one of: {', '.join(TYPES)}."
        raise wrong("type", f"cannot be '{fields['type']}'.", hint)
    fields["name"] = fields.get("name") or key
    return Step(key, **fields, passed_over=[name for name in PASSED_OVER if content.get(name) is not None])


def _arguments(value: Any, wrong: Callable[[str, str], BadUsage]) -> list[str]:
    if isinstance(value, str):
        if len(value) > LONGEST_LINE:
            raise wrong(f"is longer than {LONGEST_LINE:,} characters.", "Give the script a file instead.")
        try:
            return shlex.split(value)
        except ValueError as err:
            raise wrong("has a quote that does not end.", "Close it, or give the arguments as a list.") from err
    if not isinstance(value, list):
        raise wrong(f"must be a list or a text, not {KINDS[type(value)]}.", "")
    for entry in value:
        if entry is None or isinstance(entry, (Mapping, list)):
            raise wrong(f"holds {KINDS[type(entry)]}.", "Each of them is a text or a number.")
    return [str(entry) if isinstance(entry, (str, bool)) else json.dumps(entry) for entry in value]


def step_files(file: PipelineFile, step: Step, cwd: Path) -> tuple[Path, str, Path | None]:
    """The source folder of *step*, its script relative to that (`/` separators), and its requirements file, if it has
    one. They are relative to the file's folder, else to *cwd*, as DeepSeismic ran it.

    Raises BadUsage, naming the step and the key, for one that is not there.
    """
    folders = list(dict.fromkeys((file.path.parent.resolve(), cwd.resolve())))
    start = f"The path is relative to {' or '.join(repr(str(folder)) for folder in folders)}."

    def wrong(key: str, what: str, names: Iterable[str], hint: str) -> BadUsage:
        near = did_you_mean(posixpath.normpath(with_slashes(getattr(step, key))), dict.fromkeys(names))
        return file.wrong(step.key, key, f"'{getattr(step, key)}' {what}", hint=near or hint)

    sources = [folder / as_found(folder, step.source_directory) for folder in folders]
    source = next(filter(os.path.isdir, sources), None)  # also for a name that no file system takes
    if source is None:
        if any(map(os.path.exists, sources)):
            raise wrong("source_directory", "is no folder.", (), "Name the folder that holds the script.")
        names = [path.name for folder in folders for path in folder.iterdir() if path.is_dir()]
        raise wrong("source_directory", "does not exist.", names, start)
    source = source.resolve()
    script = Path(os.path.normpath(source / as_found(source, step.script)))
    if not script.is_relative_to(source):
        what = f"lies outside source_directory '{step.source_directory}'."
        raise wrong("script", what, (), "Only that folder is sent.")
    if script.suffix != ".py":
        raise wrong("script", "is no .py script.", (), "")
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
            raise wrong("requirements", "is no file.", names, start)
    return source, script.relative_to(source).as_posix(), requirements


# What DeepSeismic's `.env` says of storage and cluster


@dataclass(frozen=True)
class PipelineVariables:
    """The variables that are set, and where each was read: `variable` for the environment, else the file. Its text
    shows no value."""

    values: Mapping[str, str] = field(default_factory=dict, repr=False)
    sources: Mapping[str, str] = field(default_factory=dict)

    @property
    def cluster(self) -> str:
        return self.values.get(CLUSTER, "")

    def container(self, name: str) -> ContainerSpec | None:
        """The blob container that holds the data, to be called *name* where it is registered; None where it is not
        named. Raises BadUsage where half of it is named, without its values."""
        names = (ACCOUNT, CONTAINER, KEY, SUBSCRIPTION)
        account, container, key, subscription = (self.values.get(name, "") for name in names)
        if bool(account) != bool(container):
            given, lacking = (ACCOUNT, CONTAINER) if account else (CONTAINER, ACCOUNT)
            raise BadUsage(
                f"{given} is set, and {lacking} is not.",
                hint=f"Set both, in {self.sources.get(given)!r} or the environment, or neither.",
            )
        return ContainerSpec(account, container, key, subscription, name) if account else None

    def cluster_spec(self, name: str, nodes: int, step: str) -> ClusterSpec:
        """The cluster *name* as it is to be made; without a word on its size it gets *nodes* at most, which *step*
        wants. Raises BadUsage for numbers that are none, and for fewer."""
        counts = {MIN_NODES: 0, MAX_NODES: nodes}
        for variable in counts:
            text = self.values.get(variable, "")
            if text and not (text.isascii() and text.isdigit()):
                raise BadUsage(f"{variable} cannot be '{text}'.", hint="It is a whole number of nodes.")
            if len(text.lstrip("0")) > len(str(MOST_NODES)) or int(text or 0) > MOST_NODES:
                raise BadUsage(f"{variable}: a cluster has {MOST_NODES:,} nodes at most.")
            counts[variable] = int(text) if text else counts[variable]
        least, most = counts.values()
        refuse(
            "",
            (least > most, f"{MIN_NODES} is {least}, and {MAX_NODES} is {most}.", "The first is the smaller number."),
            (
                nodes > most,
                f"{MAX_NODES} is {most}, and {step} has a node_count of {nodes}.",
                "The largest step has to fit into the cluster.",
            ),
        )
        # what DeepSeismic's documents name; a cluster that exists is used whatever its size is
        return ClusterSpec(name, self.values.get(SIZE, "") or "Standard_NC6", least, most)


def pipeline_variables(start: Path, cwd: Path, env: Mapping[str, str]) -> PipelineVariables:
    """What is set in *env*, and in the nearest `.env` that sets any of it, from *start* upward, else from *cwd*. Raises
    BadUsage for a file that is broken."""
    values: dict[str, str] = {}
    sources: dict[str, str] = {}
    for path in [folder / ".env" for folder in dict.fromkeys((start, *start.parents, cwd, *cwd.parents))]:
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
