"""JSON from outside, a file's or an answer's: whatever is wrong with it is one kind of error."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from himl_cli.core.nesting import is_too_deep

_HALF = re.compile(rb"\\u[dD][89a-fA-F]")


class NotJson(ValueError):
    """Why a text is no JSON, without a full stop; `line` and `column` from 1, 0 where the whole text is meant."""

    def __init__(self, complaint: str, line: int = 0, column: int = 0) -> None:
        super().__init__(complaint)
        self.line = line
        self.column = column


def read_json(text: str | bytes, *, pairs: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """The value that *text* holds; *pairs* makes an object of its keys and values, in place of a dictionary. Raises
    NotJson."""
    try:
        value = json.loads(text, object_pairs_hook=pairs)
    except json.JSONDecodeError as err:
        raise NotJson(err.msg, err.lineno, err.colno) from err
    except RecursionError as err:
        raise NotJson("it is nested too deeply") from err
    except UnicodeDecodeError as err:
        raise NotJson(f"byte {err.start} is no {err.encoding.upper()}") from err
    except ValueError as err:  # Python makes no number of thousands of digits
        raise NotJson("it holds a number that is too long") from err
    if is_too_deep(value):
        raise NotJson("it is nested too deeply")
    return value


def read_whole_json(content: bytes) -> Any:
    """As `read_json`; raises NotJson, too, for texts in it that hold half a character, which no address and no file
    can."""
    value = read_json(content)
    if _HALF.search(content):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as err:
            raise NotJson("it holds half a character") from err
    return value
