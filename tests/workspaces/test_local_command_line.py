"""Placeholders in lines for bash: the shell itself says what they come to."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from himl_cli.core.errors import BadUsage
from himl_cli.workspaces.local.command_line import fill_command
from himl_cli.workspaces.local.shell_place import ShellPlace

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
    line = f"printf '%s\\0' {LINE} \"{LINE}\" '{LINE}' a\\ {LINE}\"b\\\"{LINE}\" $'c'{LINE}"
    assert said(line, value) == [value, value, value, f'a {value}b"{value}', f"c{value}", ""]


@BASH
@settings(max_examples=60)
@given(VALUES)
def test_what_stands_around_does_not_change_that(value: str) -> None:
    lines = [
        f"# don't touch {LINE}, it's \"mine",
        f"printf '%s\\0' {LINE}# {LINE} ${{#HOME}} a\\ #b # isn't it",
        f"(printf '%s\\0' {LINE}; printf '%s\\0' \"{LINE}\") # ' in a comment",
        f'printf \'%s\\0\' "$(printf %s {LINE}; echo .)" "$(printf %s "{LINE}" \'{LINE}\'; echo .)"',
        f"cat >/dev/null <<'EOF' {LINE}.txt 2>/dev/null || true",
        "it's a here-document, and its \"quotes are text",
        "EOF",
        f"printf '%s\\0' {LINE} $((1 << 2)) $'don\\'t {LINE}' <<< \"a here-string\"",
    ]
    wanted = [f"{value}#", value, "1", "a #b"]
    found = said("HOME=x\n" + "\n".join(lines), value)
    assert found[:4] == wanted
    assert found[4:] == [value, value, f"{value}.", f"{value}{value}.", value, "4", f"don't {value}", ""]


@pytest.mark.parametrize(
    ("line", "where"),
    [
        (f"cat <<EOF\nfolder {LINE}\nEOF\n", "in a here-document"),
        (f"cat <<-'EOF' # a comment\n\tfolder {LINE}\n\tEOF\n", "in a here-document"),
        (f"echo `ls {LINE}`", "in a command in `backquotes`"),
        (f'echo "`ls {LINE}`"', "in a command in `backquotes`"),
        (f'echo "$(case a in a) ls {LINE};; esac)"', "in or behind a $(…), in a line with 'case'"),
    ],
)
def test_where_no_quotes_can_be_given_only_plain_values_may_stand(line: str, where: str) -> None:
    assert fill_command(line, {"inputs": {"x": "/data/plain-1.5"}}) == line.replace(LINE, "/data/plain-1.5")
    with pytest.raises(BadUsage) as caught:
        fill_command(line, {"inputs": {"x": "/my data"}})
    assert str(caught.value) == f"'{LINE}' stands {where}, where '/my data' cannot be quoted."


def test_what_is_not_known_stays() -> None:
    assert fill_command("run ${{outputs.y}} ${{inputs.x}}", {"inputs": {"x": "a b"}}) == "run ${{outputs.y}} 'a b'"


@pytest.mark.parametrize(("text", "quote"), [("a", ""), ('a "b', '"'), ("a 'b \"c", "'"), ("\"a\" 'b'", ""), ("\\'a", ""), ('"a\\"', '"'), ("'a\\'", "")])
def test_which_quote_is_open(text: str, quote: str) -> None:
    place = ShellPlace()
    for at in range(len(text)):
        place.read(text, at)
    assert place.innermost == quote
