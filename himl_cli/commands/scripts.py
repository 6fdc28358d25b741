"""A command that starts a script: `himl submit train.py -- --epochs 5`.

Words after the first `--` go to the script unchanged. Settings files and environment variables can set options.
"""

from __future__ import annotations

import os
import re
import shlex
from collections import ChainMap, deque
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import typer

from himl_cli.commands.groups import (
    UNEXPECTED,
    HimlCommand,
    before_double_dash,
    metavar_of,
    normalized,
    parameter_sections,
    usage_message,
    write_sections,
)
from himl_cli.commands.options import VARIABLE_PREFIX, OutputOptions, environment_variable
from himl_cli.commands.other_tools import (
    LAUNCHER,
    LIGHTNING_CLI,
    NO_OPTIONS,
    OF_ARGUMENTS,
    OF_RUNNER,
    OF_TARGETS,
    SHELL_OPERATOR,
    TARGET_SUFFIXES,
    fill,
    following,
    hint_without,
    is_command_line,
    is_launch,
    is_target,
    lightning_cli_arguments,
    read_launch,
    script_has,
    script_lacks,
    spelled,
    split_option,
    starts_script,
)
from himl_cli.commands.parameters import converted, kind_of, split_variable_with
from himl_cli.core.errors import BadUsage
from himl_cli.core.text import NEAR_OPTION, did_you_mean, named, quoted_choice

if TYPE_CHECKING:
    from himl_cli.core.settings import FileSetting

# The source of typed values.
TYPED = "command line"
OWN_TOKENS, SCRIPT_ARGUMENTS, PLACES = "himl.own_tokens", "himl.script_arguments", "himl.places"
"""Keys of a context's `meta`: the words before and after `--`, and the place of each option's setting."""
SHORT_HELP, COMMON = "himl.short_help", "Common options"
OF_NOTIFY = {"url": "notify", "format": "notify_format"}
"""Keys of [notify] and the options that they set."""
JOINED = ("env_var", "tag")
"""Options of which each source adds to the others, by key: the command line, variables and files."""
HIML_INPUTS = ("--azure_datasets", "--azure_dataset_id", "--extra_azure_dataset_ids")
TYPO = 0.85  # an option of a script is not as similar
HIML_MOUNTS = ("--mount_in_azureml", "--use_dataset_mount")


def script_arguments(ctx: typer.Context) -> tuple[str, ...]:
    """The words after the first `--`."""
    return tuple(ctx.meta.get(SCRIPT_ARGUMENTS, ()))


