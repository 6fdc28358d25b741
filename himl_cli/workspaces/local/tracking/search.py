"""MLflow's search grammar: `metrics.loss < 0.5 and tags.kind = 'best'`, and `order_by` clauses.

Documented at mlflow.org, "Search Runs": comparisons joined by AND; keys with odd characters in backticks or double
quotes; strings in quotes; numbers for metrics and times.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from himl_cli.workspaces.local.tracking.fields import Refused

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
    ">": lambda left, right: left > right,
    ">=": lambda left, right: left >= right,
    "=": lambda left, right: left == right,
    "!=": lambda left, right: left != right,
    "<=": lambda left, right: left <= right,
    "<": lambda left, right: left < right,
}
TEXT_OPERATORS = {"=", "!=", "LIKE", "ILIKE", "IN", "NOT IN"}


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
        if entity == "datasets":
            found = [dataset.get(key) for dataset in self.datasets]
        else:
            holder: Mapping[str, Mapping[str, object]] = {
                "metrics": self.metrics,
                "params": self.params,
                "tags": self.tags,
                "attributes": self.attributes,
            }
            found = [holder[entity].get(key)]
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
        text = str(found)
        if isinstance(self.value, list):
            return (text in self.value) == (self.operator == "IN")
        wanted = str(self.value)
        if self.operator in ("LIKE", "ILIKE"):
            return _is_like(text.lower(), wanted.lower()) if self.operator == "ILIKE" else _is_like(text, wanted)
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
            raise Refused(
                f"Invalid clause: expected {what} at {self.text[self.place : self.place + 40]!r} in "
                f"{self.text[:200]!r}."
            )
        return match

    @property
    def at_end(self) -> bool:
        return END.match(self.text, self.place) is not None

    def identifier(self) -> tuple[str, str]:
        """The entity and key; a key that stands alone is an attribute."""
        match = self.expect(IDENTIFIER, "a key such as metrics.loss")
        entity = ENTITIES.get((match["entity"] or "attribute").strip("`"))
        key = _unquoted(match["key"] or match["alone"])
        if entity is None:
            raise Refused(
                f"Invalid entity type '{match['entity']}'. Valid values are metric, parameter, tag, attribute, dataset."
            )
        if entity == "attributes":
            key = ALIASES.get(key, key)
        known = {"attributes": self.attributes, "datasets": DATASET_ATTRIBUTES}.get(entity)
        if known is not None and key not in known:
            raise Refused(
                f"Invalid {entity.removesuffix('s')} key {key[:200]!r}. Valid keys are {', '.join(sorted(known))}."
            )
        return entity, key

    def comparison(self) -> Comparison:
        entity, key = self.identifier()
        operator = re.sub(r"\s+", " ", self.expect(OPERATOR, "a comparison")[1].upper()).replace("<>", "!=")
        if operator.startswith("IS"):
            if entity not in ("tags", "params"):
                raise Refused(f"{operator} is only supported for tags and params, not for '{entity}.{key}'.")
            return Comparison(entity, key, operator, None)
        if entity == "metrics" or (entity == "attributes" and key in NUMERIC_ATTRIBUTES):
            if operator not in NUMERIC_TESTS:
                raise Refused(f"Invalid comparator '{operator}' for the numeric '{entity}.{key}'.")
            return Comparison(entity, key, operator, float(self.expect(NUMBER, "a number")[1]))
        if operator not in TEXT_OPERATORS or (operator.endswith("IN") and entity in ("params", "tags")):
            raise Refused(f"Invalid comparator '{operator}' for '{entity}.{key}'.")
        return Comparison(entity, key, operator, self._strings() if operator.endswith("IN") else self._string())

    def _string(self) -> str:
        match = self.expect(STRING, "a string in quotes")
        return match[1] if match[1] is not None else match[2]

    def _strings(self) -> list[str]:
        self.expect(re.compile(r"\s*\("), "'('")
        found = [self._string()]
        while self.take(re.compile(r"\s*,\s*(?!\s*\))")):
            found.append(self._string())
        self.expect(re.compile(r"\s*,?\s*\)"), "')'")
        return found


def parse_filter(text: str, attributes: frozenset[str] = RUN_ATTRIBUTES) -> list[Comparison]:
    """The comparisons that must all hold. Raises `Refused` naming what is wrong."""
    scanner = _Scanner(text, attributes)
    found: list[Comparison] = []
    while not scanner.at_end:
        if found:
            scanner.expect(AND, "AND")
        found.append(scanner.comparison())
    return found


def parse_order(clause: str, attributes: frozenset[str] = RUN_ATTRIBUTES) -> tuple[str, str, bool]:
    """Entity, key, and whether it ascends. Raises `Refused`."""
    scanner = _Scanner(clause, attributes)
    entity, key = scanner.identifier()
    direction = scanner.take(DIRECTION)
    if not scanner.at_end or entity == "datasets":
        raise Refused(f"Invalid order_by clause {clause[:200]!r}.")
    return entity, key, direction is None or direction[1].upper() == "ASC"


def order(items: Sequence[tuple[Searchable, str]], clauses: Sequence[tuple[str, str, bool]]) -> list[str]:
    """The names of *items* in order: the first clause decides, then the next; items without a value, or with NaN, come
    last."""
    ordered = list(items)
    for entity, key, ascending in reversed(clauses):
        have: list[tuple[Searchable, str]] = []
        lack: list[tuple[Searchable, str]] = []
        for item in ordered:
            value = next(iter(item[0].values(entity, key)), None)
            is_nan = isinstance(value, float) and math.isnan(value)
            (lack if value is None or is_nan else have).append(item)
        numeric = entity == "metrics" or key in NUMERIC_ATTRIBUTES
        have.sort(key=lambda item: _sort_key(item[0].values(entity, key)[0], numeric), reverse=not ascending)
        ordered = have + lack
    return [name for _, name in ordered]


def _sort_key(value: object, numeric: bool) -> tuple[float, str]:
    return (float(value), "") if numeric and isinstance(value, (int, float)) else (0.0, str(value))


def _unquoted(key: str) -> str:
    return key[1:-1] if key[0] in "`\"'" else key


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
