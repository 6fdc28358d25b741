"""Bundles: options that many commands share, written once and taken by a command as one parameter."""

from __future__ import annotations

import inspect
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Annotated, Any

import typer

from himl_cli.core.errors import BadUsage
from himl_cli.core.text import non_blank, shorten
from himl_cli.render.output import Format, Output

if TYPE_CHECKING:
    from himl_cli.core.blobs import TransferResult
    from himl_cli.core.checkpoints import Choice
    from himl_cli.core.runs import RunSelection, RunStatus
    from himl_cli.services.transfer.filters import Filters


class Bundle:
    """Options that belong together. The parameters of a subclass's `__init__` are annotated as a command's would be."""


def bundled(function: Callable[..., None]) -> Callable[..., None]:
    """*function* with each parameter that is a `Bundle` spread into that bundle's options, for Typer to read. Raises
    ValueError where two have one name."""
    spread: list[inspect.Parameter] = []
    bundles: dict[str, tuple[type[Bundle], list[str]]] = {}
    for parameter in inspect.signature(
        function, eval_str=True
    ).parameters.values():  # get_type_hints adds Optional on 3.10
        kind = parameter.annotation
        own = _options_of(kind) if isinstance(kind, type) and issubclass(kind, Bundle) else None
        if own is None:
            spread.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
        else:
            spread += own
            bundles[parameter.name] = (kind, [option.name for option in own])

    _check_names(function.__name__, spread, bundles)

    def call(**values: Any) -> None:
        for name, (kind, options) in bundles.items():
            values[name] = kind(**{option: values.pop(option) for option in options})
        function(**values)

    call.__name__, call.__doc__ = function.__name__, function.__doc__
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in spread}
    call.__signature__ = inspect.Signature(spread)  # type: ignore[attr-defined]  # inspect.signature() honours it
    return call


def _check_names(
    function: str, spread: Sequence[inspect.Parameter], bundles: Mapping[str, tuple[type[Bundle], list[str]]]
) -> None:
    """Raises ValueError, which is for the author of *function*, where two of the parameters *spread* have one name."""
    for name, count in Counter(parameter.name for parameter in spread).items():
        if count > 1:
            first, *others = [
                f"'{taken}: {kind.__name__}'" for taken, (kind, options) in bundles.items() if name in options
            ]
            todo = f"leave {' or '.join(others)} out" if others else f"give the parameter '{name}' another name"
            raise ValueError(
                f"{function}(): '{name}' is there twice, since {first} brings an option of that name: {todo}."
            )


def _options_of(bundle: type[Bundle]) -> list[inspect.Parameter]:
    init: Callable[..., None] = bundle.__init__
    parameters = [
        parameter
        for parameter in inspect.signature(init, eval_str=True).parameters.values()
        if parameter.name != "self"
    ]
    return [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]


OUTPUT, WHERE, WHICH = "Output", "Workspace", "Which runs"
ALL_RUNS = sys.maxsize
"""`--num_runs all`: a limit that no workspace reaches."""
LONGEST_COUNT = len(str(ALL_RUNS))
"""Digits; whole numbers of so many mean all."""
ENV_VAR = "--env_var"
"""Its values may be secrets, which no error repeats."""

RunArgs = Annotated[list[str] | None, typer.Argument(metavar="[RUN]...", help="Run ids, as --run.", show_default=False)]


