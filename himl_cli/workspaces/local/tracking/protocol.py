"""MLflow's REST in Python's types: the fields of requests, errors, and values as clients read them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from himl_cli.core.results import INT64
from himl_cli.core.text import NotJson, read_json
from himl_cli.workspaces.local.metric_store import Point

Json = dict[str, object]

RUN_NAME = "mlflow.runName"
LAST_MOMENT = 253_370_764_799_999  # end of 9998: a datetime ends with 9999, and local time may be ahead


class RequestError(Exception):
    """A request that is answered with an error: one line, MLflow's error code, an HTTP status that clients do not
    retry.

    Characters of *message* that cannot be printed are escaped.
    """

    def __init__(self, message: str, *, code: str = "INVALID_PARAMETER_VALUE", status: int = 400) -> None:
        super().__init__("".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in message))
        self.code = code
        self.status = status


def not_found(what: str) -> RequestError:
    """*what* (`Run 'x'`) does not exist."""
    return RequestError(f"{what} does not exist.", code="RESOURCE_DOES_NOT_EXIST", status=404)


@dataclass(frozen=True)
class Fields:
    """A JSON object or a query string. Null counts as absent, as in protocol buffers' JSON; every reader raises
    `RequestError`."""

    values: Mapping[str, object]

    def has(self, name: str) -> bool:
        return self.values.get(name) is not None

    def text(self, name: str, default: str | None = None) -> str:
        value = self.values.get(name)
        if value is None and default is not None:
            return default
        if value is None:
            raise RequestError(f"Missing value for required parameter '{name}'.")
        if not isinstance(value, str):
            raise RequestError(f"Parameter '{name}' must be a string.")
        if not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
            raise RequestError(f"Parameter '{name}' is not valid Unicode.")
        return value

    def key(self, name: str) -> str:
        """A text that is not empty."""
        value = self.text(name)
        if not value:
            raise RequestError(f"Missing value for required parameter '{name}'.")
        return value

    def integer(self, name: str, default: int | None = None, *, allowed: range = INT64) -> int:
        """A number within *allowed*; protocol buffers send 64-bit ones as strings."""
        value = self.values.get(name)
        if value is None and default is not None:
            return default
        number: int | None = None
        if isinstance(value, float):
            number = int(value) if math.isfinite(value) and value == int(value) else None
        elif isinstance(value, str):
            digits = value.removeprefix("-")
            number = int(value) if digits.isascii() and digits.isdigit() and len(digits) < 20 else None
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
        """A number that may be NaN or infinite, which JSON carries as strings."""
        value = self.values.get(name)
        if isinstance(value, (int, float, str)) and not isinstance(value, bool):
            try:
                return float(value)
            except (ValueError, OverflowError):
                pass
        raise RequestError(f"Parameter '{name}' must be a number, got {str(value)[:50]!r}.")

    def page(self, default: int, most: int) -> tuple[int, int]:
        """Where the page that `page_token` names starts, and its size: `max_results`, at most *most*."""
        size = self.integer("max_results", default, allowed=range(1, most + 1))
        return self.integer("page_token", allowed=range(2**31)) if self.text("page_token", "") else 0, size

    def items(self, name: str) -> list[Fields]:
        """A list of objects; empty when absent."""
        found = self.values.get(name)
        if found is None:
            return []
        if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
            raise RequestError(f"Parameter '{name}' must be a list of objects.")
        return [Fields(item) for item in found]

    def item(self, name: str) -> Fields:
        """An object."""
        found = self.values.get(name)
        if not isinstance(found, dict):
            raise RequestError(f"Parameter '{name}' must be an object.")
        return Fields(found)

    def texts(self, name: str) -> list[str]:
        """A list of strings; empty when absent. A query string that names it once holds one."""
        found = self.values.get(name)
        parts = found if isinstance(found, list) else [] if found is None else [found]
        return [Fields({name: part}).text(name) for part in parts]

    def pairs(self, name: str) -> dict[str, str]:
        """A list of `{key, value}` objects, or an object."""
        found = self.values.get(name)
        if isinstance(found, dict):
            return {key: Fields(found).text(key) for key in found}
        return {item.key("key"): item.text("value", "") for item in self.items(name)}


def parse_json(text: str | bytes, what: str = "Not valid JSON", code: str = "INVALID_PARAMETER_VALUE") -> object:
    """The value that *text* holds. Raises `RequestError`."""
    try:
        found: object = read_json(text)
    except NotJson as err:
        raise RequestError(f"{what}: {err}.", code=code) from err
    return found


def milliseconds(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


def json_pairs(pairs: Mapping[str, str]) -> list[Json]:
    return [{"key": key, "value": value} for key, value in pairs.items()]


def json_metric(point: Point) -> Json:
    """JSON has no NaN or infinity; protocol buffers write their names."""
    name, value, step, time = point
    word = "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return {"key": name, "value": value if math.isfinite(value) else word, "timestamp": time, "step": step}


def next_page(start: int, size: int, total: int) -> Json:
    """What a reply says of the page after *size* items from *start*: nothing where there is none."""
    return {"next_page_token": str(start + size)} if start + size < total else {}
