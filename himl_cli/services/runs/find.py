"""Find runs for a list: by conditions on their logged values, in an order, with the values in which they differ."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import islice

from himl_cli.core.errors import BadUsage, NotFound
from himl_cli.core.events import Notice, Notify, ignore
from himl_cli.core.logged import SYSTEM, ListedRuns, RunResults, given_of, goal_of
from himl_cli.core.records import dataclass
from himl_cli.core.runs import Goal, Run, RunQuery
from himl_cli.core.search import ANY, Clause, Comparison, Searchable, parse_filter, parse_order, sort_items
from himl_cli.core.sweeps import GOAL, MANY, PRIMARY_METRIC, SweepSpec, best_of, best_trial_of
from himl_cli.core.text import near_matches, with_and
from himl_cli.services.runs.lookup import runs_of_experiment, sizes_of
from himl_cli.workspaces.base import FolderWorkspace, Workspace

RUNS_PER_REQUEST = 100  # for their values
KINDS_OF_VALUES = {"params": "parameter", "metrics": "metric", "tags": "tag"}  # in the order of `Searchable.values`
Item = tuple[Searchable, Run]


@dataclass(frozen=True)
class ListRequest:
    """The contents of a list of runs: `metrics` are globs. `has_best` replaces last values by the best ones, by `goal`
    or the goal of each metric. `sort` is a key, after `-` for descending order, and `where` a filter. `has_sizes` adds
    the sizes of the runs' files."""

    metrics: Sequence[str] = ()
    has_parameters: bool = False
    has_best: bool = False
    goal: Goal | None = None
    sort: str = ""
    where: str = ""
    has_sizes: bool = False

    @property
    def is_empty(self) -> bool:
        return self == ListRequest()


def matching_runs(workspace: Workspace, query: RunQuery, notify: Notify = ignore) -> Iterable[Run]:
    if query.experiment is None:
        return workspace.runs(query)
    return runs_of_experiment(workspace, query, notify)


def list_runs(workspace: Workspace, query: RunQuery, asked: ListRequest, notify: Notify = ignore) -> ListedRuns:
    """The runs that match *query* and the filter, in their order, with the values that *asked* requests.

    The limit of *query* applies to the result. Sends one request per hundred runs for their values. Raises BadUsage for
    an invalid filter or order, NotFound if no run has the named value.
    """
    comparisons = parse_filter(asked.where, is_short=True)
    order = parse_order(asked.sort, is_short=True) if asked.sort else None
    shown = asked.metrics or ([order[1]] if order and order[0] in (ANY, "metrics") else [])
    values = _Values(workspace, asked)
    every: Iterable[Run] | None = None if asked.has_best else _by_metrics(workspace, query, comparisons, order)
    if every is not None:
        comparisons = [each for each in comparisons if each.entity == "attributes"]
        order = order if order and order[0] == "attributes" else None
    else:
        limit = None if comparisons or order else query.limit
        every = matching_runs(workspace, replace(query, limit=limit), notify)
    runs = [*islice(values.chosen(every, comparisons, order), query.limit)]
    if shown or asked.has_parameters:
        values.read(runs)
    listed = values.listed(runs, shown, notify)
    if asked.has_sizes:
        listed = replace(listed, sizes=sizes_of(workspace, runs))
    used = {each.key for each in comparisons} | ({order[1]} if order else set()) if asked.has_best else set()
    values.tell_guesses({*listed.best, *used}, notify)
    return listed


def primary_metrics(workspace: Workspace, runs: Sequence[Run]) -> ListedRuns:
    """*runs* with the primary metrics that they have: the recorded ones, and the default one of `--primary_metric`."""
    names = [*dict.fromkeys([*(run.tags.get(PRIMARY_METRIC, "") for run in runs), SweepSpec.primary_metric])]
    ask = partial(_current, workspace)
    if isinstance(workspace, FolderWorkspace):
        ask = partial(workspace.results, wanted=names.__contains__, whole=False)
    results = with_best_trials(runs, ask)
    return ListedRuns(runs, results, [name for name in names if any(name in each.last for each in results.values())])


def _current(workspace: Workspace, runs: Sequence[Run]) -> Mapping[str, RunResults]:
    return {run_id: values for run_id, (_, values) in workspace.refresh(runs).items()}


