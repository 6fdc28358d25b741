"""Generate the page of installed sizes, for scripts/sizes.

`python -m docs.tools.sizes extras` prints the extras, one per line. `python -m docs.tools.sizes page FILE` prints the
page from the output of `installed_size.py` in FILE: one JSON document per line, first the one without an extra."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from importlib import import_module
from pathlib import Path
from typing import Any

from himl_cli import __version__

PROJECT = Path(__file__).resolve().parents[2]
PAGE = """\
<!-- scripts/sizes generates this page. Manual changes are lost. -->

# Installed sizes

Use this page to check how much disk space himl and its extras need.
The measurements are for himl {version} in an empty environment: {platform},
Python {python}, with the {versions} versions of {date} (for `v1`: those that its
old pins allow).
The figures include bytecode, but not pip. 1 MB is 1,000,000 bytes. If some
packages are installed already, himl adds less.

| installed | MB | added by the extra | files | packages |
|---|---:|---:|---:|---:|
{rows}
"""


def main() -> int:
    if sys.argv[1:] == ["extras"]:
        sys.stdout.writelines(f"{extra}\n" for extra in extras())
        return 0
    if len(sys.argv) == 3 and sys.argv[1] == "page":
        lines = Path(sys.argv[2]).read_text(encoding="utf-8").splitlines()
        sys.stdout.write(page([json.loads(line) for line in lines], f"{datetime.now(timezone.utc):%Y-%m-%d}"))
        return 0
    sys.stderr.write(f"{__doc__}\n")
    return 2


def extras() -> list[str]:
    """Return the extras in the order of pyproject.toml."""
    toml = import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    return [*toml.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]]


def page(measured: Sequence[Mapping[str, Any]], date: str) -> str:
    """Return the page of the sizes *measured* on *date*. Raises ValueError if the first one is not the installation
    without extras.
    """
    base = measured[0]
    if base["extra"]:
        raise ValueError(f"The first line must be the installation without extras, not '{base['extra']}'.")
    locked = base["python"].startswith("3.11.")
    rows = "\n".join(_row(each, base) for each in measured)
    versions = "locked" if locked else "newest"
    return PAGE.format(
        version=__version__, platform=base["platform"], python=base["python"], versions=versions, date=date, rows=rows
    )


def _row(each: Mapping[str, Any], base: Mapping[str, Any]) -> str:
    name = f"himl-cli[{each['extra']}]" if each["extra"] else "himl-cli"
    more = f"{(each['bytes'] - base['bytes']) / 1e6:,.0f}" if each is not base else ""
    return f"| `{name}` | {each['bytes'] / 1e6:,.0f} | {more} | {each['files']:,} | {each['packages']:,} |"


if __name__ == "__main__":
    sys.exit(main())
