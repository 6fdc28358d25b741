"""Options of commands, each declared once with `option`, and the bundles of options that several commands share.

    class GlobOptions(Bundle):
        include: Sequence[str] = option("Only names that match.", "GLOB", many=True, panel="Files")

declares the option `--include` under that heading. A command with a parameter `globs: GlobOptions` takes the option
and reads its value as `globs.include`. An option of a single command is the default of a parameter:
`count: int = option(...)`.
"""

from __future__ import annotations

import inspect
import os
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, cast

import typer

from himl_cli.core.errors import BadUsage
from himl_cli.core.text import iso_time, non_blank, parse_duration, shorten
from himl_cli.render.output import Format, Output, TableFormat

if TYPE_CHECKING:
    from himl_cli.core.runs import Choice, Goal, RunSelection, RunStatus
    from himl_cli.services.runs.find import ListRequest
    from himl_cli.services.transfer.plan import Filters

VARIABLE_PREFIX = "HIML_SUBMIT_"
# `--num_runs all` is a limit that no workspace reaches.
ALL_RUNS = sys.maxsize
WORKERS, MOST_WORKERS = 32, 256

RunArgs = Annotated[
    list[str] | None, typer.Argument(metavar="[RUN]...", help="Run ids, like --run.", show_default=False)
]


class Option(NamedTuple):
    """An option. `parse` converts the typed text, given the option's name. `info` goes to Typer."""

    names: Sequence[str]
    default: Any
    parse: Callable[[str, Any], Any] | None
    kind: Any
    info: Mapping[str, Any]

    many: bool

    def read(self, field: str, value: Any) -> Any:
        if self.parse is None or (value is None and not self.many):
            return value
        return self.parse((self.names or (f"--{field}",))[0], value)


def environment_variable(option: str) -> str:
    """The environment variable that sets an option of submit."""
    return VARIABLE_PREFIX + option.upper()


def option(
    help: str,
    metavar: str | None = None,
    default: Any = None,
    *,
    names: Sequence[str] = (),
    parse: Callable[[str, Any], Any] | None = None,
    many: bool = False,
    panel: str | None = None,
    **info: Any,
) -> Any:
    """Declare an option as the field of a bundle or the parameter of a command: `--FIELD`, or *names*.

    *parse* gets the option's name and its value. It is not called for the value None of an option that was neither
    typed nor set, unless the option takes *many* values, which are a tuple without *parse*. *panel* is the heading in
    help for this option and those after it.
    """
    if many:
        kind: Any = list[str] | None
        parse = parse or (lambda _, values: tuple(values or ()))
    else:
        kind = str | None if default is None else type(default)
    info |= {"help": help, "metavar": metavar} | ({"rich_help_panel": panel} if panel else {})
    return Option(names, default, parse, info.pop("kind", kind), info, many)


class Bundle:
    """A group of options: a class whose fields `option` declares."""

    def __init__(self, *values: Any, **given: Any) -> None:
        options = options_of(type(self))
        given |= dict(zip(options, values, strict=False))
        for name, each in options.items():
            setattr(self, name, each.read(name, given.get(name, each.default)))
        self.validate()

    def validate(self) -> None:
        """Check the combination of values. Raises BadUsage."""


def options_of(bundle: type[Bundle]) -> dict[str, Option]:
    owners = reversed(bundle.__mro__)
    return {name: value for owner in owners for name, value in vars(owner).items() if isinstance(value, Option)}


def parameters_of(options: Mapping[str, Option], panel: str = "Options") -> list[inspect.Parameter]:
    """The options as Typer parameters, under the heading *panel* until an option declares another."""
    parameters = []
    for name, each in options.items():
        panel = each.info.get("rich_help_panel", panel)
        info = typer.Option(*(each.names or (f"--{name}",)), **{**each.info, "rich_help_panel": panel})
        default = inspect.Parameter.empty if each.default is ... else each.default
        arguments: Any = {"default": default, "annotation": Annotated[each.kind, info]}
        parameters.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, **arguments))
    return parameters


def bundled(function: Callable[..., None]) -> Callable[..., None]:
    """Convert *function* for Typer: parameters that are options, and bundles, become single options.

    Raises ValueError if two options have the same name.
    """
    spread: list[inspect.Parameter] = []
    taken: dict[str, Option | type[Bundle]] = {}
    panel = "Options"
    # On Python 3.10, get_type_hints would add Optional.
    for name, parameter in inspect.signature(function, eval_str=True).parameters.items():
        kind, default = parameter.annotation, parameter.default
        if isinstance(default, Option):
            taken[name] = default
            panel = default.info.get("rich_help_panel", panel)
            spread += parameters_of({name: default}, panel)
        elif isinstance(kind, type) and issubclass(kind, Bundle):
            taken[name] = kind
            spread += parameters_of(options_of(kind))
        else:
            spread.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
    twice = next((name for name, count in Counter(each.name for each in spread).items() if count > 1), None)
    if twice is not None:
        raise _duplicate_option(twice, function, taken)

    def call(**values: Any) -> None:
        for name, kind in taken.items():
            if isinstance(kind, Option):
                values[name] = kind.read(name, values[name])
            else:
                values[name] = kind(**{each: values.pop(each) for each in options_of(kind)})
        function(**values)

    call.__name__, call.__doc__ = function.__name__, function.__doc__
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in spread}
    call.__signature__ = inspect.Signature(spread)  # type: ignore[attr-defined]  # inspect.signature() honours it
    return call


