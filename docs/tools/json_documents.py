"""Types of the documents that `--json` prints. `himl_cli/schemas.json` and docs/cli/schemas.md are made from them.

`python -m docs.tools.json_documents` writes the schemas. A dataclass that is printed field by field needs no type in
this module."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

import msgspec
from msgspec import Meta

import himl_cli
from himl_cli.core.installed import RunEnvironment
from himl_cli.core.runs import Attempt, RunService, RunStatus
from himl_cli.core.sweeps import Scalar
from himl_cli.core.workspaces import Check, Garbage, SetUp, WorkspaceFacts
from himl_cli.services.runs.changes import CancelOutcome
from himl_cli.services.tensorboard.server import SyncedRun

FILE = Path(himl_cli.__file__).with_name("schemas.json")

Time = Annotated[str, Meta(description="A time in UTC.", extra_json_schema={"format": "date-time"})]
Number = Annotated[
    float | Literal["NaN", "Infinity", "-Infinity"],
    Meta(description="A number. NaN and the infinities are strings."),
]
Value = int | bool | str | Number | None
Seconds = Annotated[float, Meta(description="A duration in seconds.")]
Bytes = Annotated[int, Meta(description="A size in bytes.")]
Md5 = Annotated[str, Meta(description="An MD5 in hexadecimal digits.")]
RunId = Annotated[str, Meta(description="The id of a run.")]


class Run(TypedDict):
    """A run. Unknown values are null or empty."""

    id: RunId
    experiment: str
    display_name: str
    status: Annotated[str, Meta(extra_json_schema={"enum": [status.value for status in RunStatus]})]
    started: Time | None
    duration: Seconds | None
    tags: dict[str, str]
    created: Time
    ended: Time | None
    parent: RunId | None
    exit_code: Annotated[int | None, Meta(description="The exit code of the script.")]
    reason: Annotated[str, Meta(description="Why the run ended with its status, or what a queued run waits for.")]
    description: str
    command: str
    workspace: str
    folder: Annotated[str, Meta(description="The folder of the code on this machine.")]
    url: Annotated[str, Meta(description="The page of the run in Azure ML Studio.")]
    archived: bool
    recovery_id: Annotated[str, Meta(description="The form experiment:run_id.")]


class ListedRun(Run, total=False):
    """A run of a list, with the values that options request."""

    metrics: Annotated[dict[str, Number], Meta(description="Last values by name, with --metrics or --sort METRIC.")]
    best_trial: Annotated[RunId, Meta(description="The trial of a sweep whose metrics and parameters these are.")]
    parameters: Annotated[dict[str, str], Meta(description="Parameters and arguments by name, with --params.")]
    size: Annotated[int, Meta(description="Bytes of the files of the run and its child runs, with --size.")]


class ChildRun(Run, total=False):
    """A trial of a sweep with its values, or another child run with its own children."""

    hyperparameters: dict[str, Scalar]
    primary_metric: Annotated[Number | None, Meta(description="The last value of the primary metric.")]
    children: list[ChildRun]


class LastValue(TypedDict):
    """The last value of a metric or a text."""

    name: str
    value: Annotated[Number | str, Meta(description="The value of the last point.")]
    step: int
    count: Annotated[int | None, Meta(description="The number of points. Unknown for more than 500 runs of Azure ML.")]
    run: Annotated[str, Meta(description="The id of the run that logged it: this run, or a nested run.")]


class PrimaryMetric(TypedDict):
    """The metric by which himl compares trials."""

    name: str
    goal: str
    best: Annotated[str | None, Meta(description="The id of the best trial.")]


class MachineUse(TypedDict):
    """A system metric over the time of a run."""

    metric: str
    node: Annotated[str, Meta(description="Empty if the metrics do not name nodes.")]
    mean: Number
    peak: Number
    last: Number
    count: Annotated[int, Meta(description="The number of points.")]
    run: RunId


class _RunDetails(Run):
    parameters: dict[str, str]
    metrics: list[LastValue]
    texts: list[LastValue]
    children: list[ChildRun]


class RunDetails(_RunDetails, total=False):
    """A run with all its logged values."""

    primary_metric: Annotated[PrimaryMetric, Meta(description="Of a sweep.")]
    attempts: Annotated[list[Attempt], Meta(description="Of a run that was started several times, oldest first.")]
    machine: Annotated[list[MachineUse], Meta(description="With --machine.")]
    environment: Annotated[RunEnvironment, Meta(description="With --environment, if it is on record.")]


class Statistics(TypedDict):
    """Statistics of the last values of a metric over the runs that have one."""

    mean: Number | None
    std: Annotated[Number | None, Meta(description="The standard deviation of the sample (n - 1).")]
    min: Number | None
    max: Number | None
    median: Number | None
    count: int


class Series(TypedDict):
    """The points of a metric, as columns of the same length."""

    steps: list[int]
    values: list[Number]
    times: Annotated[list[float], Meta(description="Seconds since 1970, UTC.")]


class TextPoint(TypedDict):
    """A logged text."""

    step: int
    time: Time
    value: str


class AggregatedRun(Run):
    """A run with all its logged values, by name."""

    label: Annotated[str, Meta(description="The title of its column.")]
    hyperparameters: dict[str, Scalar]
    parameters: dict[str, str]
    last: Annotated[dict[str, Value], Meta(description="Last values.")]
    series: dict[str, Series]
    texts: dict[str, list[TextPoint]]
    tables: Annotated[dict[str, list[dict[str, Value]]], Meta(description="An object for each row.")]
    lists: dict[str, list[Value]]
    images: Annotated[dict[str, list[str]], Meta(description="Names of files of the run.")]


class _Aggregation(TypedDict):
    metrics: Annotated[list[str], Meta(description="The names of all metrics.")]
    statistics: Annotated[dict[str, Statistics] | None, Meta(description="By metric. Is null with --no_stats.")]
    children: list[AggregatedRun]


class Aggregation(_Aggregation, total=False):
    """Many runs side by side."""

    primary_metric: Annotated[PrimaryMetric, Meta(description="Of a sweep.")]


class Log(TypedDict):
    """The log of a run. Lone surrogates represent bytes that are not UTF-8."""

    run: RunId
    log: str


class DeletedOutput(TypedDict):
    """An output of a run on Azure ML that --outputs names."""

    run: RunId
    key: str
    asset: Annotated[str, Meta(description="The data asset as NAME:VERSION.")]
    uri: str
    place: Annotated[str, Meta(description="The container of its files.")]
    files: int
    bytes: Bytes
    kept: Annotated[str, Meta(description="Why himl kept it. Empty if himl deleted it.")]


class _DeletedRuns(TypedDict):
    deleted: list[str]


class DeletedRuns(_DeletedRuns, total=False):
    """The deleted runs. For runs on Azure ML, also their files and outputs."""

    archived: Annotated[list[str], Meta(description="Runs that Azure ML did not delete, and himl archived.")]
    below: Annotated[list[str], Meta(description="The ids of the child runs.")]
    files: int
    bytes: Bytes
    places: Annotated[list[str], Meta(description="The containers of the files.")]
    outputs: list[DeletedOutput]


class JobFile(TypedDict):
    """The job of --dry_run."""

    job_yaml: str


class BatchScript(TypedDict):
    """The job of --dry_run in the queue of an engine."""

    batch_script: str


class Setting(TypedDict):
    """An option of --show_settings."""

    option: str
    value: Annotated[str, Meta(description="The value as on the command line. Secrets are masked.")]
    source: Annotated[str, Meta(description="The command line, an environment variable, FILE:LINE, or default.")]


class FileChange(TypedDict):
    """A file that differs between the code of two runs."""

    name: str
    change: Literal["added", "removed", "changed"]
    diff: Annotated[str, Meta(description="The unified diff of a text with --code, else empty.")]


Differences = Annotated[
    dict[str, list[Value]], Meta(description="By name, the values of both. Is null for a missing one.")
]


class RunDiff(TypedDict):
    """The differences between two runs, or a run and the working tree."""

    first: RunId
    second: Annotated[str, Meta(description="The id of a run, or '.' for the working tree.")]
    facts: Differences
    arguments: Differences
    parameters: Differences
    metrics: Differences
    tags: Differences
    environment: Annotated[Differences, Meta(description="The interpreter, the environment and the machine.")]
    packages: Annotated[Differences, Meta(description="Versions by name. Is empty if those of a run are unknown.")]
    code: Annotated[list[FileChange] | None, Meta(description="Is null if there is no code to compare.")]


class Server(TypedDict):
    """A server that the command started."""

    url: str


class TensorBoard(Server):
    """The server of TensorBoard."""

    runs: list[str]


class StoredFile(TypedDict):
    """A file of a run or of a datastore."""

    name: str
    size: Bytes
    modified: Time | None
    md5: Md5 | None
    run: Annotated[str, Meta(description="The id of its run. Empty for a datastore.")]


class RefusedFile(TypedDict):
    """A file that himl cannot write under its name."""

    name: str
    reason: str


class FailedFile(TypedDict):
    """A file that himl could not transfer."""

    name: str
    message: str
    code: Annotated[str, Meta(description="The code of the error.")]
    hint: str
    is_lasting: Annotated[bool, Meta(description="Whether the same command would fail again.")]


class Transfer(TypedDict):
    """The summary of a download or an upload."""

    files: Annotated[int, Meta(description="The number of files that himl transferred.")]
    bytes: Bytes
    seconds: Seconds
    skipped: Annotated[int, Meta(description="The number of files that were already complete.")]
    unverified: Annotated[int, Meta(description="The number of files without an MD5 to compare.")]
    differing: Annotated[list[str], Meta(description="Files with other content that himl did not change.")]
    refused: list[RefusedFile]
    failed: list[FailedFile]
    places: Annotated[list[str], Meta(description="The folders of the files.")]


class Checkpoint(TypedDict):
    """A checkpoint on this machine."""

    path: str
    status: Literal["fetched", "complete", "local"]
    run: RunId | None
    address: Annotated[str | None, Meta(description="The address of its source, without the query.")]
    names: Annotated[list[str], Meta(description="Its files.")]
    size: Bytes
    md5: Md5 | None
    verified: Annotated[bool | None, Meta(description="Whether himl compared the MD5. Is null if it fetched nothing.")]
    epoch: int | None
    metric: str | None
    value: float | None


_From = TypedDict("_From", {"from": RunId})


class PushedCheckpoints(Run, _From):
    """The run with the changed checkpoints."""

    files: list[str]
    unchanged: Annotated[list[str], Meta(description="Files that are the same in the original run.")]
    checkpoint: Annotated[str, Meta(description="The value for himl submit --checkpoint.")]


class CheckpointLink(TypedDict):
    """A link to a checkpoint. Everyone who has the link can read the file."""

    url: str
    expires: Time
    run: RunId
    name: str


class Picture(TypedDict):
    """A file that himl montage wrote."""

    path: str
    bytes: Bytes
    width: Annotated[int | None, Meta(description="Pixels.")]
    height: Annotated[int | None, Meta(description="Pixels.")]


class SlideProblem(TypedDict):
    """A slide or a mask that himl could not read."""

    slide_id: str
    image: str
    reason: str


class MaskProblem(SlideProblem):
    """A mask that himl could not read."""

    mask: str | None


class SlideRemark(TypedDict):
    """A remark on a slide."""

    slide_id: str
    image: str
    remark: str


class Montage(TypedDict):
    """A montage."""

    files: list[Picture]
    width: int
    height: int
    mpp: Annotated[float | None, Meta(description="Micrometres per pixel, with --mpp.")]
    columns: int
    rows: int
    slides: Annotated[int, Meta(description="The number of slides.")]
    failed: list[SlideProblem]
    failed_masks: list[MaskProblem]
    remarks: list[SlideRemark]
    seconds: Seconds


class TiledSlide(SlideProblem):
    """A slide that was cut into tiles."""

    folder: str
    level: int | None
    backend: str
    tiles: Annotated[int, Meta(description="The number of tiles.")]
    bytes: Annotated[int, Meta(description="The size of their images.")]
    is_resumed: Annotated[bool, Meta(description="Whether an earlier call completed it.")]
    mpp: Annotated[float | None, Meta(description="Micrometres per pixel of the tiles, if a scale was requested.")]
    scale_source: Annotated[str, Meta(description="Where the scale comes from.")]
    mask_threshold: Annotated[float | None, Meta(description="The greatest value of its mask that is background.")]
    remark: Annotated[str, Meta(description="How its pixels are shown where the file leaves a choice.")]
    width: int | None
    height: int | None


class Tiles(TypedDict):
    """The tiles of all slides."""

    dataset: Annotated[str | None, Meta(description="The CSV file that lists the tiles. Null for a dry run.")]
    foreground: Annotated[str, Meta(description="The rule for foreground.")]
    tiles: int
    slides: list[TiledSlide]
    failed: Annotated[int, Meta(description="The number of slides that failed.")]
    seconds: Seconds


class AnnotatedSlide(TypedDict):
    """The outcome for one slide."""

    slide_id: str
    status: Literal["uploaded", "replaced", "unchanged", "failed"]
    item: str | None
    item_id: str | None
    annotation_id: str | None
    reason: Annotated[str | None, Meta(description="Why it failed.")]
    elements: int


class Annotations(TypedDict):
    """The annotation of each slide."""

    name: str
    slides: list[AnnotatedSlide]


class Annotation(TypedDict):
    """An annotation as the archive stores it."""

    name: str
    description: str
    attributes: dict[str, Any]
    elements: list[dict[str, Any]]


class ArchiveEntry(TypedDict):
    """A collection, folder, item or annotation of the archive."""

    type: str
    name: str
    id: str
    elements: Annotated[int | None, Meta(description="Of an annotation.")]
    updated: str | None


class CompletionScript(TypedDict):
    """The completion script of a shell."""

    shell: str
    script: str


class InstalledCompletion(TypedDict):
    """The files that --install wrote."""

    shell: str
    files: list[str]
    line: Annotated[str, Meta(description="The line that the start-up file of the shell still needs.")]


class SavedCode(TypedDict):
    """The folder in which himl saved the code of a run."""

    folder: str
    files: Annotated[int, Meta(description="The number of files.")]


class Skill(TypedDict):
    """The skill file."""

    skill: str


class InstalledSkill(TypedDict):
    """The skill files in the project's folder."""

    files: list[str]


