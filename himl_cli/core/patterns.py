"""Regular expressions that Python compiles at their first use, since a command needs few of them."""

from __future__ import annotations

import re
from typing import Any, AnyStr, cast


class _LazyPattern:
    def __init__(self, pattern: Any, flags: int) -> None:
        self._parts = pattern, flags

    def __getattr__(self, name: str) -> Any:
        self.__dict__[name] = found = getattr(re.compile(*self._parts), name)
        return found


def lazy_pattern(pattern: AnyStr, flags: int = 0) -> re.Pattern[AnyStr]:
    """As `re.compile`, but an invalid pattern raises `re.error` at the first use."""
    return cast("re.Pattern[AnyStr]", _LazyPattern(pattern, flags))