def _duplicate_option(
    name: str, function: Callable[..., None], taken: Mapping[str, Option | type[Bundle]]
) -> ValueError:
    bundles = {owner: kind for owner, kind in taken.items() if not isinstance(kind, Option)}
    first, *others = [f"'{owner}: {kind.__name__}'" for owner, kind in bundles.items() if name in options_of(kind)]
    todo = f"Omit {' or '.join(others)}" if others else f"Rename the parameter '{name}'"
    where = f"{function.__name__}(): '{name}' is declared twice"
    return ValueError(f"{where}: {first} already has an option of that name. {todo}.")


def parse_list(option: str, values: Iterable[str] | None) -> Sequence[str]:
    """The parts of *values*, which commas separate. Raises BadUsage for a value without a part."""
    found: list[str] = []
    for value in values or ():
        parts = [part.strip() for part in value.split(",") if part.strip()]
        non_blank(option, ",".join(parts))
        found += parts
    return tuple(found)


def parse_pairs(option: str, values: Iterable[str] | None) -> Mapping[str, str]:
    """Parse KEY=VALUE entries. A value may contain `=` or be empty. Raises BadUsage with the entry, except for
    --env_var."""
    pairs: dict[str, str] = {}
    for value in values or ():
        key, equals, rest = value.partition("=")
        if not equals or not key.strip():
            missing = "an entry without KEY" if equals else "an entry without '='"
            # The value of an environment variable may be a secret, unlike its name
            shown = f"'{value}'" if option != "--env_var" or value in os.environ else missing
            examples = {"--set": "inputs.lr=0.1", "--env_var": "OMP_NUM_THREADS=1"}
            hint = f"For example {option} {examples.get(option, 'team=blue')}"
            if option == "--tag" and not equals:
                hint += f". For a display name: --display_name {shlex.quote(value)}"
            raise BadUsage(f"{option} needs KEY=VALUE, not {shown}.", hint=hint)
        pairs[key.strip()] = rest
    return pairs


def parse_count(option: str, text: str) -> int:
    """Parse a positive integer or `all`. Raises BadUsage."""
    if text.strip().lower() == "all":
        return ALL_RUNS
    digits = text.strip().lstrip("0")
    if not digits.isdecimal():
        raise BadUsage(f"{option} must be a positive integer or 'all', not '{shorten(text)}'.")
    # 20 digits already exceed ALL_RUNS.
    return min(int(digits[:20]), ALL_RUNS)


def parse_statuses(option: str, names: Iterable[str] | None) -> Sequence[RunStatus]:
    """Parse statuses in any case, also MLflow's and hi-ml's. Raises BadUsage with the nearest status."""
    from himl_cli.core.runs import status_of

    return [status_of(name) for name in parse_list(option, names)]


def parse_goal(option: str, text: str) -> Goal:
    from himl_cli.core.sweeps import GOALS

    if text not in GOALS:
        raise BadUsage(f"{option} must be minimize or maximize, not '{text}'.")
    return cast("Goal", text)


def parse_since(option: str, text: str) -> datetime:
    """The time of a date, or before a duration. Raises BadUsage."""
    with suppress(ValueError, OverflowError):
        return iso_time(text).astimezone()
    try:
        return datetime.now(timezone.utc) - timedelta(seconds=parse_duration(text, option))
    except BadUsage as err:
        hint = "For example: 30m, 2h, 7d or 2026-03-01."
        raise BadUsage(f"{option} '{text}' is neither a duration (up to ten years) nor a date.", hint=hint) from err


def parse_workers(option: str, workers: int) -> int:
    """Check the number of parallel transfers. Raises BadUsage."""
    if not 1 <= workers <= MOST_WORKERS:
        raise BadUsage(f"{option} must be an integer from 1 to {MOST_WORKERS}, not {workers}.")
    return workers


