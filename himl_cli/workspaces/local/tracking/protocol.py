"""MLflow's REST in Python's types: the fields of requests, errors, and values for clients. Also its search grammar,
`metrics.loss < 0.5 and tags.kind = 'best'`, and `order_by` clauses.

The grammar is documented at mlflow.org, "Search Runs". Comparisons are joined by AND, keys with special characters are
in backticks or double quotes, strings are in quotes, and metrics and times are numbers.
"""

from __future__ import annotations

import operator
import re
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import field
from datetime import datetime
from fnmatch import fnmatchcase
from typing import TypeVar

from himl_cli.core.logged import INT64
from himl_cli.core.records import dataclass
from himl_cli.core.redaction import mask_document
from himl_cli.core.text import NotJson, read_json
from himl_cli.workspaces.local.metric_store import Point, json_number

Json = dict[str, object]
T = TypeVar("T")

LAST_MOMENT = 253_370_764_799_999  # end of 9998: a datetime ends with 9999, and local time may be ahead


class RequestError(Exception):
    """The error reply to a request: one line, MLflow's error code, and an HTTP status that clients do not retry.

    Escapes non-printable characters of *message*.
    """

    def __init__(self, message: str, *, code: str = "INVALID_PARAMETER_VALUE", status: int = 400) -> None:
        super().__init__("".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in message))
        self.code = code
        self.status = status


def not_found(message: str) -> RequestError:
    """The error that an entity does not exist, in MLflow's words, by which some scripts detect it."""
    return RequestError(message, code="RESOURCE_DOES_NOT_EXIST", status=404)


@dataclass(frozen=True)
class Fields:
    """A JSON object or a query string. Null means absent, as in protocol buffers' JSON. All methods that read values
    raise `RequestError`. *sender* identifies the process that sent the request, as far as that is known."""

    values: Mapping[str, object]
    sender: Callable[[], str] = str

    def has(self, name: str) -> bool:
        return self.values.get(name) is not None

    def text(self, name: str, default: str | None = None) -> str:
        value = self.values[name] if self.has(name) else default
        if value is None:
            raise RequestError(f"Missing value for required parameter '{name}'.")
        if not isinstance(value, str):
            raise RequestError(f"Parameter '{name}' must be a string.")
        if not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
            raise RequestError(f"Parameter '{name}' is not valid Unicode.")
        return value

    def key(self, name: str) -> str:
        """A non-empty text."""
        value = self.text(name)
        if not value:
            raise RequestError(f"Missing value for required parameter '{name}'.")
        return value

    def integer(self, name: str, default: int | None = None, *, allowed: range = INT64) -> int:
        """An integer within *allowed*. Protocol buffers send 64-bit integers as strings."""
        value = self.values[name] if self.has(name) else default
        number: int | None = None
        if (isinstance(value, float) and value.is_integer()) or (
            isinstance(value, str) and re.fullmatch("-?[0-9]{1,19}", value)
        ):
            number = int(value)
        elif isinstance(value, int) and not isinstance(value, bool):
            number = value
        if number is None or number not in allowed:
            limits = f"{allowed.start} to {allowed.stop - 1}"
            raise RequestError(f"Parameter '{name}' must be an integer from {limits}, got {str(value)[:50]!r}.")
        return number

    def moment(self, name: str, default: int | None = None) -> int:
        """Milliseconds since 1970 UTC."""
        return self.integer(name, default, allowed=range(LAST_MOMENT + 1))

    def number(self, name: str) -> float:
        """A number, including NaN and infinities, which are strings in JSON."""
        value = self.values.get(name)
        if isinstance(value, (int, float, str)) and not isinstance(value, bool):
            with suppress(ValueError, OverflowError):
                return float(value)
        raise RequestError(f"Parameter '{name}' must be a number, got {str(value)[:50]!r}.")

    def page(self, found: Sequence[T], default: int, most: int) -> tuple[Sequence[T], Json]:
        """The items of *found* on the page `page_token`, at most `max_results`, and the reply's token of the next page,
        if there is one."""
        size = self.integer("max_results", default, allowed=range(1, most + 1))
        start = self.integer("page_token", allowed=range(2**31)) if self.text("page_token", "") else 0
        stop = start + size
        return found[start:stop], {"next_page_token": str(stop)} if stop < len(found) else {}

    def items(self, name: str) -> list[Fields]:
        """A list of objects, empty if absent."""
        found = self.values.get(name)
        if not isinstance(found, list | None) or not all(isinstance(item, dict) for item in found or ()):
            raise RequestError(f"Parameter '{name}' must be a list of objects.")
        return [Fields(item) for item in found or ()]

    def item(self, name: str) -> Fields:
        """An object."""
        found = self.values.get(name)
        if not isinstance(found, dict):
            raise RequestError(f"Parameter '{name}' must be an object.")
        return Fields(found)

    def texts(self, name: str) -> list[str]:
        """A list of strings, empty if absent. In a query string, a single value is a list of one."""
        found = self.values.get(name)
        parts = found if isinstance(found, list) else [] if found is None else [found]
        return [Fields({name: part}).text(name) for part in parts]

    def pairs(self, name: str) -> dict[str, str]:
        """A list of `{key, value}` objects, or an object."""
        found = self.values.get(name)
        if isinstance(found, dict):
            return {key: Fields(found).text(key) for key in found}
        return {item.key("key"): item.text("value", "") for item in self.items(name)}

    def masked_pairs(self, name: str) -> dict[str, str]:
        """As `pairs`, with secrets masked, as himl stores them."""
        masked: dict[str, str] = mask_document(self.pairs(name))
        return masked


