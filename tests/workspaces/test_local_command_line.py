"""Placeholders in lines for bash: the shell itself says what they come to."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from himl_cli.core.errors import BadUsage
from himl_cli.workspaces.local.launch_request import fill_command

VALUES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
LINE = "${{inputs.x}}"
BASH = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")


def said(line: str, value: str) -> list[str]:
    """What bash prints for *line* with *value* in it, as the words between zero bytes."""
    done = subprocess.run(["bash", "-c", fill_command(line, {"inputs": {"x": value}})], capture_output=True, check=True)
    assert done.stderr == b""
    return done.stdout.decode().split("\0")


@BASH
@settings(max_examples=60)
@given(VALUES)
def test_a_value_stays_one_word_wherever_it_stands(value: str) -> None:
    line = f"printf '%s\\0' {LINE} \"{LINE}\" '{LINE}' a\\ {LINE}\"b\\\"{LINE}\" \\'{LINE}"
    assert said(line, value) == [value, value, value, f'a {value}b"{value}', f"'{value}", ""]


@BASH
@settings(max_examples=60)
@given(VALUES)
def test_what_stands_around_does_not_change_that(value: str) -> None:
    line = f"HOME=x; (printf '%s\\0' {LINE}; printf '%s\\0' \"{LINE}\"; printf '%s\\0' \"$HOME\"{LINE}) # ' in a comment"
    assert said(line, value) == [value, value, f"x{value}", ""]


@pytest.mark.parametrize(
    ("line", "sign"),
    [
        (f"cat <<EOF\nfolder {LINE}\nEOF\n", "<<"),
        (f"echo `ls {LINE}`", "`"),
        (f'echo "`ls {LINE}`"', "`"),
        (f'echo "$(case a in a) ls {LINE};; esac)"', "$("),
        (f'echo "${{HOME:-"a"}} {LINE}"', "${"),
        (f"echo $'it\\'s {LINE}'", "$'"),
        (f"# don't touch {LINE}", "#"),
        (f"echo \\{LINE}", "\\"),
    ],
)
def test_unquotable_placeholder_accepts_only_plain_values(line: str, sign: str) -> None:
    assert fill_command(line, {"inputs": {"x": "/data/plain-1.5"}}) == line.replace(LINE, "/data/plain-1.5")
    with pytest.raises(BadUsage) as caught:
        fill_command(line, {"inputs": {"x": "/my data"}})
    assert str(caught.value) == f"'{LINE}' stands behind '{sign}', where '/my data' cannot be quoted."


def test_what_is_not_known_stays() -> None:
    assert fill_command("run ${{outputs.y}} ${{inputs.x}}", {"inputs": {"x": "a b"}}) == "run ${{outputs.y}} 'a b'"
