"""Placeholders in lines for bash: the shell itself says what they come to."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from himl_cli.workspaces.local.command_line import fill_command, quote_after

VALUES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
LINE = "${{inputs.x}}"


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@settings(max_examples=60)
@given(VALUES)
def test_a_value_stays_one_word_wherever_it_stands(value: str) -> None:
    line = f"printf '%s\\0' {LINE} \"{LINE}\" '{LINE}' a\\ {LINE}\"b\\\"{LINE}\" $'c'{LINE}"
    done = subprocess.run(["bash", "-c", fill_command(line, {"inputs": {"x": value}})], capture_output=True, check=True)
    assert done.stdout.decode().split("\0") == [value, value, value, f'a {value}b"{value}', f"c{value}", ""]


def test_what_is_not_known_stays() -> None:
    assert fill_command("run ${{outputs.y}} ${{inputs.x}}", {"inputs": {"x": "a b"}}) == "run ${{outputs.y}} 'a b'"


@pytest.mark.parametrize(("text", "quote"), [("a", ""), ('a "b', '"'), ("a 'b \"c", "'"), ("\"a\" 'b'", ""), ("\\'a", ""), ('"a\\"', '"'), ("'a\\'", "")])
def test_which_quote_is_open(text: str, quote: str) -> None:
    assert quote_after(text, "") == quote
