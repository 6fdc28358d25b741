"""Find the runs that the user selected (by id, recovery id, Studio URL or experiment), their details and children."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from functools import partial
from itertools import chain
from pathlib import Path
from typing import NamedTuple, cast
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from himl_cli.core.errors import BadUsage, NotFound, RunNotFound
from himl_cli.core.events import Event, Notice, Notify, ignore
from himl_cli.core.files import LATEST_RUN_FILE, expand_home
from himl_cli.core.installed import RunEnvironment
from himl_cli.core.logged import (
    SYSTEM,
    Metric,
    MetricPoint,
    RunDetails,
    RunResults,
    SweepView,
    goal_of,
    is_pipeline_trial,
    results_with_steps,
    sweep_of,
)
from himl_cli.core.patterns import lazy_pattern
from himl_cli.core.redaction import is_address
from himl_cli.core.runs import (
    CHANGES,
    STUDIO,
    Goal,
    Run,
    RunQuery,
    RunSelection,
    RunStatus,
    friendly_experiment,
    hi_ml_experiment,
    implied_experiment,
    underscored,
    with_digits,
)
from himl_cli.core.settings import find_upward
from himl_cli.core.sweeps import (
    BEST_TRIAL,
    GOAL,
    MANY,
    PRIMARY_METRIC,
    REPEATED,
    TRIAL,
    best_of,
    hyperparameters_of,
)
from himl_cli.core.text import listed, near_matches
from himl_cli.core.workspaces import WORKSPACE_ID, WorkspaceIds, parse_workspace_id
from himl_cli.workspaces.base import CloudWorkspace, FolderWorkspace, Workspace


class RunReference(NamedTuple):
    """A run id, and its experiment if the text contains one."""

    run_id: str
    experiment: str | None = None


# The beginning of an address of a run or of its files: a page or a resource of Azure, or a form of Azure ML or MLflow
_ADDRESS = lazy_pattern(r"https?://|azureml:/|runs:/|/?subscriptions/", re.IGNORECASE)
_IN_ADDRESS = lazy_pattern(
    r"/(?:experiments(?:/id)?/[^/]+/)?(?:runs?:?|jobs|evaluation)/+(?P<id>[^/]+)(?P<rest>/.*)?$", re.IGNORECASE
)
_STUDIO = lazy_pattern(r"(?:^|\.)(?:ml\.azure\.[a-z]+(?:\.[a-z]+)?|ai\.azure\.com)$", re.IGNORECASE)


def parse_reference(text: str) -> RunReference:
    """Parse `RUN_ID`, `EXPERIMENT:RUN_ID`, the URL of a run's page, its id in Resource Manager, or `azureml://jobs/ID`.
    Raises BadUsage."""
    text = text.strip()
    if _ADDRESS.match(text):
        path = _url_parts(text).path if is_address(text) else f"/{text.partition('?')[0]}"
        found = _IN_ADDRESS.search(re.sub(f"/{WORKSPACE_ID}", "", path, flags=re.IGNORECASE))
        run_id = unquote(found["id"]).strip() if found else ""
        if not found or not run_id:
            raise BadUsage(
                f"'{text}' is not the URL of a run.", hint="The page of a run in Studio contains /runs/RUN_ID."
            )
        if not is_address(text) and (found["rest"] or "/").strip("/"):
            raise BadUsage(
                f"'{text}' names files of run '{run_id}'.",
                hint=f"Name the run, {run_id}. To download its files: himl download {run_id} --prefix FOLDER/, or "
                "--output_key KEY for an output.",
            )
        return RunReference(run_id)
    parts = [part.strip() for part in text.split(":")]
    if len(parts) > 2 or not all(parts):
        raise BadUsage(f"'{text}' is not a run.", hint="Give a run id, experiment:run_id, a Studio URL, or latest.")
    return RunReference(parts[-1], parts[0] if len(parts) == 2 else None)


def split_recovery_id(text: str) -> tuple[str, str]:
    """Split a recovery id into the experiment and the run id, by hi-ml's rule.

    `experiment:run_id` is split at the colon. For a run id such as `EXPERIMENT_<digits>_<hex>` or
    `EXPERIMENT_<digits>`, the experiment is the part before these suffixes. Raises BadUsage for other text.
    """
    reference = parse_reference(text)
    if reference.experiment is not None:
        return reference.experiment, reference.run_id
    experiment = implied_experiment(reference.run_id)
    if experiment is None:
        raise BadUsage(
            f"'{text}' is not a recovery id.",
            hint="Use the form experiment:run_id, or EXPERIMENT_<digits>_<hex>.",
        )
    return experiment, reference.run_id


def is_run_address(text: str) -> bool:
    """Whether *text* is an address of a run or its page, in any cloud, rather than one of a file."""
    if not is_address(text):
        return _ADDRESS.match(text.strip()) is not None
    return _STUDIO.search(_url_parts(text).hostname or "") is not None or workspace_in_url(text) is not None


def workspace_in_url(url: str) -> WorkspaceIds | None:
    """The workspace in a run's address: in its path, or in `wsid=/subscriptions/S/resourcegroups/G/workspaces/W`
    (`/providers/…` is allowed). None if the address has none."""
    parts = _url_parts(url)
    return parse_workspace_id(f"/{parts.netloc}{parts.path}/{''.join(parse_qs(parts.query).get('wsid', ()))}")


def _url_parts(text: str) -> SplitResult:
    """Parts of a URL, empty for other text."""
    try:
        return urlsplit(text.strip())
    except ValueError:  # brackets without an IPv6 address
        return urlsplit("")


LATEST_RUN = "latest"
LIKE_LATEST = ("last", "newest", "lastest", "latst", "head")
LONGEST_REFERENCE = 2000
LOOKED_THROUGH = 200
"""Number of recent runs to search for similar experiments or runs."""


def find_runs(workspace: Workspace, selection: RunSelection, *, cwd: Path, notify: Notify = ignore) -> list[Run]:
    """Find the named runs, else the newest of the experiment, else the run in the latest-run file.

    By default, the file is searched for in *cwd* and its parents. The result is never empty. Raises RunNotFound,
    NotFound, or BadUsage for contradictory selectors.
    """
    check_selection(selection)
    if selection.runs:
        found = [*{run.id: run for run in _all_named(workspace, selection, notify)}.values()]
    elif selection.experiment is not None:
        limit, archived = selection.num_runs or 1, selection.archived
        query = RunQuery(
            selection.experiment,
            selection.statuses,
            selection.tags,
            limit=limit,
            archived=archived,
            children=archived,  # trials and steps are archived one by one
        )
        found = [*runs_of_experiment(workspace, query, notify, is_exact=selection.is_exact)]
        if not found:
            raise _nothing_in_experiment(workspace, selection, selection.experiment)
    else:
        named = selection.latest_run_file
        path = cwd / expand_home(named) if named is not None else nearest_latest_run_file(cwd)
        reference = read_latest_run_file(path)
        try:
            found = [_referenced(workspace, reference, notify, is_exact=selection.is_exact)]
        except RunNotFound as err:
            raise NotFound(
                f"No run '{reference.run_id}', which '{path}' names, in {workspace.label}.",
                hint="It was deleted, or is in another workspace. See 'himl runs list'.",
            ) from err
    if selection.children:
        parents, found = found, [*chain.from_iterable(workspace.ask_all(partial(children_of, workspace), found))]
        if not found:
            raise no_children(parents)
    return found


def check_selection(selection: RunSelection, *, explicit: bool = False) -> None:
    """Raise BadUsage for several selectors, filters without an experiment, a malformed run, or, with *explicit*, no
    selector."""
    given = {
        "--run": bool(selection.runs),
        "--experiment": selection.experiment is not None,
        "--latest_run_file": selection.latest_run_file is not None,
    }
    selectors = [name for name, is_given in given.items() if is_given]
    if len(selectors) > 1:
        raise BadUsage(f"{' and '.join(selectors)} cannot be combined.", hint="Give one of them.")
    filters = {
        "--num_runs": selection.num_runs is not None,
        "--tags": bool(selection.tags),
        "--status": bool(selection.statuses),
    }
    lonely = [name for name, is_given in filters.items() if is_given and selection.experiment is None]
    if lonely:
        raise BadUsage(
            f"{' and '.join(lonely)} require{'s' * (len(lonely) == 1)} an experiment.",
            hint="Add --experiment NAME, or filter all runs: himl runs list",
        )
    if selection.num_runs is not None and selection.num_runs < 1:
        raise BadUsage(f"--num_runs must be at least 1, not {selection.num_runs}.")
    if explicit and not selectors:
        raise BadUsage("No run was given.", hint="Give its id, --run latest, or --experiment NAME.")
    for text in selection.runs:
        parse_reference(text)


def means_one_run(selection: RunSelection) -> bool:
    """Whether *selection* can match a single run only, in any workspace."""
    return len(selection.runs) <= 1 and selection.num_runs in (None, 1) and not selection.children


def _all_named(workspace: Workspace, selection: RunSelection, notify: Notify) -> Iterator[Run]:
    """The named runs. *notify* receives the notices about each in this order."""

    def find(text: str) -> tuple[Run, list[Event]]:
        said: list[Event] = []
        return _named(workspace, text, selection, ignore if notify is ignore else said.append), said

    for run, said in workspace.ask_all(find, selection.runs):
        for event in said:
            notify(event)
        yield run


def _named(workspace: Workspace, text: str, selection: RunSelection, notify: Notify) -> Run:
    if text.lower() == LATEST_RUN:
        return newest_run(workspace, archived=selection.archived)
    reference, named = parse_reference(text), workspace_in_url(text) if "/" in text else None
    try:
        run = _referenced(workspace, reference, notify, is_exact=selection.is_exact)
    except RunNotFound as err:
        if named and f" {named.label} ".casefold() not in f" {workspace.label} ".casefold():
            raise _in_another(named, workspace.label) from err
        similar = [LATEST_RUN] if reference.run_id.lower().lstrip("@") in (LATEST_RUN, *LIKE_LATEST) else []
        if hint := _other_meaning(reference):
            raise NotFound(f"No run '{reference.run_id}' in {workspace.label}.", hint=hint) from err
        if reference.experiment is not None:
            known = [run.id for run in workspace.runs(RunQuery(reference.experiment, limit=LOOKED_THROUGH))]
            similar = near_matches(reference.run_id, known)
        raise (RunNotFound(reference.run_id, workspace.label, similar=similar) if similar else err) from err
    home = workspace_in_url(run.url or run.tags.get(STUDIO, "")) if named else None
    if named and not (home and named.is_same(home)):
        raise _in_another(named, run.workspace)
    return run


def _other_meaning(reference: RunReference) -> str:
    """A hint for what is no id of a run but a file, a pattern, or a word of another tool. Otherwise an empty text."""
    text, of_experiment = reference.run_id, "--experiment NAME --num_runs all"
    if reference.experiment == LATEST_RUN:
        return f"For a file of a run: himl download {LATEST_RUN} --prefix {shlex.quote(text)}"
    if Path(text).is_file():
        named = f" For runs of a script: --experiment {Path(text).stem}" if text.endswith((".py", ".sh")) else ""
        return f"It is a file here. Quote patterns, so that the shell does not replace them.{named}"
    if {"*", "?"} & {*text} or text.endswith((".py", ".sh")):
        return f"For runs of an experiment, which the script names: {of_experiment}"
    if text.lower() == "all":
        return f"For all runs of an experiment: {of_experiment}"
    if re.fullmatch(r"(?:latest|head|@)[~^@{}-]+\d*}?", text, re.IGNORECASE):
        return "For earlier runs, use their ids: himl runs list"
    return ""


def _in_another(named: WorkspaceIds, opened: str) -> NotFound:
    hint = "Open that workspace: --config_file PATH. Download its config.json from the menu at Studio's top right."
    return NotFound(f"The address belongs to workspace {named.label}, but {opened} is open.", hint=hint)


def newest_run(workspace: Workspace, *, archived: bool = False) -> Run:
    """Newest run, or newest archived run. Raises NotFound if there is none."""
    for run in workspace.runs(RunQuery(limit=1, archived=archived, children=archived)):
        return run
    if archived:
        raise NotFound(f"There are no archived runs in {workspace.label}.")
    for _ in workspace.runs(RunQuery(limit=1, archived=True, children=True)):
        raise NotFound(f"All runs in {workspace.label} are archived.", hint="List them: himl runs list --archived")
    raise NotFound(f"There are no runs in {workspace.label} yet.", hint="Submit one: himl submit SCRIPT")


def _referenced(workspace: Workspace, reference: RunReference, notify: Notify, *, is_exact: bool) -> Run:
    named = reference.experiment
    try:
        run = workspace.run(reference.run_id)
    except RunNotFound as err:
        run = _abbreviated(workspace, err, notify, is_exact=is_exact)
    if named is None or named == run.experiment:
        return run
    if is_exact or underscored(named) != underscored(run.experiment):
        raise NotFound(
            f"Run '{run.id}' belongs to experiment '{run.experiment}', not '{reference.experiment}'.",
            hint=f"Give {run.recovery_id} or the run id alone.",
        )
    return run


def _abbreviated(workspace: Workspace, missing: RunNotFound, notify: Notify, *, is_exact: bool) -> Run:
    """The run of which the *missing* id is an abbreviation. A change takes hex digits only, since another beginning may
    be the id of a run that was deleted. It gets a notice, as do such a beginning and a choice among the newest runs.
    Raises RunNotFound, and BadUsage if several runs are known."""
    found, text, place = [*missing.abbreviated], missing.run, ""
    if is_exact:
        known = (missing.is_complete and workspace.known_ids()) or _all_ids(workspace, text)
        found = with_digits(text, known)
    elif not missing.is_complete:
        found, place = [] if notify is ignore else found, f" among the newest runs of {workspace.label}"
    if len(found) > 1:
        hint = f"Name one of them: {listed(found)}."
        raise BadUsage(f"'{text}' is short for {len(found)} runs.", hint=hint) from missing
    if not found:
        raise missing
    if is_exact or place or not with_digits(text, found):
        notify(Notice(f"Using run '{found[0]}', the only one like '{text}'{place}."))
    return workspace.run(found[0])


def _all_ids(workspace: Workspace, text: str) -> Iterator[str]:
    """The ids of all runs, with those of child runs if *text* may be one."""
    return (run.id for run in workspace.runs(RunQuery(archived=None, children="_" in text)))


def runs_of_experiment(
    workspace: Workspace, query: RunQuery, notify: Notify, *, is_exact: bool = False
) -> Iterator[Run]:
    """Yield the runs that match *query*, which has an experiment. Runs are fetched as they are consumed.

    If the experiment has no runs, not even archived ones, try its other spellings unless *is_exact*, and report the
    name to *notify*.
    """
    asked = query.experiment or ""
    for name in (asked,) if is_exact else _spellings(asked):
        every = workspace.runs(replace(query, experiment=name))
        runs = (run for run in every if not is_exact or run.experiment == name)  # Azure ML ignores case
        first = next(runs, None)
        if first is not None:
            if name != asked:
                notify(Notice(f"Experiment '{asked}' has no runs. Using experiment '{name}'."))
            return chain([first], runs)
        if _known_as(workspace, name):
            break
    return iter(())


def _spellings(experiment: str) -> Iterable[str]:
    """The name, as `submit` writes it, and as hi-ml and older versions wrote it."""
    return dict.fromkeys(
        (experiment, friendly_experiment(experiment), hi_ml_experiment(experiment), underscored(experiment))
    )


def _known_as(workspace: Workspace, experiment: str, *, archived: bool | None = None) -> str:
    """The name of the experiment in the workspace, or an empty text if it has no runs."""
    runs = workspace.runs(RunQuery(experiment, limit=1, archived=archived))
    return next((run.experiment for run in runs), "")


def _nothing_in_experiment(workspace: Workspace, selection: RunSelection, experiment: str) -> NotFound:
    conditions = [f"{key}={value}" for key, value in selection.tags.items()]
    conditions += [" or ".join(status.value for status in selection.statuses)] if selection.statuses else []
    conditions += ["archived"] if selection.archived else []
    see = f"himl runs list --experiment {shlex.quote(experiment)}"
    if _known_as(workspace, experiment, archived=None if selection.archived else False) == experiment:
        see += " --archived" if selection.archived else ""
        return NotFound(f"No run of experiment '{experiment}' is {' and '.join(conditions)}.", hint=f"See {see}")
    if _known_as(workspace, experiment) == experiment:
        return NotFound(f"All runs of experiment '{experiment}' are archived.", hint=f"See {see} --archived")
    known = dict.fromkeys(run.experiment for run in workspace.runs(RunQuery(limit=LOOKED_THROUGH)))
    hint = f"Experiments: {', '.join(list(known)[:5])}." if known else "Submit the first run: himl submit SCRIPT"
    if other := next(filter(None, (_known_as(workspace, name) for name in _spellings(experiment))), ""):
        hint = f"There is an experiment '{other}'. Name it exactly: --experiment {other}"
    else:
        hint = near_experiment(workspace, experiment) or hint
    return NotFound(f"Experiment '{experiment}' has no runs in {workspace.label}.", hint=hint)


def near_experiment(workspace: Workspace, experiment: str) -> str:
    """`Did you mean x?` for an experiment without runs, or an empty text."""
    known = dict.fromkeys(run.experiment for run in workspace.runs(RunQuery(limit=LOOKED_THROUGH)))
    near = get_close_matches(experiment, known, n=2, cutoff=0.5) if experiment not in known else ()
    return f"Did you mean {' or '.join(near)}?" if near else ""


def nearest_latest_run_file(start: Path) -> Path:
    """Find the nearest `most_recent_run.txt` in *start* or its parents. Raises NotFound."""
    for path in find_upward((start, *start.parents), (LATEST_RUN_FILE,)):
        if path.is_file():
            return path
    raise NotFound(
        f"No run was given, and there is no {LATEST_RUN_FILE} in '{start}' or its parents.",
        hint="Give a run id, --run latest, or --experiment NAME.",
    )


def read_latest_run_file(path: Path) -> RunReference:
    """Read the run in the single line of *path*. Raises NotFound without a file, BadUsage for other content."""
    hint = "The file must contain one line, experiment:run_id. To ignore the file, use --run."
    try:
        with path.open("rb") as source:
            content = source.read(LONGEST_REFERENCE + 1)
    except FileNotFoundError as err:
        raise NotFound(
            f"There is no file '{path}'.", hint="Give a run id, --run latest, or --experiment NAME."
        ) from err
    except OSError as err:
        raise BadUsage(f"Cannot read '{path}': {err.strerror}.", hint=hint) from err
    lines = [line.strip() for line in content.decode("utf-8-sig", "replace").splitlines() if line.strip()]
    if len(lines) != 1:
        raise BadUsage(
            f"'{path}' is empty." if not lines else f"'{path}' has {len(lines)} lines instead of one.", hint=hint
        )
    if (
        len(content) > LONGEST_REFERENCE
        or not lines[0].isprintable()
        or "\ufffd" in lines[0]
        or " " in lines[0].rpartition(":")[2].strip()
    ):
        raise BadUsage(f"'{path}' does not contain a run id.", hint=hint)
    try:
        return parse_reference(lines[0])
    except BadUsage as err:
        raise BadUsage(f"'{path}': {err}", hint=hint) from err


def no_children(parents: Iterable[Run]) -> NotFound:
    """Error that none of *parents* has a child run."""
    return NotFound(
        f"No child runs: {', '.join(run.id for run in parents)}.", hint="To select the runs, omit --children."
    )


BEST_SO_FAR = "best_child_by_primary_metric/"
"""Prefix of the columns of a table that Azure ML adds to the metrics of a sweep."""


MANY_RUNS = 500
"""Up to this number of runs of a service, himl reads all their points, which takes several requests per run."""


def details_of(
    workspace: Workspace, runs: Sequence[Run], ask: Callable[[Run], RunDetails], notify: Notify | None
) -> list[RunDetails]:
    """The details of *runs* from *ask* (`run_details`). With *notify*, and for more than `MANY_RUNS` runs of a service,
    only the last values of child runs, as `Workspace.results` has them with few requests, and a notice that says so.
    Runs with child runs, or known to have other values than numbers, come from *ask*."""
    home = workspace.home_of(runs[0].id) if notify and len(runs) > MANY_RUNS else workspace
    if notify is None or len(runs) <= MANY_RUNS or not isinstance(home, CloudWorkspace):
        return workspace.ask_all(ask, runs)
    parents, found = home.with_children(runs), home.results(runs, wanted=lambda name: True, whole=False)
    text = f"Of more than {MANY_RUNS} runs, himl shows only the last values that MLflow has"
    notify(Notice(f"{text}. To see all values, show fewer runs."))

    def details(run: Run) -> RunDetails:
        values = found[run.id]
        if run.id in parents or values.last.keys() != values.steps.keys():
            return ask(run)
        numbers = {name: float(value) for name, value in values.last.items() if isinstance(value, (int, float))}
        last = {name: MetricPoint(value, values.steps[name], run.created) for name, value in numbers.items()}
        metrics = [Metric(name, [last[name]], run.id, omitted=None) for name in sorted(last)]
        return RunDetails(run, dict(sorted(values.parameters.items())), metrics, [])

    return home.ask_all(details, runs)


def run_details(
    workspace: Workspace,
    run: Run,
    *,
    has_machine: bool = False,
    by_node: bool = False,
    has_environment: bool = False,
    rank: Callable[[Run, Sequence[Run]], SweepView] | None = None,
) -> RunDetails:
    """Collect the metrics, parameters and texts of *run*, and its children in order of creation. *rank* ranks trials
    instead of the recorded primary metric.

    *has_machine* adds the workspace's own system metrics of a run without children, and *by_node* those of each node,
    which may take a request. *has_environment* adds the environment. Raises RunNotFound if the run has been deleted.
    """
    environment = environment_of(workspace, run) if has_environment else None
    children = children_of(workspace, run)
    values = workspace.values(run.id, whole=False)
    sweep = rank(run, children) if rank is not None else sweep_view(workspace, run, children)
    below = {} if sweep else _below(workspace, children)
    metrics = [metric for metric in values.metrics if not (sweep and metric.name.startswith(BEST_SO_FAR))]
    if has_machine and not children and not any(metric.name.startswith(SYSTEM) for metric in metrics):
        metrics += workspace.system_metrics([run], by_node=by_node).get(run.id, ())
    texts = [each for each in values.texts if not (sweep and each.name.startswith(BEST_SO_FAR))]
    return RunDetails(run, workspace.parameters(run.id), metrics, children, texts, sweep, below, environment)


def environment_of(workspace: Workspace, run: Run) -> RunEnvironment | None:
    """What the run ran on, with the diff of its code against its commit, if that was stored. Raises RunNotFound."""
    environment = workspace.environment(run.id)
    if not (changes := code_changes(workspace, run)):
        return environment
    return replace(environment or RunEnvironment(), changes=changes.decode("utf-8", "replace"))


def code_changes(workspace: Workspace, run: Run) -> bytes:
    """The diff of the run's code against its commit, which a trial or a step shares with its parent run. Empty if none
    was stored. Raises RunNotFound."""
    files = workspace.run_files(run.id)
    if files.stat(CHANGES) is not None:
        return b"".join(files.read(CHANGES))
    return b"" if run.parent is None else code_changes(workspace, workspace.run(run.parent))


def children_of(workspace: Workspace, run: Run, *, archived: bool | None = False) -> list[Run]:
    """Children of *run* in order of creation, and trials in order of their numbers. *archived* as in `RunQuery`."""
    children = reversed(list(workspace.runs(RunQuery(parent=run.id, archived=archived))))
    return sorted(children, key=lambda child: int(child.tags[TRIAL]) if child.tags.get(TRIAL, "").isdecimal() else -1)


def sizes_of(workspace: Workspace, runs: Sequence[Run]) -> dict[str, int]:
    """The size of the files of each run with its child runs, in bytes: those in its folder, or on Azure ML its
    artifacts, which takes a request for each run or more. Raises the errors of the workspace."""

    def size(run: Run) -> int:
        home = workspace.home_of(run.id)
        below = workspace.ask_all(size, children_of(home, run))
        if isinstance(home, FolderWorkspace):
            return home.disk_size(run.id) + sum(below)
        return sum(blob.size for page in home.run_files(run.id).list() for blob in page) + sum(below)

    return dict(zip([run.id for run in runs], workspace.ask_all(size, runs), strict=True))


def with_steps(workspace: Workspace, runs: Sequence[Run]) -> list[Run]:
    """*runs*, with the steps of each pipeline trial behind it, because the steps have its files."""
    below = workspace.ask_all(lambda run: children_of(workspace, run) if is_pipeline_trial(run) else [], runs)
    return [each for run, steps in zip(runs, below, strict=True) for each in (run, *steps)]


def sweep_view(workspace: Workspace, run: Run, children: Sequence[Run]) -> SweepView | None:
    """Trials of *run* with the last values of its primary metric. None if its *children* are not trials.

    This takes one or two requests, or that many per trial if trials are pipelines.
    """
    return sweep_of(run, children, partial(results_of, workspace, whole=False))


def ranked_anew(
    workspace: Workspace, metric: str | None, goal: Goal | None, notify: Notify, run: Run, children: Sequence[Run]
) -> SweepView:
    """The trials of *run* by another *metric* or *goal*. The best one has the best value at any step, among completed
    trials if any has one. *notify* receives a goal that follows from the name of the metric. Raises BadUsage for a run
    without trials, NotFound if no trial logged the metric."""
    name = metric or run.tags.get(PRIMARY_METRIC, "")
    if not name or not any(hyperparameters_of(child.tags) for child in children):
        raise BadUsage(f"Run '{run.id}' has no trials to rank.", hint=f"Show it: himl runs show {run.id}")
    found = results_of(workspace, children, wanted=name.__eq__, whole=True)
    series = {run_id: each.series[name].values for run_id, each in found.items() if name in each.series}
    if not series:
        tags = {**run.tags, PRIMARY_METRIC: name}
        others = sweep_view(workspace, replace(run, tags=tags), children)
        names = ", ".join(others.logged[:8]) if others else ""
        text = f"No trial of run '{run.id}' logged the metric '{name}'."
        raise NotFound(text, hint=f"Logged: {names}." if names else "They logged no metrics.")
    recorded = run.tags.get(GOAL) if name == run.tags.get(PRIMARY_METRIC) else None
    aim = goal_of(name, goal or cast("Goal | None", recorded))
    if not (goal or recorded or run.tags.get(MANY) in REPEATED):
        word = "lowest" if aim == "minimize" else "highest"
        text = f"By the name of the metric, the {word} {name} is best. To decide it yourself:"
        notify(Notice(f"{text} --goal minimize or --goal maximize"))
    scores = {run_id: score for run_id, values in series.items() if (score := best_of(aim, values)) is not None}
    completed = {child.id for child in children if child.status is RunStatus.completed}
    scores = {run_id: score for run_id, score in scores.items() if run_id in completed} or scores
    top = best_of(aim, scores.values())
    best = next((run_id for run_id, score in scores.items() if score == top), "")
    tags = {**run.tags, PRIMARY_METRIC: name, GOAL: aim, BEST_TRIAL: best}
    view = sweep_of(replace(run, tags=tags), children, lambda *_, **__: found)
    assert view is not None, run.id  # it has trials
    return view


def results_of(
    workspace: Workspace, runs: Sequence[Run], *, wanted: Callable[[str], bool], whole: bool
) -> Mapping[str, RunResults]:
    """Results as from `Workspace.results`. A pipeline trial includes the results of its steps."""
    return results_with_steps(runs, partial(children_of, workspace), workspace.results, wanted=wanted, whole=whole)


def _below(workspace: Workspace, children: Sequence[Run]) -> dict[str, Sequence[Run]]:
    """Children of those *children* that are sweeps or pipelines, at every level."""
    below: dict[str, Sequence[Run]] = {}
    while parents := [child for child in children if MANY in child.tags]:
        found = workspace.ask_all(partial(children_of, workspace), parents)
        below |= {parent.id: its for parent, its in zip(parents, found, strict=True)}
        children = [*chain.from_iterable(found)]
    return below
