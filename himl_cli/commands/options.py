"""Options of commands, each declared once by `option`, and the bundles of them that several commands share.

    class GlobOptions(Bundle):
        include: Sequence[str] = option("Only names that match.", "GLOB", many=True, panel="Which files")

is the option `--include` under that heading. A command with a parameter `globs: GlobOptions` has it, and reads its
value as `globs.include`. An option of one command alone is the default of a parameter: `count: int = option(...)`.
"""

from __future__ import annotations

import inspect
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from himl_cli.core.errors import BadUsage
from himl_cli.core.text import non_blank, shorten
from himl_cli.render.output import Format, Output

if TYPE_CHECKING:
    from himl_cli.core.runs import Choice, RunSelection, RunStatus
    from himl_cli.services.transfer.plan import Filters

VARIABLE_PREFIX = "HIML_SUBMIT_"
ALL_RUNS = sys.maxsize  # `--num_runs all`: a limit that no workspace reaches
WORKERS, MOST_WORKERS = 32, 256

RunArgs = Annotated[list[str] | None, typer.Argument(metavar="[RUN]...", help="Run ids, as --run.", show_default=False)]


class Option(NamedTuple):
    """One option; `parse` makes a value of the option's name and what was typed, `info` goes to Typer."""

    names: Sequence[str]
    default: Any
    parse: Callable[[str, Any], Any] | None
    kind: Any
    info: Mapping[str, Any]

    def read(self, field: str, value: Any) -> Any:
        return self.parse((self.names or (f"--{field}",))[0], value) if self.parse else value


def environment_variable(option: str) -> str:
    """The variable that sets an option of submit."""
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
    """The field of a bundle, or the parameter of a command, that is an option: `--FIELD` unless *names* says otherwise.

    *parse* is given the option's name and its value, None unless typed or set. An option of *many* values is a tuple
    of them unless *parse* says otherwise. *panel* is its heading in help, and that of the options after it.
    """
    if many:
        kind: Any = list[str] | None
        parse = parse or (lambda _, values: tuple(values or ()))
    else:
        kind = str | None if default is None else type(default)
    info |= {"help": help, "metavar": metavar} | ({"rich_help_panel": panel} if panel else {})
    return Option(names, default, parse, info.pop("kind", kind), info)


class Bundle:
    """Options that belong together: a class whose fields are made by `option`."""

    def __init__(self, *values: Any, **given: Any) -> None:
        options = options_of(type(self))
        given |= dict(zip(options, values, strict=False))
        for name, each in options.items():
            setattr(self, name, each.read(name, given.get(name, each.default)))
        self.validate()

    def validate(self) -> None:
        """Raises BadUsage for values that do not go together."""


def options_of(bundle: type[Bundle]) -> dict[str, Option]:
    owners = reversed(bundle.__mro__)
    return {name: value for owner in owners for name, value in vars(owner).items() if isinstance(value, Option)}


def parameters_of(options: Mapping[str, Option], panel: str = "Options") -> list[inspect.Parameter]:
    """The options as parameters that Typer reads, below the heading *panel* until one brings its own."""
    parameters = []
    for name, each in options.items():
        panel = each.info.get("rich_help_panel", panel)
        info = typer.Option(*(each.names or (f"--{name}",)), **{**each.info, "rich_help_panel": panel})
        default = inspect.Parameter.empty if each.default is ... else each.default
        arguments: Any = {"default": default, "annotation": Annotated[each.kind, info]}
        parameters.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, **arguments))
    return parameters


def bundled(function: Callable[..., None]) -> Callable[..., None]:
    """*function* for Typer to read, with its parameters that are options as such, and each that is a `Bundle` spread
    into that bundle's options. Raises ValueError where two have one name."""
    spread: list[inspect.Parameter] = []
    taken: dict[str, Option | type[Bundle]] = {}
    panel = "Options"
    # get_type_hints would add Optional on 3.10
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
    todo = f"leave {' or '.join(others)} out" if others else f"give the parameter '{name}' another name"
    where = f"{function.__name__}(): '{name}' is there twice"
    return ValueError(f"{where}, since {first} brings an option of that name: {todo}.")


def split_list(values: Iterable[str] | None) -> list[str]:
    return [part.strip() for value in values or () for part in value.split(",") if part.strip()]


def parse_list(_option: str, values: Iterable[str] | None) -> Sequence[str]:
    return tuple(split_list(values))


