"""Durations, sizes and counts as they are typed."""

from __future__ import annotations

import json
import re

from himl_cli.core.errors import BadUsage
from himl_cli.core.shortening import shortened

DURATION = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
SECONDS_IN = {"s": 1, "m": 60, "h": 3600, "d": 86400}
MOST_SECONDS = 10 * 366 * 86400.0
"""Ten years, as good as for ever."""
SIZE = re.compile(r"0*[1-9]\d*[bkmg]", re.IGNORECASE)
MOST_NODES = 65_000
"""As many as a cluster of Azure ML can have."""
MOST_PROCESSES = 1024
"""Of one node: more than its processors and GPUs could serve. Each is started here, so a digit too many would fill the
memory."""
MOST = {"num_nodes": MOST_NODES, "node_count": MOST_NODES, "processes_per_node": MOST_PROCESSES}
"""What counts may be at most, by the names of options and of fields."""
LONGEST_SHOWN = 24


def parse_duration(text: str, option: str = "") -> float:
    """Seconds of `30s`, `30m`, `2h` or `1.5d`. Raises BadUsage, which begins with the *option* that it was given
    for."""
    found = DURATION.fullmatch(text.strip())
    seconds = float(found[1]) * SECONDS_IN[found[2]] if found else 0
    if seconds == 0:
        raise BadUsage(
            f"{option} '{text}' is no duration.".strip(), hint="Write a number and a unit: 30s, 30m, 2h or 1.5d."
        )
    if seconds > MOST_SECONDS:
        raise BadUsage(f"{option} '{text}' is longer than ten years.".strip(), hint="Leave it out for no limit.")
    return seconds


def check_size(option: str, text: str) -> str:
    """*text*, which is to be a size as Docker takes it: a whole number and b, k, m or g. Raises BadUsage naming
    *option*."""
    if not SIZE.fullmatch(text.strip()) or len(text) > LONGEST_SHOWN:
        raise BadUsage(f"{option} '{text}' is no size.", hint="Write a whole number and a unit: 512m or 100g.")
    return text.strip().lower()


def whole_number(value: object, most: int) -> int | None:
    """*value* where it is a whole number from 1 to *most*, else None."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        return None
    return value


def count_wanted(value: object, most: int) -> str:
    """What is wrong with a count that `whole_number` did not take, to complete the sentence `'node_count' …`."""
    if isinstance(value, int) and value > most:
        return f"can be {most:,} at most{f', not {value:,}' if value < 10**LONGEST_SHOWN else ''}."
    text = json.dumps(value, default=repr)
    return f"must be a whole number from 1 on, not {shortened(text, LONGEST_SHOWN)}."