def parse_json(text: str | bytes, what: str = "Not valid JSON", code: str = "INVALID_PARAMETER_VALUE") -> object:
    """The value of the JSON *text*. Raises `RequestError`."""
    try:
        return read_json(text)
    except NotJson as err:
        raise RequestError(f"{what}: {err}.", code=code) from err


def with_finite_numbers(value: object) -> object:
    """The JSON value with NaN and infinities as strings, as in protocol buffers."""
    if isinstance(value, dict):
        return {key: with_finite_numbers(each) for key, each in value.items()}
    if isinstance(value, list):
        return [with_finite_numbers(each) for each in value]
    return json_number(value)


def milliseconds(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


def experiment_number(name: str) -> str:
    """The id of the experiment *name* for clients: digits that depend only on the name."""
    return str(zlib.crc32(name.encode()) + 1)  # never 0, the id of MLflow's default experiment


def json_pairs(pairs: Mapping[str, str]) -> list[Json]:
    return [{"key": key, "value": value} for key, value in pairs.items()]


def json_metric(point: Point) -> Json:
    name, value, step, time = point
    return {"key": name, "value": json_number(value), "timestamp": time, "step": step}


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
NUMERIC_ATTRIBUTES |= {"timestamp"}
RUN_ATTRIBUTES = frozenset({"run_id", "run_name", "user_id", "status", "artifact_uri", "start_time", "end_time"})
MODEL_ATTRIBUTES = frozenset(
    {
        *("model_id", "name", "model_name", "model_type", "status"),
        *("source_run_id", "artifact_uri", "experiment_id", "creation_time", *TIMES),
    }
)
DATASET_ATTRIBUTES = frozenset({"name", "digest", "context"})

# No character of a key may follow an unquoted key, since a shorter key could match otherwise
IDENTIFIER = (
    r"""\s*(?:(?P<entity>\w+|`\w+`)\.(?P<key>`[^`]+`|"[^"]+"|[\w.\-/:@]+(?![\w.\-/:@]))"""
    r"""|(?P<alone>\w+\b|`[^`]+`|"[^"]+"))"""
)
STRING = r"""'[^']*'|"[^"]*\""""
COMPARISON = re.compile(
    IDENTIFIER
    + r"\s*(?:(?P<null>IS\s+(?:NOT\s+)?NULL\b)"
    + r"|(?P<sign>>=|<=|!=|<>|=|<|>)\s*(?P<number>[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:e[+-]?\d+)?(?!\w))"
    + rf"|(?P<test>!=|<>|=|I?LIKE\b)\s*(?P<string>{STRING})"
    + rf"|(?P<member>(?:NOT\s+)?IN\b)\s*(?P<list>\(\s*(?:{STRING})(?:\s*,\s*(?:{STRING}))*\s*,?\s*\)))",
    re.IGNORECASE,
)
ORDER = re.compile(IDENTIFIER + r"\s*(?P<direction>(?:ASC|DESC)\b)?\s*", re.IGNORECASE)

NUMERIC_TESTS: Mapping[str, Callable[[float, float], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "=": operator.eq,
    "!=": operator.ne,
    "<=": operator.le,
    "<": operator.lt,
}

Clause = tuple[str, str, bool]  # entity, key, and whether it ascends


@dataclass(frozen=True)
class Searchable:
    """The fields of a run or a logged model that filters can use."""

    attributes: Mapping[str, object] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    datasets: Sequence[Mapping[str, object]] = ()

    def values(self, entity: str, key: str) -> list[object]:
        """The values of the key: none, one, or one per dataset."""
        holders: Sequence[Mapping[str, object]] = self.datasets if entity == "datasets" else [getattr(self, entity)]
        found = [holder.get(key) for holder in holders]
        return [value for value in found if value is not None]


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
            return isinstance(found, (int, float)) and NUMERIC_TESTS[self.operator](found, wanted)
        text = str(found)
        if isinstance(wanted, list):
            return (text in wanted) == (self.operator == "IN")
        if self.operator == "ILIKE":
            return _is_like(text.lower(), wanted.lower())
        return _is_like(text, wanted) if self.operator == "LIKE" else (text == wanted) == (self.operator == "=")


def parse_filter(text: str, attributes: frozenset[str] = RUN_ATTRIBUTES) -> list[Comparison]:
    """The comparisons that must all hold. Raises `RequestError` with the invalid part."""
    found: list[Comparison] = []
    rest = text.strip()
    while rest:
        joined = re.match(r"AND\b", rest, re.IGNORECASE) if found else None
        match = COMPARISON.match(rest, joined.end() if joined else 0)
        if match is None or (found and not joined):
            expected = "AND" if found and not joined else "a comparison such as metrics.loss < 0.5"
            raise RequestError(f"Invalid clause: expected {expected} at {rest[:40]!r} in {text[:200]!r}.")
        found.append(_comparison(match, attributes))
        rest = rest[match.end() :].lstrip()
    return found


def _comparison(match: re.Match[str], attributes: frozenset[str]) -> Comparison:
    entity, key = _identifier(match, attributes)
    words = (match["null"] or match["sign"] or match["test"] or match["member"]).upper().split()
    name = " ".join(words).replace("<>", "!=")
    is_numeric = entity == "metrics" or (entity == "attributes" and key in NUMERIC_ATTRIBUTES)
    is_pair = entity in ("tags", "params")
    kind = match.lastgroup
    allowed = {"null": is_pair, "number": is_numeric, "string": not is_numeric, "list": not is_numeric and not is_pair}
    if kind is None or not allowed[kind]:
        raise RequestError(f"Invalid comparison '{name}' with such a value for '{entity}.{key}'.")
    if kind == "null":
        return Comparison(entity, key, name, None)
    if kind == "number":
        return Comparison(entity, key, name, float(match[kind]))
    strings = [quoted[1:-1] for quoted in re.findall(STRING, match[kind])]
    return Comparison(entity, key, name, strings[0] if kind == "string" else strings)


def _identifier(match: re.Match[str], attributes: frozenset[str]) -> tuple[str, str]:
    """The entity and key. A key without an entity is an attribute."""
    entity = ENTITIES.get(match["entity"] and match["entity"].strip("`"))
    if entity is None:
        raise RequestError(
            f"Invalid entity type '{match['entity']}'. Valid values are metric, parameter, tag, attribute, dataset."
        )
    key = (match["key"] or match["alone"]).strip('`"')
    if entity == "attributes":
        key = ALIASES.get(key, key)
    known = {"attributes": attributes, "datasets": DATASET_ATTRIBUTES}.get(entity)
    if known is not None and key not in known:
        raise RequestError(
            f"Invalid {entity.removesuffix('s')} key {key[:200]!r}. Valid keys are {', '.join(sorted(known))}."
        )
    return entity, key


def parse_order(clause: str, attributes: frozenset[str] = RUN_ATTRIBUTES) -> Clause:
    """The parsed `order_by` clause. Raises `RequestError`."""
    match = ORDER.fullmatch(clause)
    entity, key = _identifier(match, attributes) if match else ("", "")
    if match is None or entity == "datasets":
        raise RequestError(f"Invalid order_by clause {clause[:200]!r}.")
    return entity, key, (match["direction"] or "ASC").upper() == "ASC"


def sort_items(items: Iterable[tuple[Searchable, T]], clauses: Sequence[Clause]) -> list[T]:
    """The second part of each item, sorted by the clauses in order. NaN comes after numbers, then items without a
    value."""
    ordered = list(items)
    for entity, key, ascending in reversed(clauses):
        is_numeric = entity == "metrics" or key in NUMERIC_ATTRIBUTES
        found = [(next(iter(item[0].values(entity, key)), None), item) for item in ordered]
        lack = sorted(
            (pair for pair in found if pair[0] is None or pair[0] != pair[0]), key=lambda pair: pair[0] is None
        )
        have = [(value, item) for value, item in found if value is not None and value == value]
        have.sort(key=lambda pair: _place(pair[0], is_numeric), reverse=not ascending)
        ordered = [item for _, item in (*have, *lack)]
    return [found for _, found in ordered]


def _place(value: object, is_numeric: bool) -> tuple[float, str]:
    return (float(value), "") if is_numeric and isinstance(value, (int, float)) else (0.0, str(value))


def find_page(
    request: Fields,
    items: Iterable[tuple[Searchable, T]],
    *,
    attributes: frozenset[str] = RUN_ATTRIBUTES,
    clauses: Sequence[Clause],
    default: int,
    most: int,
) -> tuple[Sequence[T], Json]:
    """The requested page of *items* that match the filter of *request*, sorted by *clauses*, and the token of the next
    page."""
    comparisons = parse_filter(request.text("filter", ""), attributes)
    matching = (item for item in items if all(comparison.holds(item[0]) for comparison in comparisons))
    return request.page(sort_items(matching, clauses), default, most)


def _is_like(text: str, pattern: str) -> bool:
    """SQL's LIKE: `%` is any text, `_` one character."""
    glob = re.sub(r"[\[*?]", r"[\g<0>]", pattern).translate({ord("%"): "*", ord("_"): "?"})
    return fnmatchcase(text, glob)  # its time is at most proportional to the product of the lengths