class ScriptCommand(HimlCommand):
    """Removes the script's arguments before parsing, and reads settings: the command line wins over variables, and
    variables win over files."""

    may_omit_words = False

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        settings: dict[str, tuple[Any, str]] = {}
        if "default_map" not in extra and not {"-h", "--help"} & set(before_double_dash(args)):
            check_variables(self, os.environ)
            for each in _options(self).values():
                if each.multiple:  # a variable has one value per line
                    split_variable_with(each, lambda text: [line for line in text.splitlines() if line.strip()])
            settings = submit_settings(self, Path.cwd())
            extra["default_map"] = {name: value for name, (value, _) in settings.items()}
        extra.setdefault("auto_envvar_prefix", VARIABLE_PREFIX.rstrip("_"))
        ctx = super().make_context(info_name, args, parent, **extra)
        ctx.meta[PLACES] = {name: place for name, (_, place) in settings.items()}
        for name in JOINED:
            source = getattr(ctx.get_parameter_source(name), "name", "")
            entries = [*(settings[name][0] if name in settings and source != "DEFAULT_MAP" else ())]
            if source == "COMMANDLINE":
                entries += _options(self)[name].value_from_envvar(ctx) or ()
            entries += ctx.params.get(name) or ()
            ctx.params[name] = list({entry.partition("=")[0].strip(): entry for entry in entries}.values())
        return ctx

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return [*super().collect_usage_pieces(ctx), "[-- ARGS]"]

    def format_help_text(self, ctx: Any, formatter: Any) -> None:
        """Write the whole text, or for `-h` its first paragraph and the examples."""
        text, parts = self.help, (self.help or "").split("\n\n")
        if ctx.meta.get(SHORT_HELP):
            self.help = "\n\n".join([parts[0], *(part for part in parts if part.startswith("\b"))])
        super().format_help_text(ctx, formatter)
        self.help = text

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write one line about settings, instead of a variable's name at every option. For `-h`, write only the
        arguments and the common options, in a sentence each."""
        prefix, ctx.auto_envvar_prefix = ctx.auto_envvar_prefix, None
        if not ctx.meta.get(SHORT_HELP):
            super().format_options(ctx, formatter)
            formatter.write_paragraph()
            formatter.write_text(f"Set defaults under [submit] in himl.toml, or in {prefix}_<OPTION> variables.")
            return
        sections = parameter_sections(self, ctx)
        rows = {title: sections[title] for title in ("Arguments", COMMON)}
        write_sections(
            formatter, {title: [(name, text.partition(". ")[0]) for name, text in rows[title]] for title in rows}
        )
        formatter.write_paragraph()
        count = sum(each.param_type_name == "option" for each in self.get_params(ctx))
        formatter.write_text(f"All {count} options: {ctx.command_path} --help")

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        own = before_double_dash(args)
        ctx.meta[SHORT_HELP] = "-h" in own and "--help" not in own
        ctx.meta[OWN_TOKENS], ctx.meta[SCRIPT_ARGUMENTS] = tuple(own), tuple(args[len(own) + 1 :])
        try:
            rest = super().parse_args(ctx, list(own))
        except typer.TyperException as err:
            unknown = getattr(err, "option_name", None) if hasattr(err, "possibilities") else None
            if unknown is None and not err.format_message().startswith(UNEXPECTED):
                raise
            raise self._misplaced(ctx, unknown, args, err) from err
        if not ctx.resilient_parsing:
            self._check_form(ctx, args)
        return rest

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BadUsage as err:
            # Settings may have set the options in the message.
            sources, names = value_sources(ctx), dict.fromkeys(re.findall(r"--(\w+)", str(err)))
            settings = [name for name in names if sources.get(name, "default") not in ("default", TYPED)]
            err.args = (" ".join([str(err), *(f"--{name} is set by {sources[name]}." for name in settings)]),)
            raise

    def suggest(self, ctx: Any, args: Sequence[str], *names: str) -> Suggestion:
        """Suggest a command line for invalid *args*, with *names* after the program's and commands' names."""
        from himl_cli.core.redaction import mask_line

        typed = sort_words(self, ctx, args)
        given = {_name_of(word) for word in typed.options}
        target = typed.target
        if not target and not {"--resume", "--from", "--command"} & given:
            scripts = sorted(path.name for path in Path().glob("*.py"))
            target = ["train.py" if "train.py" in scripts else scripts[0] if len(scripts) == 1 else "SCRIPT.py"]
        words = [*ctx.command_path.split(), *names, *target, *typed.options]
        is_set = ctx.lookup_default("cluster") or os.environ.get(environment_variable("cluster"))
        if "--azureml" in typed.switches and not is_set and "--cluster" not in given:
            words += ["--cluster", "NAME"]
        mounted = ",mode=mount" if {*HIML_MOUNTS} & {*typed.switches} else ""
        for name in typed.inputs or ["NAME"] * bool(mounted):
            words += ["--input", name if "mode=" in name else name + mounted]
        arguments = typed.script
        script = Path(target[0]) if target else Path()
        if arguments and script.is_file() and LIGHTNING_CLI in script.read_text("utf-8", "replace"):
            arguments = lightning_cli_arguments(arguments)
        words += ["--", *arguments] if arguments else []
        has_scripts = bool(arguments) and all(map(starts_script, arguments))
        other = next(iter(typed.others), "")
        return Suggestion(mask_line(shlex.join(words)), target, bool(typed.switches), has_scripts, other)

    def words_for(self, ctx: Any, option: str) -> str:
        words = super().words_for(ctx, option)
        return "" if words == "--format" else words  # -o is the script's folder for results

    def in_himls_words(self, ctx: Any, args: Sequence[str]) -> list[str]:
        return []  # `_misplaced` sorts all words

    def _hint_for_other(self, ctx: Any, args: Sequence[str], option: str) -> str:
        return ""  # `_misplaced` sorts all words

    def _misplaced(self, ctx: Any, unknown: str | None, args: Sequence[str], err: Any) -> BadUsage:
        """Convert the parser's error about an unknown option or an extra word, with the likely command."""
        suggested = self.suggest(ctx, args)
        if (other := suggested.other) and other != spelled(unknown or ""):
            return BadUsage(f"No such option '{other}'.", hint=NO_OPTIONS[other])
        if unknown is None:
            return BadUsage(usage_message(err), hint=suggested.hint or suggested.for_argument())
        hint = NO_OPTIONS.get(other) or suggested.hint or suggested.for_argument(unknown, err.possibilities or ())
        return BadUsage(f"No such option '{unknown}'.", hint=hint)

    def _check_form(self, ctx: Any, args: Sequence[str]) -> None:
        """Check the form of the target. Raises BadUsage with the likely command."""
        target, module, line = (ctx.params.get(name) or "" for name in ("target", "module", "command"))
        has_target = any(map(ctx.params.get, ("target", "module", "resume", "from_run", "command")))
        after, own = script_arguments(ctx), [word.partition("=")[0] for word in before_double_dash(args)]
        problems = {
            f"-m must be a module, not the file '{module}'.": module.endswith(".py") or "/" in module,
            "himl cannot run a script from stdin. Save it to a file.": target == "-",
            f"--command takes one argument, and '{target}' is another one.": line
            and target in own[own.index("--command") if "--command" in own else len(own) :],
            f"'{target}' is not a script. himl starts Python and shells itself.": LAUNCHER.fullmatch(target),
            f"'{target}' is not a script.": target and (is_launch(target, after) or is_command_line(target)),
            "No script to run: words after -- are arguments of a script.": not has_target
            and (any(map(starts_script, after)) or any(map(is_target, after[:1]))),
        }
        wrong = next((text for text, is_so in problems.items() if is_so), None)
        if wrong is not None:
            raise BadUsage(wrong, hint=self.suggest(ctx, args).to_run)

    def takes_value(self, ctx: Any) -> dict[str, bool]:
        options: list[Any] = [each for each in self.get_params(ctx) if each.param_type_name == "option"]
        return {
            _name_of(name): not (each.is_flag or each.count)
            for each in options
            for name in (*each.opts, *each.secondary_opts)
        }


