"""What each run is called beside the others: by what tells them apart."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence

from himl_cli.core.errors import BadUsage
from himl_cli.core.jobs import STEP
from himl_cli.core.results import RunResults
from himl_cli.core.runs import Run, own_name, own_tags
from himl_cli.core.sweeps import PLACEHOLDER, Scalar, hyperparameters_of, value_text, values_text
from himl_cli.services.aggregation.chosen_runs import number_of

MOST_NAMES = 4
"""Tags or arguments that differ in more names than this do not make a label."""
Values = Mapping[str, Scalar]


def labels_of(runs: Sequence[Run], results: Sequence[RunResults], child_arg: str | None) -> list[str]:
    """A label for each run, no two alike: the value of *child_arg*, else of what differs between the runs.

    Raises BadUsage where none of them has *child_arg*.
    """
    if child_arg is not None:
        values = [value_of(child_arg, run, found) for run, found in zip(runs, results, strict=True)]
        if all(value is None for value in values):
            raise _unknown(child_arg, runs)
        return unique(
            [_name(run) if value is None else value_text(value) for run, value in zip(runs, values, strict=True)]
        )
    if all(STEP in run.tags for run in runs):
        return unique([_name(run) if own_name(run) else run.tags[STEP] for run in runs])
    labels = _distinguishing([hyperparameters_of(run.tags) for run in runs])
    for values_of_all in (
        [own_tags(run) for run in runs],
        [_arguments(run) for run in runs],
        [found.parameters for found in results],
    ):
        labels = labels or _distinguishing(values_of_all, most=MOST_NAMES)
    if labels:
        return unique([label or _name(run) for label, run in zip(labels, runs, strict=True)])
    names = [own_name(run) for run in runs]
    if all(names) and len(set(names)) == len(runs):
        return names
    numbers = [number_of(run) for run in runs]
    if None not in numbers and len(set(numbers)) == len(runs):
        return [str(number) for number in numbers]
    return unique([run.id for run in runs])


def value_of(name: str, run: Run, results: RunResults) -> Scalar | None:
    """What the run has under *name*: a hyperparameter, else a tag, else a parameter or an argument of its command;
    dashes in front do not count."""
    wanted = _plain(name)
    for values in (hyperparameters_of(run.tags), run.tags, results.parameters, _arguments(run)):
        for key, value in values.items():
            if _plain(key) == wanted:
                return value
    return None


def unique(labels: Sequence[str]) -> list[str]:
    """*labels*; of those that are alike each gets its place among all behind it."""
    counts = Counter(labels)
    return [label if counts[label] == 1 else f"{label} [{place}]" for place, label in enumerate(labels)]


def _unknown(child_arg: str, runs: Sequence[Run]) -> BadUsage:
    known = dict.fromkeys(
        name for run in runs for values in (hyperparameters_of(run.tags), own_tags(run)) for name in values
    )
    hint = (
        f"There are: {', '.join([*known][:8])}."
        if known
        else "Leave --child_arg out: the runs are told apart by what differs between them."
    )
    return BadUsage(f"None of the runs has a hyperparameter, tag, parameter or argument '{child_arg}'.", hint=hint)


def _distinguishing(all_values: Sequence[Values], *, most: int | None = None) -> list[str]:
    """Labels by the names whose values differ between the runs, *most* of them: the value alone where that is one name;
    none where nothing differs."""
    if len(all_values) < 2:
        return [values_text(values) for values in all_values if values and most is None]
    names = [*dict.fromkeys(name for values in all_values for name in values)]
    differing = [name for name in names if len({repr(values.get(name)) for values in all_values}) > 1]
    if not differing or (most is not None and len(differing) > most):
        return []
    if len(differing) == 1:
        return [value_text(value) if (value := values.get(differing[0])) is not None else "" for values in all_values]
    return [values_text({name: values[name] for name in differing if name in values}) for values in all_values]


def _arguments(run: Run) -> dict[str, Scalar]:
    """The arguments of the run's command that have a name, without its dashes: `--name value`, `--name=value`; a flag
    is True."""
    try:
        words = shlex.split(run.command)
    except ValueError:  # a quote that is not closed
        words = run.command.split()
    found: dict[str, Scalar] = {}
    for place, word in enumerate(words):
        if word.startswith("--") and len(word) > 2:
            name, equals, value = word[2:].partition("=")
            following = words[place + 1] if place + 1 < len(words) else "--"
            found[name] = value if equals else True if following.startswith("--") else following
    return {name: value for name, value in found.items() if not (isinstance(value, str) and PLACEHOLDER.search(value))}


def _name(run: Run) -> str:
    return own_name(run) or run.id


def _plain(name: str) -> str:
    return name.lstrip("-").replace("-", "_")
