"""The page that shows a pyramid: one file that needs no network and no server."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from himl_cli.core.montage import CellOutcome
from himl_cli.services.montage.files import TILES, escaped, write_text
from himl_cli.services.montage.pyramid import FORMAT, Tiling

SCRIPTS = ("cells.js", "view.js", "panels.js", "page.js")
LIBRARY, LIBRARY_LICENCE = "openseadragon.min.js", "openseadragon-LICENSE.txt"
SOURCE_MAP = "//# sourceMappingURL="  # a file that would be asked for, and is not there
MARK = re.compile(r"\{\{(\w+)\}\}")


def write_page(path: Path, tiling: Tiling, cells: Sequence[CellOutcome], title: str) -> None:
    """Write the page that shows the pyramid of *tiling*, whose tiles lie beside *path*, and lets *cells* be searched.
    Raises DiskFailed."""
    script = "".join(asset(name) for name in SCRIPTS)
    library = f"/*\n{asset(LIBRARY_LICENCE)}*/\n{asset(LIBRARY).partition(SOURCE_MAP)[0]}"
    parts = {
        "title": html.escape(escaped(title)),
        "policy": html.escape(_content_policy(library, script)),
        "style": asset("page.css"),
        "data": _json_of(tiling, cells, title),
        "library": library,
        "script": script,
    }
    write_text(path, MARK.sub(lambda mark: parts[mark[1]], asset("page.html")))


def asset(name: str) -> str:
    """The text of a file that comes with this package."""
    return (files(__package__) / "assets" / name).read_text(encoding="utf-8")


def _json_of(tiling: Tiling, cells: Sequence[CellOutcome], title: str) -> str:
    """What the page's script reads, as JSON that nothing in HTML takes for markup: in ASCII, and without `<`, `>` and
    `&`. A cell is a list, in the order that `cells.js` names."""
    width, height = tiling.size
    data = {
        "title": escaped(title),
        "width": width,
        "height": height,
        "tile": tiling.tile,
        "overlap": tiling.overlap,
        "levels": tiling.levels,
        "folder": TILES,
        "format": FORMAT,
        "cells": [_cell_data(cell) for cell in cells],
    }
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _cell_data(cell: CellOutcome) -> list[object]:
    label = None if cell.label is None else escaped(cell.label)
    box = [cell.box.x, cell.box.y, cell.box.width, cell.box.height]
    texts = [escaped(text) for text in (cell.image, cell.backend, cell.reason, cell.remark)]
    return [escaped(cell.slide_id), label, *box, cell.level, int(cell.is_ok), *texts]


def _content_policy(*scripts: str) -> str:
    """What the page may do: run these scripts and show pictures that lie beside it; load nothing else, from nowhere."""
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    hashes = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src 'self' file: data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )
