"""Conda files: read, merged, and written so that the same meaning is the same text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from himl_cli.core.errors import BadUsage
from himl_cli.services.submission.environment import conda_text, merge, read_conda_file


def text_of(folder: Path, *contents: str) -> str:
    paths = [folder / f"{number}.yml" for number in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_text(content, encoding="utf-8")
    return conda_text(merge([read_conda_file(path) for path in paths]))


def refused(folder: Path, *contents: str) -> str:
    with pytest.raises(BadUsage) as caught:
        text_of(folder, *contents)
    assert "\n" not in f"{caught.value}{caught.value.hint}"
    return str(caught.value)


def test_two_files_are_united(tmp_path: Path) -> None:
    merged: Any = yaml.safe_load(
        text_of(
            tmp_path,
            "channels: [pytorch, conda-forge]\ndependencies: [python=3.11, numpy, pip: [rich, -i https://a.example]]\nvariables: {A: 1}\n",
            "channels: [conda-forge, nvidia]\ndependencies: [python =3.11, numpy=1.26, pip=24, pip: [tqdm==4, Rich>=13]]\nvariables: {B: x}\n",
        )
    )
    assert merged == {
        "name": "himl",
        "channels": ["pytorch", "conda-forge", "nvidia"],
        "dependencies": ["numpy=1.26", "pip=24", "python =3.11", "python=3.11", {"pip": ["--index-url https://a.example", "Rich>=13", "tqdm==4"]}],
        "variables": {"A": "1", "B": "x"},
    }


@pytest.mark.parametrize(
    ("first", "second", "what"),
    [
        ("dependencies: [python=3.10]", "dependencies: [python=3.11]", "python =3.10"),
        ("dependencies: [numpy <2]", "dependencies: [conda-forge::numpy=2]", "numpy <2"),
        ("dependencies: [pip: [Torch_Geometric==1]]", "dependencies: [pip: [torch-geometric==2]]", "torch-geometric ==1"),
        ("dependencies: [pip: [-i https://u:hunter2@a.example]]", "dependencies: [pip: [--index-url https://b.example]]", "***@a.example"),
        ("dependencies: []\nvariables: {A: 1}", "dependencies: []\nvariables: {A: 2}", "variable 'A'"),
    ],
)
def test_what_two_files_say_differently_names_both(tmp_path: Path, first: str, second: str, what: str) -> None:
    message = refused(tmp_path, first, second)
    assert what in message
    assert "0.yml" in message
    assert "1.yml" in message
    assert "hunter2" not in message


def test_two_versions_of_one_package_in_one_file_are_refused(tmp_path: Path) -> None:
    said = refused(tmp_path, "dependencies: [python=3.11, numpy, Python==3.12]\n")
    assert "wants python 3.11 and python 3.12." in said
    text_of(tmp_path, "dependencies: [python=3.11, python=3.11.4, numpy>=1, numpy<3, pip=24.*]\n")


def test_packages_with_markers_of_their_own_do_not_contradict(tmp_path: Path) -> None:
    text = text_of(tmp_path, "dependencies: [pip: ['a==1; python_version < \"3.9\"']]", "dependencies: [pip: ['a==2; python_version >= \"3.9\"']]")
    assert len(yaml.safe_load(text)["dependencies"][-1]["pip"]) == 2


@given(st.permutations(["python=3.11", "numpy=1.26", "scipy"]), st.permutations(["rich", "tqdm"]), st.sampled_from(["a", "b c"]), st.booleans())
def test_the_same_meaning_is_the_same_text(tmp_path_factory: pytest.TempPathFactory, conda: list[str], pip: list[str], name: str, pip_first: bool) -> None:
    folder = tmp_path_factory.mktemp("same")
    dependencies: list[Any] = [{"pip": pip}, *conda] if pip_first else [*conda, "pip", {"pip": pip}]
    content = {"name": name, "prefix": f"/home/{name}", "channels": ["x", "y"], "dependencies": dependencies}
    expected = text_of(folder, "channels: [x, y]\ndependencies: [numpy=1.26, pip, python=3.11, scipy, pip: [rich, tqdm]]")
    assert text_of(folder, yaml.safe_dump(content)) == expected


def test_the_order_of_channels_is_part_of_the_meaning(tmp_path: Path) -> None:
    assert text_of(tmp_path, "channels: [a, b]\ndependencies: []") != text_of(tmp_path, "channels: [b, a]\ndependencies: []")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("dependencies: [a\nb: }", "line 2"),
        ("dependencies:\n- a\n\t- b\n", "line 3"),
        ("dependencies: [a]\nchannels: [x]\ndependencies: [b]\n", "line 3: the key 'dependencies'"),
        ("- a\n- b\n", "holds no sections"),
        ("", "holds no sections, but nothing"),
        ("when: 2024-13-45\n", "line 1: '2024-13-45' is no timestamp"),
        ("name: x\n", "has no 'dependencies'"),
        ("dependencies: numpy\n", "no list"),
        ("dependencies: [3.11]\n", "3.11"),
        ("dependencies: ['']\n", "names no package"),
        ("dependencies: ['a b c']\n", "'a b c'"),
        ("dependencies: [npm: [x]]\n", "'npm'"),
        ("dependencies: [pip: x]\n", "no list of texts"),
        ("dependencies: []\nchannels: {a: b}\n", "'channels'"),
        ("dependencies: []\nvariables: [a]\n", "'variables'"),
        ("dependencies: [pip: ['-r requirements.txt']]\n", "'-r requirements.txt' reads another file"),
        ("dependencies: [pip: ['--constraint=c.txt']]\n", "reads another file"),
        ("dependencies: [pip: ['-e .']]\n", "path on this machine"),
        ("dependencies: [pip: ['./mine']]\n", "path on this machine"),
        ("dependencies: [pip: ['mine @ file:///home/me/mine']]\n", "path on this machine"),
        ("dependencies: [pip: ['dist/mine-1-py3-none-any.whl']]\n", "path on this machine"),
        ("dependencies: [pip: ['C:\\mine']]\n", "path on this machine"),
        ("dependencies: [pip: ['--extra-index-url https://${TOKEN}@a.example']]\n", "${TOKEN} is not set"),
    ],
)
def test_files_that_cannot_be_used_are_named_with_what_is_wrong(tmp_path: Path, content: str, complaint: str) -> None:
    message = refused(tmp_path, content)
    assert "0.yml" in message
    assert complaint in message


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BadUsage, match=r"--conda_env: there is no file '.*nowhere\.yml'"):
        read_conda_file(tmp_path / "nowhere.yml")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_files_as_windows_shells_write_them(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "environment.yml"
    path.write_text("dependencies: [python=3.11]\n", encoding=encoding)
    assert [package.text for package in read_conda_file(path).packages] == ["python=3.11"]


@pytest.mark.parametrize(
    "line",
    ["git+https://github.com/x/y@main", "-e git+https://github.com/x/y#egg=y", "y @ https://example.org/y-1-py3-none-any.whl", "--pre", "torch[a,b]==2.0"],
)
def test_pip_lines_that_work_anywhere(tmp_path: Path, line: str) -> None:
    assert yaml.safe_load(text_of(tmp_path, yaml.safe_dump({"dependencies": ["pip", {"pip": [line]}]})))["dependencies"] == ["pip", {"pip": [line]}]
