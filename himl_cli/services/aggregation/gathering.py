"""Reading what runs logged, and putting it side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase

from himl_cli.core.results import Aggregation, Child
from himl_cli.core.runs import Run
from himl_cli.core.sweeps import hyperparameters_of
from himl_cli.services.aggregation.labels import labels_of, value_of
from himl_cli.workspaces.base import Workspace


def aggregate(
    workspace: Workspace,
    runs: Sequence[Run],
    *,
    child_arg: str | None = None,
    globs: Sequence[str] = (),
    whole: bool = False,
) -> Aggregation:
    """The metrics of *runs* whose names match one of *globs* (none: all), with all points where *whole*.

    Folds come in the order of their numbers, other runs as they are given. Raises BadUsage where no run has
    *child_arg*.
    """
    results = workspace.results(runs, wanted=matching(globs), whole=whole)
    ordered = (
        _by_fold(runs)
        if child_arg is None
        else sorted(runs, key=_fold_of(runs, lambda run: value_of(child_arg, run, results[run.id])))
    )
    labels = labels_of(ordered, [results[run.id] for run in ordered], child_arg)
    children = [
        Child(run, label, hyperparameters_of(run.tags), results[run.id])
        for run, label in zip(ordered, labels, strict=True)
    ]
    return Aggregation(metric_names(children), children)


def metric_names(children: Iterable[Child]) -> list[str]:
    """All names that any of them has, sorted."""
    return sorted({name for child in children for name in child.results.last})


def matching(globs: Sequence[str]) -> Callable[[str], bool]:
    """Whether a name matches one of *globs*, to the letter; every name does where there are none."""
    if not globs:
        return lambda name: True
    return lambda name: any(name == glob or fnmatchcase(name, glob) for glob in globs)


def _by_fold(runs: Sequence[Run]) -> list[Run]:
    """Runs that differ in one hyperparameter that counts them (the fold, the seed) by its number; others stay in their
    order."""
    values = [hyperparameters_of(run.tags) for run in runs]
    names = {name for each in values for name in each}
    if len(names) != 1:
        return list(runs)
    name = names.pop()
    return sorted(runs, key=_fold_of(runs, lambda run: hyperparameters_of(run.tags).get(name)))


def _fold_of(runs: Sequence[Run], read: Callable[[Run], object]) -> Callable[[Run], int]:
    """A key to sort by: the numbers that *read* gives where they are 0, 1, 2… or 1, 2, 3…, in whatever order; else the
    present place."""
    places = {run.id: place for place, run in enumerate(runs)}
    numbers: dict[str, int] = {}
    for run in runs:
        value = read(run)
        if isinstance(value, (int, str)) and not isinstance(value, bool) and str(value).isdecimal():
            numbers[run.id] = int(value)
    counts_them = sorted(numbers.values()) in (list(range(len(runs))), list(range(1, len(runs) + 1)))
    return lambda run: numbers[run.id] if counts_them else places[run.id]
