"""What a run logged of one metric, by epoch and by step, as the names of its checkpoints count them."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from himl_cli.core.checkpoints import Goal
from himl_cli.core.errors import NotFound
from himl_cli.core.near import similar_ids
from himl_cli.core.runs import Metric, Run
from himl_cli.services.checkpoints.telling import same_metric

EPOCH = "epoch"
SHOWN = 6


@dataclass(frozen=True)
class LoggedValues:
    """Of each epoch the values by step, in the order logged; and all values by step. Values may be NaN."""

    by_epoch: Mapping[int, Mapping[int, float]]
    by_step: Mapping[int, float]

    def of(self, epoch: int | None, step: int | None) -> float | None:
        """The value for a checkpoint of *epoch*, the last one of it unless *step* tells which; by *step* alone where no epoch is known."""
        values = self.by_step if epoch is None else self.by_epoch.get(epoch, {})
        at = None if step is None else next((values[each] for each in (step, step - 1) if each in values), None)  # Lightning logs before it counts on
        if at is not None or epoch is None:
            return at
        return list(values.values())[-1] if values else None

    def better_than(self, value: float | None, goal: Goal) -> float | None:
        """The best of the values where it is better than *value*."""
        numbers = [each for each in self.by_step.values() if not math.isnan(each)]
        best = min(numbers, default=None) if goal == "minimize" else max(numbers, default=None)
        if best is None or value is None:
            return None
        return best if (best < value if goal == "minimize" else best > value) else None


def logged_values(metrics: Sequence[Metric], name: str, run: Run) -> LoggedValues:
    """Those of the metric called *name*, of the run itself before runs nested in it. Raises NotFound naming the metrics there are.

    A metric `epoch` logged beside it says which epoch a step belongs to, as Lightning's loggers log it; without one steps are epochs.
    """
    own_first = sorted(metrics, key=lambda metric: metric.run != run.id)
    found = next((metric for metric in own_first if metric.name == name), None) or next((one for one in own_first if same_metric(one.name, name)), None)
    if found is None:
        known = sorted({metric.name for metric in metrics})
        more = ", …" if len(known) > SHOWN else ""
        hint = f"It logged: {', '.join(similar_ids(name, known) or known[:SHOWN])}{more}." if known else "It logged no metric at all."
        raise NotFound(f"No checkpoint of run '{run.id}' has '{name}' in its name, and the run did not log it.", hint=hint)
    epochs = next((metric for metric in own_first if metric.name == EPOCH and metric.run == found.run), None)
    steps = sorted({point.step: int(point.value) for point in epochs.points if math.isfinite(point.value)}.items()) if epochs is not None else []
    by_epoch: dict[int, dict[int, float]] = {}
    for point in found.points:
        epoch = steps[max(0, bisect_right(steps, (point.step, math.inf)) - 1)][1] if steps else point.step
        by_epoch.setdefault(epoch, {})[point.step] = point.value
    return LoggedValues(by_epoch, {point.step: point.value for point in found.points})