def print_misplaced(ctx: typer.Context, output_opts: OutputOptions) -> None:
    """Print a notice about the first of himl's options after `--` whose name is not in the script, with the command
    that passes it to himl."""
    command: Any = ctx.command
    path, arguments = Path(ctx.params.get("target") or ""), script_arguments(ctx)
    if not arguments or path.suffix != ".py" or not path.is_file():
        return
    if arguments[0] == "--":
        line = command.suggest(ctx, [*ctx.meta[OWN_TOKENS], *arguments]).line
        output_opts.output().notice(f"The script gets the second --, too. To omit it: {line}")
        return
    text, known = path.read_text("utf-8", "replace").replace("-", "_"), command.takes_value(ctx)
    names = map(_name_of, arguments)
    ours = [name for name in names if name.startswith("--") and name in known and name[2:] not in text]
    if not ours:
        return
    moved: list[str] = []
    rest: list[str] = []
    words = iter(arguments)
    for word in words:
        name = _name_of(word)
        (moved if name in ours else rest).append(word)
        if name in ours and known[name] and "=" not in word:
            moved += islice(words, 1)
    line = command.suggest(ctx, [*ctx.meta[OWN_TOKENS], *moved, "--", *rest]).line
    output_opts.output().notice(f"{ours[0]} is after --, so the script gets it. To pass it to himl: {line}")


