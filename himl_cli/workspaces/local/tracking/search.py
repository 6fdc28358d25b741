"""MLflow's search grammar: `metrics.loss < 0.5 and tags.kind = 'best'`, and `order_by` clauses.

Documented at mlflow.org, "Search Runs": comparisons joined by AND; keys with odd characters in backticks or double
quotes; strings in quotes; numbers for metrics and times.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from himl_cli.workspaces.local.tracking.protocol import Fields, Json, RequestError, next_page

ENTITIES = {
    **dict.fromkeys(("metric", "metrics"), "metrics"),
    **dict.fromkeys(("param", "params", "parameter", "parameters"), "params"),
    **dict.fromkeys(("tag", "tags"), "tags"),
    **dict.fromkeys(("attribute", "attributes", "attr", "run"), "attributes"),
    **dict.fromkeys(("dataset", "datasets"), "datasets"),
}
ALIASES = {
    "created": "start_time",
    "Created": "start_time",
    "run name": "run_name",
    "Run name": "run_name",
    "Run Name": "run_name",
}
NUMERIC_ATTRIBUTES = {"start_time", "end_time", "creation_timestamp", "last_updated_timestamp", "version_number"}
RUN_ATTRIBUTES = frozenset({"run_id", "run_name", "user_id", "status", "artifact_uri", "start_time", "end_time"})
MODEL_ATTRIBUTES = frozenset(
    {
        "model_id",
        "name",
        "model_name",
        "model_type",
        "status",
        "source_run_id",
        "artifact_uri",
        "experiment_id",
        "creation_timestamp",
        "last_updated_timestamp",
    }
)
DATASET_ATTRIBUTES = frozenset({"name", "digest", "context"})

IDENTIFIER = re.compile(
    r"""\s*(?:(?P<entity>\w+|`\w+`)\.(?P<key>`[^`]+`|"[^"]+"|[\w.\-/:@]+)|(?P<alone>\w+|`[^`]+`|"[^"]+"))"""
)
OPERATOR = re.compile(r"\s*(>=|<=|!=|<>|=|<|>|(?:NOT\s+IN|IN|LIKE|ILIKE|IS\s+NOT\s+NULL|IS\s+NULL)\b)", re.IGNORECASE)
NUMBER = re.compile(r"\s*([+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:e[+-]?\d+)?)(?!\w)", re.IGNORECASE)
STRING = re.compile(r"""\s*(?:'([^']*)'|"([^"]*)")""")
AND = re.compile(r"\s*AND\b", re.IGNORECASE)
END = re.compile(r"\s*\Z")
DIRECTION = re.compile(r"\s*(ASC|DESC)\b", re.IGNORECASE)

