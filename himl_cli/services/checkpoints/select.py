"""Select a checkpoint of a run: the last, the best, or one of an epoch. A checkpoint is a file, or a folder that is
saved as one."""

from __future__ import annotations

import hashlib
import math
import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import field, replace
from datetime import datetime
from functools import cached_property
from itertools import islice
from typing import Literal, cast

from himl_cli.core.blobs import BlobInfo
from himl_cli.core.errors import BadUsage, NotFound
from himl_cli.core.logged import SYSTEM, Metric, goal_of
from himl_cli.core.records import dataclass
from himl_cli.core.runs import BROUGHT, FROM_RUN, PUSHED, Choice, Goal, Run, more_files
from himl_cli.core.sweeps import GOAL, GOALS, PRIMARY_METRIC
from himl_cli.core.text import listed, near_matches, non_blank
from himl_cli.services.checkpoints.names import (
    CHECKPOINT_FOLDER,
    LAST,
    NOT_CHECKPOINTS,
    CheckpointKind,
    CheckpointRank,
    ParsedName,
    below_folder,
    is_temporary,
    parse_name,
    plain_metric,
    rank_of,
    same_metric,
)
from himl_cli.workspaces.base import BlobStore

# Folders that are one checkpoint, as in DeepSpeed and FSDP. Other folders only group files.
_FOLDER_NAME = re.compile(r".+\.ckpt|(?:last|autosave|recovery(?:_(?:epoch=)?\d+)?)(?:-v\d+)?", re.IGNORECASE)
_EXPORT = re.compile(r"\.(onnx|pkl|pickle|joblib|npz|npy|h5|hdf5|keras|tflite|pb|mlmodel|engine|ts)$", re.IGNORECASE)
_CHECKPOINT = re.compile(r"\.(ckpt|pt|pth|safetensors|bin)$", re.IGNORECASE)
_MODELS = re.compile(r"\.(ckpt|pt|pth|bin|safetensors|h5|keras|pkl|joblib|npz|onnx)(/|$)")
# File names in an error, and the names that they are chosen from.
SHOWN, LISTED = 5, 10_000
METRICS_SHOWN = 6
MOST_EPOCHS = 8


@dataclass(frozen=True, eq=False)
class Candidate:
    """`name` is the file, or the folder without a final slash. `attempt` is the attempt that wrote it, 0 for the
    first."""

    name: str
    blobs: Sequence[BlobInfo]
    is_folder: bool
    attempt: int
    parsed: ParsedName = field(repr=False)

    @cached_property
    def rank(self) -> CheckpointRank | None:
        return rank_of(self.name)

    @property
    def is_recovery(self) -> bool:
        return self.rank is not None and self.rank.kind is not CheckpointKind.last

    @property
    def size(self) -> int:
        """In bytes."""
        return sum(blob.size for blob in self.blobs)

    @property
    def modified(self) -> datetime | None:
        return max((blob.modified for blob in self.blobs if blob.modified is not None), default=None)