def print_outside(output_opts: OutputOptions) -> None:
    """Print a notice of the settings files that apply to the current folder and are outside its project."""
    from himl_cli.core.settings import find_settings

    cwd = Path.cwd()
    above = [file.path for file in find_settings(cwd) if file.path.parent != cwd]
    if above:
        from himl_cli.services.submission.snapshot import find_snapshot_root

        root = find_snapshot_root(cwd)
        if outside := [str(path) for path in above if not path.is_relative_to(root)]:
            output_opts.output().notice(f"himl uses settings from outside the project '{root}': {named(outside)}.")


class Typed(NamedTuple):
    """The words of an invalid command line: himl's target and options with values, `inputs`, other words for the
    script, `switches` of other tools that himl translates, and `others` that it does not."""

    target: list[str]
    options: list[str]
    inputs: list[str]
    script: list[str]
    switches: list[str]
    others: list[str]


class Suggestion(NamedTuple):
    """A command line, with secrets masked. `is_translated` says that it replaces words of other tools, `has_scripts`
    that all arguments of the script are scripts, too. `other` is an option of another tool that has no equivalent."""

    line: str
    target: Sequence[str]
    is_translated: bool
    has_scripts: bool
    other: str = ""

    @property
    def hint(self) -> str:
        """The hint, unless the line only has words of the typed one in another order."""
        if self.target[:1] == ["--command"]:
            return f"To run a command line: {self.line}"
        return f"In himl: {self.line}" if self.is_translated else ""

    @property
    def to_run(self) -> str:
        return NO_OPTIONS.get(self.other) or self.hint or f"To run a script: {self.line}"

    def for_argument(self, option: str = "", known: Sequence[str] = ()) -> str:
        """The hint for an unknown *option*, or for another argument of the script."""
        script = self.target[0] if self.target else ""
        if not option and self.has_scripts:
            return f"One job runs one script. If the others are its arguments: {self.line}"
        if not option or script_has(Path(script), option):
            return f"Write arguments of the script after --: {self.line}"
        other = did_you_mean(option, known, cutoff=TYPO)
        near = did_you_mean(option, known, cutoff=NEAR_OPTION)
        if not other and script_lacks(Path(script), option):
            return " ".join([near or f"'{script}' has no such option, either.", "See 'himl submit --help'."])
        return other or f"{near} If it is an option of the script, write it after --: {self.line}".strip()


def sort_words(command: ScriptCommand, ctx: Any, args: Sequence[str]) -> Typed:
    """Sort the words of an invalid command line."""
    typed, known, own = Typed([], [], [], [], [], []), command.takes_value(ctx), before_double_dash(args)
    before, after = deque(own), deque(args[len(own) + 1 :])
    script = next((Path(word) for word in args if word.endswith(".py")), Path())
    launched = False
    while before or (after and not typed.target and any(map(starts_script, [*after][:3]))):
        words = before or after
        of_script = [each for each in words[0].split(maxsplit=1)[:1] if script_has(script, each)]
        if len(parts := split_option(words[0], {*of_script, *command.by_name(ctx)})) > 1:
            typed.switches.append(words.popleft())
            words.extendleft(reversed(parts))
        token = words[0]
        name, value = _name_of(token), token.partition("=")[2]
        if not typed.target and not typed.script and is_launch(token, [*words][1:]):
            target, options = read_launch(words)
            typed.target.extend(target)
            typed.options.extend(options)
            typed.switches.append(token)
            launched = True
            continue
        words.popleft()
        if re.match(r"-[A-Za-z]\w", token) and name not in known and script_has(script, f"-{name}"):
            typed.switches.append(name)  # -lr for --lr
            typed.script.append(f"-{token}")
            continue
        other = OF_RUNNER.get(name) or ("" if script_has(script, name) else command.words_for(ctx, name))
        if name in ("--azureml", *HIML_INPUTS, *HIML_MOUNTS):
            typed.switches.append(name)
            typed.inputs.extend((value or following(words)).split(",") if name in HIML_INPUTS else ())
        elif spelled(token.partition("=")[0]) in OF_TARGETS and not typed.target and not script_has(script, name):
            typed.switches.append(name)
            typed.target.append(value or following(words))
        elif spelled(token.partition("=")[0]) in OF_ARGUMENTS and not script_has(script, name):
            typed.switches.append(name)
            typed.script.extend(shlex.split(value or following(words)))
        elif name == "--input":
            typed.inputs.append(value or following(words))
        elif name == "--command":
            typed.target[:] = [name, value or following(words)]
        elif name == "-m":
            module = value or following(words)
            is_file = Path(module).is_file()
            typed.target[:] = [module] if is_file else ["-m", module.removesuffix(".py").replace("/", ".")]
        elif name in known:
            typed.options.extend([token, *([following(words)] if known[name] and "=" not in token else [])])
        elif other and not (other.startswith("--cluster slurm") and ":" in (value or "".join([*words][:1]))):
            typed.switches.append(name)
            typed.options.extend(fill(other, value, words, metavar_of(command.by_name(ctx), other)))
        elif hint_without(spelled(name), "submit") and not launched and not script_has(script, name):
            typed.others.append(spelled(name))
            if "=" not in token and words and not words[0].startswith("-"):
                following(words)
        elif not typed.target and is_command_line(token):
            if SHELL_OPERATOR.search(token):
                typed.target[:] = ["--command", token]
            else:
                words.extendleft(reversed(shlex.split(token)))
        elif not token.startswith("-") and not typed.target and (not typed.script or token.endswith(TARGET_SUFFIXES)):
            typed.target.append(token)
        elif token != "-":
            typed.script.append(token)
    typed.script.extend(after)
    if typed.target[:1] == ["--command"] and typed.script:
        typed.target[1] = " ".join([typed.target[1], shlex.join(typed.script)])
        typed.script.clear()
    return typed