class Failure(TypedDict):
    """An error and its hint."""

    code: Annotated[str, Meta(description="A stable word for scripts.")]
    message: str
    hint: str


class Error(TypedDict):
    """The document on stderr of a command that failed."""

    error: Failure


DOCUMENTS: dict[str, tuple[Any, ...]] = {
    "submit": (Run, JobFile, BatchScript, list[Setting]),
    "runs list": (list[ListedRun],),
    "runs show": (RunDetails, list[RunDetails]),
    "runs diff": (RunDiff,),
    "runs code": (list[StoredFile], SavedCode),
    "runs aggregate": (Aggregation,),
    "runs logs": (list[Log],),
    "runs attach": (list[RunService],),
    "runs cancel": (list[CancelOutcome],),
    "runs tag": (list[Run],),
    "runs archive": (list[Run],),
    "runs restore": (list[Run],),
    "runs export": (list[Run],),
    "runs import": (list[Run],),
    "runs delete": (DeletedRuns,),
    "ui": (Server,),
    "tb": (TensorBoard, list[SyncedRun]),
    "download": (Transfer, list[StoredFile]),
    "checkpoint fetch": (Checkpoint,),
    "checkpoint push": (PushedCheckpoints,),
    "checkpoint url": (CheckpointLink,),
    "datastore upload": (Transfer,),
    "datastore download": (Transfer,),
    "datastore list": (list[StoredFile],),
    "montage": (Montage, Run),
    "tiles": (Tiles, Run),
    "dsa upload": (Annotations, dict[str, Annotation]),
    "dsa list": (list[ArchiveEntry],),
    "init": (SetUp,),
    "workspace show": (list[WorkspaceFacts],),
    "doctor": (list[Check],),
    "gc": (list[Garbage],),
    "completion": (CompletionScript, InstalledCompletion),
    "skill": (Skill, InstalledSkill),
    "schema": (list[str], dict[str, Any]),
    "error": (Error,),
}
"""The types of the document of each command: it has one of them."""


