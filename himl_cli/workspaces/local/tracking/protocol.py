"""MLflow's REST in Python's types: the fields of requests, errors, values for clients, and pages of searches."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import TypeVar

from himl_cli.core.json_text import NotJson, read_json
from himl_cli.core.logged import INT64
from himl_cli.core.records import dataclass
from himl_cli.core.redaction import mask_document
from himl_cli.core.search import RUN_ATTRIBUTES, Clause, Searchable, parse_filter, parse_order, sort_items
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
        """A string. Without a *default*, it must not be empty."""
        value = self.values[name] if self.has(name) else default
        if value is None or (value == "" and default is None):
            raise RequestError(f"Missing value for required parameter '{name}'.")
        if not isinstance(value, str):
            raise RequestError(f"Parameter '{name}' must be a string.")
        if not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
            raise RequestError(f"Parameter '{name}' is not valid Unicode.")
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
        return [Fields({name: part}).text(name, "") for part in parts]

    def pairs(self, name: str) -> dict[str, str]:
        """A list of `{key, value}` objects, or an object."""
        found = self.values.get(name)
        if isinstance(found, dict):
            return {key: Fields(found).text(key, "") for key in found}
        return {item.text("key"): item.text("value", "") for item in self.items(name)}

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


def find_page(
    request: Fields,
    items: Iterable[tuple[Searchable, T]],
    *,
    attributes: frozenset[str] = RUN_ATTRIBUTES,
    clauses: Sequence[Clause] | None = None,
    default: int,
    most: int,
) -> tuple[Sequence[T], Json]:
    """The requested page of *items* that match the filter of *request*, sorted by *clauses* (None: its `order_by`),
    and the token of the next page."""
    if clauses is None:
        clauses = [parse_order(clause, attributes) for clause in request.texts("order_by")]
    comparisons = parse_filter(request.text("filter", ""), attributes)
    matching = (item for item in items if all(comparison.holds(item[0]) for comparison in comparisons))
    return request.page(sort_items(matching, clauses), default, most)
