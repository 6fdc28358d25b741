"""A command that starts a script: `himl submit train.py -- --epochs 5`.

What stands after the first `--` is the script's, untouched; options may be set in settings files and by variables.
"""

from __future__ import annotations

import os
import re
import shlex
from collections import deque
from collections.abc import Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any

import typer

from himl_cli.commands.groups import UNEXPECTED, HimlCommand, before_double_dash, normalized
from himl_cli.commands.options import OutputOptions
from himl_cli.core.errors import BadUsage
from himl_cli.core.jobs import VARIABLE_PREFIX, environment_variable
from himl_cli.core.text import NEAR_OPTION, did_you_mean

OWN_TOKENS, SCRIPT_ARGUMENTS = "himl.own_tokens", "himl.script_arguments"
TARGET_SUFFIXES = (".py", ".sh", ".yml", ".yaml", ".json")
LAUNCHER = re.compile(r"(.*[\\/])?(python[\d.]*w?|py|bash|sh|torchrun)(\.exe)?", re.IGNORECASE)
"""A program that himl starts itself."""
OTHER_FORMS = {"--azureml": (), "--log_from_vm": ("--record_in", "azure"), "--strictly_aml_v1": ("--sdk", "v1")}
"""hi-ml's switches, and what says the same here. Its datasets:"""
OF_TORCHRUN = {"--nproc_per_node": "--processes_per_node", "--nnodes": "--num_nodes"}
HIML_INPUTS, HIML_MOUNTS = "--azure_datasets", "--mount_in_azureml"


def script_arguments(ctx: typer.Context) -> tuple[str, ...]:
    """What stood after the first `--`."""
    arguments: tuple[str, ...] = ctx.meta.get(SCRIPT_ARGUMENTS, ())
    return arguments


class ScriptCommand(HimlCommand):
    """Cuts the script's arguments off before parsing, and takes options from settings: flags, then variables, then
    files."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        own = before_double_dash(args)
        if "default_map" not in extra and not {"-h", "--help"} & set(own):
            from himl_cli.commands.submit_settings import check_variables, submit_settings

            check_variables(self, os.environ)
            options: list[Any] = list(self.params)
            for each in options:
                if each.param_type_name == "option" and each.multiple:  # in a variable one a line
                    each.type = copy(each.type)
                    each.type.split_envvar_value = lambda text: [line for line in text.splitlines() if line.strip()]
            extra["default_map"] = submit_settings(self, Path.cwd())
        extra.setdefault("auto_envvar_prefix", VARIABLE_PREFIX.rstrip("_"))
        return super().make_context(info_name, args, parent, **extra)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """One line about variables and settings instead of a variable's name at every option."""
        prefix, ctx.auto_envvar_prefix = ctx.auto_envvar_prefix, None
        super().format_options(ctx, formatter)
        formatter.write_paragraph()
        formatter.write_text(
            f"Options can also be set by {prefix}_<OPTION> in the environment, and under [submit] in himl.toml."
        )

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        own = before_double_dash(args)
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
            err.args = (_with_sources(str(err), value_sources(ctx)), *err.args[1:])
            raise

    def suggest(self, ctx: Any, args: Sequence[str]) -> Suggestion:
        """The command line that *args*, which cannot be read, may stand for."""
        return Suggestion(self.takes_value(ctx), args)

    def _hint_for_other(self, ctx: Any, args: Sequence[str], option: str) -> str:
        return ""  # what we do not know may be the script's

    def _misplaced(self, ctx: Any, unknown: str | None, args: Sequence[str], err: Any) -> BadUsage:
        """The parser's complaint about what is no option or target of ours, with the command that may have been
        meant."""
        suggestion = self.suggest(ctx, args)
        is_translated = bool(suggestion.switches)
        lead = "The same here" if is_translated else "Arguments of the script stand after --"
        hint = f"{lead}: {suggestion.command(ctx)}"
        if unknown is None:
            return BadUsage(err.format_message(), hint=hint)
        near = "" if is_translated else did_you_mean(unknown, err.possibilities or (), cutoff=NEAR_OPTION)
        return BadUsage(f"No such option '{unknown}'.", hint=f"{near} {hint}".strip())

    def _check_form(self, ctx: Any, args: Sequence[str]) -> None:
        """Raises BadUsage, with the command that may have been meant, for a target that none can be by its form."""
        target, module, after = ctx.params.get("target"), ctx.params.get("module"), script_arguments(ctx)[:1]
        has_target = any(map(ctx.params.get, ("target", "module", "resume", "command")))
        if module is not None and (module.endswith(".py") or "/" in module):
            wrong = f"-m takes a module, and '{module}' is a file's name."
        elif target == "-":
            wrong = "A script on stdin cannot be run: save it to a file."
        elif target is not None and LAUNCHER.fullmatch(target):
            wrong = f"'{target}' is no script; himl starts Python and shells itself."
        elif target is not None and _is_command_line(target):
            wrong = f"There is no script '{target}'."
        elif after and is_target(after[0]) and not has_target:
            wrong = "Nothing to run: what stands after -- are arguments of a script."
        else:
            return
        raise BadUsage(wrong, hint=f"To run a script: {self.suggest(ctx, args).command(ctx)}")

    def takes_value(self, ctx: Any) -> dict[str, bool]:
        """The options by each of their names: whether a value follows."""
        options: list[Any] = [each for each in self.get_params(ctx) if each.param_type_name == "option"]
        return {
            normalized_option(name): not (each.is_flag or each.count)
            for each in options
            for name in (*each.opts, *each.secondary_opts)
        }


