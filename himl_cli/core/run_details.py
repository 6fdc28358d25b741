"""Everything that is known of one run, as a record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from himl_cli.core.runs import Metric, Run, Texts


@dataclass(frozen=True)
class RunDetails:
    """A run with what it logged and the runs below it; `metrics` and `texts` hold those of nested runs too, each with its run."""

    run: Run
    parameters: Mapping[str, str]
    metrics: Sequence[Metric]
    children: Sequence[Run]
    texts: Sequence[Texts] = ()
