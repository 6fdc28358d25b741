"""What the children of a sweep or cross-validation logged, as pandas has it."""

from __future__ import annotations

import glob
import logging
import os
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from himl_cli.api import configured
from himl_cli.api.errors import NoChildren, PackageMissing
from himl_cli.api.offline_run import OfflineRun
from himl_cli.api.run import Run
from himl_cli.core.errors import RunNotFound
from himl_cli.core.installing import install_command
from himl_cli.core.results import Aggregation, Child, RunResults, Value
from himl_cli.core.sweeps import MANY, Scalar
from himl_cli.services.runs.aggregate import aggregate, children_chosen, value_of

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)


def aggregate_hyperdrive_metrics(
    child_run_arg_name: str,
    run_id: str | None = None,
    run: object = None,
    keep_metrics: Sequence[str] | None = None,
    aml_workspace: object = None,
    workspace_config_path: str | os.PathLike[str] | None = None,
) -> pd.DataFrame:
    """The metrics of a run's children: a row a metric, a column a child, called by its value of the argument
    *child_run_arg_name*.

    A cell is a list in the order of steps, or the value itself where there is one only; of a table a dictionary of
    columns; of an image the name of the run's file. It is NaN where a child has nothing. The parent is *run* (himl's,
    or azureml-core's) or the one that *run_id* means, in *aml_workspace* or the one configured as for `get_workspace`,
    here first where both have been used. *keep_metrics* leaves out other metrics.

    Columns are called as the children's tags have the values (`df[0.1]`); of a cross-validation they are texts, as
    hi-ml's (`df["0"]`).

    Raises PackageMissing (also an ImportError) where pandas is not installed, NoChildren (also a ValueError) for a run
    without children, BadUsage where neither run is given or no child has the argument, RunNotFound.
    """
    if find_spec("pandas") is None:
        raise PackageMissing(
            "aggregate_hyperdrive_metrics gives a DataFrame, and pandas is not installed.",
            hint=f"Install it: {install_command('frames')}",
        )
    if is_offline(run):
        return _frame(Aggregation((), ()), [])
    try:
        parent = meant(run_id, run, aml_workspace, workspace_config_path)
    except RunNotFound as err:
        err.hint = (
            f"The name of the argument comes first: aggregate_hyperdrive_metrics('{run_id}', "
            f"'{child_run_arg_name}')? {err.hint}"
        ).rstrip()
        raise
    found, is_crossval = gathered(child_run_arg_name, parent, keep_metrics)
    return _frame(found, column_names(found, child_run_arg_name, is_crossval))


def gathered(argument: str, parent: Run, keep_metrics: Sequence[str] | None) -> tuple[Aggregation, bool]:
    """The children of *parent* and what they logged, and whether they are a cross-validation's. Raises NoChildren, and
    BadUsage where none has *argument*."""
    opened = parent.workspace.opened
    chosen = children_chosen(opened, parent.record)
    if chosen.parent is None:
        raise NoChildren(
            f"Run '{parent.id}' has no children: it is no sweep, cross-validation or pipeline, or has not started "
            "any yet."
        )
    globs = [glob.escape(name) for name in keep_metrics or ()]
    return aggregate(opened, chosen.runs, child_arg=argument, globs=globs, whole=True), parent.tags.get(
        MANY
    ) == "crossval"


def is_offline(run: object) -> bool:
    """Whether *run* is the run context of a process that is part of no job, himl's or azureml-core's; a warning says
    so."""
    if not isinstance(run, OfflineRun) and type(run).__name__ != "_OfflineRun":
        return False
    log.warning("This process is part of no job: its run has no metrics, children or files.")
    return True


def meant(run_id: str | None, run: object, workspace: object, config: str | os.PathLike[str] | None) -> Run:
    """The run that one of the two says: himl's, azureml-core's, or an id in the workspace given or configured. Raises
    NoChildren where neither does."""
    if isinstance(run, Run):
        return run
    if run is not None:
        given: Any = run
        return configured.find_run(str(given.id), given.experiment.workspace)
    if run_id is None:
        raise NoChildren("Which run is meant has to be said.", hint="Give run_id or run.")
    return configured.find_run(run_id, workspace, config)


def column_names(found: Aggregation, argument: str, is_crossval: bool) -> list[Scalar]:
    """The values themselves where they tell the children apart (1 and 1.0 do not), else the labels."""
    values = [value_of(argument, child.run, child.results) for child in found.children]
    known = [str(value) if is_crossval else value for value in values if value is not None]
    return known if len({*known}) == len(values) else [child.label for child in found.children]


def _frame(found: Aggregation, columns: Sequence[Scalar]) -> pd.DataFrame:
    import pandas as pd

    names = sorted({name for child in found.children for name in names_of(child.results)})
    cells = {
        column: pd.Series([cell(child, name) for name in names], index=names, dtype=object)
        for column, child in zip(columns, found.children, strict=True)
    }
    return pd.DataFrame(cells, index=names, columns=list(columns)).infer_objects()


def names_of(results: RunResults) -> list[str]:
    """All that was logged, by name."""
    return [*results.series, *results.texts, *results.tables, *results.lists, *results.images]


def cell(child: Child, name: str) -> object:
    """What the child logged under *name*, as hi-ml has it; NaN where it is nothing."""
    results = child.results
    if name in results.tables:
        return {column: _one_or_all(values) for column, values in results.tables[name].items()}
    if name in results.series:
        return _one_or_all(list(results.series[name].values))
    if name in results.texts:
        return _one_or_all([text.value for text in results.texts[name]])
    if name in results.lists:
        return list(results.lists[name])
    return _one_or_all(list(results.images[name])) if name in results.images else float("nan")


def _one_or_all(values: Sequence[Value]) -> object:
    return values[0] if len(values) == 1 else list(values)
