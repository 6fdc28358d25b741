"""The page of installed sizes, and what measures them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from docs.tools.sizes import extras, page

PROJECT = Path(__file__).parents[2]
BASE = {"extra": "", "bytes": 297_400_000, "files": 12_331, "packages": 61, "python": "3.11.7", "platform": "Linux x86_64"}
ROW = re.compile(r"^\| `himl-cli(?:\[(\w+)\])?` \| ([\d,]+) \| ([\d,]*) \| [\d,]+ \| [\d,]+ \|$", re.MULTILINE)


def test_the_page_has_the_package_and_every_extra() -> None:
    rows = ROW.findall((PROJECT / "docs" / "sizes.md").read_text(encoding="utf-8"))
    assert [extra for extra, *_ in rows] == ["", *extras()]
    assert all(int(total.replace(",", "")) > 100 for _, total, _ in rows)


def test_an_extra_is_told_with_what_it_adds() -> None:
    text = page([BASE, {**BASE, "extra": "plot", "bytes": 352_600_000, "files": 15_000, "packages": 71}], "2026-11-21")
    assert text.endswith("|\n| `himl-cli` | 297 |  | 12,331 | 61 |\n| `himl-cli[plot]` | 353 | 55 | 15,000 | 71 |\n")
    assert "Linux x86_64, Python 3.11.7,\nthe locked versions of 2026-11-21 (" in text
    assert "the newest versions of" in page([{**BASE, "python": "3.13.0"}], "2026-11-21")


def test_nothing_is_compared_with_an_extra() -> None:
    with pytest.raises(ValueError, match="'plot' was measured first"):
        page([{**BASE, "extra": "plot"}, BASE], "2026-11-21")


def test_files_are_counted_with_their_bytecode_and_without_pip(tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", symlinks=sys.platform != "win32")
    installed = Path(
        sysconfig.get_path("purelib", sysconfig.get_preferred_scheme("prefix"), {"base": str(tmp_path / "venv"), "platbase": str(tmp_path / "venv")})
    )
    for name, size in {"a/b.py": 1000, "a/__pycache__/b.pyc": 500, "a-1.dist-info/METADATA": 30, "pip/c.py": 7000, "pip-1.dist-info/METADATA": 7000}.items():
        (installed / name).parent.mkdir(parents=True, exist_ok=True)
        (installed / name).write_bytes(b"#" * size)
    python = tmp_path / "venv" / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    done = subprocess.run([python, PROJECT / "docs" / "tools" / "installed_size.py", "plot"], capture_output=True, text=True, timeout=100, check=True)
    told = json.loads(done.stdout)
    assert (told["extra"], told["bytes"], told["files"], told["packages"]) == ("plot", 1530, 3, 1)
    assert told["python"] == ".".join(map(str, sys.version_info[:3]))
