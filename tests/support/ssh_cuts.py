"""An `ssh` that dies after a number of bytes, so that a connection is lost within any message, however busy the
machine is.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from itertools import count
from pathlib import Path

from tests.support.ssh import SshServer

MOST = 6.6  # the power of ten of the largest number of bytes
CUTTING = '''#!{python}
"""Passes on the bytes of ssh. Takes the next line of the plan: after so many bytes to (>) or from (<) the other end,
ssh is killed, or its input ends (|), while the other end may still answer."""
import os, signal, subprocess, sys, threading
ssh, folder = {ssh!r}, {folder!r}
way, left = "", 0
if any("himl_cli.remote" in word for word in sys.argv):
    for name in sorted(os.listdir(folder + "/plan")):
        try:
            os.rename(folder + "/plan/" + name, folder + "/done/" + name)  # one process gets it
        except FileNotFoundError:
            continue
        with open(folder + "/done/" + name) as line:
            way, text = line.read().split()
        left = int(text)
        break
if not way and not os.path.exists(folder + "/count"):
    os.execv(ssh, [ssh, *sys.argv[1:]])
child = subprocess.Popen([ssh, *sys.argv[1:]], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
signal.signal(signal.SIGTERM, lambda *_: child.terminate())
def copy(source, target, is_way):
    global left
    passed = 0
    while piece := os.read(source, 1 << 16):
        piece = piece[:left] if is_way else piece
        left -= len(piece) if is_way else 0
        try:
            while piece:
                done = os.write(target, piece)
                passed += done
                piece = piece[done:]
        except OSError:
            break
        if is_way and left <= 0:
            if way != "|":
                child.kill()
            break
    os.close(target)
    with open(folder + ("/received" if target == 1 else "/sent"), "a") as log:
        log.write(str(passed) + chr(10))
sender = threading.Thread(target=copy, args=(0, child.stdin.fileno(), way in (">", "|")), daemon=True)
sender.start()
copy(child.stdout.fileno(), 1, way == "<")
code = child.wait()
sender.join(2)
os._exit(code if code >= 0 else 255)
'''


class CutSsh:
    """The program, in the folder `programs`, which belongs in PATH before the client's own ssh of *box*."""

    def __init__(self, box: SshServer, folder: Path) -> None:
        self._folder, self.programs, self._numbers = folder, folder / "programs", count()
        for each in ("plan", "done", "programs"):
            (folder / each).mkdir(parents=True)
        program = self.programs / "ssh"
        program.write_text(CUTTING.format(python=sys.executable, ssh=str(box.programs / "ssh"), folder=str(folder)))
        program.chmod(0o755)
        (folder / "count").touch()

    def plan(self, cuts: Sequence[tuple[str, int]]) -> None:
        """Have the next connections die, each after its bytes to (`>`) or from (`<`) the other end, or close only the
        way to it (`|`). Later ones stay."""
        self.forget()
        for way, size in cuts:
            (self._folder / "plan" / f"{next(self._numbers):06d}").write_text(f"{way} {size}")

    def forget(self) -> None:
        """Cut no further connection."""
        for each in (self._folder / "plan").iterdir():
            each.unlink(missing_ok=True)

    @property
    def cuts(self) -> int:
        """How many connections were to die so far."""
        return len([*(self._folder / "done").iterdir()])

    def sent(self) -> list[int]:
        """The bytes that went to the other end, for each connection that has ended."""
        return [int(line) for line in (self._folder / "sent").read_text().split()]

    def received(self) -> list[int]:
        """The bytes that came from the other end, likewise."""
        return [int(line) for line in (self._folder / "received").read_text().split()]


def drawn_cuts(dice: random.Random, number: int) -> list[tuple[str, int]]:
    """Moments for *number* connections: as many in small messages as in large ones."""
    return [(dice.choice("<>|"), int(10 ** dice.uniform(0, MOST))) for _ in range(number)]
