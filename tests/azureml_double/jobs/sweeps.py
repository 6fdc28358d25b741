"""Sweeps (wire document 2.8): what the service rejects, and how the double draws trials, starts them as separate jobs
and watches them. Policies never stop a trial.
"""

from __future__ import annotations

import itertools
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tests.azureml_double.frame import bad_request
from tests.azureml_double.jobs.command import (
    CHOICE,
    LONGEST_SWEEP,
    MOST_TRIALS,
    Value,
    Values,
    seconds_of,
    size_of,
    unknown_references,
)
from tests.azureml_double.jobs.processes import Course, JobFailed
from tests.azureml_double.jobs.records import SYSTEM_PREFIX, add_trial
from tests.azureml_double.state import Json, Metric, Point, Principal, Run, now, time_text

if TYPE_CHECKING:
    from tests.azureml_double.jobs.runner import JobRunner

LOOK = 0.02  # seconds between two checks of the trials
# If this many trials fail before any other ends, no more trials start.
FIRST = 3
FAILURE = "User errors were found in at least one of the child runs."
FAILURE_AT_ONCE = "Marking the experiment as failed because initial child jobs have failed due to user error"
LOG_NAME = "azureml-logs/hyperdrive.txt"
TABLE = "best_child_by_primary_metric"
COLUMNS = {
    "metric_name": "String",
    "timestamp": "String",
    "run_id": "String",
    "metric_value": "Double",
    "final": "Bool",
}
RANGES = ("uniform", "loguniform", "quniform", "qloguniform")
MOST_AT_ONCE = 100
SAMPLINGS: Mapping[str, Sequence[str]] = {"Random": (), "Grid": (CHOICE,), "Bayesian": (CHOICE, "uniform", "quniform")}
"""The distributions that each sampling algorithm supports (empty: all)."""
POLICIES = ("Bandit", "MedianStopping", "TruncationSelection")
_DRAWS: Mapping[str, Callable[[random.Random, Sequence[Any]], float]] = {
    "uniform": lambda rng, given: rng.uniform(given[0], given[1]),
    "loguniform": lambda rng, given: math.exp(rng.uniform(given[0], given[1])),
    "normal": lambda rng, given: rng.gauss(given[0], given[1]),
    "lognormal": lambda rng, given: math.exp(rng.gauss(given[0], given[1])),
    "randint": lambda rng, given: rng.randrange(given[0]),
}
_ARGUMENTS = {
    CHOICE: 1,
    "randint": 1,
    **{f"{q}{name}": 2 + bool(q) for q in ("", "q") for name in ("uniform", "loguniform", "normal", "lognormal")},
}


def grid(space: Json) -> Iterator[Values]:
    for values in itertools.product(*(given[0] for _, given in space.values())):
        yield dict(zip(space, values, strict=True))


def drawn(space: Json, seed: int | None) -> Iterator[Values]:
    """Yield distinct random points until a finite space is exhausted. The same *seed* gives the same points."""
    rng, seen, size = random.Random(seed), set[str](), size_of(space)
    while size is None or len(seen) < size:
        values = {name: _value(rng, kind, given) for name, (kind, given) in space.items()}
        if repr(values) not in seen:
            seen.add(repr(values))
            yield values


def _value(rng: random.Random, kind: str, given: Sequence[Any]) -> Value:
    if kind == CHOICE:
        choice: Value = rng.choice(given[0])
        return choice
    if kind.startswith("q"):
        return float(round(_DRAWS[kind[1:]](rng, given) / given[2]) * given[2])
    return _DRAWS[kind](rng, given)