@dataclass(frozen=True)
class Checkpoint:
    """A found checkpoint. `names` are files of `run`, or local paths if that is None. For an `address`, they are
    unknown.

    `folder` is the prefix to remove from names, '' for a single file. `is_one` marks a folder that is one checkpoint,
    as in DeepSpeed. `blobs` are the files in the run's store. `why` is a sentence for the user, and `guess` one about
    a goal that follows from the name of the metric. `epoch`, `metric` and `value` are the criteria of the choice, or
    come from the name.
    """

    names: Sequence[str]
    run: Run | None = None
    folder: str = ""
    address: str = ""
    blobs: Sequence[BlobInfo] = ()
    is_one: bool = False
    why: str = ""
    epoch: int | None = None
    metric: str = ""
    value: float | None = None
    guess: str = ""

    @property
    def remarks(self) -> Sequence[str]:
        """Sentences for the user: the reason of the choice, a guess in it, and that the run may write more files."""
        return [*filter(None, (self.why, self.guess, more_files([] if self.run is None else [self.run])))]

    @property
    def inside(self) -> str:
        return self.folder.rstrip("/") or self.names[0]

    @property
    def is_in_usual_folder(self) -> bool:
        return f"{self.inside}/".startswith(f"{CHECKPOINT_FOLDER}/")

    @property
    def place(self) -> str:
        """Path for the file or folder, without a final slash. A single checkpoint becomes `outputs/checkpoints/last`
        with its own suffix."""
        if self.folder and not self.is_one:
            return CHECKPOINT_FOLDER
        _, dot, ending = self.inside.replace("\\", "/").rpartition("/")[2].rpartition(".")
        return f"{CHECKPOINT_FOLDER}/last{dot}{ending}" if dot else f"{CHECKPOINT_FOLDER}/{LAST}"

    @property
    def by_place(self) -> dict[str, str]:
        """Names by path in the job. Files of a folder keep their names."""
        if self.folder:
            return {f"{self.place}/{name[len(self.folder) :]}": name for name in self.names}
        (name,) = self.names
        return {self.place: name}


@dataclass(frozen=True)
class Candidates:
    """A run, its files, the checkpoints among them, and a function that reads its metrics. The run began with those in
    `brought` and did not change them, so that they are in `found` only if there are no others."""

    run: Run
    files: BlobStore
    found: Sequence[Candidate]
    metrics: Callable[[], Sequence[Metric]]
    brought: Sequence[Candidate] = ()

    @property
    def remark(self) -> str:
        """A sentence about `brought`, or an empty text."""
        if not self.brought:
            return ""
        names = listed([one.name.removeprefix(f"{CHECKPOINT_FOLDER}/") for one in self.brought])
        others = " It wrote no checkpoint." if self.brought == self.found else ""
        return f"Run '{self.run.id}' began with {names}, and did not change it.{others}"

    @property
    def usable(self) -> Sequence[Candidate]:
        """Checkpoints without exports beside them (`.onnx`, `.pkl`). If there are only exports, these are the
        checkpoints."""
        beside = any(_CHECKPOINT.search(one.name) for one in self.found)
        return [one for one in self.found if one.is_folder or not beside or not _EXPORT.search(one.name)]

    def nothing(self, what: str, hint: str = "") -> NotFound:
        """Error that the run has *what* (`no 'a.ckpt'`), with a list of files in `outputs/` after *hint*."""
        existing = [*islice((blob.name for page in self.files.list("outputs/") for blob in page), LISTED)]
        likely = [name for name in existing if rank_of(name) or _MODELS.search(name)] or existing
        more = f" and {len(likely) - SHOWN} more" if len(likely) > SHOWN else ""
        there = f"Its files: {', '.join(likely[:SHOWN])}{more}. Give one: {self.run.id}:PATH"
        return NotFound(
            f"Run '{self.run.id}' has {what}.",
            hint=f"{hint} {there if likely else 'It has no files in outputs/.'}".strip(),
        )

    def ambiguous(self, what: str, found: Sequence[Candidate], hint: str = "") -> BadUsage:
        """Error that the run has *what* (`2 checkpoints of epoch 3`), so that one of *found* must be selected."""
        names = []  # `RUN:last.ckpt`, `RUN:outputs/retry_001/checkpoints/last.ckpt`, `RUN:last.ckpt/` for a folder
        for one in sorted(found, key=lambda one: one.name):
            short = one.name.removeprefix(f"{CHECKPOINT_FOLDER}/")
            names.append(f"{self.run.id}:{one.name if '/' in short else short}{'/' * one.is_folder}")
        more = f" and {len(names) - 2 * SHOWN} more" if len(names) > 2 * SHOWN else ""
        hint = f"{hint} Give one: {', '.join(names[: 2 * SHOWN])}{more}".strip()
        return BadUsage(f"Run '{self.run.id}' has {what}.", hint=hint)

    def only(self, found: Sequence[Candidate], what: str, hint: str = "") -> Candidate:
        """The only one of *found*, or any of them if all have the same content. Raises BadUsage, which lists them."""
        if len(found) > 1:
            is_one = _have_one_size(found)
            digests = {tuple(blob.md5 or self.files.md5(blob) for blob in one.blobs) for one in found if is_one}
            if len(digests) != 1 or None in digests.pop():
                raise self.ambiguous(f"{len(found)} checkpoints {what}", found, hint)
        return found[0]

    def checkpoint(
        self, one: Candidate, why: str = "", metric: str | None = "", value: float | None = None
    ) -> Checkpoint:
        return Checkpoint(
            [blob.name for blob in one.blobs],
            self.run,
            folder=f"{one.name}/" if one.is_folder else "",
            blobs=one.blobs,
            is_one=one.is_folder,
            why=why,
            epoch=one.parsed.epoch,
            metric=metric or "",
            value=value,
        )


