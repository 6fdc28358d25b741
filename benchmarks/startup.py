"""Time `himl --help` and the help of its commands, next to `python -c "import typer"` and a command of hi-ml."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from benchmarks.measure import HIML, new_parser, peer_python, recording, take_turns
from tests.support.clients import HI_ML_CPATH

OURS = {
    "himl --help": ["--help"],
    **{
        f"himl {name} --help": [*name.split(), "--help"]
        for name in ("submit", "runs", "download", "runs list", "montage")
    },
}
THEIRS = "himl-tb --help of hi-ml"


if __name__ == "__main__":
    args = new_parser(__doc__, 21).parse_args()
    candidates = {
        'python -c "import typer"': [sys.executable, "-c", "import typer"],
        **{name: [HIML, *options] for name, options in OURS.items()},
    }
    with tempfile.TemporaryDirectory() as folder, recording("startup", args.raw) as record:
        if python := peer_python(record, HI_ML_CPATH, THEIRS, "hi-ml"):
            candidates[THEIRS] = [str(Path(python).with_name("himl-tb")), "--help"]
        take_turns(record, "help", candidates, args.rounds, Path(folder))
