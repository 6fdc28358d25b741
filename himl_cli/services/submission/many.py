"""Which of the options about many runs count, and the sweep that they mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from himl_cli.core.errors import BadUsage
from himl_cli.core.sweeps import SweepSpec
from himl_cli.services.submission.request import SubmitRequest
from himl_cli.services.sweeps import check_sweep, seeded, sweep_of
from himl_cli.services.sweeps.asked import argument_name

KINDS = ("sweep", "crossval", "different_seeds")
OF_SEARCHES = ("sampling", "max_trials", "early_stop")
"""Folds and seeds are for their mean, which is worth nothing where the poor ones were stopped."""
OF_ALL = ("max_concurrent", "primary_metric", "goal")
OF_ONE = {"crossval": ("crossval_arg", "crossval_count_arg"), "different_seeds": ("seed_arg",)}
ONE_RUN = ("in_place", "record_in")
"""Options of jobs that are one run."""


def settled_many(request: SubmitRequest) -> SubmitRequest:
    """The request with one way to many runs at most, and without what does not go with it. Raises BadUsage for what was
    typed and does not fit."""
    typed = [name for name in KINDS if request.is_typed(name)]
    one_run = [name for name in ONE_RUN if request.is_typed(name) and (name != "record_in" or request.is_told_to_azure)]
    chosen = typed or ([] if one_run else [name for name in KINDS if request.is_set(name)])
    if len(chosen) > 1:
        raise BadUsage(f"{_options(chosen)} were given at once.", hint=_as_grid(request, chosen))
    request = _without(request, [name for name in KINDS if name not in chosen])
    _check_stray(request, chosen)
    if "sweep" not in chosen:
        request = _without(request, ["early_stop"])  # of the settings
    if not chosen and request.ready_sweep is None:
        return request
    conflicts = one_run or ["record_in"] * request.is_told_to_azure or ["in_place"] * (request.in_place and not typed)
    if conflicts:
        hint = (
            "Leave one of them out."
            if one_run
            else "Add --record_in local"
            if conflicts == ["record_in"]
            else "Set one of them only."
        )
        raise BadUsage(f"--{conflicts[0]} is for a single run, and {_options(chosen)} makes many.", hint=hint)
    return _without(request, ["in_place"])


def sweep_for(request: SubmitRequest) -> SweepSpec | None:
    """The sweep that the options mean, with a seed wherever values are drawn; None where the job is a single run.
    Raises BadUsage."""
    asked = asked_sweep(request)
    return seeded(asked, on_cluster=bool(request.on_cluster), sdk=request.sdk) if asked else None


def asked_sweep(request: SubmitRequest) -> SweepSpec | None:
    """As `sweep_for`; the seed is that which was asked for, or none."""
    on_cluster = bool(request.on_cluster)
    if request.ready_sweep is not None:
        check_sweep(request.ready_sweep, on_cluster=on_cluster)
        return request.ready_sweep
    if not any(map(request.is_set, KINDS)):
        return None
    return sweep_of(request, on_cluster=on_cluster)


def many_arguments(request: SubmitRequest) -> Sequence[str]:
    """The script's arguments, with the number of splits where it is asked for. Raises BadUsage."""
    if request.crossval is None or request.crossval_count_arg is None:
        return request.arguments
    name = argument_name("--crossval_count_arg", request.crossval_count_arg)
    if name == argument_name("--crossval_arg", request.crossval_arg):
        raise BadUsage(
            f"--crossval_arg and --crossval_count_arg are both '{name}'.",
            hint="The split's number and the number of splits need a name each.",
        )
    return (*request.arguments, f"--{name}", str(request.crossval))


def _check_stray(request: SubmitRequest, chosen: Sequence[str]) -> None:
    """Raises BadUsage for an option that was typed and says something about another way to many runs than the one
    chosen."""
    strays = [name for kind, names in OF_ONE.items() if kind not in chosen for name in names if request.is_typed(name)]
    strays += [name for name in OF_SEARCHES if "sweep" not in chosen and request.is_typed(name)]
    strays += [name for name in OF_ALL if not chosen and request.is_typed(name)]
    if strays and request.ready_sweep is None:
        kind = next((kind for kind, names in OF_ONE.items() if strays[0] in names), "sweep")
        raise BadUsage(f"--{strays[0]} belongs to --{kind}.", hint=f"Leave it out, or add --{kind}.")


def _without(request: SubmitRequest, names: Sequence[str]) -> SubmitRequest:
    defaults = SubmitRequest(cwd=request.cwd)
    return replace(request, **{name: getattr(defaults, name) for name in names})


def _options(names: Sequence[str]) -> str:
    return " and ".join(f"--{name}" for name in names) or "the sweep"


def _as_grid(request: SubmitRequest, chosen: Sequence[str]) -> str:
    """How to write all combinations of what was asked for."""
    parts = [f"--sweep {text}" for text in request.sweep if "sweep" in chosen]
    if "crossval" in chosen and request.crossval is not None:
        parts.append(f"--sweep {request.crossval_arg}={_numbers(request.crossval)}")
    if "different_seeds" in chosen and request.different_seeds is not None:
        parts.append(f"--sweep {request.seed_arg}={_numbers(request.different_seeds)}")
    return f"To run every combination: {' '.join(parts)}"


def _numbers(count: int) -> str:
    return ",".join(map(str, range(count))) if count <= 10 else f"0,1,…,{count - 1}"