def content_of(one: Candidate, md5_of: Callable[[BlobInfo], bytes | None]) -> str | None:
    """One word for the content: its size in bytes and the first digits of its MD5. None without MD5s."""
    digests = sorted((blob.name[len(one.name) :], blob.md5 or md5_of(blob)) for blob in one.blobs)
    if any(md5 is None for _, md5 in digests):
        return None
    text = b"".join(name.encode() + b"\n" + (md5 or b"") for name, md5 in digests)
    return f"{one.size}-{hashlib.md5(text, usedforsecurity=False).hexdigest()[:12]}"


def without_brought(candidates: Candidates) -> Candidates:
    """*candidates* without those that the run began with, by the tag with their contents, unless there are no others.
    himl reads MD5s only of those with the size of one of them."""
    known = candidates.run.tags.get(BROUGHT, "").split()
    sizes = {word.partition("-")[0] for word in known}
    alike = [one for one in candidates.found if str(one.size) in sizes]
    brought = [one for one in alike if content_of(one, candidates.files.md5) in known]
    own = [one for one in candidates.found if one not in brought]
    return replace(candidates, found=own or brought, brought=brought)


def candidates_of(blobs: Iterable[BlobInfo]) -> list[Candidate]:
    files: dict[str, list[BlobInfo]] = {}
    facts: dict[str, tuple[bool, int, str]] = {}
    for blob in blobs:
        attempt, below = below_folder(blob.name) or (0, "")
        if not below or blob.name.endswith("/") or is_temporary(below):
            continue
        unit, parts = "", below.split("/")  # the first parent folder that is one checkpoint
        for number, part in enumerate(parts[:-1]):
            if _FOLDER_NAME.fullmatch(part) and (number == 0 or part.lower().endswith(".ckpt")):
                unit = "/".join(parts[: number + 1])
                break
        if not unit and NOT_CHECKPOINTS.search(below):
            continue
        name = blob.name[: len(blob.name) - len(below)] + (unit or below)
        files.setdefault(name, []).append(blob)
        facts[name] = (bool(unit), attempt, unit or below)
    return [
        Candidate(name, files[name], is_folder, attempt, parse_name(below))
        for name, (is_folder, attempt, below) in sorted(facts.items())
    ]


def _newest_of_each_name(found: Iterable[Candidate]) -> list[Candidate]:
    """The newest of each name, among several attempts and versions."""
    newest: dict[str, Candidate] = {}
    for one in found:
        known = newest.setdefault(one.parsed.stem, one)
        if (one.attempt, one.parsed.version) > (known.attempt, known.parsed.version):
            newest[one.parsed.stem] = one
    return list(newest.values())


def _newest_attempt(found: Sequence[Candidate]) -> list[Candidate]:
    """Those of *found* from the newest attempt among them, in order."""
    newest = max((one.attempt for one in found), default=0)
    return [one for one in found if one.attempt == newest]