class OutputOptions(Bundle):
    """How a command talks."""

    def __init__(
        self,
        format: Annotated[
            Format,
            typer.Option(
                "--format", metavar="FORMAT", help="human, json or quiet.", rich_help_panel=OUTPUT, show_default=False
            ),
        ] = Format.human,
        json: Annotated[
            bool, typer.Option("--json", help="One JSON document on stdout.", rich_help_panel=OUTPUT)
        ] = False,
        quiet: Annotated[
            bool, typer.Option("--quiet", "-q", help="Ids or paths alone on stdout.", rich_help_panel=OUTPUT)
        ] = False,
        verbose: Annotated[
            bool, typer.Option("--verbose", "-v", help="Debug log and tracebacks on stderr.", rich_help_panel=OUTPUT)
        ] = False,
        yes: Annotated[
            bool, typer.Option("--yes", help="Never ask; take yes for the answer.", rich_help_panel=OUTPUT)
        ] = False,
    ) -> None:
        asked = {
            form
            for form, said in ((Format.json, json), (Format.quiet, quiet), (format, format is not Format.human))
            if said
        }
        if len(asked) > 1:
            raise BadUsage(
                f"Two output formats at once: {' and '.join(sorted(form.value for form in asked))}.",
                hint="Give one of --format, --json and --quiet.",
            )
        if verbose:
            from himl_cli.commands.session import start_logging

            start_logging(verbose=True)
        self.format = asked.pop() if asked else Format.human
        self.verbose = verbose
        self.yes = yes

    def output(self) -> Output:
        return Output(self.format, verbose=self.verbose, yes=self.yes)


class WorkspaceOptions(Bundle):
    """Which workspace is meant."""

    def __init__(
        self,
        workspace: Annotated[
            str | None,
            typer.Option(
                "--workspace",
                "-w",
                metavar="SPEC",
                help="local, a .himl folder, or an Azure config.json.",
                rich_help_panel=WHERE,
            ),
        ] = None,
        config_file: Annotated[
            str | None,
            typer.Option("--config_file", metavar="PATH", help="An Azure config.json.", rich_help_panel=WHERE),
        ] = None,
    ) -> None:
        if workspace is not None and config_file is not None:
            raise BadUsage("Two workspaces at once: --workspace and --config_file.", hint="Give one of them.")
        self.workspace = non_blank("--workspace", workspace)
        self.config_file = non_blank("--config_file", config_file)


ExperimentOpt = Annotated[
    str | None,
    typer.Option("--experiment", metavar="NAME", help="The newest runs of an experiment.", rich_help_panel=WHICH),
]
NumRunsOpt = Annotated[
    str | None, typer.Option("--num_runs", metavar="N", help="How many of them, or all.", rich_help_panel=WHICH)
]
TagsOpt = Annotated[
    list[str] | None,
    typer.Option("--tags", metavar="K=V,...", help="Only those with these tags.", rich_help_panel=WHICH),
]
StatusOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--status",
        metavar="S,...",
        help="Only those in these states: Queued, Running, Completed, Failed, Canceled.",
        rich_help_panel=WHICH,
    ),
]


class FilterOptions(Bundle):
    """The filters of a workspace's runs."""

    def __init__(
        self,
        experiment: ExperimentOpt = None,
        num_runs: NumRunsOpt = None,
        tags: TagsOpt = None,
        status: StatusOpt = None,
    ) -> None:
        self.experiment = non_blank("--experiment", experiment)
        self.num_runs = None if num_runs is None else parse_count("--num_runs", num_runs)
        self.tags = parse_pairs("--tags", split_list(tags))
        self.statuses = [parse_status(name) for name in split_list(status)]