def parse_pairs(option: str, values: Iterable[str] | None) -> Mapping[str, str]:
    """KEY=VALUE entries as a mapping; a value may hold `=` and be empty. Raises BadUsage naming the entry, unless that
    is a variable's."""
    pairs: dict[str, str] = {}
    for value in values or ():
        key, equals, rest = value.partition("=")
        if not equals or not key.strip():
            missing = "an entry without KEY" if equals else "an entry without '='"
            shown = missing if option == "--env_var" else f"'{value}'"  # a variable's value may be a secret
            hint = f"For example {option} team=blue"
            if option == "--tag" and not equals:
                hint += f"; a name for people: --display_name {shlex.quote(value)}"
            raise BadUsage(f"{option} takes KEY=VALUE, got {shown}.", hint=hint)
        pairs[key.strip()] = rest
    return pairs


def parse_count(option: str, text: str | None) -> int | None:
    """A whole number from 1, or `all`. Raises BadUsage."""
    if text is None:
        return None
    if text.strip().lower() == "all":
        return ALL_RUNS
    digits = text.strip().lstrip("0")
    if not digits.isdecimal():
        raise BadUsage(f"{option} takes a whole number from 1, or 'all', got '{shorten(text)}'.")
    return min(int(digits[:20]), ALL_RUNS)  # a number of more digits is larger than any


def parse_statuses(_option: str, names: Iterable[str] | None) -> Sequence[RunStatus]:
    """Statuses in any case; hi-ml's users write `Finished` or `Cancelled` too. Raises BadUsage naming the nearest."""
    from himl_cli.core.runs import RunStatus

    known = {status.value.lower(): status for status in RunStatus}
    known |= {"cancelled": RunStatus.canceled, "finished": RunStatus.completed}
    wanted = split_list(names)
    wrong = next((name for name in wanted if name.lower() not in known), None)
    if wrong is not None:
        near = get_close_matches(wrong.lower(), known, n=1)
        hint = f"Did you mean {known[near[0]].value}? " if near else ""
        every = ", ".join(status.value for status in RunStatus)
        raise BadUsage(f"There is no status '{wrong}'.", hint=f"{hint}Statuses: {every}.")
    return [known[name.lower()] for name in wanted]


def parse_workers(option: str, workers: int | None) -> int | None:
    """The number, where so many transfers can go on at once. Raises BadUsage."""
    if workers is not None and not 1 <= workers <= MOST_WORKERS:
        raise BadUsage(f"{option} takes a whole number from 1 to {MOST_WORKERS}, got {workers}.")
    return workers


def parse_folder(option: str, text: str | None) -> Path | None:
    """The folder *text*, `~` for the home folder. Raises BadUsage where it is blank or a file, NotFound for the home
    folder of nobody."""
    from himl_cli.core.files import expand_home

    if text is None:
        return None
    folder = expand_home(non_blank(option, text), "folder")
    if folder.exists() and not folder.is_dir():
        hint = "Name a folder; it is made where it is missing."
        raise BadUsage(f"{option} '{text}' is a file, and no folder.", hint=hint)
    return folder


OVERWRITE = option("Replace files that differ.", default=False, panel="How")
WORKERS_OPTION = option(
    "Transfers at once, 1 to 256.  [default: 32]",
    "N",
    WORKERS,
    panel="How",
    parse=parse_workers,
    show_default=False,
)


class OutputOptions(Bundle):
    format: Format = option("human, json or quiet.", "FORMAT", Format.human, show_default=False, panel="Output")
    json: bool = option("One JSON document on stdout.", default=False)
    quiet: bool = option("Ids or paths alone on stdout.", default=False, names=("--quiet", "-q"))
    verbose: bool = option("Debug log and tracebacks on stderr.", default=False, names=("--verbose", "-v"))
    yes: bool = option("Never ask; take yes for the answer.", default=False)

    make_output = Output

    def validate(self) -> None:
        formats = {self.format, *[Format.json] * self.json, *[Format.quiet] * self.quiet} - {Format.human}
        if len(formats) > 1:
            raise BadUsage(
                f"Two output formats at once: {' and '.join(sorted(form.value for form in formats))}.",
                hint="Give one of --format, --json and --quiet.",
            )
        self._start_log()
        self.format = formats.pop() if formats else Format.human

    def _start_log(self) -> None:
        from himl_cli.render.progress import start_logging

        start_logging(verbose=self.verbose)

    def output(self) -> Output:
        return self.make_output(self.format, verbose=self.verbose, yes=self.yes)


