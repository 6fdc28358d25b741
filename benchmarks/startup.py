"""How long `himl --help` and `himl submit --help` take, next to `python -c "import typer"` (aim: at most 1.5 times that)."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from benchmarks.measure import HIML, print_timings, take_turns

BASELINE = 'python -c "import typer"'
CANDIDATES = {
    BASELINE: [sys.executable, "-c", "import typer"],
    "himl --help": [HIML, "--help"],
    "himl submit --help": [HIML, "submit", "--help"],
    "himl runs --help": [HIML, "runs", "--help"],
    "himl download --help": [HIML, "download", "--help"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=21)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        timings = take_turns(CANDIDATES, rounds=args.rounds, folder=Path(folder))
    print_timings(timings, baseline=BASELINE)


if __name__ == "__main__":
    main()
