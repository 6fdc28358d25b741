"""A sweep in Azure ML's words: how a value reaches the script, and where trials write."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import replace

from himl_cli.core.errors import BadUsage
from himl_cli.core.events import Notice, Notify, ignore
from himl_cli.core.jobs import JobSpec
from himl_cli.core.sweeps import SEARCH_SPACE, Draw, Scalar, SearchRange, SweepSpec, value_text
from himl_cli.workspaces.azure.jobs.forms import JobOutput

EACH_TRIAL = "${{name}}/"
"""What the service puts the run's id in for, in the path of an output."""
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
VARIABLE = "AZUREML_SWEEP_"
"""How the names of the variables begin in which a trial finds its values."""


def check_names(sweep: SweepSpec) -> None:
    """Raises BadUsage for the name of a hyperparameter that Azure ML does not take."""
    for name in sweep.space:
        if NAME.fullmatch(name) is None:
            other = re.sub(r"[^A-Za-z0-9_]", "_", name)
            raise BadUsage(
                f"--sweep {name}: Azure ML takes letters, digits and _ in the names of hyperparameters, and no digit "
                "in front.",
                hint=f"Pass it on from one with another name: --sweep {other}=… -- "
                f"'--{name}=${{{{search_space.{other}}}}}'",
            )


def wire_values(space: SearchRange) -> list[Scalar]:
    """The values as they go to the service: numbers are numbers; truth values, which it does not know, are texts as
    Python writes them."""
    return [value_text(value) if isinstance(value, bool) else value for value in space.values]


def at_once(sweep: SweepSpec) -> int | None:
    """How many trials may run at a time; None: all of them, which the service takes for more than it would take as a
    number."""
    return None if sweep.max_concurrent is None else min(sweep.max_concurrent, sweep.max_trials)


def value_word(name: str, sweep: SweepSpec) -> str:
    """What stands for hyperparameter *name* in a command, so that bash takes each of its values as one word.

    Mostly its placeholder. The service is said to put `$AZUREML_SWEEP_NAME` in its place, not the value's text, so that
    no quotes round a placeholder are right for each value; where a choice needs quotes, the variable itself stands in
    them, which takes them all.
    """
    texts = (
        [value for value in sweep.space[name].values if isinstance(value, str)]
        if sweep.space[name].draw is Draw.choice
        else []
    )
    is_plain = all(text and shlex.quote(text) == text for text in texts)
    return f"${{{{{SEARCH_SPACE}.{name}}}}}" if is_plain else f'"${VARIABLE}{name}"'


def trial_outputs(outputs: Mapping[str, JobOutput]) -> dict[str, JobOutput]:
    """*outputs* for trials: each writes below a folder of its own, and none of them registers the whole as a
    version."""
    return {key: replace(item, path=of_each_trial(item.path), asset_name=None) for key, item in outputs.items()}


def of_each_trial(path: str) -> str:
    """*path* with the run's id at its end, where it does not say already where that goes."""
    return path if "${{name}}" in path else f"{path.rstrip('/')}/{EACH_TRIAL}"


def outputs_for(spec: JobSpec, outputs: Mapping[str, JobOutput], notify: Notify = ignore) -> Mapping[str, JobOutput]:
    """*outputs*, as the job *spec* needs them; *notify* hears where trials write."""
    if spec.sweep is None or not outputs:
        return outputs
    notify(
        Notice(
            "Each trial writes its outputs to folders of its own, NAME/<its run id>; they are not registered as data "
            "assets."
        )
    )
    return trial_outputs(outputs)


def early_stop_fields(sweep: SweepSpec) -> dict[str, int | float]:
    """The fields of the policy that are set, by the names that azure-ai-ml and its YAML have for them; empty without a
    policy."""
    stop = sweep.early_stop
    if stop is None:
        return {}
    fields: Iterable[tuple[str, int | float | None]] = (
        ("evaluation_interval", stop.evaluation_interval),
        ("delay_evaluation", stop.delay_evaluation),
        ("slack_factor", stop.slack_factor),
        ("slack_amount", stop.slack_amount),
        ("truncation_percentage", stop.truncation_percentage),
    )
    return {name: value for name, value in fields if value is not None}
