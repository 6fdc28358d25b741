"""azure-ai-ml is imported beside an upload, and leaves the process as it was."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys, threading, time, warnings
from himl_cli.workspaces.azure.jobs.sdk import loading_sdk
before = list(warnings.filters)
def import_has_begun():
    return any(name.startswith("azure.ai") for name in sys.modules)
with loading_sdk():
    while not import_has_begun():
        time.sleep(0.001)
    with warnings.catch_warnings():
        while any(one.name == "himl-sdk" for one in threading.enumerate()):
            time.sleep(0.001)
assert "azure.ai.ml.entities" in sys.modules
assert warnings.filters == before, warnings.filters
"""


def test_filters_of_warnings_are_as_before_whoever_else_changes_them_meanwhile() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stderr) == (0, "")
