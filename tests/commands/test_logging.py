"""Log records reach stderr without secrets."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import logging
from himl_cli.commands._logging import start_logging
start_logging(verbose={verbose})
logging.getLogger("azure").warning("fetching %s", "https://h/x?sig=HIDDEN")
logging.getLogger("azure").info("polled")
logging.getLogger("himl_cli.x").debug("Bearer HIDDEN")
try:
    raise ValueError("AccountKey=HIDDEN")
except ValueError:
    logging.getLogger("azure").exception("failed")
"""


@pytest.mark.parametrize("verbose", [False, True])
def test_records_are_redacted_and_verbose_shows_more(verbose: bool) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT.format(verbose=verbose)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
    assert "HIDDEN" not in done.stderr
    assert "WARNING azure: fetching https://h/x?sig=***" in done.stderr
    assert "ValueError: AccountKey=***" in done.stderr
    assert ("INFO azure: polled" in done.stderr) is verbose
    assert ("DEBUG himl_cli.x: Bearer ***" in done.stderr) is verbose