def schema_of(title: str, *kinds: Any) -> dict[str, Any]:
    """The JSON Schema (2020-12) of the results of `himl_cli.render.forms.json_form` for values of the types *kinds*:
    those of this module, dataclasses, and lists of these."""
    texts: dict[type, dict[str, Any]] = {Path: {"type": "string"}}
    schemas, parts = msgspec.json.schema_components(kinds, schema_hook=texts.__getitem__, ref_template="#/$defs/{name}")
    for name, part in parts.items():
        if "description" in part:
            part["description"] = " ".join(part["description"].split())
        # json_form gives all fields of a dataclass
        if "properties" in part and not isinstance(globals().get(name), type(Run)):
            part["required"] = [*part["properties"]]
            for field in part["properties"].values():
                field.pop("default", None)
    schema = schemas[0] if len(schemas) == 1 else {"anyOf": [*schemas]}
    dialect = "https://json-schema.org/draft/2020-12/schema"
    return {"$schema": dialect, "title": title, **schema, **({"$defs": parts} if parts else {})}


@cache
def schemas() -> dict[str, dict[str, Any]]:
    """The schema of the document of each command."""
    return {name: schema_of(f"himl {name}", *kinds) for name, kinds in DOCUMENTS.items()}


def text() -> str:
    """The content of the file of all schemas, one on each line."""
    lines = [f"{json.dumps(name)}: {json.dumps(schema)}" for name, schema in schemas().items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8", newline="\n")
