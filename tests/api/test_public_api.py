"""What scripts and tools import stays as it is: names, signatures, constants, error codes."""

from __future__ import annotations

import re
from pathlib import Path

import himl_cli
from himl_cli.core.errors import HimlError
from tests.api.public_api import KEPT, kinds_of_errors, public_api

ROOT = Path(himl_cli.__file__).parent
CODE = re.compile(r'^    code = "(\w+)"', re.MULTILINE)
ROW = re.compile(r"^\| (\d+) \|[^|]*\|([^|]*)\|$", re.MULTILINE)


def test_the_public_api_is_the_one_on_record() -> None:
    """Where a change is meant, `python -m tests.api.public_api` records it."""
    assert public_api().splitlines() == KEPT.read_text(encoding="utf-8").splitlines()


def test_the_record_holds_every_name() -> None:
    text = KEPT.read_text(encoding="utf-8")
    assert [name for name in himl_cli.__all__ if not re.search(rf"\bhiml_cli\.{name}\b", text)] == []
    assert not re.search(r"0x[0-9a-f]{6}", text)  # an address in memory


def test_the_documents_have_each_error_code_with_its_exit_code() -> None:
    rows = ROW.findall((ROOT.parent / "docs" / "scripts.md").read_text(encoding="utf-8"))
    told = {code: int(number) for number, codes in rows for code in re.findall(r"`(\w+)`", codes)}
    assert {*told} == {code for path in ROOT.rglob("*.py") for code in CODE.findall(path.read_text(encoding="utf-8"))}
    assert {kind.code: kind.exit_code for kind in kinds_of_errors()}.items() <= told.items()
    assert told["failed"] == HimlError.exit_code