class SelectionOptions(Bundle):
    """Which runs are meant."""

    def __init__(
        self,
        run: Annotated[
            list[str] | None,
            typer.Option(
                "--run", metavar="ID,...", help="Run ids, recovery ids, Studio URLs, or latest.", rich_help_panel=WHICH
            ),
        ] = None,
        experiment: ExperimentOpt = None,
        num_runs: NumRunsOpt = None,
        tags: TagsOpt = None,
        status: StatusOpt = None,
        latest_run_file: Annotated[
            str | None,
            typer.Option(
                "--latest_run_file",
                metavar="PATH",
                help="The run that this file names.  [default: nearest most_recent_run.txt]",
                rich_help_panel=WHICH,
            ),
        ] = None,
        children: Annotated[
            bool, typer.Option("--children", help="The children of those runs instead.", rich_help_panel=WHICH)
        ] = False,
    ) -> None:
        self.run = run or []
        self.filters = FilterOptions(experiment, num_runs, tags, status)
        self.latest_run_file = non_blank("--latest_run_file", latest_run_file)
        self.children = children

    @property
    def is_given(self) -> bool:
        """Whether any of these options was given."""
        filters = self.filters
        return bool(
            self.run
            or filters.experiment
            or filters.num_runs
            or filters.tags
            or filters.statuses
            or self.latest_run_file
            or self.children
        )

    def selection(
        self, plain: Sequence[str] | None = None, *, explicit: bool = False, single: str = ""
    ) -> RunSelection:
        """What was asked for; *plain* are run ids that stood as plain arguments, or more tags behind those of --tags
        (hi-ml's `--tags a=b c=d`).

        Ask for it before a workspace is opened: raises BadUsage for what no workspace could answer, as
        `check_selection` does, and for several runs where *single* is an option that takes one.
        """
        from himl_cli.core.runs import RunSelection
        from himl_cli.services.runs.lookup import check_selection

        tags = [word for word in plain or () if self.filters.tags and "=" in word and "://" not in word]
        named = [
            *(non_blank("RUN", name) or "" for name in plain or () if name not in tags),
            *(non_blank("--run", name) or "" for name in self.run),
        ]
        selection = RunSelection(
            runs=split_list(named),
            experiment=self.filters.experiment,
            num_runs=self.filters.num_runs,
            tags={**self.filters.tags, **parse_pairs("--tags", split_list(tags))},
            statuses=self.filters.statuses,
            latest_run_file=self.latest_run_file,
            children=self.children,
        )
        check_selection(selection, explicit=explicit)
        if single and len(set(selection.runs)) > 1:
            raise BadUsage(
                f"{single} takes one run, and {len(selection.runs)} are meant.",
                hint=f"Leave {single} out, or name one run.",
            )
        return selection


def split_list(values: Iterable[str] | None) -> list[str]:
    """Comma-separated or repeated, as one list."""
    return [part.strip() for value in values or () for part in value.split(",") if part.strip()]


def parse_pairs(option: str, values: Iterable[str]) -> Mapping[str, str]:
    """KEY=VALUE entries as a mapping; a value may hold `=` and be empty. Raises BadUsage naming the entry, unless that
    is a variable's."""
    pairs: dict[str, str] = {}
    for value in values:
        key, equals, rest = value.partition("=")
        if not equals or not key.strip():
            missing = "an entry without KEY" if equals else "an entry without '='"
            shown = missing if option == ENV_VAR else f"'{value}'"
            raise BadUsage(f"{option} takes KEY=VALUE, got {shown}.", hint=f"For example {option} team=blue")
        pairs[key.strip()] = rest
    return pairs


def parse_count(option: str, text: str) -> int:
    """A whole number from 1, or `all`. Raises BadUsage."""
    if text.strip().lower() == "all":
        return ALL_RUNS
    digits = text.strip().lstrip("0")
    if not digits.isdecimal() or not text.strip().isdecimal():
        raise BadUsage(f"{option} takes a whole number from 1, or 'all', got '{shorten(text)}'.")
    return int(digits) if len(digits) < LONGEST_COUNT else ALL_RUNS


def parse_status(name: str) -> RunStatus:
    """A status in any case; hi-ml's users write `Finished` or `Cancelled` too. Raises BadUsage naming the nearest."""
    from himl_cli.core.runs import RunStatus

    known = {status.value.lower(): status for status in RunStatus} | {
        "cancelled": RunStatus.canceled,
        "finished": RunStatus.completed,
    }
    found = known.get(name.lower())
    if found is None:
        near = get_close_matches(name.lower(), known, n=1)
        hint = f"Did you mean {known[near[0]].value}? " if near else ""
        raise BadUsage(
            f"There is no status '{name}'.", hint=f"{hint}Statuses: {', '.join(status.value for status in RunStatus)}."
        )
    return found


