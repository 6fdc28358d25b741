"""The filter language of run history: `(Status eq Running) and (Tags/kind eq "best")`, parsed and evaluated.

What the service takes is not published; this is what azureml-core and azure-ai-ml send. A name that the item does not have
makes every comparison false, which turns `(Tags/k ne null or Tags/k eq null)` into "has the tag", as those clients mean it.
A field that exists without a value is null. Values are bare (up to `and`, `or` or a bracket) or in double or single quotes;
two single quotes stand for one within single quotes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from enum import Enum
from typing import Generic, TypeVar

Item = TypeVar("Item")
Field = Callable[[Item, str], object]
Test = Callable[[Item], bool]


class BadFilter(ValueError):
    """The filter does not follow the grammar, or names a field that nobody has."""


class Nothing(Enum):
    """What a field gives for a name that the item does not have: not even null."""

    absent = 0


ABSENT = Nothing.absent

OPEN = re.compile(r"\s*\(")
CLOSE = re.compile(r"\s*\)")
AND = re.compile(r"\s*and\b", re.IGNORECASE)
OR = re.compile(r"\s*or\b", re.IGNORECASE)
NOT = re.compile(r"\s*not\s*(?=[\s(])", re.IGNORECASE)
COMPARISON = re.compile(r"\s*(?P<field>[A-Za-z]\w*)(?:/(?P<rest>[^()]*?))?\s+(?P<operator>eq|ne|gt|ge|lt|le)\s+", re.IGNORECASE)
VALUE = re.compile(r"""\s*(?:"(?P<double>[^"]*)"|'(?P<single>(?:[^']|'')*)'|(?P<bare>[^()"']+?)(?=\s+(?:and|or)\b|\s*\)|\s*\Z))""", re.IGNORECASE)
END = re.compile(r"\s*\Z")

ORDERS: Mapping[str, Callable[[int], bool]] = {
    "gt": lambda sign: sign > 0,
    "ge": lambda sign: sign >= 0,
    "lt": lambda sign: sign < 0,
    "le": lambda sign: sign <= 0,
}


def compiled(text: str, fields: Mapping[str, Field[Item]]) -> Test[Item]:
    """A test for items. *fields* maps lower-case names to `(item, rest of the path) -> value or ABSENT`. Raises BadFilter."""
    return _Parser(text, fields).whole()


class _Parser(Generic[Item]):
    """Reads a filter from left to right; `and` binds closer than `or`."""

    def __init__(self, text: str, fields: Mapping[str, Field[Item]]) -> None:
        self.text = text
        self.place = 0
        self.fields = fields

    def whole(self) -> Test[Item]:
        found = self._either()
        if not self._take(END):
            raise self._bad("expected the end")
        return found

    def _take(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        match = pattern.match(self.text, self.place)
        if match:
            self.place = match.end()
        return match

    def _bad(self, what: str) -> BadFilter:
        return BadFilter(f"Invalid filter: {what} at position {self.place} in '{self.text[:200]}'.")

    def _either(self) -> Test[Item]:
        tests = [self._both()]
        while self._take(OR):
            tests.append(self._both())
        return tests[0] if len(tests) == 1 else lambda item: any(test(item) for test in tests)

    def _both(self) -> Test[Item]:
        tests = [self._one()]
        while self._take(AND):
            tests.append(self._one())
        return tests[0] if len(tests) == 1 else lambda item: all(test(item) for test in tests)

    def _one(self) -> Test[Item]:
        if self._take(NOT):
            inner = self._one()
            return lambda item: not inner(item)
        if self._take(OPEN):
            found = self._either()
            if not self._take(CLOSE):
                raise self._bad("expected ')'")
            return found
        return self._comparison()

    def _comparison(self) -> Test[Item]:
        match = self._take(COMPARISON)
        if match is None:
            raise self._bad("expected a comparison")
        read = self.fields.get(match["field"].lower())
        if read is None:
            raise BadFilter(f"Invalid filter: could not find a property named '{match['field']}'.")
        value = self._take(VALUE)
        if value is None:
            raise self._bad("expected a value")
        return _comparing(read, match["rest"] or "", match["operator"].lower(), _meant(value))


def _meant(value: re.Match[str]) -> str | None:
    if value["double"] is not None:
        return value["double"]
    if value["single"] is not None:
        return value["single"].replace("''", "'")
    return None if value["bare"].lower() == "null" else value["bare"]


def _comparing(read: Field[Item], rest: str, operator: str, wanted: str | None) -> Test[Item]:
    if operator in ("eq", "ne"):
        positive = operator == "eq"

        def equal(item: Item) -> bool:
            found = read(item, rest)
            return found is not ABSENT and _same(found, wanted) == positive

        return equal
    if wanted is None:
        raise BadFilter(f"Invalid filter: '{operator}' does not go with null.")
    holds = ORDERS[operator]

    def ordered(item: Item) -> bool:
        found = read(item, rest)
        return found is not ABSENT and found is not None and holds(_sign(found, wanted))

    return ordered


def _same(found: object, wanted: str | None) -> bool:
    if found is None or wanted is None:
        return found is wanted
    if isinstance(found, str):
        return found == wanted
    return _sign(found, wanted) == 0


def _sign(found: object, wanted: str) -> int:
    """Below, at or above zero, as *found* is less than, equal to or greater than *wanted*."""
    if isinstance(found, datetime):
        time = instant(wanted)
        return (found > time) - (found < time)
    if isinstance(found, bool):
        return int(found) - int(wanted.lower() == "true")
    if isinstance(found, (int, float)):
        try:
            number = float(wanted)
        except ValueError as error:
            raise BadFilter(f"Invalid filter: '{wanted}' is not a number.") from error
        return (found > number) - (found < number)
    text = str(found)
    return (text > wanted) - (text < wanted)


def instant(text: str) -> datetime:
    """A time as clients write it: with `T` or a blank, with up to nine fractional digits, with `Z`, an offset or nothing (UTC)."""
    micros = re.sub(r"\.(\d+)", lambda digits: "." + digits[1][:6].ljust(6, "0"), text.strip().replace(" ", "T", 1))
    try:
        time = datetime.fromisoformat(re.sub(r"[zZ]$", "+00:00", micros))
    except ValueError as error:
        raise BadFilter(f"Invalid filter: '{text}' is not a time.") from error
    return time if time.tzinfo else time.replace(tzinfo=timezone.utc)