def with_best_trials(
    runs: Sequence[Run], ask: Callable[[Sequence[Run]], Mapping[str, RunResults]]
) -> Mapping[str, RunResults]:
    """The logged values of each of *runs* from *ask*. Values and parameters of the recorded best trial of a sweep count
    as those of the sweep, like those of nested runs."""
    best = {run.id: trial for run in runs if (trial := best_trial_of(run.tags))}
    trials = [replace(run, id=best[run.id]) for run in runs if run.id in best]
    # Asked at once. With the sweeps, Azure ML needs no request for the experiments of their trials
    found, none = ask([*trials, *runs]), RunResults()
    results = {run.id: found.get(run.id, none) for run in runs}
    for run_id, trial in best.items():
        own, other = results[run_id], found.get(trial, none)
        results[run_id] = replace(own.filled(other), parameters={**other.parameters, **own.parameters})
    return results


def _by_metrics(
    workspace: Workspace, query: RunQuery, comparisons: Sequence[Comparison], order: Clause | None
) -> Iterator[Run] | None:
    """The runs that match *query* and the *comparisons* of metrics, by the *order* if that is by a metric. None if the
    workspace cannot find them itself: it is no folder, or one of the keys is neither a metric nor a field."""
    keys = dict.fromkeys((each.entity, each.key) for each in comparisons if each.entity != "attributes")
    by_metric = [order] if order and order[0] != "attributes" else []
    keys |= dict.fromkeys(each[:2] for each in by_metric)
    if not keys or not isinstance(workspace, FolderWorkspace) or any(each[0] not in (ANY, "metrics") for each in keys):
        return None
    metrics: dict[str, dict[str, float]] = {}
    for entity, name in keys:
        numbers = workspace.last_numbers(replace(query, limit=None), name, is_metric=entity == "metrics")
        if numbers is None:
            return None
        for run_id, number in numbers.items():
            known = metrics.setdefault(run_id, {})
            if number is not None:
                known[name] = number
    of_metrics = [each for each in comparisons if each.entity != "attributes"]
    items = [(Searchable(metrics=values), run_id) for run_id, values in metrics.items()]
    for each in of_metrics:
        items = [item for item in items if each.holds(item[0])]
    order_of_metric = [("metrics", *each[1:]) for each in by_metric]  # not of a parameter or tag, as found above
    ids = sort_items(items, order_of_metric, is_short=True)
    pages = (ids[start : start + RUNS_PER_REQUEST] for start in range(0, len(ids), RUNS_PER_REQUEST))
    return (run for page in pages for run in workspace.many(page))


class _Values:
    """The values of runs, each read once."""

    def __init__(self, workspace: Workspace, asked: ListRequest) -> None:
        self._workspace = workspace
        self._asked = asked
        self._results: dict[str, RunResults] = {}
        self._guesses: dict[str, Goal] = {}  # goals by the names of metrics
        self._ambiguous: dict[str, Sequence[str]] = {}  # names of several values of a run, with their kinds

    def read(self, runs: Sequence[Run]) -> None:
        waiting = [run for run in runs if run.id not in self._results]
        for start in range(0, len(waiting), RUNS_PER_REQUEST):
            chunk = waiting[start : start + RUNS_PER_REQUEST]
            if self._asked.has_best:
                found = with_best_trials(chunk, partial(self._workspace.results, wanted=lambda name: True, whole=True))
                self._results |= {run.id: self._with_best(run, found[run.id]) for run in chunk}
            else:
                self._results |= with_best_trials(chunk, partial(_current, self._workspace))

    def _with_best(self, run: Run, results: RunResults) -> RunResults:
        best = {}
        for name, series in results.series.items():
            with suppress(BadUsage):  # the name does not show a goal, and neither do the user and the run
                best[name] = best_of(self._goal(name, [run]), series.values)
        return replace(results, last={**results.last, **{name: one for name, one in best.items() if one is not None}})

    def _goal(self, name: str, runs: Iterable[Run]) -> Goal:
        of_runs = (run.tags.get(GOAL) for run in runs if run.tags.get(PRIMARY_METRIC) == name)
        recorded: Goal | None = next(("maximize" if goal == "maximize" else "minimize" for goal in of_runs), None)
        goal = goal_of(name, self._asked.goal or recorded)
        if not (self._asked.goal or recorded):
            self._guesses[name] = goal
        return goal

    def tell_guesses(self, names: Collection[str], notify: Notify) -> None:
        """Tell *notify* which of two values a name meant, and the goals of the metrics *names* that their names
        decided."""
        for name, (first, other, *_) in sorted(self._ambiguous.items()):
            key = name if re.fullmatch(r"[\w./-]+", name) else f"`{name}`"
            text = f"'{name}' is a {KINDS_OF_VALUES[first]} here, and also a {KINDS_OF_VALUES[other]}."
            notify(Notice(f"{text} For the {KINDS_OF_VALUES[other]}, write {other}.{key}"))
        guesses = {name: goal for name, goal in self._guesses.items() if name in names}
        words = {"minimize": "lowest", "maximize": "highest"}
        found = {word: [name for name, each in guesses.items() if each == goal] for goal, word in words.items()}
        parts = [f"the {word} {with_and(names)}" for word, names in found.items() if names]
        if parts:
            text = f"The names of metrics decide which values are best: {' and '.join(parts)}."
            notify(Notice(f"{text} To decide it yourself: --goal minimize or --goal maximize"))

    def chosen(self, runs: Iterable[Run], comparisons: Sequence[Comparison], order: Clause | None) -> Iterator[Run]:
        """Those of *runs* for which all *comparisons* hold, in the order. Without an order, reads no more than needed.
        Raises NotFound if none of the runs has a value that these name."""
        keys = {(one.entity, one.key) for one in comparisons if one.value is not None}
        keys |= {order[:2]} if order else set()
        unknown, known, has_runs = {key for key in keys if key[0] != "attributes"}, dict[str, None](), False
        more, plain = "", [key for entity, key in keys if entity == ANY]

        def holding() -> Iterator[Item]:
            nonlocal has_runs, more
            for item, run in self._items(runs, is_read=bool(unknown)):
                has_runs = True
                for name in plain:
                    kinds = [kind for kind in KINDS_OF_VALUES if name in getattr(item, kind)]
                    if len(kinds) > 1:
                        self._ambiguous[name] = kinds
                if unknown:
                    more = more or _child_values([run])
                    unknown.difference_update([key for key in unknown if item.values(*key)])
                    known.update(dict.fromkeys([*item.metrics, *item.params]))
                if all(comparison.holds(item) for comparison in comparisons):
                    yield item, run

        if order is None:
            yield from (run for _, run in holding())
        found = [] if order is None else sort_items(holding(), [order], is_short=True)
        if unknown and has_runs:
            name = min(unknown)[1]
            near = near_matches(name, [*known]) or sorted(known, key=lambda each: each.startswith(SYSTEM))[:8]
            names = f"Names: {', '.join(near)}." if near else "They logged nothing."
            raise NotFound(
                f"None of the runs has a metric, parameter, argument or tag '{name}'.", hint=f"{names}{more}"
            )
        yield from found

    def _items(self, runs: Iterable[Run], *, is_read: bool) -> Iterator[Item]:
        left = iter(runs)
        while chunk := [*islice(left, RUNS_PER_REQUEST)]:
            if is_read:
                self.read(chunk)
            yield from ((_searchable(run, self._results.get(run.id, RunResults())), run) for run in chunk)

    def listed(self, runs: Sequence[Run], shown: Sequence[str], notify: Notify) -> ListedRuns:
        """*runs* with columns of the metrics like *shown*. Tells *notify* if none has one that the user asked for."""
        if not shown:
            return ListedRuns(runs, self._results, has_parameters=self._asked.has_parameters)
        from himl_cli.services.runs.aggregate import matching

        is_wanted, numbers = matching(shown), {run.id: _numbers(self._results[run.id]) for run in runs}
        logged = sorted({name for found in numbers.values() for name in found})
        names = [name for name in logged if is_wanted(name)]
        if runs and self._asked.metrics and not names:
            there = f" Metrics: {', '.join(logged[:8])}." if logged else ""
            text = f"No metric matches {' or '.join(map(repr, self._asked.metrics))}.{there}"
            notify(Notice(f"{text}{_child_values(runs)}"))
        best = {}
        for name in names:
            with suppress(BadUsage):  # as above
                best[name] = best_of(
                    self._goal(name, runs), (found[name] for found in numbers.values() if name in found)
                )
        known = {name: value for name, value in best.items() if value is not None}
        return ListedRuns(runs, self._results, names, self._asked.has_parameters, known)


def _child_values(runs: Iterable[Run]) -> str:
    """The command for values that *runs* lack: of trials without a best one, folds and seeds."""
    lacking = next((run.id for run in runs if MANY in run.tags and not best_trial_of(run.tags)), "")
    return f" For values of child runs: himl runs aggregate {lacking}" if lacking else ""


def _numbers(results: RunResults) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in results.last.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }


def _searchable(run: Run, results: RunResults) -> Searchable:
    fields = {"run_id": run.id, "run_name": run.display_name, "experiment": run.experiment, "status": run.status.value}
    times = {"start_time": run.started, "end_time": run.ended}
    numbers = {name: time.timestamp() * 1000 for name, time in times.items() if time is not None}
    numbers |= {} if run.duration is None else {"duration": run.duration}
    given = given_of(run, results)
    given = {name.replace("-", "_"): value for name, value in given.items()} | given
    return Searchable({**fields, **numbers}, _numbers(results), given, run.tags)
