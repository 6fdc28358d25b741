"""Numbers in steps."""

from __future__ import annotations

from himl_cli.core.sweeps import Scalar


def stepped(number: float, step: Scalar) -> int | float:
    """The multiple of *step* that is nearest to *number*, without the dust of binary fractions: 0.3 and not
    0.30000000000000004."""
    count = round(number / float(step))
    return count * step if isinstance(step, int) else float(f"{count * float(step):.12g}")
