"""The number of modules that a command imports, and of its garbage collections: `--help` and short commands must start
quickly.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.runs import RecordedRuns

CODE = """
import gc, json, os, sys
collections = []
gc.callbacks.append(lambda phase, info: collections.append(phase) if gc.get_threshold()[0] > 5000 else None)
before = set(sys.modules)
from himl_cli.__main__ import main
out = os.dup(1)
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
try:
    main()
except SystemExit as end:
    if end.code:
        raise
names = set(sys.modules) - before
os.write(out, json.dumps([len(names), sum(name.startswith("himl_cli") for name in names), len(collections)]).encode())
"""
MEASURED = {
    "--help": (109, 16),
    "submit --help": (117, 23),
    "download --help": (112, 19),
    "tb --help": (111, 18),
    "montage --help": (115, 21),
    "runs list": (189, 80),
    "--complete runs=": (57, 11),
}
"""All modules and himl's modules, with Python 3.11."""
SLACK, OTHER_PYTHON, OURS = 1.1, 1.3, 5
"""Factors for all modules with Python 3.11 and with other Pythons, which have different modules. The last number is
the number of himl's modules that may be added.
"""


@pytest.mark.parametrize("command", MEASURED)
def test_command_imports_no_more_than_before(command: str, tmp_path: Path) -> None:
    RecordedRuns(tmp_path).add("train_1_aa")
    done = subprocess.run(
        [sys.executable, "-c", CODE, *command.split()], cwd=tmp_path, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    found, ours, collections = json.loads(done.stdout)
    most, most_of_ours = MEASURED[command]
    assert found <= most * (SLACK if sys.version_info[:2] == (3, 11) else OTHER_PYTHON), (
        f"{found} modules; it was {most}"
    )
    assert collections == 0
    assert ours <= most_of_ours + OURS, f"{ours} of himl's modules; it was {most_of_ours}"
