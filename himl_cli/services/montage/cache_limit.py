"""How much of the disk slides of datastores may take."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path

from himl_cli.core.errors import BadUsage
from himl_cli.core.settings import Setting, section_settings
from himl_cli.core.text import did_you_mean

VARIABLE, SECTION, KEY = "HIML_SLIDE_CACHE_GB", "montage", "cache_gb"
DEFAULT_GB = 20
GB = 1_000_000_000
WANTED = "It takes a number of gigabytes from 0, such as 50."


def cache_limit(start: Path, environ: Mapping[str, str] | None = None) -> int:
    """Bytes of slides that are kept in the user's cache: the variable's, else those of the settings that count for
    *start*, else 20 GB.

    Raises BadUsage for a value that is no such number, and for a key of the section that is not known.
    """
    settings = section_settings(start, SECTION)
    for key, setting in settings.items():
        if key != KEY:
            raise setting.wrong("is not known.", hint=did_you_mean(key, (KEY,)) or f"Keys of [{SECTION}]: {KEY}.")
    text = (os.environ if environ is None else environ).get(VARIABLE, "").strip()
    if text:
        return _of_variable(text)
    return _of_setting(settings[KEY]) if KEY in settings else DEFAULT_GB * GB


def _of_variable(text: str) -> int:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    size = _bytes(number)
    if size is None:
        raise BadUsage(f"The variable {VARIABLE} cannot be '{text}'.", hint=WANTED)
    return size


def _of_setting(setting: Setting) -> int:
    value = setting.value
    size = None if isinstance(value, bool) or not isinstance(value, (int, float)) else _bytes(value)
    if size is None:
        raise setting.wrong(f"cannot be {value!r}.", hint=WANTED)
    return size


def _bytes(gigabytes: float) -> int | None:
    """None for what is no size, or more than a float holds."""
    try:
        size = gigabytes * GB
        return round(size) if math.isfinite(size) and size >= 0 else None
    except OverflowError:  # a whole number of hundreds of digits
        return None
