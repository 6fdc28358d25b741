"""The record of the command line says what help says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import pytest
import typer
import typer.main

from himl_cli.app import COMMANDS, app
from himl_cli.commands.completion import app_shape
from himl_cli.commands.groups import command, group
from himl_cli.core.command_shape import CommandShape, ParameterShape
from tests.support.running import Himl

SHAPE = app_shape(typer.main.get_command(app))
ALL = {each.words: each for each in SHAPE.walk()}


def option(words: str, name: str) -> ParameterShape:
    return next(each for each in ALL[words].options if name in each.names)


def rows_of(help_text: str) -> dict[str, list[str]]:
    """The names in the first column of help by heading, without their metavars."""
    sections: dict[str, list[str]] = {}
    names: list[str] = []
    for line in help_text.splitlines():
        if re.fullmatch(r"\S.*:", line):
            names = sections.setdefault(line[:-1], [])
        elif line.startswith("  ") and line[2] != " ":
            names.append(line[2:].split("  ")[0])
    return sections


def test_it_has_the_commands_of_the_program_in_their_order() -> None:
    assert [child.path[-1] for child in SHAPE.children] == list(COMMANDS)
    assert [child.panel for child in SHAPE.children] == [listed.panel for listed in COMMANDS.values()]
    assert [child.summary for child in SHAPE.children] == [listed.help for listed in COMMANDS.values()]
    assert ALL["himl runs show"].path == ("himl", "runs", "show")
    assert ALL["himl runs show"].summary == "Show one run in full: outcome, tags, metrics, texts, trials or steps."


@pytest.mark.parametrize("words", ALL)
def test_options_stand_under_the_headings_of_help(words: str, himl: Himl) -> None:
    shown = rows_of(himl.ok(*words.split()[1:], "--help").stdout)
    found = ALL[words].options
    panels = {heading: [each for each in found if each.panel == heading] for heading in dict.fromkeys(each.panel for each in found)}
    assert [name for name in shown if name in panels] == list(panels)
    for panel, options in panels.items():
        kept = [set(re.findall(r"(?<![\w-])--?\w+", name)) for name in shown[panel] if name.startswith("-")]
        assert kept == [{*each.names, *each.off_names} for each in options]


@pytest.mark.parametrize("words", ALL)
def test_usage_and_arguments_are_those_of_help(words: str, himl: Himl) -> None:
    text = himl.ok(*words.split()[1:], "--help").stdout
    assert " ".join(text.partition("\n\n")[0].split()) == f"Usage: {ALL[words].usage}"
    shown = rows_of(text).get("Arguments", [])
    assert [name for name in shown if not name.startswith("-")] == [each.metavar for each in ALL[words].arguments]


def test_what_an_option_is_like() -> None:
    refresh = option("himl tb", "--refresh")
    assert (refresh.metavar, refresh.default, refresh.takes_value, refresh.repeats, refresh.panel) == ("SECONDS", "15", True, False, "Event files")
    assert refresh.help == "Time between looks for new runs and files."
    assert option("himl checkpoint fetch", "--output_dir").default == "checkpoints/RUN_ID"
    assert option("himl submit", "--input").repeats
    quiet = option("himl doctor", "-q")
    assert (quiet.names, quiet.long_name, quiet.metavar, quiet.takes_value, quiet.default) == (("--quiet", "-q"), "--quiet", "", False, "")
    assert option("himl doctor", "-h").names == ("--help", "-h")
    wait = option("himl submit", "--wait")
    assert (wait.names, wait.off_names, wait.takes_value) == (("--wait",), ("--no_wait",), False)


def test_old_names_belong_to_the_option_that_they_mean() -> None:
    assert option("himl runs show", "--run").old_names == ("--run_ids", "--run_recovery_ids", "--run_id")
    assert option("himl montage", "--image_glob").old_names == ("--image_glob_pattern",)
    assert option("himl runs show", "--tags").old_names == ()


def test_variables_are_those_of_submit_alone() -> None:
    assert option("himl submit", "--num_nodes").variable == "HIML_SUBMIT_NUM_NODES"
    assert option("himl submit", "-m").variable == "HIML_SUBMIT_MODULE"
    assert option("himl submit", "--help").variable == ""
    assert {each.variable for words, shape in ALL.items() if words != "himl submit" for each in shape.options} == {""}
    assert not any("env var" in each.help for each in ALL["himl submit"].options)


def test_text_and_examples_are_told_apart() -> None:
    listing = ALL["himl runs list"]
    assert listing.text == "List runs, newest first.\n\nThe last 20, unless --num_runs says otherwise."
    assert listing.examples == ["himl runs list --experiment train --status Failed", "himl runs list --num_runs all --json"]
    assert all(shape.text and "\b" not in shape.text and not re.search("(?m)^ *himl ", shape.text) for shape in SHAPE.walk())
    assert all(shape.examples for shape in SHAPE.walk() if not shape.children)


def test_arguments_say_whether_they_must_be_there() -> None:
    [source] = ALL["himl checkpoint url"].arguments
    assert (source.metavar, source.repeats) == ("SOURCE", False)
    [runs] = ALL["himl runs show"].arguments
    assert (runs.metavar, runs.repeats) == ("[RUN]...", True)


def test_neither_settings_nor_variables_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "himl.toml").write_text("this is = = no TOML")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HIML_SUBMIT_NUM_NODES", "many")
    monkeypatch.setenv("HIML_SUBMIT_PRIMARY_METRIC", "another")
    assert app_shape(typer.main.get_command(app)) == SHAPE


def test_hidden_commands_and_options_are_left_out() -> None:
    tool = group("A tool.")

    @command(tool, "one")
    def one(shown: Annotated[int, typer.Option("--shown")] = 1, secret: Annotated[int, typer.Option("--secret", hidden=True)] = 2) -> None:
        """The one."""

    @tool.command("two", hidden=True)
    def two() -> None:
        """The other."""

    shape = app_shape(typer.main.get_command(tool), "tool")
    assert [child.words for child in shape.children] == ["tool one"]
    assert names(shape.children[0]) == {"--shown", "--help"}
    assert shape.children[0].options[0].default == "1"


def names(shape: CommandShape) -> set[str]:
    return {name for each in shape.options for name in each.names}
