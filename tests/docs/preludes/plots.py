"""A folder of plots."""

from pathlib import Path as _Path

_Path("plots").mkdir(exist_ok=True)
_Path("plots", "loss.txt").write_text("a plot")