def parse_folder(option: str, text: str) -> Path:
    """Parse a folder, with `~` for a home folder. Raises BadUsage if it is blank or a file, NotFound for the home of
    an unknown user."""
    from himl_cli.core.files import expand_home

    folder = expand_home(non_blank(option, text), "folder")
    if folder.exists() and not folder.is_dir():
        raise BadUsage(f"{option} '{text}' is a file, not a folder.", hint="Name a folder. himl creates it if needed.")
    return folder


OVERWRITE = option("Replace files that differ.", default=False, panel="Transfer")
WORKERS_OPTION = option(
    "Parallel transfers, 1 to 256.  [default: 32]",
    "N",
    WORKERS,
    panel="Transfer",
    parse=parse_workers,
    show_default=False,
)


class OutputOptions(Bundle):
    format: Format = option(
        "Output format: human, json or quiet (default: human).",
        "FORMAT",
        Format.human,
        show_default=False,
        panel="Output",
    )
    json: bool = option("Print one JSON document on stdout.", default=False)
    quiet: bool = option("Print only ids or paths on stdout.", default=False, names=("--quiet", "-q"))
    verbose: bool = option("Print a debug log and tracebacks on stderr.", default=False, names=("--verbose", "-v"))
    yes: bool = option("Answer yes to all questions.", default=False)

    make_output = Output
    _has_pager = False
    # Whether a script or a tool may have configured logging, which stays as it is
    _keeps_logging = False

    def validate(self) -> None:
        formats = {TableFormat(self.format).value, *["json"] * self.json, *["quiet"] * self.quiet} - {"human"}
        if len(formats) > 1:
            raise BadUsage(
                f"Only one output format is allowed, not {' and '.join(sorted(formats))}.",
                hint="Use only one of --format, --json and --quiet.",
            )
        self.layout = formats.pop() if formats else "human"
        self.format = Format(self.layout) if self.layout in ("json", "quiet") else Format.human
        import logging

        if self.verbose or not (self._keeps_logging and logging.getLogger().handlers):
            from himl_cli.render.progress import start_logging

            start_logging(verbose=self.verbose)

    def output(self) -> Output:
        output = self.make_output(self.format, verbose=self.verbose, yes=self.yes)
        output.layout, output.has_pager = self.layout, self._has_pager
        return output


class TableOptions(OutputOptions):
    format: TableFormat = option(  # type: ignore[assignment]  # the parsed value is a Format
        "Output format: table, csv, tsv, json or quiet (default: table, tsv in pipes).",
        "FORMAT",
        TableFormat.human,
        show_default=False,
        panel="Output",
    )


class AskingOptions(OutputOptions):
    """Of a command that asks, or does nothing, without --yes."""

    yes: bool = option("Do it without asking.", default=False, panel="Options")


class PagedOptions(OutputOptions):
    no_pager: bool = option("Print a long result on a terminal without $PAGER.", default=False, panel="Output")

    @property
    def _has_pager(self) -> bool:  # type: ignore[override]  # without the option, there is none
        return not self.no_pager


class ListOutputOptions(PagedOptions, TableOptions):
    """Both groups of options."""


class WorkspaceOptions(Bundle):
    workspace: str | None = option(
        "local, a .himl folder, ssh:HOST or a config.json (default: the nearest).",
        "SPEC",
        names=("--workspace", "-w"),
        parse=non_blank,
        panel="Workspace",
    )
    config_file: str | None = option("Azure ML config.json.", "PATH", parse=non_blank)

    def validate(self) -> None:
        if self.workspace is not None and self.config_file is not None:
            raise BadUsage("--workspace and --config_file cannot be combined.", hint="Use only one of them.")

    @property
    def names(self) -> tuple[str | None, str | None]:
        """Both values, as arguments for `workspaces.resolve`."""
        return self.workspace, self.config_file


EXPERIMENT_OPTION = option("Runs of this experiment, newest first.", "NAME", parse=non_blank, panel="Runs")
NUM_RUNS = option("Number of runs, or all.  [default: 1]", "N", parse=parse_count)
TAGS = option(
    "Only runs with these tags.",
    "K=V,...",
    many=True,
    names=("--tags", "-t"),
    parse=lambda name, values: parse_pairs(name, parse_list(name, values)),
)
STATUS = option(
    "Only Queued, Running, Completed, Failed or Canceled runs.",
    "S,...",
    many=True,
    parse=parse_statuses,
)


GOAL_OPTION = option(
    "Which values are best (default: by the metric's name).", "minimize|maximize", kind=str | None, parse=parse_goal
)


