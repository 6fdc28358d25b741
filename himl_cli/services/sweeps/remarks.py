"""What the user should know about a sweep before it starts."""

from __future__ import annotations

import math
from collections.abc import Sequence

from himl_cli.core.placeholders import PLACEHOLDER, SEARCH_SPACE
from himl_cli.core.sweeps import Draw, SearchRange, SweepSpec
from himl_cli.services.sweeps.wording import range_text, sweep_text

LARGE_COPIES = 1_000_000_000
"""Bytes of disk that a sweep may take without a word."""


def sweep_remarks(spec: SweepSpec, arguments: Sequence[str]) -> list[str]:
    """A sentence each: what will be run, which values `loguniform` gives, and which arguments the script gets twice."""
    what = {"sweep": "Sweep", "crossval": "Cross-validation", "seeds": "Different seeds"}.get(spec.kind, "Sweep")
    remarks = [f"{what}: {sweep_text(spec)}."]
    listed = all(found.draw is Draw.choice for found in spec.space.values())
    points = math.prod(len(found.values) for found in spec.space.values()) if listed else 0
    if spec.sampling == "grid" and points > spec.max_trials:
        remarks.append(
            f"{points - spec.max_trials} of {points} combinations are left out (--max_trials {spec.max_trials})."
        )
    if spec.sampling == "random" and 0 < points < spec.max_trials:
        remarks.append(
            f"warning: there are {points} combinations, so that some of the {spec.max_trials} trials are the same; "
            "--sampling grid runs each once."
        )
    remarks += [
        _exponents(name, found)
        for name, found in spec.space.items()
        if found.draw in (Draw.loguniform, Draw.qloguniform)
    ]
    named = {found[2] for argument in arguments for found in PLACEHOLDER.finditer(argument) if found[1] == SEARCH_SPACE}
    for name in spec.space:
        if name not in named and any(
            argument == f"--{name}" or argument.startswith(f"--{name}=") for argument in arguments
        ):
            remarks.append(
                f"warning: --{name} stands among the script's arguments as well; each trial's value is added "
                "behind them."
            )
    return remarks


def copies_remarks(spec: SweepSpec, size: int) -> list[str]:
    """What the copies of a snapshot of *size* bytes take, which each trial that runs here gets, where that is much."""
    total = size * (spec.max_trials + 1)  # one is kept for later trials
    if total <= LARGE_COPIES:
        return []
    return [
        f"warning: each trial gets its own copy of the snapshot: {spec.max_trials} x {size / 1e6:,.1f} MB, about "
        f"{total / 1e9:,.1f} GB of disk."
        " An .amlignore file leaves out what the script does not need."
    ]


def _exponents(name: str, found: SearchRange) -> str:
    """Which values come, and, where the arguments look like values themselves, what would give these."""
    low, high = (float(value) for value in found.values[:2])
    text = (
        f"{name}: {math.exp(low):.3g} to {math.exp(high):.3g}, since the arguments of {found.draw.value} are "
        "exponents of e, as Azure ML has them."
    )
    if low > 0 and high <= 1:
        step = f",{range_text(found).rpartition(',')[2][:-1]}" if found.draw is Draw.qloguniform else ""
        text = (
            f"warning: {text} For values from {low:g} to {high:g}: --sweep "
            f"'{name}={found.draw.value}({math.log(low):.4g},{math.log(high):.4g}{step})'"
        )
    return text
