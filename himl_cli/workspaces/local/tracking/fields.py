"""A request's fields, read with types: what is missing or of the wrong type is refused in MLflow's own terms."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from himl_cli.core.results import INT64

LAST_MOMENT = 253_370_764_799_999  # end of 9998: a datetime ends with 9999, and local time may be ahead


class Refused(Exception):
    """A request that is answered with an error: one line, MLflow's error code, an HTTP status that clients do not
    retry.

    Signs of *message* that are not to be seen stand there as Python writes them.
    """

    def __init__(self, message: str, *, code: str = "INVALID_PARAMETER_VALUE", status: int = 400) -> None:
        super().__init__("".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in message))
        self.code = code
        self.status = status


def missing(what: str) -> Refused:
    """*what* (`Run 'x'`) is not here."""
    return Refused(f"{what} does not exist.", code="RESOURCE_DOES_NOT_EXIST", status=404)


@dataclass(frozen=True)
class Fields:
    """A JSON object or a query string. Null counts as absent, as in protocol buffers' JSON; every reader raises
    `Refused`."""

    values: Mapping[str, object]

    def has(self, name: str) -> bool:
        return self.values.get(name) is not None

    def text(self, name: str, default: str | None = None) -> str:
        value = self.values.get(name)
        if value is None and default is not None:
            return default
        if not isinstance(value, str):
            raise Refused(
                f"Missing value for required parameter '{name}'."
                if value is None
                else f"Parameter '{name}' must be a string."
            )
        if not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
            raise Refused(f"Parameter '{name}' is not valid Unicode.")
        return value

    def key(self, name: str) -> str:
        """A text that is not empty."""
        value = self.text(name)
        if not value:
            raise Refused(f"Missing value for required parameter '{name}'.")
        return value

    def integer(self, name: str, default: int | None = None, *, allowed: range = INT64) -> int:
        """A number within *allowed*; protocol buffers send 64-bit ones as strings."""
        value = self.values.get(name)
        if value is None and default is not None:
            return default
        number = _as_integer(value)
        if number is None or number not in allowed:
            raise Refused(
                f"Parameter '{name}' must be an integer from {allowed.start} to {allowed.stop - 1}, got "
                f"{str(value)[:50]!r}."
            )
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
        raise Refused(f"Parameter '{name}' must be a number, got {str(value)[:50]!r}.")

    def page_start(self) -> int:
        """Where the page starts that `page_token` names."""
        return self.integer("page_token", allowed=range(2**31)) if self.text("page_token", "") else 0

    def items(self, name: str) -> list[Fields]:
        """A list of objects; empty when absent."""
        found = self.values.get(name)
        if found is None:
            return []
        if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
            raise Refused(f"Parameter '{name}' must be a list of objects.")
        return [Fields(item) for item in found]

    def item(self, name: str) -> Fields:
        """An object."""
        found = self.values.get(name)
        if not isinstance(found, dict):
            raise Refused(f"Parameter '{name}' must be an object.")
        return Fields(found)

    def texts(self, name: str) -> list[str]:
        """A list of strings; empty when absent. A query string that names it once holds one."""
        found = self.values.get(name)
        parts = found if isinstance(found, list) else [] if found is None else [found]
        return [Fields({name: part}).text(name) for part in parts]

    def pairs(self, name: str) -> dict[str, str]:
        """A list of `{key, value}` objects."""
        return {item.key("key"): item.text("value", "") for item in self.items(name)}


def _as_integer(value: object) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, float):
        return int(value) if math.isfinite(value) and value == int(value) else None
    if isinstance(value, str):
        digits = value.removeprefix("-")
        return int(value) if digits.isascii() and digits.isdigit() and len(digits) < 20 else None
    return value if isinstance(value, int) else None
