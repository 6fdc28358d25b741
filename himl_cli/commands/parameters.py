"""Parameters of commands in each allowed version of Typer: their help, the kind of their values, and its conversion.

Typer 0.29 converts values with pydantic, whose import takes as long as the rest of a short command. The kinds of himl's
own options need no such library. The type of parameters is `Any` because Typer's classes for them are private.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import copy
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_origin

import typer

NAMED_KINDS = {"int": int, "integer": int, "float": float, "bool": bool, "boolean": bool, "str": str, "text": str}
"""Kinds by the names of Typer 0.28."""
SWITCH_WORDS = {
    **dict.fromkeys(("1", "true", "t", "yes", "y", "on"), True),
    **dict.fromkeys(("0", "false", "f", "no", "n", "off"), False),
}


def kind_of(parameter: Any) -> Any:
    """The class of a value of *parameter*, or of each of its values."""
    described = getattr(parameter, "type_descriptor", None)
    if described is None:
        return NAMED_KINDS.get(parameter.type.name, parameter.type)
    kind = described.annotation
    return get_args(kind)[0] if get_origin(kind) in (list, tuple) else kind


class Conversion(NamedTuple):
    """The conversion of a parameter's values to *kind*, with the method that Typer 0.29 calls."""

    kind: type

    def runtime_param(self) -> Conversion:
        return self

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        """The value, or a list for a parameter with many values. Raises `typer.BadParameter`."""
        if param.multiple if param.param_type_name == "option" else param.nargs == -1:
            return [self._convert(each, param, ctx) for each in value or ()]
        return None if value is None else self._convert(value, param, ctx)

    def _convert(self, value: Any, param: Any, ctx: Any) -> Any:
        if isinstance(value, self.kind):
            return value
        try:
            return SWITCH_WORDS[str(value).strip().lower()] if self.kind is bool else self.kind(value)
        except (ValueError, KeyError):
            complaint = f"is not a valid {self.kind.__name__}."
            if issubclass(self.kind, Enum):
                complaint = f"is not one of {', '.join(repr(each.value) for each in self.kind)}."
            raise typer.BadParameter(f"{value!r} {complaint}", ctx=ctx, param=param) from None


def convert_without_pydantic(parameters: Iterable[Any]) -> None:
    """Let each of *parameters* convert its values itself, if it is of a kind of himl's own options."""
    for each in parameters:
        kind = kind_of(each) if hasattr(each, "get_runtime_param") else None
        if isinstance(kind, type) and issubclass(kind, (str, int, float, Path, Enum)):
            each.get_runtime_param = Conversion(kind).runtime_param


def converted(parameter: Any, value: Any) -> Any:
    """*value* of a variable or file in the form of the command line. Raises `typer.BadParameter`."""
    if hasattr(parameter, "get_runtime_param"):
        return parameter.get_runtime_param().coerce(value, parameter, None)
    return parameter.type_cast_value(None, value)


def split_variable_with(parameter: Any, split: Callable[[str], list[str]]) -> None:
    """Let *parameter* split the value of its environment variable with *split*."""
    if hasattr(parameter, "get_runtime_param"):
        parameter.split_envvar_value = split
    else:
        parameter.type = copy(parameter.type)
        parameter.type.split_envvar_value = split


def help_record(parameter: Any) -> tuple[str, str] | None:
    """The names and the help of *parameter*. None if it is hidden."""
    if getattr(parameter, "hidden", False):
        return None
    if parameter.param_type_name == "argument":  # the usage line shows which ones are required
        return parameter.metavar or parameter.name, parameter.help or ""
    forms = [", ".join(sorted(names, key=len)) for names in (parameter.opts, parameter.secondary_opts) if names]
    if not (parameter.is_flag or parameter.count):
        forms[0] += f" {parameter.metavar or 'VALUE'}"
    default = parameter.default.value if isinstance(parameter.default, Enum) else parameter.default
    is_shown = parameter.show_default and default not in (None, "") and default is not False and not callable(default)
    extra = ["required"] * parameter.required + [f"default: {default}"] * (is_shown and not parameter.is_flag)
    return " / ".join(forms), f"{parameter.help or ''}{f'  [{extra[0]}]' if extra else ''}"


def usage_of(parameter: Any) -> str:
    """An argument in a usage line, in brackets if it is optional."""
    name = str(parameter.metavar or parameter.name)
    return name if parameter.required or name.startswith("[") else f"[{name}]"
