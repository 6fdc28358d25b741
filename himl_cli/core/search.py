"""MLflow's search grammar for runs: filters such as `metrics.loss < 0.5 and tags.kind = 'best'`, and orders.

The grammar is documented at mlflow.org, "Search Runs". Comparisons are joined by AND, keys with special characters are
in backticks or double quotes, strings are in quotes, and metrics and times are numbers. In the short form for users, a
key without an entity is also a parameter, an argument, a metric or a tag, words need no quotes, and each value can be
compared with a number.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import NamedTuple, TypeVar

from himl_cli.core.errors import BadUsage
from himl_cli.core.patterns import lazy_pattern
from himl_cli.core.records import dataclass
from himl_cli.core.runs import status_of

T = TypeVar("T")


class BadSearch(BadUsage):
    """An invalid filter or order, with its invalid part."""


ENTITIES: dict[str | None, str] = {
    **dict.fromkeys(("metric", "metrics"), "metrics"),
    **dict.fromkeys(("param", "params", "parameter", "parameters"), "params"),
    **dict.fromkeys(("tag", "tags"), "tags"),
    **dict.fromkeys((None, "attribute", "attributes", "attr", "run"), "attributes"),
    **dict.fromkeys(("dataset", "datasets"), "datasets"),
}
ALIASES = {
    **dict.fromkeys(("created", "Created"), "start_time"),
    **dict.fromkeys(("run name", "Run name", "Run Name"), "run_name"),
}
TIMES = ("creation_timestamp", "last_updated_timestamp")
EXPERIMENT_ATTRIBUTES = frozenset({"experiment_id", "name", "creation_time", "last_update_time"})
NUMERIC_ATTRIBUTES = {"start_time", "end_time", "version_number", "creation_time", "last_update_time", *TIMES}
NUMERIC_ATTRIBUTES |= {"timestamp", "duration"}
RUN_ATTRIBUTES = frozenset({"run_id", "run_name", "user_id", "status", "artifact_uri", "start_time", "end_time"})
MODEL_ATTRIBUTES = frozenset(
    {
        *("model_id", "name", "model_name", "model_type", "status"),
        *("source_run_id", "artifact_uri", "experiment_id", "creation_time", *TIMES),
    }
)
DATASET_ATTRIBUTES = frozenset({"name", "digest", "context"})
# The fields of a run in the short form. Times are in milliseconds since 1970 UTC, durations in seconds
FIELDS = RUN_ATTRIBUTES | {"experiment", "duration"}
FIELD_ALIASES = ALIASES | {"id": "run_id", "display_name": "run_name"}
FIELD_ALIASES |= {"started": "start_time", "ended": "end_time"}
OTHER_ORDER = lazy_pattern(r"^\+|:(?:asc|desc)(?:ending)?$", re.IGNORECASE)
ANY = "any"  # the entity of a key that is not a field, in the short form

# No character of a key may follow an unquoted key, since a shorter key could match otherwise
IDENTIFIER = (
    r"""\s*(?:(?P<entity>\w+|`\w+`)\.(?P<key>`[^`]+`|"[^"]+"|[\w.\-/:@]+(?![\w.\-/:@]))"""
    r"""|(?P<alone>[\w.\-/:@]+(?![\w.\-/:@])|`[^`]+`|"[^"]+"))"""
)
STRING = r"""'[^']*'|"[^"]*\""""
COMPARISON = lazy_pattern(
    IDENTIFIER
    + r"\s*(?:(?P<null>IS\s+(?:NOT\s+)?NULL\b)"
    + r"|(?P<sign>>=|<=|!=|<>|=|<|>)\s*(?P<number>[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:e[+-]?\d+)?(?!\w))"
    + rf"|(?P<test>!=|<>|=|I?LIKE\b)\s*(?P<string>{STRING})"
    + r"|(?P<equals>!=|<>|=)\s*(?P<word>[\w.\-/:@+]+)"
    + rf"|(?P<member>(?:NOT\s+)?IN\b)\s*(?P<list>\(\s*(?:{STRING})(?:\s*,\s*(?:{STRING}))*\s*(?:,\s*)?\)))",
    re.IGNORECASE,
)
ORDER = lazy_pattern(IDENTIFIER + r"(?:\s*(?P<direction>(?:ASC|DESC)\b))?\s*", re.IGNORECASE)

