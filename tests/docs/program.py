"""A program `himl` for PATH that costs little: it asks the tests for a copy of a process that has himl's imports behind it (`tests/support/forked_himl.py`).

With the variable STARTED set, and wherever a copy would not be the same, the installed program is started.
"""

from __future__ import annotations

import base64
import json
import socketserver
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.forked_himl import PROGRAM, forked

STARTED = "DOCUMENTS_START_HIML"
SOURCE = """\
import base64, json, os, socket, sys
STARTED, PROGRAM, ADDRESS = {values!r}
if STARTED in os.environ:
    os.execv(PROGRAM, [PROGRAM, *sys.argv[1:]])
with socket.socket(socket.AF_UNIX) as asking:
    asking.connect(ADDRESS)
    asking.sendall(json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode() + b"\\n")
    code, *texts = json.loads(asking.makefile().readline())
if code is None:
    os.execv(PROGRAM, [PROGRAM, *sys.argv[1:]])
for number, text in enumerate(texts, 1):
    with open(number, "wb", closefd=False) as stream:
        stream.write(base64.b64decode(text))
os._exit(code % 256)
"""


class _Asked(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        arguments, folder, variables = json.loads(self.rfile.readline())
        himl = forked(PROGRAM)
        if not himl.can_run(variables):
            answer: list[object] = [None]
        else:
            done = himl.run([str(PROGRAM), *arguments], Path(folder), variables)
            answer = [done.returncode, *(base64.b64encode(text).decode() for text in (done.stdout, done.stderr))]
        self.wfile.write(json.dumps(answer).encode() + b"\n")


@contextmanager
def program(folder: Path) -> Iterator[Path]:
    """The folder that it is in, as long as the context lasts; *folder* is new, and its path short, as that of a socket has to be."""
    folder.mkdir()
    address = str(folder / "asked")
    (folder / "himl").write_text(f"#!/bin/sh\nexec '{sys.executable}' -IS '{folder}/himl.py' \"$@\"\n", encoding="utf-8")
    (folder / "himl").chmod(0o755)
    (folder / "himl.py").write_text(SOURCE.format(values=(STARTED, str(PROGRAM), address)), encoding="utf-8")
    with socketserver.ThreadingUnixStreamServer(address, _Asked) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield folder
        finally:
            server.shutdown()
            thread.join()
