"""Log records reach stderr without secrets."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import logging
from himl_cli.render.progress import start_logging
start_logging(verbose={verbose})
logging.getLogger("azure").warning("fetching %s", "https://h/x?sig=HIDDEN")
logging.getLogger("azure").info("polled")
logging.getLogger("himl_cli.x").debug("Bearer HIDDEN")
try:
    raise ValueError("AccountKey=HIDDEN")
except ValueError:
    logging.getLogger("azure").exception("failed")
"""


OWN = """
import io, logging, sys
from himl_cli.render.progress import start_logging
start_logging(verbose={verbose})
logging.getLogger("himl_cli.workspaces.retry").warning("%s answered 503;\\ntrying again in %.0f s: sig?sig=HIDDEN", "host", 3)
real, sys.stderr = sys.stderr, io.StringIO()  # as a progress bar does
logging.getLogger("himl_cli").warning("above the bar")
print(sys.stderr.getvalue().strip(), file=sys.stdout)
"""


def test_warnings_are_plain_lines_and_log_records_if_verbose() -> None:
    plain = subprocess.run([sys.executable, "-c", OWN.format(verbose=False)], capture_output=True, text=True, check=True)
    assert (plain.stderr, plain.stdout) == ("himl: host answered 503; trying again in 3 s: sig?sig=***\n", "himl: above the bar\n")
    verbose = subprocess.run([sys.executable, "-c", OWN.format(verbose=True)], capture_output=True, text=True, check=True)
    assert " WARNING himl_cli.workspaces.retry: host answered 503" in verbose.stderr


@pytest.mark.parametrize("verbose", [False, True])
def test_records_are_redacted_and_verbose_shows_more(verbose: bool) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT.format(verbose=verbose)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
    assert "HIDDEN" not in done.stderr
    assert "WARNING azure: fetching https://h/x?sig=***" in done.stderr
    assert "ValueError: AccountKey=***" in done.stderr
    assert ("INFO azure: polled" in done.stderr) is verbose
    assert ("DEBUG himl_cli.x: Bearer ***" in done.stderr) is verbose
