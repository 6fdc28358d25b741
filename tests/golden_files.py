"""Golden files: what was recorded once, and changes on purpose only.

`HIML_TEST_GOLDEN=write pytest tests/workspaces/test_azure_bodies.py` writes them anew; `git diff` shows what became different.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "golden"


def check_golden(name: str, found: dict[str, Any]) -> None:
    """Compare *found* with the JSON file *name*, or write that."""
    path = FOLDER / name
    if os.environ.get("HIML_TEST_GOLDEN") == "write":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
    assert found == json.loads(path.read_text(encoding="utf-8"))