class WorkspaceOptions(Bundle):
    workspace: str | None = option(
        "local, a .himl folder, or an Azure config.json.",
        "SPEC",
        names=("--workspace", "-w"),
        parse=non_blank,
        panel="Workspace",
    )
    config_file: str | None = option("An Azure config.json.", "PATH", parse=non_blank)

    def validate(self) -> None:
        if self.workspace is not None and self.config_file is not None:
            raise BadUsage("Two workspaces at once: --workspace and --config_file.", hint="Give one of them.")

    @property
    def names(self) -> tuple[str | None, str | None]:
        """What was said, as `workspaces.resolve` takes it."""
        return self.workspace, self.config_file


EXPERIMENT = option("The newest runs of an experiment.", "NAME", parse=non_blank, panel="Which runs")
NUM_RUNS = option("How many of them, or all.", "N", parse=parse_count)
TAGS = option(
    "Only those with these tags.",
    "K=V,...",
    many=True,
    parse=lambda name, values: parse_pairs(name, split_list(values)),
)
STATUS = option(
    "Only those in these states: Queued, Running, Completed, Failed, Canceled.",
    "S,...",
    many=True,
    parse=parse_statuses,
)


class SelectionOptions(Bundle):
    run: Sequence[str] = option(
        "Run ids, recovery ids, Studio URLs, or latest.", "ID,...", many=True, panel="Which runs"
    )
    experiment, num_runs, tags, status = EXPERIMENT, NUM_RUNS, TAGS, STATUS
    latest_run_file: str | None = option(
        "The run that this file names.  [default: nearest most_recent_run.txt]", "PATH", parse=non_blank
    )
    children: bool = option("The children of those runs instead.", default=False)

    def selection(
        self,
        plain: Sequence[str] | None = None,
        *,
        explicit: bool = False,
        single: str = "",
        archived: bool = False,
    ) -> RunSelection:
        """The runs asked for; *plain* are run ids that stood as plain arguments, or more tags behind those of --tags
        (hi-ml's `--tags a=b c=d`).

        Ask for it before a workspace is opened: raises BadUsage for what no workspace could answer, as
        `check_selection` does, and for several runs where *single* is an option that takes one. *archived*: where runs
        are not named, among those that were archived.
        """
        from himl_cli.core.runs import RunSelection
        from himl_cli.services.runs.lookup import check_selection

        tags = [word for word in plain or () if self.tags and "=" in word and "://" not in word]
        named = [non_blank("RUN", name) for name in plain or () if name not in tags]
        named += [non_blank("--run", name) for name in self.run]
        selection = RunSelection(
            runs=split_list(named),
            experiment=self.experiment,
            num_runs=self.num_runs,
            tags={**self.tags, **parse_pairs("--tags", split_list(tags))},
            statuses=self.status,
            latest_run_file=self.latest_run_file,
            children=self.children,
            archived=archived,
        )
        check_selection(selection, explicit=explicit)
        if single and len(set(selection.runs)) > 1:
            raise BadUsage(
                f"{single} takes one run, and {len(selection.runs)} are meant.",
                hint=f"Leave {single} out, or name one run.",
            )
        return selection


class GlobOptions(Bundle):
    include: Sequence[str] = option(
        "Only names that match, e.g. '*.ckpt'.", "GLOB", many=True, parse=parse_list, panel="Which files"
    )
    exclude: Sequence[str] = option("No names that match, e.g. 'tmp/**'.", "GLOB", many=True, parse=parse_list)

    def filters(self, prefix: str = "") -> Filters:
        from himl_cli.services.transfer.plan import Filters

        filters = Filters(prefix, tuple(self.include), tuple(self.exclude))
        filters.admit("")  # raises BadUsage for a glob that cannot be read
        return filters


class TransferOptions(Bundle):
    overwrite: bool = OVERWRITE
    no_validate: bool = option("Do not check MD5s.", default=False)
    workers: int = WORKERS_OPTION


class ChoiceOptions(Bundle):
    select: str | None = option(
        "Which one of a run; N as in the file's name (Lightning's begin with 0).",
        "last|best|epoch=N",
        panel="Which checkpoint",
    )
    metric: str | None = option("The best by this metric, in the files' names or as logged.", "M")
    goal: str | None = option("What is best; without it, told by well-known names of metrics.", "minimize|maximize")

    def choice(self) -> Choice:
        from himl_cli.services.checkpoints.select import choice_of

        return choice_of(self.select, self.metric, self.goal)