class ListOptions(Bundle):
    since: datetime | None = option(
        "Only runs of the last 30m, 2h or 7d, or since a date.",
        "TIME",
        kind=str | None,
        parse=parse_since,
        panel="Runs",
    )
    where: str = option("Only runs like 'lr < 0.1 and status = failed'.", "FILTER", "", show_default=False)
    sort: str = option(
        "Sort by a metric, parameter, started or duration (default: -started). -KEY: descending.",
        "KEY",
        "",
        show_default=False,
        panel="Table",
    )
    metrics: Sequence[str] = option("Show the last values of these metrics.", "GLOB,...", many=True, parse=parse_list)
    best: bool = option("Use best values of metrics instead of last ones.", default=False)
    goal: Goal | None = GOAL_OPTION
    params: bool = option("Show parameters and arguments that differ, in a column each.", default=False)
    size: bool = option("Show the size of each run's files, with those of its child runs.", default=False)

    def validate(self) -> None:
        if self.best and not (self.metrics or self.sort or self.where):
            raise BadUsage("--best needs metrics.", hint="Add --metrics GLOB or --sort METRIC.")
        if self.goal and not (self.metrics or self.sort or self.where):
            raise BadUsage("--goal needs metrics.", hint="Add --metrics GLOB or --sort METRIC.")

    def request(self) -> ListRequest:
        from himl_cli.services.runs.find import ListRequest

        return ListRequest(self.metrics, self.params, self.best, self.goal, self.sort, self.where, self.size)


SHARED: Mapping[str, Option] = {**options_of(WorkspaceOptions), **options_of(OutputOptions)}
"""Options of most commands. `himl --help` explains them, and the help of a command only those with another text."""


class SelectionOptions(Bundle):
    run: Sequence[str] = option(
        "Run ids, recovery ids, Studio URLs, or latest.", "ID,...", many=True, parse=parse_list, panel="Runs"
    )
    experiment, num_runs, tags, status = EXPERIMENT_OPTION, NUM_RUNS, TAGS, STATUS
    latest_run_file: str | None = option(
        "File with a run id.  [default: nearest most_recent_run.txt]", "PATH", parse=non_blank
    )
    children: bool = option("Select their child runs instead.", default=False)

    def selection(
        self,
        plain: Sequence[str] | None = None,
        *,
        explicit: bool = False,
        single: str = "",
        archived: bool = False,
    ) -> RunSelection:
        """The selection of runs. *plain* are positional run ids, or more tags after --tags (hi-ml's
        `--tags a=b c=d`).

        Call it before you open a workspace. Raises BadUsage for selections that `check_selection` rejects, and for
        several runs if *single* names an option that takes one. With *archived*, options select archived runs.
        *explicit* is for commands that change runs: a selection is required, and names are exact.
        """
        from himl_cli.core.runs import RunSelection
        from himl_cli.services.runs.lookup import check_selection

        tags = [word for word in plain or () if self.tags and "=" in word and "://" not in word]
        named = parse_list("RUN", [name for name in plain or () if name not in tags])
        selection = RunSelection(
            runs=[*named, *self.run],
            experiment=self.experiment,
            num_runs=self.num_runs,
            tags={**self.tags, **parse_pairs("--tags", parse_list("--tags", tags))},
            statuses=self.status,
            latest_run_file=self.latest_run_file,
            children=self.children,
            archived=archived,
            is_exact=explicit,
        )
        check_selection(selection, explicit=explicit)
        if single and len(set(selection.runs)) > 1:
            raise BadUsage(
                f"{single} takes one run, not {len(selection.runs)}.",
                hint=f"Omit {single}, or name one run.",
            )
        return selection


FOLLOW_LINKS = option("Include files of links that lead out of a run.", default=False)


class GlobOptions(Bundle):
    include: Sequence[str] = option(
        "Only matching names, such as '*.ckpt'.", "GLOB", many=True, parse=parse_list, panel="Files"
    )
    exclude: Sequence[str] = option("No matching names, such as 'tmp/**'.", "GLOB", many=True, parse=parse_list)

    def filters(self, prefix: str = "") -> Filters:
        from himl_cli.services.transfer.plan import Filters

        filters = Filters(prefix, tuple(self.include), tuple(self.exclude))
        filters.admit("")  # raises BadUsage for an invalid glob
        return filters


class TransferOptions(Bundle):
    overwrite: bool = OVERWRITE
    no_validate: bool = option("Do not compare MD5 checksums.", default=False)
    workers: int = WORKERS_OPTION


class ChoiceOptions(Bundle):
    select: str | None = option(
        "Checkpoint of a run (default: last). N as in the file name (Lightning counts from 0).",
        "last|best|epoch=N",
        panel="Checkpoint",
    )
    metric: str | None = option("Metric for 'best', in file names or logged.", "M")
    goal: str | None = option("Goal for the metric (default: by its name).", "minimize|maximize")
    name_offset: int | None = option(
        "Epochs in names minus logged ones (default: by comparison).", "N", kind=int | None
    )

    def choice(self) -> Choice:
        from himl_cli.services.checkpoints.select import choice_of

        return choice_of(self.select, self.metric, self.goal, self.name_offset)