def check_sweep(properties: Json) -> None:
    """Raise ServiceError 400 for incompatible sampling, policies and limits."""
    trial, objective, limits = (
        properties.get("trial") or {},
        properties.get("objective") or {},
        properties.get("limits") or {},
    )
    if not (trial.get("command") and trial.get("environmentId") and objective.get("primaryMetric")):
        raise bad_request("A sweep job needs 'trial.command', 'trial.environmentId' and 'objective.primaryMetric'.")
    if str(objective.get("goal")).lower() not in ("minimize", "maximize"):
        raise bad_request(f"The goal '{objective.get('goal')}' is neither minimize nor maximize.")
    for name, field, most in (
        ("maxTotalTrials", "max_total_jobs", MOST_TRIALS),
        ("maxConcurrentTrials", "max_concurrent_jobs", MOST_AT_ONCE),
    ):
        if limits.get(name) is not None and not 1 <= limits[name] <= most:
            raise bad_request(f"{{'{field}': ['Must be between 1 and {most}.']}}")
    try:
        for name in ("timeout", "trialTimeout"):
            seconds_of(limits.get(name) or LONGEST_SWEEP)
    except ValueError as e:
        raise bad_request(f"limits.{name}: {e}.") from e
    unknown = unknown_references({**properties, "command": trial["command"]})
    if unknown:
        raise bad_request(f"The trial's command refers to {', '.join(unknown)}, which the job does not have.")
    kind, policy = (
        str((properties.get("samplingAlgorithm") or {}).get("samplingAlgorithmType")),
        properties.get("earlyTermination"),
    )
    if kind not in SAMPLINGS:
        raise bad_request(f"The sampling algorithm '{kind}' is not supported: it is one of {', '.join(SAMPLINGS)}.")
    if not properties.get("searchSpace"):
        raise bad_request("The search space is empty.")
    for name, spec in properties["searchSpace"].items():
        wrong = _wrong_with(spec, SAMPLINGS[kind])
        if wrong:
            raise bad_request(f"Parameter '{name}': {wrong}.")
    if policy is not None and kind == "Bayesian":
        raise bad_request("Bayesian sampling does not support early termination policies.")
    if policy is not None:
        _check_policy(policy)


def _wrong_with(spec: Any, known: Sequence[str]) -> str:
    """Describe the error in *spec*, if any. *known* are the distributions that the sampling supports (empty: all)."""
    if not isinstance(spec, list) or len(spec) != 2 or len(spec[1]) != _ARGUMENTS.get(spec[0]):
        return f"this is no known distribution with its arguments: {spec}"
    kind, given = spec
    if known and kind not in known:
        return f"the distribution '{kind}' is not supported by the sampling algorithm, which takes {', '.join(known)}"
    if kind == CHOICE:
        return "" if isinstance(given[0], list) and given[0] else "'choice' needs a list of values"
    if any(isinstance(one, bool) or not isinstance(one, (int, float)) for one in given):
        return f"'{kind}' takes numbers, not {given}"
    if kind == "randint" and (not isinstance(given[0], int) or given[0] < 1):
        return "the upper bound of 'randint' has to be a whole number of 1 or more"
    if kind in RANGES and given[0] >= given[1]:
        return f"the lower bound of '{kind}' has to be less than the upper one"
    if kind.startswith("q") and (given[2] <= 0 or given[2] != int(given[2])):
        return f"the step of '{kind}' has to be a whole number of 1 or more"
    return ""


def _check_policy(policy: Json) -> None:
    kind = policy.get("policyType")
    if kind not in POLICIES:
        raise bad_request(
            f"The early termination policy '{kind}' is not supported: it is one of {', '.join(POLICIES)}."
        )
    if kind == "Bandit" and bool(policy.get("slackFactor")) == bool(policy.get("slackAmount")):
        raise bad_request("A Bandit policy needs one of slackFactor and slackAmount.")
    if kind == "TruncationSelection" and not 1 <= int(policy.get("truncationPercentage") or 0) <= 99:
        raise bad_request("truncationPercentage has to lie between 1 and 99.")


def logged(trial: Run, metric: str) -> list[float]:
    """The values of *metric* that *trial* logged, in order. Values that are not numbers are omitted."""
    known = trial.metrics.get(metric)
    points = sorted(known.points, key=lambda point: point.created) if known else []
    values = [point.data.get(metric) for point in points]
    return [float(value) for value in values if isinstance(value, (int, float)) and not isinstance(value, bool)]


class Best:
    """The best trial of a sweep so far. The sweep's record contains it as properties and as a metric of the sweep."""

    def __init__(self, sweep: Run, metric: str, *, maximize: bool) -> None:
        self._sweep, self._metric, self._sign = sweep, metric, 1.0 if maximize else -1.0
        self._trial, self._value = "", math.nan

    def see(self, trial: Run) -> None:
        values = [value for value in logged(trial, self._metric) if math.isfinite(value)]
        best = max(values, key=lambda value: self._sign * value, default=math.nan)
        if math.isnan(best) or not (math.isnan(self._value) or self._sign * best > self._sign * self._value):
            return
        self._trial, self._value = trial.run_id, best
        self._note(final=False)
        found = {
            "score": repr(best),
            "best_child_run_id": trial.run_id,
            "best_data_container_id": trial.data_container_id,
        }
        self._sweep.properties |= found | {"best_metric_status": "Succeeded"}

    def close(self) -> None:
        if self._trial:
            self._note(final=True)

    def _note(self, *, final: bool) -> None:
        table = self._sweep.metrics.setdefault(TABLE, Metric(TABLE, "azureml.v1.table", dict(COLUMNS)))
        row = {
            "metric_name": self._metric,
            "timestamp": time_text(now()),
            "run_id": self._trial,
            "metric_value": self._value,
            "final": final,
        }
        table.points.append(Point(row))
        self._sweep.revision += 1


class SweepCourse(Course):
    def __init__(self, runner: JobRunner, run: Run, submitter: Principal | None) -> None:
        super().__init__(runner.staged, run, submitter)
        self._runner = runner
        limits = self._job.get("limits") or {}
        total = limits.get("maxTotalTrials") or MOST_TRIALS
        self._concurrent = limits.get("maxConcurrentTrials") or total
        self._seconds = seconds_of(limits.get("timeout") or LONGEST_SWEEP) * runner.manner.minute / 60
        self._metric = str(self._job["objective"]["primaryMetric"])
        self._maximize = str(self._job["objective"]["goal"]).lower() == "maximize"
        space, sampling = self._job["searchSpace"], self._job["samplingAlgorithm"]
        points = grid(space) if sampling["samplingAlgorithmType"] == "Grid" else drawn(space, sampling.get("seed"))
        self._points = itertools.islice(points, total)
        self._trials: list[Run] = []
        self._ended: dict[str, str] = {}  # last status of each ended trial, in order of their ends
        self._best = Best(run, self._metric, maximize=self._maximize)
        self._lines: list[str] = []  # lines of the log that are not uploaded yet

    def cancel(self) -> None:
        if not self._run.is_ended and not self._canceled.is_set():
            self._run.tags[f"{SYSTEM_PREFIX}cancellation_requested"] = "true"
            self._run.move("CancelRequested")
        self._canceled.set()

    def _go(self) -> None:
        self._say("API", "Experiment created")
        if not self._canceled.is_set():
            self._run.move("Running")
        deadline = time.monotonic() + self._seconds
        is_complete = False
        while not (is_complete and len(self._ended) == len(self._trials)):
            self._see()
            if self._canceled.is_set() or time.monotonic() > deadline:
                self._end_all()
                return
            is_complete = is_complete or self._has_failed_at_once or not self._start_more()
            self._push()
            self._canceled.wait(LOOK)
        self._run.tags[f"{SYSTEM_PREFIX}all_jobs_generated"] = "true"
        self._finish()

    def _see(self) -> None:
        for trial in self._trials:
            if trial.run_id in self._ended:
                continue
            is_over = trial.is_ended
            if self._released.is_set() and not is_over:
                self._runner.release(trial.run_id)
            self._best.see(trial)
            if is_over:
                self._ended[trial.run_id] = trial.status

    def _start_more(self) -> bool:
        while len(self._trials) - len(self._ended) < self._concurrent:
            values = next(self._points, None)
            if values is None:
                self._say("GENERATOR", "All jobs generated.")
                return False
            trial = add_trial(self._workspace, self._run, len(self._trials), values, self._runner.manner)
            self._say("SCHEDULER", f"Scheduling job, id='{trial.run_id}' ")
            self._trials.append(trial)
            self._runner.submit(trial, self._submitter)
        return True

    @property
    def _has_failed_at_once(self) -> bool:
        return list(self._ended.values())[:FIRST] == ["Failed"] * FIRST

    def _end_all(self) -> None:
        for trial in self._trials:
            self._runner.cancel(trial)
        while not all(trial.is_ended for trial in self._trials):
            time.sleep(LOOK)
        self._close("Canceled")
        self._run.cancel()

    def _finish(self) -> None:
        """End the sweep: Failed if its first trials or all of its trials failed (or, if so configured, any of them),
        otherwise Completed.
        """
        ends = list(self._ended.values())
        failing = any if self._runner.manner.fails_with_a_trial else all
        is_failed = self._has_failed_at_once or (bool(ends) and failing(end == "Failed" for end in ends))
        status = "Failed" if is_failed else "Completed"
        self._close(status)
        if self._canceled.is_set():
            self._run.cancel()
            return
        text = FAILURE_AT_ONCE if self._has_failed_at_once else FAILURE
        self._end(status, JobFailed(text, component="hyperdrive") if is_failed else None)

    def _close(self, status: str) -> None:
        self._best.close()
        self._say("CONTROLLER", f"Changing Run Status from Running to {status}")
        self._push()

    def _say(self, part: str, text: str) -> None:
        self._lines.append(f"[{now():%Y-%m-%dT%H:%M:%S.%f}][{part}][INFO]{text}\n")

    def _push(self) -> None:
        if self._lines:
            self._workspace.storage.append(
                "azureml", self._run.artifact_prefix + LOG_NAME, "".join(self._lines).encode()
            )
            self._lines.clear()