def _have_one_size(found: Sequence[Candidate]) -> bool:
    """Whether all of *found* have files with the same names and sizes, which does not prove that they are equal."""
    return len({tuple((blob.name[len(one.name) :], blob.size) for blob in one.blobs) for one in found}) == 1


def choice_of(
    select: str | None = None, metric: str | None = None, goal: str | None = None, name_offset: int | None = None
) -> Choice:
    """Parse `last`, `best` or `epoch=N`, with a metric and a goal, each of which selects the best, and the difference
    between numbers in names and in the log of the metric. Raises BadUsage."""
    if goal is not None and goal not in GOALS:
        raise BadUsage(f"There is no goal '{goal}'.", hint="Use minimize or maximize.")
    non_blank("--metric", metric)
    by_value = metric is not None or goal is not None
    kind, equals, number = ("best" if by_value else "last", "", "") if select is None else select.strip().partition("=")
    is_epoch = kind == "epoch" and number.strip().isdecimal()
    if not is_epoch and (kind not in ("last", "best") or equals):
        raise BadUsage(
            f"--select must be last, best, or epoch=N, not '{select}'.",
            hint="N is the epoch in the file's name. Lightning counts from 0.",
        )
    if by_value and kind != "best":
        raise BadUsage(
            f"--metric and --goal select the best checkpoint, and cannot be combined with --select {select}.",
            hint="Omit one of them.",
        )
    if name_offset is not None and metric is None:
        raise BadUsage(f"--name_offset {name_offset} applies to a logged metric.", hint="Add --metric NAME.")
    if is_epoch:
        return Choice("epoch", int(number))
    best = cast("Literal['last', 'best']", kind)
    return Choice(best, None, metric and metric.strip(), cast("Goal | None", goal), name_offset)