def print_misplaced(ctx: typer.Context, output_opts: OutputOptions) -> None:
    """Tell of the first of himl's options that stands behind `--`, where the script's file knows none of that name, and
    the command that gives it to himl."""
    command: Any = ctx.command
    path, known = Path(ctx.params.get("target") or ""), command.takes_value(ctx)
    if path.suffix != ".py" or not path.is_file():
        return
    text = path.read_text("utf-8", "replace").replace("-", "_")
    names = map(_name_of, script_arguments(ctx))
    ours = [name for name in names if name.startswith("--") and name in known and name[2:] not in text]
    if not ours:
        return
    moved: list[str] = []
    rest: list[str] = []
    words = deque(script_arguments(ctx))
    while words:
        word = words.popleft()
        name = _name_of(word)
        (moved if name in ours else rest).append(word)
        if name in ours and known[name] and "=" not in word and words:
            moved.append(words.popleft())
    line = Suggestion(known, [*ctx.meta[OWN_TOKENS], *moved, "--", *rest]).command(ctx)
    output_opts.output().notice(f"{ours[0]} stands behind --, so the script gets it. To give it to himl: {line}")


class Suggestion:
    """The command line that tokens may stand for which cannot be read as they are: the first target, options of ours
    with their values, and the rest for the script. `switches` are options of hi-ml or torchrun that himl has others
    for."""

    def __init__(self, takes_value: Mapping[str, bool], args: Sequence[str]) -> None:
        self._takes_value = takes_value
        self._target: list[str] = []
        self._options: list[str] = []
        self._inputs: list[str] = []
        self._script: list[str] = []
        self._is_launched = False
        self.switches: set[str] = set()
        own = before_double_dash(args)
        rest = deque(args[len(own) + 1 :])
        self._tokens = deque(own)
        while self._tokens:
            self._take(self._tokens.popleft())
        if rest and is_target(rest[0]):
            self._tokens = rest
            while self._tokens and not self._target:
                self._take(self._tokens.popleft())
        self._script += rest
        if not self._target and not {"--resume", "--command"} & set(map(_name_of, self._options)):
            scripts = sorted(path.name for path in Path().glob("*.py"))
            self._target = ["train.py" if "train.py" in scripts else scripts[0] if len(scripts) == 1 else "SCRIPT.py"]

    def command(self, ctx: Any, *names: str) -> str:
        """The whole command line, *names* behind the program and its commands; secrets masked."""
        from himl_cli.core.redaction import mask_line

        words = [*ctx.command_path.split(), *names, *self._target, *self._options]
        is_set = ctx.lookup_default("cluster") or os.environ.get(environment_variable("cluster"))
        if "--azureml" in self.switches and not is_set and "--cluster" not in map(_name_of, self._options):
            words += ["--cluster", "NAME"]
        mounted = ",mode=mount" if HIML_MOUNTS in self.switches else ""
        for name in self._inputs or ["NAME"] * bool(mounted):
            words += ["--input", name if "mode=" in name else name + mounted]
        return mask_line(shlex.join([*words, *(["--", *self._script] if self._script else [])]))

    def _take(self, token: str) -> None:
        option, _, value = token.partition("=")
        name = normalized_option(option)
        if name in (*OTHER_FORMS, HIML_INPUTS, HIML_MOUNTS):
            self.switches.add(name)
            self._options += OTHER_FORMS.get(name, ())
            self._inputs += (value or self._value()).split(",") if name == HIML_INPUTS else ()
        elif name in OF_TORCHRUN and self._is_launched and not self._target:
            self.switches.add(name)
            self._options += [OF_TORCHRUN[name], value or self._value()]
        elif name in ("-m", "--input", "--command"):
            value = value or self._value()
            if name == "--input":
                self._inputs.append(value)
            elif name == "--command":
                self._target = [name, value]
            elif value.startswith("torch.distributed."):
                self._is_launched = True
            else:
                self._target = [value] if Path(value).is_file() else ["-m", value.removesuffix(".py").replace("/", ".")]
        elif name in self._takes_value:
            self._options += [token, *([self._value()] if self._takes_value[name] and "=" not in token else [])]
        elif LAUNCHER.fullmatch(token) and not self._target:
            self._is_launched = True
        elif not self._target and _is_command_line(token):
            self._tokens.extendleft(reversed(shlex.split(token)))
        elif not token.startswith("-") and not self._target and (not self._script or token.endswith(TARGET_SUFFIXES)):
            self._target = [token]
        elif self._target or not (token == "-" or self._is_launched):  # a launcher's own options are dropped
            self._script.append(token)

    def _value(self) -> str:
        return self._tokens.popleft() if self._tokens else ""