NUMERIC_TESTS: Mapping[str, Callable[[float, float], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "=": operator.eq,
    "!=": operator.ne,
    "<=": operator.le,
    "<": operator.lt,
}

Clause = tuple[str, str, bool]  # entity, key, and whether it ascends


class Searchable(NamedTuple):
    """The fields of a run or a logged model that filters can use. A tuple, since a list may have ten thousand runs."""

    attributes: Mapping[str, object] = MappingProxyType({})
    metrics: Mapping[str, float] = MappingProxyType({})
    params: Mapping[str, str] = MappingProxyType({})
    tags: Mapping[str, str] = MappingProxyType({})
    datasets: Sequence[Mapping[str, object]] = ()

    def values(self, entity: str, key: str) -> list[object]:
        """The values of the key: none, one, or one per dataset."""
        if entity not in (ANY, "datasets"):
            value = getattr(self, entity).get(key)
            return [] if value is None else [value]
        holders = (self.params, self.metrics, self.tags) if entity == ANY else self.datasets
        found = [value for holder in holders if (value := holder.get(key)) is not None]
        return found[:1] if entity == ANY else found


@dataclass(frozen=True)
class Comparison:
    """One `key operator value`. *value* is a number, a string, a list of strings, or None for IS [NOT] NULL."""

    entity: str
    key: str
    operator: str
    value: float | str | list[str] | None

    def holds(self, item: Searchable) -> bool:
        values = item.values(self.entity, self.key)
        if self.value is None:
            return bool(values) == (self.operator == "IS NOT NULL")
        return any(self._compare(found, self.value) for found in values)

    def _compare(self, found: object, wanted: float | str | list[str]) -> bool:
        if isinstance(wanted, float):
            number = as_number(found)
            return number is not None and NUMERIC_TESTS[self.operator](number, wanted)
        text = str(found)
        if isinstance(wanted, list):
            return (text in wanted) == (self.operator == "IN")
        if self.operator == "ILIKE":
            return _is_like(text.lower(), wanted.lower())
        return _is_like(text, wanted) if self.operator == "LIKE" else (text == wanted) == (self.operator == "=")


def as_number(value: object) -> float | None:
    """*value*, or the number in a text, as the comparison with a number takes it. None for other values."""
    try:  # a list may have ten thousand runs
        return float(value) if isinstance(value, (float, int, str)) else None
    except ValueError:
        return None


def parse_filter(text: str, attributes: frozenset[str] = RUN_ATTRIBUTES, *, is_short: bool = False) -> list[Comparison]:
    """The comparisons that must all hold. Raises `BadSearch` with the invalid part."""
    found: list[Comparison] = []
    rest = text.strip()
    while rest:
        joined = re.match(r"AND\b", rest, re.IGNORECASE) if found else None
        match = COMPARISON.match(rest, joined.end() if joined else 0)
        if match is None or (found and not joined):
            example = "lr < 0.1" if is_short else "metrics.loss < 0.5"
            expected = "AND" if found and not joined else f"a comparison such as {example}"
            hint = "Join comparisons by AND only, and write names with spaces in backticks: `my loss` < 1"
            if "==" in rest:
                hint = "Write = in place of ==."
            elif is_short and re.search(r"\b(started|start_time|created|date)\s*[<>]", text):
                hint = "For runs since a time: --since TIME, such as 7d or 2026-03-01"
            elif re.match(IDENTIFIER + r"\s*[<>]", rest):
                hint = "<, <=, > and >= take a number. For text: =, != or LIKE '%TEXT%'"
            raise BadSearch(f"Invalid clause: expected {expected} at {rest[:40]!r} in {text[:200]!r}.", hint=hint)
        found.append(_comparison(match, attributes, is_short=is_short))
        rest = rest[match.end() :].lstrip()
    return found


def _comparison(match: re.Match[str], attributes: frozenset[str], *, is_short: bool) -> Comparison:
    entity, key = _identifier(match, attributes, is_short=is_short)
    words = (match["null"] or match["sign"] or match["test"] or match["equals"] or match["member"]).upper().split()
    name = " ".join(words).replace("<>", "!=")
    is_numeric = entity == "metrics" or (entity == "attributes" and key in NUMERIC_ATTRIBUTES)
    is_pair = entity in ("tags", "params")
    kind = match.lastgroup
    allowed = {"null": is_pair, "number": is_numeric, "string": not is_numeric, "list": not is_numeric and not is_pair}
    if kind is None or not (is_short or allowed.get(kind)):
        raise BadSearch(f"Invalid comparison '{name}' with such a value for {f'{entity}.{key}'!r}.")
    if kind == "null":
        return Comparison(entity, key, name, None)
    if kind == "number":
        return Comparison(entity, key, name, float(match[kind]))
    strings = [quoted[1:-1] for quoted in re.findall(STRING, match[kind])] or [match[kind]]
    if is_short and (entity, key) == ("attributes", "status"):
        strings = [status_of(string).value for string in strings]
    return Comparison(entity, key, name, strings if kind == "list" else strings[0])


def _identifier(match: re.Match[str], attributes: frozenset[str], *, is_short: bool) -> tuple[str, str]:
    """The entity and key. A key without an entity is an attribute. In the short form, it can be of any entity."""
    entity = ENTITIES.get(match["entity"] and match["entity"].strip("`"))
    if is_short and (entity is None or not match["entity"]):
        key = (match["alone"] or f"{match['entity']}.{match['key']}").strip('`"')
        field_name = FIELD_ALIASES.get(key, key)
        return ("attributes", field_name) if field_name in FIELDS else (ANY, key)
    if entity is None:
        raise BadSearch(
            f"Invalid entity type '{match['entity']}'. Valid values are metric, parameter, tag, attribute, dataset."
        )
    key = (match["key"] or match["alone"]).strip('`"')
    if entity == "attributes":
        key = (FIELD_ALIASES if is_short else ALIASES).get(key, key)
    attributes = FIELDS if is_short else attributes
    known = {"attributes": attributes, "datasets": DATASET_ATTRIBUTES}.get(entity)
    if known is not None and key not in known:
        raise BadSearch(
            f"Invalid {entity.removesuffix('s')} key {key[:200]!r}. Valid keys are {', '.join(sorted(known))}."
        )
    return entity, key


def parse_order(clause: str, attributes: frozenset[str] = RUN_ATTRIBUTES, *, is_short: bool = False) -> Clause:
    """The parsed `order_by` clause. In the short form, a minus sign before the key means descending order. Raises
    `BadSearch`."""
    if is_short and clause.startswith("-"):
        return *parse_order(clause[1:], attributes, is_short=True)[:2], False
    if is_short and (key := OTHER_ORDER.sub("", clause)) != clause:
        raise BadSearch(f"Invalid order '{clause[:200]}'.", hint=f"Write '{key}', or '-{key}' for the greatest first.")
    match = ORDER.fullmatch(clause)
    entity, key = _identifier(match, attributes, is_short=is_short) if match else ("", "")
    if match is None or entity == "datasets":
        raise BadSearch(f"Invalid order_by clause {clause[:200]!r}.")
    return entity, key, (match["direction"] or "ASC").upper() == "ASC"


def sort_items(items: Iterable[tuple[Searchable, T]], clauses: Sequence[Clause], *, is_short: bool = False) -> list[T]:
    """The second part of each item, sorted by the clauses in order. NaN comes after numbers, then items without a
    value. In the short form, texts of numbers are numbers."""
    ordered = list(items)
    for entity, key, ascending in reversed(clauses):
        is_numeric = is_short or entity == "metrics" or key in NUMERIC_ATTRIBUTES
        have: list[tuple[float, str, tuple[Searchable, T]]] = []
        nan: list[tuple[Searchable, T]] = []
        lack: list[tuple[Searchable, T]] = []
        has_texts = False
        for found in ordered:
            if not (values := found[0].values(entity, key)):
                lack.append(found)
                continue
            number = as_number(values[0]) if is_numeric else None
            if number is None:
                has_texts = True
                have.append((0.0, str(values[0]), found))
            elif math.isnan(number):
                nan.append(found)
            else:
                have.append((number, "", found))
        # Numbers alone are compared several times as fast
        have.sort(key=operator.itemgetter(0, 1) if has_texts else operator.itemgetter(0), reverse=not ascending)
        ordered = [*(found for _, _, found in have), *nan, *lack]
    return [result for _, result in ordered]


def _is_like(text: str, pattern: str) -> bool:
    """SQL's LIKE: `%` is any text, `_` one character."""
    glob = re.sub(r"[\[*?]", r"[\g<0>]", pattern).translate({ord("%"): "*", ord("_"): "?"})
    return fnmatchcase(text, glob)  # its time is at most proportional to the product of the lengths
