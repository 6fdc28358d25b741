"""Paths in the home of somebody whom this machine does not know: they are taken as they are written."""

from __future__ import annotations

import pytest

from tests.running import Himl

NOBODY = "~nobody_at_all/x"


@pytest.mark.parametrize(
    "arguments",
    [
        ("runs", "list", "--config_file", NOBODY),
        ("runs", "list", "--workspace", NOBODY),
        ("checkpoint", "fetch", f"{NOBODY}.ckpt"),
        ("montage", NOBODY),
    ],
)
def test_a_home_that_nobody_has_is_a_path_that_is_not_there(himl: Himl, arguments: tuple[str, ...]) -> None:
    outcome = himl(*arguments)
    assert (outcome.code, outcome.stdout) == (3, "")
    assert outcome.stderr.startswith("error: There is no ")
    assert NOBODY in outcome.stderr
