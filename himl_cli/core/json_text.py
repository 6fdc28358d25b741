"""JSON texts from outside: values, the spelling of numbers, and the limit of nesting."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

# Levels of nested lists and mappings. Settings, jobs and answers have ten at most. The limit protects recursive code
DEEPEST = 100


def is_too_deep(value: Any) -> bool:
    """Whether *value* has more than DEEPEST levels of nested lists and dictionaries."""
    level = [value]
    for _ in range(DEEPEST + 1):
        level = [each for each in level if isinstance(each, (dict, list))]
        if not level:
            return False
        level = [child for each in level for child in (each.values() if isinstance(each, dict) else each)]
    return True


class NotJson(ValueError):
    """Why a text is not JSON, without a full stop. `line` and `column` count from 1, and are 0 for the whole text."""

    def __init__(self, complaint: str, line: int = 0, column: int = 0) -> None:
        super().__init__(complaint)
        self.line = line
        self.column = column


class Spelled(float):
    """A number in the spelling of its source, such as `1e5` or `3.10`, which is also its text."""

    def __new__(cls, text: str) -> Spelled:
        number = super().__new__(cls, text)
        number.text = text
        return number

    text: str

    def __getnewargs__(self) -> tuple[Any, ...]:
        return (self.text,)

    def __repr__(self) -> str:
        return self.text

    __str__ = __repr__


def spelled(text: str) -> float:
    """The number in *text*, with its spelling if Python spells it differently."""
    number = float(text)
    return number if repr(number) == text or "_" in text else Spelled(text)


def read_json(
    text: str | bytes,
    *,
    pairs: Callable[[list[tuple[str, Any]]], Any] | None = None,
    number: Callable[[str], float] = float,
) -> Any:
    """The JSON value in *text*. *pairs* converts the keys and values of an object, which is a dictionary otherwise, and
    *number* the text of a decimal number. Raises NotJson."""
    import json

    try:
        value = json.loads(text, object_pairs_hook=pairs, parse_float=number)
    except json.JSONDecodeError as err:
        raise NotJson(err.msg, err.lineno, err.colno) from err
    except RecursionError as err:
        raise NotJson("it is nested too deeply") from err
    except UnicodeDecodeError as err:
        raise NotJson(f"byte {err.start} is not {err.encoding.upper()}") from err
    except ValueError as err:  # Python limits the digits of a number
        raise NotJson("it contains a number that is too long") from err
    if is_too_deep(value):
        raise NotJson("it is nested too deeply")
    return value


def read_valid_json(content: bytes) -> Any:
    """As `read_json`. Also raises NotJson for texts with lone surrogates, which no address and no file can contain."""
    import json

    value = read_json(content)
    # Escapes of surrogates, their bytes in UTF-8, which Python's reader accepts, and those of other encodings
    if re.search(rb"\\u[dD][89a-fA-F]|\xed[\xa0-\xbf]|\0", content):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as err:
            raise NotJson("it contains half a character") from err
    return value
