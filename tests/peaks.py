"""How much memory some code takes at its peak, in a process of its own."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import re, sys
from pathlib import Path

def kilobytes(figure):
    return int(re.search(figure + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

setup, work = sys.argv.pop(1), sys.argv.pop(1)
exec(setup)
Path("/proc/self/clear_refs").write_text("5")
before = kilobytes("VmRSS")
exec(work)
print((kilobytes("VmHWM") - before) // 1024)
"""
"""`ru_maxrss` begins with what the parent has: in a child of a large process it notices nothing. VmHWM begins anew, once a 5 is written to clear_refs."""


def peak_of(setup: str, work: str, *arguments: str) -> int:
    """The MiB that *work* takes at its peak, on top of what *setup* left; both see *arguments* as `sys.argv[1:]`. Linux only."""
    ran = subprocess.run([sys.executable, "-c", CODE, setup, work, *arguments], capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    return int(ran.stdout)
