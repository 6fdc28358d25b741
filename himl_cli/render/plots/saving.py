"""Figures as files: whole or not at all, the same bytes for the same results, and independent of the user's settings of
matplotlib."""

from __future__ import annotations

import re
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG

from himl_cli.core.errors import DiskFailed
from himl_cli.core.files import atomic_replacement
from himl_cli.core.results import Aggregation
from himl_cli.render.plots.families import Family, curves_by_metric, families_of
from himl_cli.render.plots.figures import figure_of
from himl_cli.render.plots.looks import scheme_of
from himl_cli.render.plots.wording import names_of

SETTINGS: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "himl",
    "font.size": 9.0,
    "figure.dpi": 100.0,
    "axes.unicode_minus": True,
}
OTHER_SCRIPTS = (
    "Noto Sans CJK JP",
    "Noto Sans CJK SC",
    "Source Han Sans SC",
    "PingFang SC",
    "Hiragino Sans",
    "Microsoft YaHei",
    "Yu Gothic",
    "Arial Unicode MS",
)
DPI = 150
_UNSAFE = re.compile(r"[^\w.-]+")


def save_figures(aggregation: Aggregation, path: Path, primary: str | None, goal: str) -> Sequence[Path]:
    """As `save_plots`, once it is clear that matplotlib is there."""
    families = families_of(aggregation)
    names = names_of(aggregation.children)
    with _own_settings(), np.errstate(all="ignore"):
        scheme = scheme_of(aggregation.children, curves_by_metric(families), primary, goal)
        paths = file_names(path, families)
        for family, target in zip(families, paths, strict=True):
            _save(figure_of(family, aggregation.children, scheme, names), target)
    return paths


def file_names(path: Path, families: Sequence[Family]) -> list[Path]:
    """*path*, or for several families one beside it each; no two alike, whatever the file system makes of case."""
    if len(families) == 1:
        return [path]
    taken: set[str] = set()
    paths = []
    for family in families:
        stem = _UNSAFE.sub("_", unicodedata.normalize("NFC", family.name)).strip("._")[:80] or "metric"
        name = f"{stem}-{family.part}" if family.part else stem
        count = 2
        while name.casefold() in taken:
            name, count = f"{stem}_{count}", count + 1
        taken.add(name.casefold())
        paths.append(path.with_name(f"{path.stem}-{name}{path.suffix}"))
    return paths


@contextmanager
def _own_settings() -> Iterator[None]:
    """matplotlib's own defaults and ours; what the user's file or program has set counts afterwards again."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        settings: Any = matplotlib.rcParams
        settings.update(SETTINGS | {"font.family": ["DejaVu Sans", *_further_fonts()]})
        warnings.filterwarnings(
            "ignore", message="Glyph .* missing from (current )?font"
        )  # a box stands for it; in SVG the viewer has other fonts
        yield


def _further_fonts() -> list[str]:
    """Installed fonts for scripts that DejaVu has not; naming one that is missing would be a warning."""
    from matplotlib.font_manager import fontManager

    installed = set(fontManager.get_font_names())
    return [name for name in OTHER_SCRIPTS if name in installed]


def _save(figure: Any, path: Path) -> None:
    is_svg = path.suffix.lower() == ".svg"
    canvas = FigureCanvasSVG(figure) if is_svg else FigureCanvasAgg(figure)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_replacement(path) as temporary, open(temporary, "wb") as stream:
            canvas.print_figure(
                stream,
                format="svg" if is_svg else "png",
                dpi=DPI,
                metadata={"Date": None} if is_svg else {"Software": None},
            )
    except OSError as err:
        raise DiskFailed(
            f"Cannot write '{path}': {err.strerror or err}.", hint="Choose another file for --plot."
        ) from err
