"""Pictures of many runs: one figure for each family of metrics, as PNG or SVG. Needs matplotlib, the extra `plot`."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from himl_cli.core.errors import BadUsage
from himl_cli.core.installing import install_command
from himl_cli.core.results import Aggregation

SUFFIXES = (".png", ".svg")


def check_plots(path: Path) -> None:
    """Raises BadUsage where no picture can be made at *path*: another ending than .png or .svg, or no matplotlib.
    Imports nothing of it."""
    if path.suffix.lower() not in SUFFIXES:
        raise BadUsage(
            f"Pictures end in .png or .svg, not '{path.suffix or path.name}'.",
            hint=f"Say --plot {path.stem or 'metrics'}.png, for example.",
        )
    if find_spec("matplotlib") is None:
        raise BadUsage(
            "--plot needs matplotlib, which is not installed.", hint=f"Install it: {install_command('plot')}"
        )


def save_plots(
    aggregation: Aggregation, path: Path, *, primary: str | None = None, goal: str = "minimize"
) -> Sequence[Path]:
    """Draw what the runs logged and give the files that were written; none where there are no numbers.

    A family is all metrics whose names end alike: `train/loss` and `val/loss` are two panels of one figure. Where there
    is one figure it is *path*, else each is `NAME-<family>.png` beside it. *primary* (default: `val/loss`, where a run
    has it) and *goal* decide which runs are called the best. Raises BadUsage as `check_plots` does; DiskFailed.
    """
    check_plots(path)
    from himl_cli.render.plots.saving import save_figures

    return save_figures(aggregation, path, primary, goal)
