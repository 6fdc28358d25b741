"""What `himl submit` adds to a script that runs here, for a git project of 100 files."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import raw
from benchmarks.measure import HIML, print_timings, take_turns

FILES = 100
BYTES_PER_FILE = 4096
SCENARIO = "a job here"
DIRECT = "python train.py"
SUBMITTED = "himl submit train.py"


def make_project(folder: Path) -> None:
    """A script that only prints, beside 99 other files, committed where there is git."""
    (folder / "train.py").write_text("print('trained')\n")
    (folder / ".gitignore").write_text(".himl/\nmost_recent_run.txt\n")
    for number in range(FILES - 2):
        path = folder / f"package_{number % 10}" / f"module_{number}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text("#" * BYTES_PER_FILE)
    git = shutil.which("git")
    author = ["-c", "user.name=Benchmark", "-c", "user.email=benchmark@example.org", "-c", "commit.gpgsign=false"]
    for arguments in (["init", "--quiet"], ["add", "--all"], [*author, "commit", "--quiet", "--message", "A project"]) if git else ():
        subprocess.run([str(git), *arguments], cwd=folder, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    raw.add_option(parser)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, raw.recording("submit_local", args.raw) as record:
        folder = Path(name)
        make_project(folder)
        candidates = {DIRECT: [sys.executable, "train.py"], SUBMITTED: [HIML, "submit", "train.py"]}
        timings = take_turns(candidates, rounds=args.rounds, folder=folder)
        record.add_timings(SCENARIO, timings)
    print_timings(timings, baseline=DIRECT)
    print(f"himl submit adds {(timings[SUBMITTED].median - timings[DIRECT].median) * 1000:.0f} ms")


if __name__ == "__main__":
    main()
