"""Telling what a run logged: metrics, parameters, tags."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from himl_cli.core.errors import HimlError
from himl_cli.core.results import Logged, LoggedRow
from himl_cli.core.runs import OF_RECORDING, Run
from himl_cli.services.recording.ends import is_refusal, passes
from himl_cli.services.recording.note import Told
from himl_cli.workspaces.base import FolderWorkspace, RunRecorder

log = logging.getLogger(__name__)

TRIES_FOR_A_METRIC = 64
"""Enough to find the points that are not taken among many; where it is the metric itself that is not, few of its points
are tried."""


def tell_values(here: FolderWorkspace, there: RunRecorder, run: Run, told: Told) -> bool:
    """Tell what came since; whether there was anything. What the other workspace does not take is named in the log and
    passed over.

    Raises what passes, and what concerns all of it.
    """
    before = (told.last_point, len(told.parameters), dict(told.tags))
    _tell_points(here, there, run.id, told)
    parameters = _fresh(here.parameters(run.id), told.parameters)
    if parameters:
        _all_or_each(lambda some: there.log_parameters(run.id, some), parameters, "Parameter")
        told.parameters.update(parameters)
    tags = _fresh({name: value for name, value in run.tags.items() if name not in OF_RECORDING}, told.tags)
    if tags:
        _all_or_each(lambda some: there.tag(run.id, some), tags, "Tag")
        told.tags.update(tags)
    return before != (told.last_point, len(told.parameters), told.tags)


def _tell_points(here: FolderWorkspace, there: RunRecorder, run_id: str, told: Told) -> None:
    while True:
        entries, last = here.logged(run_id, told.last_point)
        if not entries:
            return
        if _refused(partial(there.log, run_id, entries)):
            for metric in entries:
                _tell_metric(lambda some: there.log(run_id, [some]), metric)
        told.last_point = last


def _tell_metric(tell: Callable[[Logged], object], metric: Logged) -> None:
    """Tell one metric; where it is not taken, its halves, and so on, so that one point does not keep back the
    others."""
    waiting, left_out, why = [metric], list[LoggedRow](), ""
    for _ in range(TRIES_FOR_A_METRIC):
        if not waiting:
            break
        part = waiting.pop()
        refused = _refused(partial(tell, part))
        if refused and len(part.rows) > 1:
            waiting += _halves(part)
        elif refused:
            left_out += part.rows
        why = refused or why
    left_out += [row for part in reversed(waiting) for row in part.rows]
    if left_out:
        points = (
            f"step {left_out[0].step}"
            if len(left_out) == 1
            else f"{len(left_out)} points, the first at step {left_out[0].step}"
        )
        log.warning("Metric '%s' was not taken (%s): %s", metric.name, points, why)


def _halves(metric: Logged) -> Sequence[Logged]:
    """The later one first."""
    middle = len(metric.rows) // 2
    return [replace(metric, rows=metric.rows[middle:]), replace(metric, rows=metric.rows[:middle])]


def _fresh(now: Mapping[str, str], told: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in now.items() if told.get(name) != value}


def _all_or_each(tell: Callable[[Mapping[str, str]], object], pairs: Mapping[str, str], what: str) -> None:
    """Tell *pairs* at once; where they are not taken so, each by itself, so that one does not keep back the others."""
    if not _refused(partial(tell, pairs)):
        return
    for name, value in pairs.items():
        why = _refused(partial(tell, {name: value}))
        if why:
            log.warning("%s '%s' was not taken: %s", what, name, why)


def _refused(tell: Callable[[], object]) -> str:
    """Why what *tell* tells is not taken; empty where it is. Raises what passes, and what concerns all of it."""
    try:
        tell()
    except HimlError as err:
        if passes(err) or is_refusal(err):
            raise
        return str(err) or type(err).__name__
    return ""
