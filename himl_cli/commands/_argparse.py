"""The shared options for argparse: read from the bundles that himl's own commands take."""

from __future__ import annotations

import inspect
from argparse import SUPPRESS, ArgumentParser, Namespace
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any, NamedTuple, TypeVar, get_args

from himl_cli.commands.options import Bundle
from himl_cli.render.output import Format

Chosen = TypeVar("Chosen", bound=Bundle)


class BundleOption(NamedTuple):
    """One option of a bundle: the parameter's name, the type of its value, and what Typer knows of it."""

    name: str
    kind: Any
    info: Any

    @property
    def names(self) -> list[str]:
        """`--workspace`, `-w`: in annotations the first of them stands where Typer has the default elsewhere."""
        return [self.info.default, *(self.info.param_decls or ())]


class _Twin(str):
    """Another spelling of an option. It may be abbreviated as any, but not where that abbreviates a name of *before*
    too: argparse would ask which is meant."""

    before: Sequence[str] = ()

    def startswith(self, *arguments: Any) -> bool:
        return super().startswith(*arguments) and not any(name.startswith(*arguments) for name in self.before)


def options_of(bundle: type[Bundle]) -> dict[str, BundleOption]:
    """The options of *bundle* by the names of its parameters."""
    init: Callable[..., None] = bundle.__init__
    parameters = inspect.signature(init, eval_str=True).parameters
    return {
        name: BundleOption(name, *get_args(parameter.annotation))
        for name, parameter in parameters.items()
        if name != "self"
    }


def add_options(parser: ArgumentParser, bundle: type[Bundle], old_names: Mapping[str, str]) -> None:
    """Add the options of *bundle* to *parser* as a group; `-` and `_` are alike in their names, and *old_names* (old:
    today's) are understood."""
    options = options_of(bundle)
    group = parser.add_argument_group(next(iter(options.values())).info.rich_help_panel)
    taken = [name for option in options.values() for name in option.names]
    for option in options.values():
        _add(group.add_argument, option, _twins(option.names, old_names, taken))


def chosen(bundle: type[Chosen], arguments: Namespace) -> Chosen:
    """The bundle, made of what argparse read. Raises BadUsage as the bundle does."""
    given = {name: getattr(arguments, name, None) for name in options_of(bundle)}
    return bundle(
        **{name: Format(value) if name == "format" else value for name, value in given.items() if value is not None}
    )


def _add(add: Callable[..., Any], option: BundleOption, twins: Sequence[str]) -> None:
    """Add an option; its other spellings, which help does not show, one by one, so that errors name the one that was
    typed."""
    form: dict[str, Any] = {"dest": option.name}
    if option.kind is bool:
        form["action"] = "store_true"
    elif isinstance(option.kind, type) and issubclass(option.kind, Enum):
        form["choices"] = [one.value for one in option.kind]
    elif list[str] in get_args(option.kind):
        form["action"] = "append"
    shown = {} if option.kind is bool else {"metavar": option.info.metavar}
    add(*option.names, **form, **shown, help=option.info.help.replace("%", "%%"))
    for twin in twins:
        add(twin, **form, help=SUPPRESS, default=SUPPRESS)


def _twins(names: Sequence[str], old_names: Mapping[str, str], taken: list[str]) -> list[_Twin]:
    """Other spellings of an option's long names: with `-`, and the old names. They join *taken*, the names there
    are."""
    long = [name[2:] for name in names if name.startswith("--")]
    every = [*long, *(old for old, name in old_names.items() if name in long)]
    spelled = dict.fromkeys(f"--{spelling}" for name in every for spelling in (name, name.replace("_", "-")))
    twins = [_Twin(name) for name in spelled if name not in names]
    for twin in twins:
        twin.before = tuple(taken)
        taken.append(str(twin))
    return twins
