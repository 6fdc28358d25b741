"""`python -m scripts.covered`: print which part of the branches and lines of himl_cli the small set and all tests run.

Reads the folders of .cache/coverage that `HIML_TEST_COVERAGE=small scripts/test` and `HIML_TEST_COVERAGE=large
scripts/test --all -m large` write. The exit status is 1 if the small set runs less than LEAST of the branches."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from coverage import Coverage

PROJECT = Path(__file__).parents[1]
FOLDER = PROJECT / ".cache" / "coverage"
LEAST = 85.0
"""Percent of the branches that the small set runs at least."""


def main() -> int:
    small, everything = percentages("small"), percentages("small", "large")
    for name, (branches, lines) in {"the small set": small, "all tests": everything}.items():
        print(f"Coverage by {name}: {branches:.1f} % of the branches, {lines:.1f} % of the lines.")
    if small[0] < LEAST:
        print(f"The small set must cover {LEAST:.0f} % of the branches.")
    return int(small[0] < LEAST)


def percentages(*sets: str) -> tuple[float, float]:
    """The parts of the branches and of the lines, in percent, that the tests of these *sets* ran."""
    with TemporaryDirectory() as folder:
        found, report = (
            Coverage(data_file=str(Path(folder, "data")), config_file=str(PROJECT / "pyproject.toml")),
            Path(folder, "report.json"),
        )
        found.combine([str(FOLDER / name) for name in sets if (FOLDER / name).is_dir()], keep=True)
        found.json_report(outfile=str(report))
        totals = json.loads(report.read_text())["totals"]
    return 100 * totals["covered_branches"] / totals["num_branches"], 100 * totals["covered_lines"] / totals[
        "num_statements"
    ]


if __name__ == "__main__":
    sys.exit(main())
