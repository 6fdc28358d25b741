"""What the service refuses of a sweep: sampling, policies and limits that do not go together. Raises ServiceError 400."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tests.servers.azureml.answers import bad_request
from tests.servers.azureml.jobs.command import unknown_references
from tests.servers.azureml.jobs.durations import seconds_of
from tests.servers.azureml.jobs.sweeps.space import BadSpace, check_space
from tests.servers.azureml.state import Json

MOST_TRIALS = 1000
MOST_AT_ONCE = 100
MOST_STEPS = 100_000  # of a Bayesian quniform
DISTRIBUTIONS: Mapping[str, Sequence[str]] = {"Random": (), "Grid": ("choice",), "Bayesian": ("choice", "uniform", "quniform")}
"""What each sampling algorithm can draw from; empty: everything."""
POLICIES = ("Bandit", "MedianStopping", "TruncationSelection")
GOALS = ("minimize", "maximize")


def check_sweep(properties: Json) -> None:
    """Raises ServiceError 400."""
    trial = properties.get("trial") or {}
    if not (trial.get("command") and trial.get("environmentId")):
        raise bad_request("A sweep job needs 'trial.command' and 'trial.environmentId'.")
    _check_sampling(properties)
    _check_objective(properties.get("objective") or {})
    _check_limits(properties.get("limits") or {})
    space = properties.get("searchSpace") or {}
    unknown = unknown_references({**properties, "command": trial["command"], "searchSpace": space})
    if unknown:
        raise bad_request(f"The trial's command refers to {', '.join(unknown)}, which the job does not have.")


def _check_sampling(properties: Json) -> None:
    kind = str((properties.get("samplingAlgorithm") or {}).get("samplingAlgorithmType"))
    if kind not in DISTRIBUTIONS:
        raise bad_request(f"The sampling algorithm '{kind}' is not supported: it is one of {', '.join(DISTRIBUTIONS)}.")
    try:
        check_space(properties.get("searchSpace") or {}, only=DISTRIBUTIONS[kind])
        if kind == "Bayesian":
            _check_bayesian(properties["searchSpace"])
    except BadSpace as e:
        raise bad_request(str(e)) from e
    policy = properties.get("earlyTermination")
    if policy is None:
        return
    if kind == "Bayesian":
        raise bad_request("Bayesian sampling does not support early termination policies.")
    _check_policy(policy)


def _check_bayesian(space: Json) -> None:
    """What azureml-train-core checks before it asks. Raises BadSpace."""
    for name, (kind, given) in space.items():
        texts = [isinstance(value, str) for value in given[0]] if kind == "choice" else []
        if any(texts) and not all(texts):
            raise BadSpace(f"Parameter '{name}': either all or none of the values of 'choice' have to be texts.")
        if kind == "quniform" and not all(isinstance(one, int) for one in given):
            raise BadSpace(f"Parameter '{name}': 'quniform' takes whole numbers with this sampling algorithm, not {given}.")
        if kind == "quniform" and (given[1] - given[0]) / given[2] > MOST_STEPS:
            raise BadSpace(f"Parameter '{name}': 'quniform' has too many points.")


def _check_policy(policy: Json) -> None:
    kind = policy.get("policyType")
    if kind not in POLICIES:
        raise bad_request(f"The early termination policy '{kind}' is not supported: it is one of {', '.join(POLICIES)}.")
    if kind == "Bandit" and bool(policy.get("slackFactor")) == bool(policy.get("slackAmount")):
        raise bad_request("A Bandit policy needs one of slackFactor and slackAmount.")
    if kind == "TruncationSelection" and not 1 <= int(policy.get("truncationPercentage") or 0) <= 99:
        raise bad_request("truncationPercentage has to lie between 1 and 99.")


def _check_objective(objective: Json) -> None:
    if not objective.get("primaryMetric"):
        raise bad_request("A sweep job needs 'objective.primaryMetric'.")
    if str(objective.get("goal")).lower() not in GOALS:
        raise bad_request(f"The goal '{objective.get('goal')}' is neither minimize nor maximize.")


def _check_limits(limits: Json) -> None:
    total = limits.get("maxTotalTrials")
    if total is not None and not 1 <= total <= MOST_TRIALS:
        raise bad_request(f"{{'max_total_jobs': ['Must be between 1 and {MOST_TRIALS}.']}}")
    concurrent = limits.get("maxConcurrentTrials")
    if concurrent is not None and not 1 <= concurrent <= MOST_AT_ONCE:
        raise bad_request(f"{{'max_concurrent_jobs': ['Must be between 1 and {MOST_AT_ONCE}.']}}")
    for name in ("timeout", "trialTimeout"):
        try:
            if limits.get(name) is not None:
                seconds_of(limits[name])
        except ValueError as e:
            raise bad_request(f"limits.{name}: {e}.") from e
