"""The public API as text. `scripts/generate` writes `public_api.txt`, and a test compares the two.

Removing or changing a line breaks users' scripts. It needs a new major version and a line in CHANGELOG.md.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import is_dataclass
from functools import cached_property
from types import ModuleType
from typing import Any, get_args, get_origin

import himl_cli
import himl_cli.cli
import himl_cli.job
from himl_cli.commands.options import Bundle, options_of, parameters_of
from himl_cli.core import errors

INNER = ("himl_cli.commands", "builtins", "typing", "collections")
"""Modules of base classes whose members are not public."""


SET = re.compile(r"self\.([a-z]\w*)(?:: [^=\n]+)? = ")


class _Plain(str):
    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def public_api() -> str:
    """Return a line for each name, each method and property of a class, and each kind of error."""
    lines = [*_module_lines(himl_cli, himl_cli.__all__), *_module_lines(himl_cli.job, _own_names(himl_cli.job))]
    lines += [*_module_lines(himl_cli.cli, himl_cli.cli.__all__), *_error_lines()]
    return "".join(f"{line}\n" for line in lines)


def kinds_of_errors() -> list[type[errors.HimlError]]:
    """Return HimlError and its subclasses in `core/errors.py`, in the order of that module."""
    return [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, errors.HimlError)]


def _own_names(module: ModuleType) -> list[str]:
    return [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]


def _module_lines(module: ModuleType, names: list[str]) -> Iterator[str]:
    for name in sorted(names):
        yield from _lines(f"{module.__name__}.{name}", getattr(module, name))


def _lines(name: str, value: Any) -> Iterator[str]:
    if name.endswith("__version__"):
        yield f"{name}: str"
    elif inspect.isclass(value) and issubclass(value, Bundle):
        parameters = {one.name: get_args(one.annotation) for one in parameters_of(options_of(value))}
        yield f"class {name}({', '.join(parameters)})"
        yield from (
            f"{name}, parameter {one}: {_kind(kind)}, {_option_text(info)}" for one, (kind, info) in parameters.items()
        )
        yield from _member_lines(name, value)
    elif inspect.isclass(value):
        yield f"class {name}{_signature(value)}"
        yield from _member_lines(name, value)
    elif inspect.isroutine(value):
        yield f"{name}{_signature(value)}"
    elif hasattr(value, "__metadata__"):
        kind, option = get_args(value)
        yield f"{name}: {kind}, {_option_text(option)}"
    else:
        yield f"{name}{_value(value)}"


def _member_lines(name: str, kind: type) -> Iterator[str]:
    """Yield public methods, properties, constants and attributes that `__init__` sets, including inherited ones."""
    owners = [owner for owner in kind.__mro__ if not owner.__module__.startswith(INNER)]
    yield from (
        f"{name}.{member}: attribute" for member in sorted({each for owner in owners for each in _attributes(owner)})
    )
    for member in sorted({member for owner in owners for member in vars(owner) if not member.startswith("_")}):
        value = inspect.getattr_static(kind, member)
        if isinstance(value, (property, cached_property)):
            read = value.func if isinstance(value, cached_property) else value.fget
            assert read is not None
            yield f"{name}.{member}: {inspect.signature(read).return_annotation}"
        elif isinstance(value, (staticmethod, classmethod)) or inspect.isfunction(value):
            yield f"{name}.{member}{_signature(getattr(kind, member))}"
        else:
            yield f"{name}.{member}{_value(value)}"


def _attributes(owner: type) -> list[str]:
    init = vars(owner).get("__init__")
    return SET.findall(inspect.getsource(init)) if inspect.isfunction(init) and not is_dataclass(owner) else []


def _value(value: Any) -> str:
    if isinstance(value, str):
        return f" = {value!r}" if " " not in value else ": str"
    return f" = {value!r}" if value is None or isinstance(value, (int, float)) else ": object"


def _kind(kind: Any) -> str:
    return kind.__name__ if inspect.isclass(kind) else str(kind)


def _option_text(option: Any) -> str:
    return " ".join(
        one for one in (option.default, *(option.param_decls or ()), option.metavar) if isinstance(one, str)
    )


def _signature(function: Callable[..., Any]) -> str:
    """Return the signature with annotations as written. A class has no return annotation."""
    signature = inspect.signature(function)
    if inspect.isclass(function):
        signature = signature.replace(return_annotation=inspect.Signature.empty)
    parameters = [one.replace(annotation=_as_written(one.annotation)) for one in signature.parameters.values()]
    return str(signature.replace(parameters=parameters, return_annotation=_as_written(signature.return_annotation)))


def _as_written(annotation: Any) -> Any:
    if isinstance(annotation, str):
        return _Plain(annotation)
    return _Plain(annotation) if get_origin(annotation) is not None else annotation


def _error_lines() -> Iterator[str]:
    for kind in kinds_of_errors():
        base = kind.__bases__[0].__name__
        yield f"error {kind.__name__}({base}): code {kind.code}, exit code {kind.exit_code}"