def _name_of(word: str) -> str:
    """The option of *word* in the parser's spelling: `--num_runs` for `--num-runs=3`."""
    token = word.partition("=")[0]
    bare = token.lstrip("-")
    return token[: len(token) - len(bare)] + normalized(bare)


def value_sources(ctx: typer.Context) -> dict[str, str]:
    """The source of each parameter's value: `command line`, a variable's name, `FILE:LINE` or `default`."""
    sources: dict[str, str] = {}
    for name in ctx.params:
        source = getattr(ctx.get_parameter_source(name), "name", "DEFAULT")
        if source == "ENVIRONMENT":
            # The option's own variable wins over HIML_SUBMIT_<OPTION>.
            parameter: Any = next(each for each in ctx.command.params if each.name == name)
            own = [parameter.envvar] if isinstance(parameter.envvar, str) else list(parameter.envvar or ())
            sources[name] = next((each for each in own if os.environ.get(each)), environment_variable(name))
        elif source == "DEFAULT_MAP":
            sources[name] = ctx.meta[PLACES][name]
        else:
            sources[name] = TYPED if source == "COMMANDLINE" else "default"
    return sources


def _options(command: Any) -> dict[str, Any]:
    return {parameter.name: parameter for parameter in command.params if parameter.param_type_name == "option"}


def submit_settings(command: Any, start: Path) -> dict[str, tuple[Any, str]]:
    """The values of *command*'s options in settings files, in the parser's form, with `FILE:LINE`. Raises BadUsage
    with file, line and key for an invalid setting."""
    from himl_cli.core.redaction import may_be_signed
    from himl_cli.core.settings import PRIVATE_FILE, find_settings

    options = _options(command)
    settings: dict[str, tuple[Any, str]] = {}
    # Before the log starts. Later searches of the command warn of files that himl does not use
    used = find_settings(start, warns=False)
    files = [file.section("submit") for file in reversed(used)]
    found = {normalized(key): setting for section in files for key, setting in section.items()}
    joined = [setting for section in files for key, setting in section.items() if normalized(key) in JOINED]
    for key, setting in ChainMap(*(file.section("notify") for file in used)).items():
        if key not in OF_NOTIFY:
            raise setting.wrong("is not a key of [notify].", hint=did_you_mean(key, OF_NOTIFY) or "Keys: url, format.")
        found.setdefault(OF_NOTIFY[key], setting)
    for name, setting in found.items():
        if name not in options:
            raise setting.wrong(
                "is not an option of 'himl submit'.",
                hint=did_you_mean(name, options) or "See 'himl submit --help' for the options.",
            )
        if name == "notify" and not isinstance(setting.value, str):  # the value may be secret
            raise setting.wrong("must be text.", hint="Write it in quotes.")
        if isinstance(setting.value, str) and setting.file.name != PRIVATE_FILE:
            is_secret = name == "notify" and "/" in setting.value
            if is_secret or may_be_signed(setting.value):
                what = "may contain a key" if is_secret else "may be a signed link"
                raise setting.wrong(
                    f"{what}, and himl sends this file with each job.",
                    hint=f"Move it to {PRIVATE_FILE}, which stays on this machine.",
                )
        settings[name] = _typed(options[name], setting), setting.place
    for name in filter(settings.get, JOINED):
        values = [value for each in joined if normalized(each.key) == name for value in _list_of(each)]
        settings[name] = values, settings[name][1]
    return settings


