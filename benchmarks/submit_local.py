"""Measure the time that `himl submit` adds to a local script with a Git project of 100 files, and to each trial of a
local sweep, two at a time.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.measure import HIML, clean_environment, new_parser, recording, spend, take_turns, turns

CANDIDATES = {"python train.py": [sys.executable, "train.py"], "himl submit train.py": [HIML, "submit", "train.py"]}

TRIAL = """
import argparse
from himl_cli import RUN_CONTEXT
parser = argparse.ArgumentParser()
parser.add_argument("--n", type=int)
RUN_CONTEXT.log("val/loss", 1 / parser.parse_args().n)
"""
NUMBERS = range(1, 201)
SWEEP = {
    "python trial.py": ["bash", "-c", f"seq {len(NUMBERS)} | xargs -P 2 -I {{}} {sys.executable} trial.py --n {{}}"],
    "himl submit trial.py --sweep": [
        HIML,
        "submit",
        "trial.py",
        "--max_concurrent",
        "2",
        "--sweep",
        f"n={','.join(map(str, NUMBERS))}",
    ],
}


def make_project(folder: Path, files: int, mark: str = "") -> None:
    """Write *files* files that contain *mark*: a script that only prints, a conda file, and files of 4 KiB."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train.py").write_text(f"print('trained {mark}')\n")
    (folder / "environment.yml").write_text(
        f"name: project{mark}\nchannels:\n- conda-forge\ndependencies:\n- python=3.11\n- pip\n- pip:\n"
        "  - mlflow-skinny\n"
    )
    for number in range(files - 2):
        path = folder / f"package_{number % 10}" / f"module_{number}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"# {mark} {number}\n" + "#" * 4096)


def commit(folder: Path) -> None:
    (folder / ".gitignore").write_text(".himl/\nmost_recent_run.txt\n")
    git = shutil.which("git")
    author = ["-c", "user.name=Benchmark", "-c", "user.email=benchmark@example.org", "-c", "commit.gpgsign=false"]
    for arguments in (
        (["init", "--quiet"], ["add", "--all"], [*author, "commit", "--quiet", "--message", "A project"]) if git else ()
    ):
        subprocess.run([str(git), *arguments], cwd=folder, check=True)


if __name__ == "__main__":
    args = new_parser(__doc__, 15).parse_args()
    with tempfile.TemporaryDirectory() as name, recording("submit_local", args.raw) as record:
        make_project(Path(name), 100)
        commit(Path(name))
        take_turns(record, "a local job", CANDIDATES, args.rounds, Path(name))
        (Path(name) / "trial.py").write_text(TRIAL)
        for number, candidate in turns(SWEEP, min(3, args.rounds)):
            record.add(
                "200 trials", candidate, number, wall=spend(SWEEP[candidate], clean_environment(), Path(name))["wall"]
            )
