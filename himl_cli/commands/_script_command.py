"""A command that starts a script: `himl submit train.py -- --epochs 5`.

What stands after the first `--` is the script's, untouched; options may be set in settings files and by variables.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from himl_cli.commands._group import HimlCommand, before_double_dash, normalized
from himl_cli.core.errors import BadUsage
from himl_cli.core.spelling import NEAR_OPTION, did_you_mean
from himl_cli.core.submit_variables import VARIABLE_PREFIX, environment_variable

SCRIPT_ARGUMENTS = "himl.script_arguments"
TARGET_SUFFIXES = (".py", ".sh", ".yml", ".yaml", ".json")


def script_arguments(ctx: typer.Context) -> tuple[str, ...]:
    """What stood after the first `--`."""
    arguments: tuple[str, ...] = ctx.meta.get(SCRIPT_ARGUMENTS, ())
    return arguments


class ScriptCommand(HimlCommand):
    """Cuts the script's arguments off before parsing, and takes options from settings: flags, then variables, then files."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        own = before_double_dash(args)
        if "default_map" not in extra and not {"-h", "--help"} & set(own):
            from himl_cli.commands._settings import check_variables, read_lists_by_line, submit_settings

            check_variables(self, os.environ)
            read_lists_by_line(self)
            extra["default_map"] = submit_settings(self, Path.cwd())
        extra.setdefault("auto_envvar_prefix", VARIABLE_PREFIX.rstrip("_"))
        return super().make_context(info_name, args, parent, **extra)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """One line about variables and settings instead of a variable's name at every option."""
        prefix, ctx.auto_envvar_prefix = ctx.auto_envvar_prefix, None
        super().format_options(ctx, formatter)
        formatter.write_paragraph()
        formatter.write_text(f"Options can also be set by {prefix}_<OPTION> in the environment, and under [submit] in himl.toml.")

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        own = before_double_dash(args)
        ctx.meta[SCRIPT_ARGUMENTS] = tuple(args[len(own) + 1 :])
        try:
            return super().parse_args(ctx, list(own))
        except typer.TyperException as err:
            unknown = getattr(err, "option_name", None) if hasattr(err, "possibilities") else None
            if unknown is None and not err.format_message().startswith("Got unexpected extra argument"):
                raise
            raise self._misplaced(ctx, unknown, own, err) from err

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BadUsage as err:
            err.args = (_with_places(str(err), value_sources(ctx)), *err.args[1:])
            raise

    def _misplaced(self, ctx: Any, unknown: str | None, own: Sequence[str], err: Any) -> BadUsage:
        """The parser's complaint about what is no option or target of ours, with the command that may have been meant."""
        from himl_cli.core.redaction import mask_line

        kept, moved = self._sorted_out(ctx, own)
        meant = mask_line(shlex.join([*ctx.command_path.split(), *kept, "--", *moved]))
        stand = f"Arguments of the script stand after --: {meant}"
        if unknown is None:
            return BadUsage(err.format_message(), hint=stand)
        return BadUsage(f"No such option '{unknown}'.", hint=f"{did_you_mean(unknown, err.possibilities or (), cutoff=NEAR_OPTION)} {stand}".strip())

    def _sorted_out(self, ctx: Any, own: Sequence[str]) -> tuple[list[str], list[str]]:
        """Our options with their values and the first target, and the rest, which is taken for the script's."""
        takes_value = dict(self._options(ctx))
        kept: list[str] = []
        moved: list[str] = []
        tokens = iter(own)
        has_target = False
        for token in tokens:
            name = normalized_option(token.partition("=")[0])
            if name in takes_value:
                kept.append(token)
                if takes_value[name] and "=" not in token:
                    kept += [value for value in (next(tokens, None),) if value is not None]
                has_target = has_target or name in ("-m", "--module")
            elif not has_target and not token.startswith("-") and (not moved or token.endswith(TARGET_SUFFIXES)):
                kept.append(token)
                has_target = True
            else:
                moved.append(token)
        return kept, moved

    def _options(self, ctx: Any) -> Iterator[tuple[str, bool]]:
        parameters: list[Any] = self.get_params(ctx)
        for parameter in parameters:
            if parameter.param_type_name == "option":
                for name in (*parameter.opts, *parameter.secondary_opts):
                    yield normalized_option(name), not (parameter.is_flag or parameter.count)


def normalized_option(token: str) -> str:
    """An option as typed, in the parser's spelling: `--num-runs` is `--num_runs`."""
    bare = token.lstrip("-")
    return token[: len(token) - len(bare)] + normalized(bare)


def value_sources(ctx: typer.Context) -> dict[str, str]:
    """Where the value of each parameter of a `ScriptCommand` came from: `command line`, a variable's name, `FILE:LINE`, or `default`."""
    default_map: Any = ctx.default_map or {}
    sources: dict[str, str] = {}
    for name in ctx.params:
        source = getattr(ctx.get_parameter_source(name), "name", "DEFAULT")
        if source == "ENVIRONMENT":
            sources[name] = _variable_of(ctx, name)
        elif source == "DEFAULT_MAP":
            sources[name] = str(default_map.source(name))
        else:
            sources[name] = "command line" if source == "COMMANDLINE" else "default"
    return sources


def _with_places(message: str, sources: Mapping[str, str]) -> str:
    """*message*, and where the options that it names were set, unless that was the command line."""
    places = {name: sources.get(name, "default") for name in re.findall(r"--(\w+)", message)}
    return " ".join([message, *(f"--{name} is set by {place}." for name, place in places.items() if place not in ("default", "command line"))])


def _variable_of(ctx: typer.Context, name: str) -> str:
    """The variable that Typer took the value from: the option's own where it is set, else ours."""
    parameter: Any = next(parameter for parameter in ctx.command.params if parameter.name == name)
    own = [parameter.envvar] if isinstance(parameter.envvar, str) else list(parameter.envvar or ())
    return next((variable for variable in own if os.environ.get(variable)), environment_variable(name))