NUMERIC_TESTS: Mapping[str, Callable[[float, float], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "=": operator.eq,
    "!=": operator.ne,
    "<=": operator.le,
    "<": operator.lt,
}
TEXT_OPERATORS = {"=", "!=", "LIKE", "ILIKE", "IN", "NOT IN"}
T = TypeVar("T")
Clause = tuple[str, str, bool]
"""Entity, key, and whether it ascends."""


@dataclass(frozen=True)
class Searchable:
    """What a filter sees of a run or of a logged model."""

    attributes: Mapping[str, object] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    datasets: Sequence[Mapping[str, object]] = ()

    def values(self, entity: str, key: str) -> list[object]:
        """What the key holds: nothing, one value, or one of each dataset."""
        holders: Sequence[Mapping[str, object]] = self.datasets if entity == "datasets" else [getattr(self, entity)]
        found = [holder.get(key) for holder in holders]
        return [value for value in found if value is not None]


@dataclass(frozen=True)
class Comparison:
    """One `key operator value`; *value* is a number, a string, a list of strings, or None for IS [NOT] NULL."""

    entity: str
    key: str
    operator: str
    value: float | str | list[str] | None

    def holds(self, item: Searchable) -> bool:
        values = item.values(self.entity, self.key)
        if self.value is None:
            return bool(values) == (self.operator == "IS NOT NULL")
        return any(self._compare(value) for value in values)

    def _compare(self, found: object) -> bool:
        if isinstance(self.value, float):
            return isinstance(found, (int, float)) and NUMERIC_TESTS[self.operator](found, self.value)
        text, wanted = str(found), self.value
        if isinstance(wanted, list):
            return (text in wanted) == (self.operator == "IN")
        if self.operator == "ILIKE":
            return _is_like(text.lower(), str(wanted).lower())
        if self.operator == "LIKE":
            return _is_like(text, str(wanted))
        return (text == wanted) == (self.operator == "=")


class _Scanner:
    """Reads a clause from left to right."""

    def __init__(self, text: str, attributes: frozenset[str]) -> None:
        self.text = text
        self.place = 0
        self.attributes = attributes

    def take(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        match = pattern.match(self.text, self.place)
        if match:
            self.place = match.end()
        return match

    def expect(self, pattern: re.Pattern[str], what: str) -> re.Match[str]:
        match = self.take(pattern)
        if match is None:
            raise RequestError(
                f"Invalid clause: expected {what} at {self.text[self.place : self.place + 40]!r} in "
                f"{self.text[:200]!r}."
            )
        return match

    def identifier(self) -> tuple[str, str]:
        """The entity and key; a key that stands alone is an attribute."""
        match = self.expect(IDENTIFIER, "a key such as metrics.loss")
        entity = ENTITIES.get((match["entity"] or "attribute").strip("`"))
        key = match["key"] or match["alone"]
        key = key[1:-1] if key[0] in "`\"'" else key
        if entity is None:
            raise RequestError(
                f"Invalid entity type '{match['entity']}'. Valid values are metric, parameter, tag, attribute, dataset."
            )
        if entity == "attributes":
            key = ALIASES.get(key, key)
        known = {"attributes": self.attributes, "datasets": DATASET_ATTRIBUTES}.get(entity)
        if known is not None and key not in known:
            raise RequestError(
                f"Invalid {entity.removesuffix('s')} key {key[:200]!r}. Valid keys are {', '.join(sorted(known))}."
            )
        return entity, key

    def comparison(self) -> Comparison:
        entity, key = self.identifier()
        operator = re.sub(r"\s+", " ", self.expect(OPERATOR, "a comparison")[1].upper()).replace("<>", "!=")
        if operator.startswith("IS"):
            if entity not in ("tags", "params"):
                raise RequestError(f"{operator} is only supported for tags and params, not for '{entity}.{key}'.")
            return Comparison(entity, key, operator, None)
        if entity == "metrics" or (entity == "attributes" and key in NUMERIC_ATTRIBUTES):
            if operator not in NUMERIC_TESTS:
                raise RequestError(f"Invalid comparator '{operator}' for the numeric '{entity}.{key}'.")
            return Comparison(entity, key, operator, float(self.expect(NUMBER, "a number")[1]))
        if operator not in TEXT_OPERATORS or (operator.endswith("IN") and entity in ("params", "tags")):
            raise RequestError(f"Invalid comparator '{operator}' for '{entity}.{key}'.")
        if not operator.endswith("IN"):
            return Comparison(entity, key, operator, self._string())
        self.expect(re.compile(r"\s*\("), "'('")
        found = [self._string()]
        while self.take(re.compile(r"\s*,\s*(?!\s*\))")):
            found.append(self._string())
        self.expect(re.compile(r"\s*,?\s*\)"), "')'")
        return Comparison(entity, key, operator, found)

    def _string(self) -> str:
        match = self.expect(STRING, "a string in quotes")
        return match[1] if match[1] is not None else match[2]


def parse_filter(text: str, attributes: frozenset[str] = RUN_ATTRIBUTES) -> list[Comparison]:
    """The comparisons that must all hold. Raises `RequestError` naming what is wrong."""
    scanner = _Scanner(text, attributes)
    found: list[Comparison] = []
    while scanner.take(END) is None:
        if found:
            scanner.expect(AND, "AND")
        found.append(scanner.comparison())
    return found


def parse_order(clause: str, attributes: frozenset[str] = RUN_ATTRIBUTES) -> Clause:
    """Raises `RequestError`."""
    scanner = _Scanner(clause, attributes)
    entity, key = scanner.identifier()
    direction = scanner.take(DIRECTION)
    if scanner.take(END) is None or entity == "datasets":
        raise RequestError(f"Invalid order_by clause {clause[:200]!r}.")
    return entity, key, direction is None or direction[1].upper() == "ASC"


def sort_items(items: Iterable[tuple[Searchable, T]], clauses: Sequence[Clause]) -> list[T]:
    """The second part of each item, in order: the first clause decides, then the next; items without a value, or with
    NaN, come last."""
    ordered = list(items)
    for entity, key, ascending in reversed(clauses):
        is_numeric = entity == "metrics" or key in NUMERIC_ATTRIBUTES
        values = [next(iter(item.values(entity, key)), None) for item, _ in ordered]
        pairs = list(zip(values, ordered, strict=True))
        lack = [item for value, item in pairs if value is None or value != value]
        have = [
            ((float(value), "") if is_numeric and isinstance(value, (int, float)) else (0.0, str(value)), item)
            for value, item in pairs
            if value is not None and value == value
        ]
        have.sort(key=lambda pair: pair[0], reverse=not ascending)
        ordered = [item for _, item in have] + lack
    return [found for _, found in ordered]


def find_page(
    request: Fields,
    items: Iterable[tuple[Searchable, T]],
    *,
    attributes: frozenset[str] = RUN_ATTRIBUTES,
    clauses: Sequence[Clause],
    default: int,
    most: int,
) -> tuple[list[T], Json]:
    """The page that *request* asks for of those *items* that match its filter, sorted by *clauses*, and what says how
    to ask for the next one."""
    comparisons = parse_filter(request.text("filter", ""), attributes)
    start, size = request.page(default, most)
    found = sort_items(
        (item for item in items if all(comparison.holds(item[0]) for comparison in comparisons)), clauses
    )
    return found[start : start + size], next_page(start, size, len(found))


def _is_like(text: str, pattern: str) -> bool:
    """SQL's LIKE, in time proportional to the product of the lengths: `%` is any text, `_` one character."""
    at = place = start = 0
    star = -1
    while at < len(text):
        if place < len(pattern) and pattern[place] == "%":
            star, start = place, at
            place += 1
        elif place < len(pattern) and pattern[place] in ("_", text[at]):
            at += 1
            place += 1
        elif star >= 0:
            place, start = star + 1, start + 1
            at = start
        else:
            return False
    return all(letter == "%" for letter in pattern[place:])
