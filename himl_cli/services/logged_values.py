"""From what programs hand to `log` and its kin to records: which values there are, and what is refused.

The rules are azureml-core's: numbers, truth values, texts and None are kept as they are, scalars of numpy and PyTorch
as the Python numbers they hold, and everything else as its `repr`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from types import GeneratorType
from typing import Any

from himl_cli.core.errors import BadUsage
from himl_cli.core.results import INT64, Logged, LoggedKind, LoggedRow, Value

log = logging.getLogger(__name__)


def scalar(name: str, value: Any, step: int | None = None) -> Logged:
    """One value at one step. Raises BadUsage for a list, which `log_list` is for."""
    if isinstance(value, (list, tuple, range, set, dict, GeneratorType)):
        raise BadUsage(
            f"'{name}': log takes one value, not {type(value).__name__}.", hint="Use log_list, or log_table."
        )
    found = _value(name, value)
    if step is not None:
        step = _step(name, step)
    return Logged(_name(name), LoggedKind.scalar, [LoggedRow({_name(name): found}, step)])


def values(name: str, items: Iterable[Any]) -> Logged:
    """A list logged at once. Raises BadUsage for what is none."""
    if isinstance(items, (str, bytes, Mapping)) or not hasattr(items, "__iter__"):
        raise BadUsage(
            f"'{name}': log_list takes a list of values, not {type(items).__name__}.", hint="Use log for one value."
        )
    return Logged(_name(name), LoggedKind.list, [LoggedRow({_name(name): _value(name, item)}) for item in items])


def row(name: str, columns: Mapping[str, Any]) -> Logged:
    """One row of a table. Raises BadUsage where a column has a list, or there is no column."""
    for column, value in columns.items():
        if isinstance(value, (list, tuple)):
            raise BadUsage(f"'{name}': column '{column}' of a row holds one value, not a list.", hint="Use log_table.")
    return table(name, columns)


def table(name: str, columns: Mapping[str, Any]) -> Logged:
    """A table by columns; one value stands for a column of one row. Raises BadUsage where the columns differ in
    length."""
    if not columns or not hasattr(columns, "items"):
        raise BadUsage(
            f"'{name}': log_table takes a dictionary of columns.",
            hint="For example log_table('losses', {'epoch': [1, 2], 'loss': [0.5, 0.4]})",
        )
    whole: dict[str, Sequence[Value]] = {
        str(column): _column(name, column, content) for column, content in columns.items()
    }
    lengths = {column: len(content) for column, content in whole.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"'{column}' has {length}" for column, length in lengths.items())
        raise BadUsage(f"'{name}': the columns of a table are of one length, but {told}.")
    count = next(iter(lengths.values()))
    return Logged(
        _name(name),
        LoggedKind.table,
        [LoggedRow({column: content[place] for column, content in whole.items()}) for place in range(count)],
    )


def image(name: str, file: str) -> Logged:
    """An image that lies among the run's files as *file*."""
    return Logged(_name(name), LoggedKind.image, [LoggedRow({_name(name): file})])


def _column(name: str, column: str, content: Any) -> Sequence[Value]:
    if not isinstance(content, (str, bytes)) and hasattr(content, "tolist") and getattr(content, "ndim", 0) == 1:
        content = content.tolist()  # an array of numpy, a series of pandas, a tensor
    if isinstance(content, (list, tuple, range)):
        return [_value(f"{name}/{column}", item) for item in content]
    return [_value(f"{name}/{column}", content)]


def _name(name: str) -> str:
    if not str(name).strip():
        raise BadUsage("A metric needs a name.")
    return str(name)


def _step(name: str, step: Any) -> int:
    found = _value(name, step)
    is_whole = isinstance(found, int) or (isinstance(found, float) and found.is_integer())
    if isinstance(found, bool) or not is_whole or int(found or 0) not in INT64:
        raise BadUsage(f"'{name}': a step is a whole number, not {step!r}.")
    return int(found or 0)


def _value(name: str, value: Any) -> Value:
    if value is None or isinstance(value, (bool, str)):
        return value
    if not isinstance(value, (int, float)) and callable(getattr(value, "item", None)):
        try:
            value = value.item()  # a scalar of numpy, a tensor with one element
        except (TypeError, ValueError, RuntimeError):  # an array of several
            pass
    if isinstance(value, (bool, str)):
        return value
    try:
        if isinstance(value, Integral):
            return int(value) if int(value) in INT64 else float(value)
        if isinstance(value, Real):
            return float(value)
    except OverflowError as err:
        raise BadUsage(
            f"'{name}': {type(value).__name__} is too large to be logged.", hint="Numbers go up to 1.8e308."
        ) from err
    log.warning("'%s': a value of type %s is logged as text.", name, type(value).__name__)
    return repr(value)
