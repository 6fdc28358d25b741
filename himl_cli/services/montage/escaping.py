"""Texts that hold what UTF-8 cannot say."""

from __future__ import annotations

import re

_SURROGATE = re.compile("[\ud800-\udfff]")
_FIRST_ODD_BYTE, _LAST_ODD_BYTE = 0xDC80, 0xDCFF
"""How Python keeps bytes of file names that are no UTF-8."""


def escaped(text: str) -> str:
    r"""*text* with bytes of file names that are no UTF-8 as `\xff`, and other lone surrogates as `\ud800`."""
    return _SURROGATE.sub(_escape, text)


def _escape(character: re.Match[str]) -> str:
    code = ord(character[0])
    return f"\\x{code & 0xFF:02x}" if _FIRST_ODD_BYTE <= code <= _LAST_ODD_BYTE else f"\\u{code:04x}"
