"""Which options are set, and where each value came from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from himl_cli.core.redaction import mask_arguments, redact
from himl_cli.render.output import Output
from himl_cli.render.tables import Column


class ShownSetting(NamedTuple):
    """One option as it will be used; secrets in `value` are masked."""

    option: str
    value: str
    source: str


def say_settings(output: Output, values: Mapping[str, Any], sources: Mapping[str, str]) -> None:
    """A row an option: name, value, and `command line`, a variable, `FILE:LINE` or `default`."""
    rows = [ShownSetting(name, shown_value(name, value), sources.get(name, "default")) for name, value in sorted(values.items()) if name != "target"]
    columns = [
        Column("Option", lambda row: row.option),
        Column("Value", lambda row: row.value, rank=2, least=10),
        Column("From", lambda row: row.source, rank=1, least=10),
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
        return ", ".join(_masked(str(entry)) for entry in value)
    return redact(f"{name}={value}").partition("=")[2]


def _masked(entry: str) -> str:
    """A KEY=VALUE entry with a secret's value masked."""
    return mask_arguments([f"--{entry}"])[0][2:]
