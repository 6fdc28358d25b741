"""JSON documents of commands with what differs from run to run replaced, and the files that they are compared with.

`python -m tests.golden.documents` writes the files anew: for changes that are meant.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).with_name("json")
WRITES = "HIML_TEST_WRITE_GOLDEN"
VOLATILE = {"seconds", "duration", "times", "time"}
RUN = re.compile(r"\b([a-z]+)_\d{10}_[0-9a-f]{8}")
TIME = re.compile(r"20\d\d-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|\+00:00)?")
RECORDED_DAY = "2026-03-01T12:"


def compare(name: str, document: Any, folders: dict[str, Path]) -> None:
    """Compare *document* with the file *name*; *folders* are replaced by their names. Where HIML_TEST_WRITE_GOLDEN is set, the file is written."""
    text = json.dumps(steady(document, folders), indent=1, ensure_ascii=False) + "\n"
    path = FOLDER / f"{name}.json"
    if os.environ.get(WRITES):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8"), f"where that is meant: python -m {__spec__.name}"


def steady(value: Any, folders: dict[str, Path], key: str = "") -> Any:
    if isinstance(value, dict):
        is_recorded = str(value.get("started", "")).startswith(RECORDED_DAY)
        return {name: steady(entry, folders, "" if is_recorded else name) for name, entry in value.items()}
    if isinstance(value, list) and key not in VOLATILE:
        return [steady(entry, folders) for entry in value]
    if key == "build_user":
        return f"<{key}>"
    if isinstance(value, str):
        for name, folder in folders.items():
            value = value.replace(str(folder), name)
        value = RUN.sub(r"\1_ID", value.replace("\\", "/").replace(sys.executable, "PYTHON"))
        return TIME.sub(lambda found: found[0] if found[0].startswith(RECORDED_DAY) else "TIME", value)
    return f"<{key}>" if key in VOLATILE and value is not None else value


if __name__ == "__main__":
    sys.exit(subprocess.run([sys.executable, "-m", "pytest", "-q", "-n", "0", str(Path(__file__).parent)], env=os.environ | {WRITES: "1"}).returncode)
