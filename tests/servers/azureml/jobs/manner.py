"""How the jobs of a workspace are run."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Manner:
    """`hold` is the status in which each job waits to be released; empty: none waits. With `whole_logs` logs are replaced as they grow, not appended to.

    With `retry_logs` those of later tries are kept in `user_logs/retry_001`, …; else the last try's replace the ones before.

    Numbers of ranks have at least so many `log_digits` in the names of logs. `data_names` is how the variables of data are called: with
    the `exact` key behind the prefix, or with the key in `upper` case.

    With `prepares` a sweep has a child `{sweep}_preparation` beside its trials, as older ones do; with `fails_with_a_trial` it fails when one trial does,
    not only when the first three or all of them do.

    Of the trials of a sweep: `values_by` is what stands for a placeholder of the search space, a `variable` of the shell or the value's `text`;
    `values_in` is where the values are recorded beside the sweep's own `_aml_system_{trial}`: the trial's `tag` (`hyperparameters`, and
    the same with `_aml_system_`), `old_tag` (the first alone), `system_tag` (the second), or nowhere (`sweep`; `old_sweep`: the sweep's tag is
    `{trial}`). `trial_name` is what `${{name}}` is: the trial's `own` name or that of the `sweep`.

    When a node was taken away, the next try has a `disk` that is `new`, and what it writes to `outputs` is kept below `outputs/retry_001`, …, or one that is
    `restored`: `outputs` and `logs` lie there again. With `ends_preempted` there is no next try: the job has failed.

    Of limits (`timeout`, `trialTimeout`) a `minute` lasts so many seconds.

    `python` is what the jobs call `python`; in its folder are the programs that stand before all others.
    """

    hold: str = ""
    whole_logs: bool = False
    log_digits: int = 1
    retry_logs: bool = False
    data_names: str = "exact"
    prepares: bool = False
    fails_with_a_trial: bool = False
    values_by: str = "variable"
    values_in: str = "tag"
    trial_name: str = "own"
    minute: float = 60.0
    disk: str = "new"
    ends_preempted: bool = False
    python: Path = field(default_factory=lambda: Path(sys.executable))
