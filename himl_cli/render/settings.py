"""Which options are set, and where each value came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from himl_cli.core.redaction import mask_arguments, mask_line, redact
from himl_cli.render.output import Output
from himl_cli.render.tables import Column

COMMAND_LINES = ("docker_args", "command")
"""Options whose values are several arguments each."""
PUBLIC = ("ssh_key",)
"""Options that are called like secrets, and take the name of a file."""


class ShownSetting(NamedTuple):
    """One option as it will be used; secrets in `value` are masked."""

    option: str
    value: str
    source: str


def say_settings(
    output: Output, values: Mapping[str, Any], sources: Mapping[str, str], azure: Sequence[tuple[str, str, str]] = ()
) -> None:
    """A row an option: name, value, and `command line`, a variable, `FILE:LINE` or `default`; then those of *azure*, as
    `azure.KEY`."""
    rows = [
        ShownSetting(name, shown_value(name, value), sources.get(name, "default"))
        for name, value in sorted(values.items())
        if name != "target"
    ]
    rows += [ShownSetting(f"azure.{key}", redact(value), source) for key, value, source in azure]
    columns = [
        Column("Option", lambda row: row.option),
        Column("Value", lambda row: row.value, folds=12),
        Column("From", lambda row: row.source),
    ]
    if output.format.value == "json":
        output.json([row._asdict() for row in rows])
    else:
        output.table(rows, columns, quiet=lambda row: f"{row.option}={row.value}")


def shown_value(name: str, value: Any) -> str:
    """A value as it would be typed; empty when nothing is set."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        masked = mask_line if name in COMMAND_LINES else _masked
        return ", ".join(masked(str(entry)) for entry in value)
    if name in (*COMMAND_LINES, *PUBLIC):
        return mask_line(str(value))
    return _masked(f"{name}={value}").partition("=")[2]


def _masked(entry: str) -> str:
    """A KEY=VALUE entry with a secret's value masked."""
    return mask_arguments([entry])[0]
