"""The script of the documents that changes the checkpoints of a folder."""

from __future__ import annotations

import sys
from pathlib import Path

for path in Path(sys.argv[1]).rglob("*.ckpt"):
    path.write_bytes(path.read_bytes() + b" changed")