def check_variables(command: Any, environ: Mapping[str, str]) -> None:
    """Check the variables HIML_SUBMIT_<OPTION>. Raises BadUsage for an unknown option or an invalid value."""
    options = _options(command)
    known = {environment_variable(name): option for name, option in options.items()}
    for name in sorted(name for name in environ if environ[name]):
        text, option = environ[name], known.get(name)
        if option is not None and not option.multiple:
            try:
                converted(option, text)
            except typer.TyperException as err:
                complaint = "must be true or false" if option.is_flag else getattr(err, "message", str(err)).rstrip(".")
                raise BadUsage(f"The variable {name} cannot be '{text}': {complaint}.") from err
        elif option is None and name.startswith(VARIABLE_PREFIX):
            wanted = normalized(name[len(VARIABLE_PREFIX) :].lower())
            near = get_close_matches(wanted, options, n=1, cutoff=NEAR_OPTION)
            hint = "See 'himl submit --help' for the options, or unset it."
            hint = f"Did you mean {environment_variable(near[0])}?" if near else hint
            raise BadUsage(f"The variable {name} sets no option of 'himl submit'.", hint=hint)


def _typed(option: Any, setting: FileSetting) -> Any:
    """The setting's value in the parser's form for *option*. Raises BadUsage for a wrong type or choice."""
    value = setting.value
    if option.is_flag:
        if not isinstance(value, bool):
            raise setting.wrong(f"must be true or false, not {value!r}.")
    elif option.multiple:
        value = _list_of(setting)
    elif isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise setting.wrong(f"must be one value, not {value!r}.")
    elif isinstance(value, str) and kind_of(option) in (int, float):
        raise setting.wrong(f"must be a number, not {value!r}.", hint=f"Write it without quotes: {setting.key} = 4")
    elif kind_of(option) is str and not isinstance(value, str):
        raise setting.wrong(f"must be text, not {value!r}.", hint=f'Write it in quotes: {setting.key} = "{value}"')
    else:
        value = str(value)
    try:
        converted(option, value)
    except typer.TyperException as err:
        raise setting.wrong(f"cannot be {setting.value!r}: {getattr(err, 'message', err)}") from err
    return value


def _list_of(setting: FileSetting) -> list[str]:
    """The values of a list, a single value or a table (`tag.team = "blue"` means `--tag team=blue`, and
    `sweep.lr = [0.1, 0.01]` means `--sweep lr=0.1,0.01`)."""

    def text(entry: Any) -> str:
        if not isinstance(entry, (str, int, float)):
            raise setting.wrong(f"must hold plain values, not {entry!r}.")
        return str(entry).lower() if isinstance(entry, bool) else str(entry)

    value, is_sweep = setting.value, normalized(setting.key) == "sweep"
    if isinstance(value, Mapping):
        texts = {
            key: ",".join(quoted_choice(one, text(one)) for one in each)
            if is_sweep and isinstance(each, list)
            else text(each)
            for key, each in value.items()
        }
        return [f"{key}={each}" for key, each in texts.items()]
    return [*map(text, value if isinstance(value, list) else [value])]
