"""Bundles: options that many commands share, written once and taken by a command as one parameter."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any


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