def is_target(word: str) -> bool:
    """Whether *word* looks like a file to run, or a program that runs one."""
    return word.endswith(TARGET_SUFFIXES) or LAUNCHER.fullmatch(word) is not None


def _is_command_line(text: str) -> bool:
    """Whether *text* is no file but a whole command that starts a script."""
    first, blank, _ = text.partition(" ")
    return bool(blank) and is_target(first) and not Path(text).exists()


def normalized_option(token: str) -> str:
    """An option as typed, in the parser's spelling: `--num-runs` is `--num_runs`."""
    bare = token.lstrip("-")
    return token[: len(token) - len(bare)] + normalized(bare)


def _name_of(word: str) -> str:
    return normalized_option(word.partition("=")[0])


def value_sources(ctx: typer.Context) -> dict[str, str]:
    """Where the value of each parameter of a `ScriptCommand` came from: `command line`, a variable's name, `FILE:LINE`,
    or `default`."""
    default_map: Any = ctx.default_map or {}
    sources: dict[str, str] = {}
    for name in ctx.params:
        source = getattr(ctx.get_parameter_source(name), "name", "DEFAULT")
        if source == "ENVIRONMENT":  # the option's own variable where it is set, else ours
            parameter: Any = next(each for each in ctx.command.params if each.name == name)
            own = [parameter.envvar] if isinstance(parameter.envvar, str) else list(parameter.envvar or ())
            variable = next((each for each in own if os.environ.get(each)), environment_variable(name))
            sources[name] = variable
        elif source == "DEFAULT_MAP":
            sources[name] = str(default_map.source(name))
        else:
            sources[name] = "command line" if source == "COMMANDLINE" else "default"
    return sources


def _with_sources(message: str, sources: Mapping[str, str]) -> str:
    """*message*, and where the options that it names were set, unless that was the command line."""
    named = {name: sources.get(name, "default") for name in re.findall(r"--(\w+)", message)}
    settings = {name: source for name, source in named.items() if source not in ("default", "command line")}
    return " ".join([message, *(f"--{name} is set by {source}." for name, source in settings.items())])