FILES, WHERETO, CHECKS = "Which files", "Where to", "How"
WORKERS, MOST_WORKERS = 32, 256

OverwriteOpt = Annotated[bool, typer.Option("--overwrite", help="Replace files that differ.", rich_help_panel=CHECKS)]
WorkersOpt = Annotated[
    int,
    typer.Option(
        "--workers",
        metavar="N",
        help="Transfers at once, 1 to 256.  [default: 32]",
        rich_help_panel=CHECKS,
        show_default=False,
    ),
]
StripOpt = Annotated[
    bool, typer.Option("--strip_prefix", help="Drop the folders of the prefix from the names.", rich_help_panel=FILES)
]


def checked_workers(workers: int) -> int:
    """The number, where so many transfers can go on at once. Raises BadUsage."""
    if not 1 <= workers <= MOST_WORKERS:
        raise BadUsage(f"--workers takes a whole number from 1 to {MOST_WORKERS}, got {workers}.")
    return workers


class GlobOptions(Bundle):
    """Globs over names."""

    def __init__(
        self,
        include: Annotated[
            list[str] | None,
            typer.Option(
                "--include", metavar="GLOB", help="Only names that match, e.g. '*.ckpt'.", rich_help_panel=FILES
            ),
        ] = None,
        exclude: Annotated[
            list[str] | None,
            typer.Option(
                "--exclude", metavar="GLOB", help="No names that match, e.g. 'tmp/**'.", rich_help_panel=FILES
            ),
        ] = None,
    ) -> None:
        self.include = tuple(split_list(include))
        self.exclude = tuple(split_list(exclude))

    def filters(self, prefix: str = "") -> Filters:
        from himl_cli.services.transfer.filters import Filters

        filters = Filters(prefix, self.include, self.exclude)
        filters.admit("")  # raises BadUsage for a glob that cannot be read
        return filters


class MovingOptions(Bundle):
    """How files are moved."""

    def __init__(
        self,
        overwrite: OverwriteOpt = False,
        no_validate: Annotated[
            bool, typer.Option("--no_validate", help="Do not check MD5s.", rich_help_panel=CHECKS)
        ] = False,
        workers: WorkersOpt = WORKERS,
    ) -> None:
        self.overwrite = overwrite
        self.validate = not no_validate
        self.workers = checked_workers(workers)


def conclude(
    output: Output, result: TransferResult, verb: str, places: Sequence[str], *, inside: str = "", nothing: str = ""
) -> None:
    """Show the outcome (*inside* is what the places are part of, *nothing* what to say where there was nothing to
    move).

    Raises the error that it amounts to, if any.
    """
    from himl_cli.render.transfers import say_transferred

    is_listed = say_transferred(output, result, verb, places, inside, nothing)
    problem = result.problem(is_listed=is_listed)
    if problem is not None:
        raise problem


WHICH_CHECKPOINT = "Which checkpoint"


class ChoiceOptions(Bundle):
    """Which of a run's checkpoints."""

    def __init__(
        self,
        select: Annotated[
            str | None,
            typer.Option(
                "--select",
                metavar="last|best|epoch=N",
                help="Which one of a run; N as in the file's name (Lightning's begin with 0).",
                rich_help_panel=WHICH_CHECKPOINT,
            ),
        ] = None,
        metric: Annotated[
            str | None,
            typer.Option(
                "--metric",
                metavar="M",
                help="The best by this metric, in the files' names or as logged.",
                rich_help_panel=WHICH_CHECKPOINT,
            ),
        ] = None,
        goal: Annotated[
            str | None,
            typer.Option(
                "--goal",
                metavar="minimize|maximize",
                help="What is best; without it, told by well-known names of metrics.",
                rich_help_panel=WHICH_CHECKPOINT,
            ),
        ] = None,
    ) -> None:
        self._words = (select, metric, goal)

    def choice(self) -> Choice:
        from himl_cli.services.checkpoints.choosing import choice_of

        return choice_of(*self._words)
