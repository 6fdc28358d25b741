"""Starting the ranks of a script as launchers do: real processes that differ only in their environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
SAY = """
import json, os, sys, time
import himl_cli
def say(value):
    os.write(1, (json.dumps(value) + "\\n").encode())  # at once: several processes may share the pipe
def said(call):
    try:
        call()
    except himl_cli.HimlError as err:
        return [type(err).__name__, isinstance(err, FileNotFoundError), str(err)]
    return sorted(name for folder, _, names in os.walk(sys.argv[1]) for name in names
        if ".himl" not in os.path.join(folder, name))
"""


def run_ranks(program: str, folder: Path, variables: Sequence[Mapping[str, str]], *, cwd: Path) -> list[list[object]]:
    """Run one process of *program* per entry of *variables*, started in that order.

    Return each rank's output, which has one JSON value per line.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", SAY + program, str(folder)],
            env={**environment, **own},
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for own in variables
    ]
    said: list[list[object]] = []
    for process in running:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        said.append([json.loads(line) for line in out.splitlines()])
    return said


def local_ranks(count: int, **shared: str) -> list[dict[str, str]]:
    return [
        {"LOCAL_RANK": str(rank), "RANK": str(rank), "LOCAL_WORLD_SIZE": str(count), "WORLD_SIZE": str(count), **shared}
        for rank in range(count)
    ]
