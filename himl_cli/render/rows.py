"""Mappings as the rows of a table: what tools of others print."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from himl_cli.render.json_form import json_form
from himl_cli.render.tables import Column

Row = Mapping[str, object]


def row_columns(rows: Sequence[Row]) -> list[Column]:
    """A column a key, in the order in which they first come; later ones make room first where the terminal is
    narrow."""
    names = dict.fromkeys(name for row in rows for name in row)
    return [_column(rank, name, rows) for rank, name in enumerate(names)]


def first_value(row: Row) -> str:
    """The value that stands first in *row*."""
    return plain_value(next(iter(row.values()), None))


def plain_value(value: object) -> str:
    """*value* for programs: text as it is, nothing for None, all else as JSON. Raises TypeError for what JSON has
    not."""
    form = json_form(value)
    return "" if form is None else form if isinstance(form, str) else json.dumps(form, ensure_ascii=False)


def _column(rank: int, name: str, rows: Sequence[Row]) -> Column:
    are_numbers = all(isinstance(row.get(name), (int, float, type(None))) for row in rows)
    return Column(
        name.replace("_", " ").upper(),
        lambda row: _shown(row.get(name)),
        lambda row: plain_value(row.get(name)),
        rank=rank,
        right=are_numbers,
    )


def _shown(value: object) -> str:
    """*value* for people: numbers with six digits at most."""
    form = json_form(value)
    return f"{form:.6g}" if isinstance(form, float) else plain_value(value)
