"""Settings files: which count, where a key stands, and what is said about a wrong one."""

from __future__ import annotations

from pathlib import Path

import pytest

from himl_cli.core.errors import BadUsage
from himl_cli.core.settings import lines_of, section_settings
from tests.support.hostile_texts import SECONDS, within
from tests.support.running import write_files


def values(folder: Path, section: str = "submit") -> dict[str, object]:
    return {key: setting.value for key, setting in section_settings(folder, section).items()}


def test_no_file_means_no_settings(project: Path) -> None:
    assert section_settings(project, "submit") == {}


def test_the_nearest_file_counts(project: Path) -> None:
    write_files(project, {"himl.toml": "[submit]\ncluster='far'\nfollow=true\n", "a/himl.toml": "[submit]\ncluster='near'\n", "a/b/x": ""})
    assert values(project / "a" / "b") == {"cluster": "near"}


def test_private_settings_win_key_by_key(project: Path) -> None:
    write_files(project, {"himl.toml": "[submit]\ncluster='cpu'\nfollow=true\n", "himl.private.toml": "[submit]\ncluster='gpu'\n[azure]\ntenant_id='t'\n"})
    assert values(project) == {"cluster": "gpu", "follow": True}
    assert section_settings(project, "submit")["cluster"].place == f"{project / 'himl.private.toml'}:2"
    assert values(project, "azure") == {"tenant_id": "t"}


def test_pyproject_settings_count_only_without_himl_toml(project: Path) -> None:
    write_files(project, {"pyproject.toml": "[project]\nname='x'\n\n[tool.himl.submit]\ncluster = 'gpu'\n"})
    assert values(project) == {"cluster": "gpu"}
    assert section_settings(project, "submit")["cluster"].line == 5
    write_files(project, {"himl.toml": "[submit]\ncluster='own'\n"})
    assert values(project) == {"cluster": "own"}


def test_a_pyproject_without_our_table_is_passed_over(project: Path) -> None:
    write_files(project, {"himl.toml": "[submit]\ncluster='up'\n", "a/pyproject.toml": "[tool.ruff]\nline-length=160 # himl\n"})
    assert values(project / "a") == {"cluster": "up"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[submit]\ncluster = gpu\n", "line 2 (key 'cluster')"),
        ("[submit]\nfollow = true\ncluster = 'gpu\n", "line 3 (key 'cluster')"),
        ("[submit\n", "line 1"),
        ("[submit]\ncluster = 'a'\ncluster = 'b'\n", "line 3 (key 'cluster')"),
    ],
)
def test_corrupt_toml_is_named_with_line_and_key(project: Path, content: str, said: str) -> None:
    write_files(project, {"himl.toml": content})
    with pytest.raises(BadUsage, match=r"himl\.toml'") as caught:
        section_settings(project, "submit")
    assert said in str(caught.value)


def test_bytes_that_are_no_text_are_named(project: Path) -> None:
    write_files(project, {"himl.toml": b"[submit]\ncluster = '\xff'\n"})
    with pytest.raises(BadUsage, match=r"himl.toml' is not UTF-8 text \(byte 20\)"):
        section_settings(project, "submit")


def test_an_unknown_section_names_the_nearest(project: Path) -> None:
    write_files(project, {"himl.toml": "\n[submitt]\ncluster='gpu'\n"})
    with pytest.raises(BadUsage, match="line 2: 'submitt' is not known") as caught:
        section_settings(project, "submit")
    assert caught.value.hint == "Did you mean [submit]?"


def test_a_section_that_is_no_table(project: Path) -> None:
    write_files(project, {"himl.toml": "submit = 3\n"})
    with pytest.raises(BadUsage, match="'submit' is no section"):
        section_settings(project, "submit")


@pytest.mark.parametrize(
    ("text", "table", "key", "line"),
    [
        ("[submit]\n# cluster = 1\ncluster = 'x'\n", ("submit",), "cluster", 3),
        ("[other]\ncluster = 1\n[submit]\ncluster = 2\n", ("submit",), "cluster", 4),
        ("submit.cluster = 'x'\n", ("submit",), "cluster", 1),
        ("[submit]\n\n[submit.tag]\nteam='x'\n", ("submit",), "tag", 3),
        ('[submit]\n"cluster" = 1\n', ("submit",), "cluster", 2),
        ("[submit]\n", ("submit",), "cluster", 0),
    ],
)
def test_the_line_of_a_key(text: str, table: tuple[str, ...], key: str, line: int) -> None:
    assert lines_of(text, table).get(key, 0) == line


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("a = " + "[" * 3000 + "]" * 3000, "is nested too deeply for settings"),
        ("a = " + "[" * 150 + "]" * 150, "is nested too deeply for settings"),
        (".".join("a" * 100_000) + " = 1", "is nested too deeply for settings"),
        ("[submit]\nnum_nodes = " + "9" * 5000, "line 2: the number is too long"),
        ("[submit]\nnum_nodes = 0x" + "f" * 5000, "line 2: the number is too long"),
        ("# " + "x" * 600_000, "is too large for settings: 600,002 characters"),
    ],
    ids=["lists", "150 lists", "a key of parts", "digits", "hexadecimal digits", "size"],
)
def test_a_file_that_is_too_much_is_refused_at_once(project: Path, content: str, complaint: str) -> None:
    write_files(project, {"himl.toml": content})
    with within(SECONDS), pytest.raises(BadUsage, match=complaint):
        section_settings(project, "submit")


def test_settings_may_hold_long_dotted_texts_and_comments(project: Path) -> None:
    long = "a." * 300 + "0" * 400
    write_files(project, {"himl.toml": f'# {long}\n[submit]\na = \'{long}\'\nb = "{long} \\" {long}"\nc = """\n{long}\n"""\n'})
    assert values(project) == {"a": long, "b": f'{long} " {long}', "c": f"{long}\n"}


def test_thousands_of_keys_are_found_on_their_lines_at_once(project: Path) -> None:
    write_files(project, {"himl.toml": "[submit]\n" + "".join(f"key{number} = {number}\n" for number in range(10_000))})
    with within(SECONDS):
        found = section_settings(project, "submit")
    assert (found["key0"].line, found["key9999"].line) == (2, 10_001)
