"""What a hyperparameter is drawn from, as scripts say it: in objects of the vendor's SDKs, recognised without importing
these, in lists and texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from himl_cli.core.errors import BadUsage
from himl_cli.core.sweeps import Draw, Scalar, SearchRange, argument_names
from himl_cli.services.submission.search_space import search_range


def space_of(given: Mapping[str, Any]) -> dict[str, SearchRange]:
    """The ranges by name, without the dashes that may stand before a name. Raises BadUsage for what is none, and for a
    short option."""
    if not isinstance(given, Mapping):
        raise BadUsage(f"The hyperparameters are a dictionary by name, not {type(given).__qualname__}.")
    space: dict[str, SearchRange] = {}
    for key, value in given.items():
        name = str(key).removeprefix("--")
        if name.startswith("-") or not name:
            raise BadUsage(
                f"Hyperparameter '{key}': only arguments with two dashes can be given to a trial.",
                hint="Give the script's argument a long name.",
            )
        space[name] = range_of(name, value)
    return space


def range_of(name: str, value: Any) -> SearchRange:
    """*value* of hyperparameter *name*: himl's text (`uniform(0,1)`), a list of choices, azure-ai-ml's object, or
    azureml's `["uniform", [0, 1]]`."""
    if isinstance(value, str):
        return search_range(name, value)
    if isinstance(value, Sequence):
        return _of_expression(name, value) if _is_expression(value) else SearchRange(Draw.choice, _scalars(name, value))
    kind = str(getattr(value, "type", "")).lower()
    if kind not in {draw.value for draw in Draw}:
        raise BadUsage(
            f"Hyperparameter '{name}': {type(value).__qualname__} is nothing to draw values from.",
            hint="Give a list, or Choice, Uniform, …",
        )
    draw = Draw(kind)
    values = (
        value.values if draw is Draw.choice else [getattr(value, argument, None) for argument in argument_names(draw)]
    )
    return SearchRange(draw, _scalars(name, values or ()))


def _is_expression(value: Sequence[Any]) -> bool:
    """Whether this is what azureml's `choice`, `uniform`, … give: a word and the list of its arguments."""
    return len(value) == 2 and value[0] in {draw.value for draw in Draw} and isinstance(value[1], list)


def _of_expression(name: str, value: Sequence[Any]) -> SearchRange:
    draw, arguments = Draw(value[0]), value[1]
    if draw is Draw.choice and len(arguments) == 1 and isinstance(arguments[0], list):
        arguments = arguments[0]
    return SearchRange(draw, _scalars(name, arguments))


def _scalars(name: str, values: Sequence[Any]) -> tuple[Scalar, ...]:
    """*values* as numbers and texts; numpy's become Python's."""
    plain = [
        value.item() if hasattr(value, "item") and not isinstance(value, (str, int, float)) else value
        for value in values
    ]
    for value in plain:
        if not isinstance(value, (str, int, float)):
            raise BadUsage(
                f"Hyperparameter '{name}': {value!r} is neither a number nor a text.",
                hint="Nested search spaces cannot be sent.",
            )
    return tuple(plain)
