"""How long `himl --help` and the help of its commands take, next to `python -c "import typer"` and to a command of hi-ml."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from benchmarks import raw
from benchmarks.measure import HIML, print_timings, take_turns
from benchmarks.peers import peer_python
from tests.support.clients import HI_ML_CPATH

SCENARIO = "help"
BASELINE = 'python -c "import typer"'
OURS = {"himl --help": ["--help"], **{f"himl {name} --help": [*name.split(), "--help"] for name in ("submit", "runs", "download", "runs list", "montage")}}
THEIRS = "himl-tb --help of hi-ml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=21)
    raw.add_option(parser)
    args = parser.parse_args()
    candidates = {BASELINE: [sys.executable, "-c", "import typer"], **{name: [HIML, *options] for name, options in OURS.items()}}
    with tempfile.TemporaryDirectory() as folder, raw.recording("startup", args.raw) as record:
        python = peer_python(record, HI_ML_CPATH, THEIRS, "hi-ml")
        if python is not None:
            candidates[THEIRS] = [str(python.with_name("himl-tb")), "--help"]
        timings = take_turns(candidates, rounds=args.rounds, folder=Path(folder))
        record.add_timings(SCENARIO, timings)
    print_timings(timings, baseline=BASELINE)


if __name__ == "__main__":
    main()