def choose(candidates: Candidates, choice: Choice, *, of_best_trial: bool = False) -> Checkpoint:
    """Select the checkpoint of *choice*. For a sweep's best trial, fall back to the last one if no name marks the best.

    Raises NotFound if none matches, BadUsage for several different matches.
    """
    if choice.kind == "last":
        return _last(candidates)
    if choice.kind == "epoch":
        fitting = [one for one in candidates.usable if one.parsed.epoch == choice.epoch]
        if not fitting:
            known = sorted({one.parsed.epoch for one in candidates.found if one.parsed.epoch is not None})
            shown = [*map(str, known)]
            if len(known) > MOST_EPOCHS:
                shown[MOST_EPOCHS // 2 : -MOST_EPOCHS // 2] = ["…"]
            hint = f"Epochs in names: {', '.join(shown)}." if known else ""
            raise candidates.nothing(f"no checkpoint with epoch {choice.epoch} in its name", hint)
        newest = _newest_of_each_name(_newest_attempt(fitting))
        return candidates.checkpoint(candidates.only(newest, f"of epoch {choice.epoch}"))
    try:
        found = _best(candidates, choice)
        if found.value is None or choice.goal or _recorded_goal(candidates.run, found.metric or ""):
            return found
        word = "lowest" if goal_of(found.metric or "", None) == "minimize" else "highest"
        guess = f"By the name of the metric, the {word} {found.metric} is best. To decide it yourself: --goal"
        return replace(found, guess=f"{guess} minimize or --goal maximize")
    except NotFound:
        if not of_best_trial or choice.metric is not None:
            raise
    last = _last(candidates)
    why = f"No name marks the best checkpoint. Using the last one. {last.why}"
    return replace(last, why=why.strip())


def _last(candidates: Candidates) -> Checkpoint:
    """`last.ckpt` or recovery checkpoint of the newest attempt, from which the run can continue. If the run began with
    its `last.ckpt`, the one that it wrote, or the one of the highest epoch."""
    run = candidates.run
    order = {one: (one.rank, one.parsed.step or -1) for one in candidates.found if one.rank is not None}
    ranked = sorted(order, key=lambda one: order[one], reverse=True)
    if not ranked and candidates.brought:
        return _latest(candidates)
    if not ranked:
        raise candidates.nothing(f"no {CHECKPOINT_FOLDER}/{LAST}")
    fitting, why = _newest_attempt(ranked), ""
    lasts = [one for one in ranked if not one.is_recovery]
    if not lasts:
        why = f"Run '{run.id}' has no {LAST} of its own. Using its recovery checkpoint."
    elif fitting[0].attempt > lasts[0].attempt:
        why = f"The newest attempt of run '{run.id}' has no {LAST}. Using its recovery checkpoint."
    else:
        fitting, written = lasts, lasts[0].modified
        is_old = written is not None and written < run.created
        if PUSHED not in run.tags and BROUGHT not in run.tags and (FROM_RUN in run.tags or is_old):
            recoveries = [one for one in ranked if one.is_recovery]
            later = [one for one in recoveries if one.modified and written and one.modified > written]
            why = f"Run '{run.id}' may have begun with this {LAST}."
            if later:
                fitting = _newest_attempt(later)
                why = (
                    f"Run '{run.id}' began with its {LAST}, and wrote recovery checkpoints later. Using the one of the "
                    "highest epoch."
                )
    alike = [one for one in fitting if order[one] == order[fitting[0]]]
    usual = [one for one in alike if one.name.endswith(".ckpt")] or alike
    return candidates.checkpoint(candidates.only(usual, "that may be the last"), why)


def _latest(candidates: Candidates) -> Checkpoint:
    """The checkpoint of the highest epoch and step of the newest attempt, by its name. Raises BadUsage for several."""
    fitting, why = _newest_attempt(candidates.usable), ""
    order = {}
    for one in fitting:
        numbers = (one.parsed.epoch, one.parsed.step, one.parsed.version)
        order[one] = [-1 if number is None else number for number in numbers]
    highest = max(order.values())
    fitting = [one for one in fitting if order[one] == highest]
    if len(order) > 1:
        why = "Using the one of the highest epoch."
    return candidates.checkpoint(candidates.only(fitting, "that may be the last"), why)


def _best(candidates: Candidates, choice: Choice) -> Checkpoint:
    """Best by the metric of *choice*, from names if any has it, else from the run's log. Without a metric, by the only
    metric in names."""
    named = [one for one in candidates.usable if one.parsed.metrics or one.parsed.best_of is not None]
    named = _newest_of_each_name(named)
    metrics: list[str] = []  # from names, with their first spelling, in the order of the names
    for one in sorted(named, key=lambda one: one.name):
        metrics += [name for name in one.parsed.metrics if not any(same_metric(name, other) for other in metrics)]
    declared: dict[str, list[Candidate]] = {}  # checkpoints with `best` in their names, by metric
    for one in named:
        metric = one.parsed.best_of
        if metric is not None:
            declared.setdefault(plain_metric(metric), []).append(one)
    # One per metric.
    called_best = [one for alike in declared.values() for one in _newest_attempt(alike)]
    if choice.metric is not None:
        return _best_by(choice.metric, choice, candidates, named, metrics, called_best)
    if len(metrics) > 1:
        raise candidates.ambiguous(
            f"checkpoints with {len(metrics)} metrics in their names: {', '.join(metrics)}",
            [one for one in named if one.parsed.metrics],
            f"Add a metric, for example --metric {metrics[0]}.",
        )
    what = "with a name that marks the best"
    if not metrics:
        if not called_best:
            raise candidates.nothing(
                "no checkpoint with a name that marks the best",
                "To use a metric that the run logged, add --metric NAME.",
            )
        only = candidates.only(called_best, what, "Add --metric NAME.")
        return candidates.checkpoint(only, metric=only.parsed.best_of)
    metric, why = metrics[0], ""
    best, value = _best_in_names(candidates, named, metrics, metric, choice.goal)
    both = [*called_best, best]
    digests = (blob.md5 or candidates.files.md5(blob) for one in both for blob in one.blobs)
    if called_best and _have_one_size(both) and not all(digests):  # `best.ckpt` may be the same checkpoint
        best_name = called_best[0].name.rpartition("/")[2]
        why = f"Selected by the {metric} in its name. '{best_name}' may be the same, but its MD5 is unknown."
    else:
        candidates.only(both, what, f"Add --metric {metric}.")
    return candidates.checkpoint(best, why, metric, value)


def _best_by(
    metric: str,
    choice: Choice,
    candidates: Candidates,
    named: Sequence[Candidate],
    known: Sequence[str],
    called_best: Sequence[Candidate],
) -> Checkpoint:
    """Best by *metric*: from the values in names, else a checkpoint whose name marks it as the best, else from names
    whose metric ends with *metric* (`resnet-val_loss` for `val_loss`), else from the run's log."""
    goal = choice.goal
    if any(same_metric(each, metric) for each in known):
        best, value = _best_in_names(candidates, named, [metric], metric, goal)
        return candidates.checkpoint(best, metric=metric, value=value)
    declared = [one for one in called_best if one.parsed.best_of and same_metric(one.parsed.best_of, metric)]
    if declared:
        return candidates.checkpoint(
            candidates.only(declared, f"with a name that marks the best {metric}"), metric=metric
        )
    fitting = [each for each in known if plain_metric(each).endswith(f"_{plain_metric(metric)}")]
    if len(fitting) > 1:
        raise candidates.ambiguous(
            f"{len(fitting)} metrics that match '{metric}': {', '.join(fitting)}",
            [one for one in named if any(each in fitting for each in one.parsed.metrics)],
            f"Add a metric, for example --metric {fitting[0]}.",
        )
    if fitting:
        best, value = _best_in_names(candidates, named, fitting, metric, goal)
        return candidates.checkpoint(best, f"Using '{fitting[0]}' from names as {metric}.", metric, value)
    # May raise, so it precedes the request for the metrics
    effective = goal_of(metric, goal or _recorded_goal(candidates.run, metric))
    attempts = 1 + max((one.attempt for one in candidates.found), default=0)
    points = _logged_values(candidates.metrics(), metric, candidates.run, attempts)
    counted = [one for one in candidates.usable if one.parsed.epoch is not None or one.parsed.step is not None]
    values, text = _match(metric, points, _newest_of_each_name(counted), attempts, choice.name_offset)
    if not values:
        raise candidates.nothing(f"no checkpoint with an epoch or step in its name for which '{metric}' was logged")
    best, value = _best_of(candidates, values, metric, effective)
    numbers = [value, *(point.value for point in points if math.isfinite(point.value))]
    top = min(numbers) if effective == "minimize" else max(numbers)
    missed = f"{metric} was better ({top:g}) at a point without a checkpoint." if top != value else ""
    return candidates.checkpoint(best, " ".join(filter(None, (text, missed))), metric, value)


def _best_in_names(
    candidates: Candidates, named: Iterable[Candidate], labels: Sequence[str], metric: str, goal: Goal | None
) -> tuple[Candidate, float]:
    pairs = ((one, name, value) for one in named for name, value in one.parsed.metrics.items())
    values = [(one, value) for one, name, value in pairs if any(same_metric(name, label) for label in labels)]
    return _best_of(candidates, values, metric, goal_of(metric, goal or _recorded_goal(candidates.run, metric)))


def _recorded_goal(run: Run, metric: str) -> Goal | None:
    """The goal with which *run* was submitted, if *metric* is its primary metric."""
    is_primary = same_metric(run.tags.get(PRIMARY_METRIC, ""), metric)
    return cast("Goal | None", run.tags.get(GOAL)) if is_primary else None


def _best_of(
    candidates: Candidates, values: Sequence[tuple[Candidate, float]], metric: str, goal: Goal
) -> tuple[Candidate, float]:
    """Best checkpoint and value. Infinite values count only if there are no others."""
    numbers = [value for _, value in values if not math.isnan(value)]
    numbers = [value for value in numbers if math.isfinite(value)] or numbers
    if not numbers:
        raise candidates.nothing(f"no checkpoint with a number for {metric}")
    best = min(numbers) if goal == "minimize" else max(numbers)
    winners = [one for one, value in values if value == best]
    if len({(one.parsed.epoch, one.parsed.step) for one in winners}) == 1:
        winners = _newest_attempt(winners)
    return candidates.only(winners, f"with the best {metric}, {best:g}"), best


@dataclass(frozen=True)
class _Point:
    """One logged value, which may be NaN. `step` is None if values have no distinct steps. `epoch` is None if no metric
    `epoch` was logged."""

    value: float
    step: int | None
    epoch: int | None


def _logged_values(metrics: Sequence[Metric], name: str, run: Run, attempts: int) -> list[_Point]:
    """Logged values of the metric *name*, by step and in logged order. The run's own precede those of nested runs.

    A metric `epoch` beside it maps steps to epochs, as Lightning logs it. Without distinct steps, the first value
    belongs to the first epoch, and so on. Each of *attempts* may have logged a step. Raises NotFound, which lists the
    metrics, BadUsage if values are ambiguous.
    """
    own_first = sorted(metrics, key=lambda metric: metric.run != run.id)
    alike = [metric for metric in own_first if same_metric(metric.name, name)]
    if not alike:
        known = sorted({metric.name for metric in metrics if not metric.name.startswith(SYSTEM)})
        more = ", …" if len(known) > METRICS_SHOWN else ""
        shown = ", ".join(near_matches(name, known) or known[:METRICS_SHOWN])
        raise NotFound(
            f"'{name}' was not logged by run '{run.id}', and is in no name of its checkpoints.",
            hint=f"Its metrics: {shown}{more}." if known else "It logged no metrics.",
        )
    found = next((metric for metric in alike if metric.name == name), alike[0])
    epochs = next((metric for metric in own_first if metric.name == "epoch" and metric.run == found.run), None)
    for one in (found, epochs):
        if one is None or len({point.step for point in one.points}) != 1:
            continue
        if _is_too_often([point.value for point in one.points], attempts):
            if epochs is None or len(epochs.points) != len(found.points):
                raise _indistinct(one.name, len(one.points), one.points[0].step)
            pairs = zip(found.points, epochs.points, strict=True)
            return [_Point(point.value, None, int(epoch.value)) for point, epoch in pairs if math.isfinite(epoch.value)]
    numbers = epochs.points if epochs is not None else ()
    steps = sorted({point.step: int(point.value) for point in numbers if math.isfinite(point.value)}.items())

    def epoch_at(step: int) -> int | None:
        """Epoch of the last step up to *step*, or the first epoch for an earlier step."""
        return steps[max(0, bisect_right(steps, (step, math.inf)) - 1)][1] if steps else None

    return [_Point(point.value, point.step, epoch_at(point.step)) for point in found.points]


def _is_too_often(values: Sequence[float], attempts: int) -> bool:
    """Whether one step has more distinct *values* than attempts. A repeated value does not count."""
    return len({repr(value) for value in values}) > attempts


def _indistinct(metric: str, times: int, step: int) -> BadUsage:
    return BadUsage(
        f"'{metric}' was logged {times} times at step {step}, so that its values cannot be matched to checkpoints.",
        hint="Log it with step=, or log a metric 'epoch' beside it. To select a checkpoint, give RUN:PATH.",
    )


def _match(
    metric: str, logged: Sequence[_Point], checkpoints: Sequence[Candidate], attempts: int, name_offset: int | None
) -> tuple[Sequence[tuple[Candidate, float]], str]:
    """Values of *checkpoints*: at the step in the name, else at its epoch. Also a sentence about the counting, if it
    was ambiguous.

    Lightning's step N comes after the values of step N-1. N-1 counts if all names have a value there, else N. Without
    a metric `epoch`, steps may be epochs, which counts if it matches more of the names that have a step too.
    *name_offset* is the difference of the numbers, which are steps if names have any. Raises BadUsage for ambiguous
    values of one step.
    """
    has_epochs = any(point.epoch is not None for point in logged)
    of_step: dict[int | None, list[_Point]] = defaultdict(list)
    of_epoch: dict[int | None, list[_Point]] = defaultdict(list)
    for point in logged:
        of_step[point.step].append(point)
        of_epoch[point.epoch if has_epochs else point.step].append(point)
    stepped = [one for one in checkpoints if one.parsed.step is not None]
    epochs = {one.parsed.epoch for one in checkpoints if one.parsed.epoch is not None}
    shift, text = _shift_of_epochs(metric, epochs, {each for each in of_epoch if each is not None}, has_epochs)
    if name_offset is not None and not stepped:
        shift, text = name_offset, ""

    def at_step(one: Candidate, offset: int) -> list[_Point]:
        """Points of the checkpoint's step. Several if attempts logged it again."""
        points = of_step[one.parsed.step - offset] if one.parsed.step is not None else []
        epoch = None if one.parsed.epoch is None else one.parsed.epoch - shift
        return [point for point in points if not has_epochs or epoch in (None, point.epoch)]

    before = {one: points for one in checkpoints if (points := at_step(one, 1))}
    at = {one: points for one in checkpoints if (points := at_step(one, 0))}
    by_epoch: dict[Candidate, list[_Point]] = {}
    for one in checkpoints:
        points = of_epoch[one.parsed.epoch - shift] if one.parsed.epoch is not None else []
        if points:
            by_epoch[one] = [point for point in points if point.step == points[-1].step]
    is_before = len(before) == len(stepped) or len(before) > len(at)
    by_step = before if is_before else at
    if name_offset is not None and stepped:
        by_step = {one: points for one in stepped if (points := at_step(one, name_offset))}
    of_both = [one for one in by_epoch if one.parsed.step is not None]
    steps_fit = bool(by_step) and len(by_step) >= len(of_both)
    matched = {**by_epoch, **by_step} if has_epochs else by_step if steps_fit else by_epoch
    if by_step and (has_epochs or steps_fit):
        text = ""
        if name_offset is None and (before.keys() & at.keys() or (of_both and not has_epochs)):
            which = "the step before the one in the name, as Lightning counts" if is_before else "the step in the name"
            text = f"Using {metric} of {which}{', not of its epoch' if of_both and not has_epochs else ''}."
            text += f" To use the {'same' if is_before else 'previous'} step, add --name_offset {1 - is_before}."
    values: list[tuple[Candidate, float]] = []
    for one, points in matched.items():
        if points[-1].step is not None and _is_too_often([point.value for point in points], attempts):
            raise _indistinct(metric, len(points), points[-1].step)
        values.append((one, points[-1].value))
    return values, text


def _shift_of_epochs(metric: str, names: Set[int], logged: Set[int], has_epochs: bool) -> tuple[int, str]:
    """The difference between the epochs in *names* and the *logged* ones for which most names have a value: 0, or 1 or
    -1 if only one of them counts from 1. Also a sentence, unless it is 0 for a certain reason."""
    possible = [0, *([1] if 0 not in names else ()), *([-1] if 0 not in logged else ())]
    fitting = {shift: sum(epoch - shift in logged for epoch in names) for shift in possible}
    chosen = max(possible, key=lambda shift: fitting[shift])  # the first one of several
    what = f"epoch N in a name with {'epoch' if has_epochs else 'step'} "
    if chosen:
        text = f"Comparing {what}N{-chosen:+d} of {metric}, which fits more names than N."
        return chosen, f"{text} To compare equal numbers, add --name_offset 0."
    other = 1 if 0 in logged else -1
    if has_epochs or not names or fitting.get(other) != len(names):
        return 0, ""
    starts = "from 1 and steps from 0" if other == 1 else "from 0 and steps from 1"
    return 0, f"Comparing {what}N of {metric}. If names count {starts}, add --name_offset {other}."
