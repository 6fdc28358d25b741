"""Tests of a job's environment: named and found ones, conda and requirements files, and refusals before submission."""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from himl_cli.core.errors import BadUsage
from himl_cli.core.jobs import EnvironmentSpec
from himl_cli.services.submission.environment import (
    DEFAULT_IMAGE,
    choose_environment,
    conda_text,
    merge,
    read_conda_file,
)
from himl_cli.services.submission.environment_checks import OLDEST_PYTHON, environment_remarks
from himl_cli.services.submission.request import SubmitRequest
from tests.support.running import write_files

PLAIN = "channels: [conda-forge]\ndependencies: [python=3.11, pip, pip: [torch]]\n"
INDEX = "https://me:hunter2@index.example/simple"
OWN_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
WHEEL = "mine-1.0-py3-none-any.whl"


def choose(
    project: Path, script_folder: Path | None = None, env: Mapping[str, str] | None = None, **options: Any
) -> tuple[EnvironmentSpec, list[str]]:
    spec, remarks = choose_environment(
        SubmitRequest(cwd=project, **options), script_folder or project, project, env or {}
    )
    return spec, list(remarks)


def chosen(
    project: Path, script_folder: Path | None = None, env: Mapping[str, str] | None = None, **options: Any
) -> EnvironmentSpec:
    return choose(project, script_folder, env, **options)[0]


def conda(spec: EnvironmentSpec) -> Any:
    return yaml.safe_load(spec.conda)


def refused(project: Path, script_folder: Path | None = None, **options: Any) -> tuple[str, str]:
    with pytest.raises(BadUsage) as caught:
        chosen(project, script_folder, **options)
    assert "\n" not in f"{caught.value}{caught.value.hint}"
    return str(caught.value), caught.value.hint


def make_wheel(project: Path, name: str = WHEEL) -> str:
    with zipfile.ZipFile(project / name, "w") as archive:
        archive.writestr("mine/__init__.py", "x = 1")
    return name


def test_nearest_conda_file_is_chosen_or_options_are_named(project: Path) -> None:
    message, hint = refused(project)
    assert str(project) in message
    assert all(option in hint for option in ("--conda_env", "--requirements", "--environment", "--docker_image"))
    write_files(project, {"conda.yml": PLAIN, "sub/requirements.txt": "torch"})
    assert "Add --conda_env conda.yml, or one of --conda_env FILE" in refused(project)[1]
    assert f"--requirements {Path('sub') / 'requirements.txt'}" in refused(project, project / "sub")[1]
    write_files(
        project,
        {
            "environment.yaml": PLAIN,
            "a/b/train.py": "",
            "c/environment.yml": "dependencies: [python=3.12]",
            "../environment.yml": "dependencies: [wrong]",
        },
    )
    spec, remarks = choose(project, project / "a" / "b")
    assert conda(spec)["dependencies"] == ["pip", "python=3.11", {"pip": ["torch"]}]
    assert (spec.image, spec.name, spec.wheels) == (DEFAULT_IMAGE, "", ())
    assert remarks == [f"Environment of the job: '{project / 'environment.yaml'}'."]
    assert conda(chosen(project, project / "c"))["dependencies"] == ["python=3.12"]
    # himl uses no environment.yml above the snapshot root.
    with pytest.raises(BadUsage, match=r"no environment\.yml"):
        choose_environment(SubmitRequest(cwd=project / "a"), project / "a", project / "a", {})


REGISTRY = "azureml://registries/azureml/environments/x"
OF_ARM = (
    "/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/w/environments/x/"
    "versions/3"
)


def test_environment_image_and_index_by_options(project: Path) -> None:
    for text, name, version in (
        ("env", "env", None),
        ("env:3", "env", "3"),
        ("azureml:env:3", "env", "3"),
        ("env@latest", "env", None),
    ):
        assert chosen(project, environment=text) == EnvironmentSpec(name=name, version=version)
    for text in (f"{REGISTRY}/versions/3", f"{REGISTRY}/labels/latest", OF_ARM):
        assert (
            chosen(project, environment=text)
            == chosen(project, environment=f"azureml:{text}")
            == EnvironmentSpec(name=text)
        )
    for text in ("", "a b", "env:", REGISTRY, f"{REGISTRY}/versions/", "azureml://elsewhere/x", "a/b"):
        assert f"'{text}'" in refused(project, environment=text)[0]
    contradictions: list[dict[str, Any]] = [
        {"environment": "e", "conda_env": ["c.yml"]},
        {"environment": "e", "private_wheel": "w.whl"},
        {"requirements": "r.txt", "conda_env": ["c.yml"]},
        {"docker_image": "i", "private_wheel": "w.whl"},
        {"docker_image": "i", "pip_extra_index_url": INDEX},
    ]
    for options in contradictions:
        assert all(f"--{option}" in refused(project, **options)[0] for option in options), options
    assert chosen(project, docker_image="ghcr.io/me/train:1") == EnvironmentSpec(image="ghcr.io/me/train:1")
    write_files(project, {"environment.yml": PLAIN})
    spec = chosen(project, docker_image="docker.io/me/train@sha256:" + "0" * 64)
    assert (spec.image[:18], conda(spec)["channels"]) == ("docker.io/me/train", ["conda-forge"])
    for image in ("two words", "https://example.org/x", "-x", ""):
        assert "--docker_image" in refused(project, docker_image=image)[0]
    assert conda(chosen(project, pip_extra_index_url=INDEX))["dependencies"][-1] == {
        "pip": [f"--extra-index-url {INDEX}", "torch"]
    }
    assert "hunter2" not in "".join(refused(project, pip_extra_index_url=f"{INDEX} and more"))


def test_private_wheel_is_listed_by_file_name(project: Path) -> None:
    write_files(
        project,
        {"environment.yml": "dependencies: [python=3.11]", "broken-1-py3-none-any.whl": "no zip", "mine.tar.gz": ""},
    )
    spec = chosen(project, private_wheel=make_wheel(project))
    assert conda(spec)["dependencies"] == ["pip", "python=3.11", {"pip": [WHEEL]}]
    assert spec.wheels == (project / WHEEL,)
    make_wheel(project, "mine.whl")
    make_wheel(project, "mine-1.0-cp311-cp311-win_amd64.whl")
    for name, cut in {"offset-1-py3-none-any.whl": slice(1, None), "bytes-1-py3-none-any.whl": slice(0, None)}.items():
        content = (project / make_wheel(project, name)).read_bytes()[cut]
        (project / name).write_bytes(content.replace(b"x = 1", b"x = 2"))
    for name, complaint in {
        "absent-1-py3-none-any.whl": "there is no file",
        "mine.tar.gz": "not a wheel",
        "mine.whl": "not a wheel",
        "mine-1.0-cp311-cp311-win_amd64.whl": "another system (win_amd64)",
        "broken-1-py3-none-any.whl": "not a wheel",
        "offset-1-py3-none-any.whl": "damaged",
        "bytes-1-py3-none-any.whl": "damaged",
    }.items():
        assert complaint in refused(project, private_wheel=name)[0]


def text_of(folder: Path, *contents: str) -> str:
    paths = [folder / f"{number}.yml" for number in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_text(content, encoding="utf-8")
    return conda_text(merge([read_conda_file(path) for path in paths]))


def refused_conda(folder: Path, *contents: str) -> str:
    with pytest.raises(BadUsage) as caught:
        text_of(folder, *contents)
    assert "\n" not in f"{caught.value}{caught.value.hint}"
    return str(caught.value)


def test_conda_files_are_merged(tmp_path: Path) -> None:
    merged = yaml.safe_load(text_of(
        tmp_path,
        "channels: [pytorch, conda-forge]\n"
            "dependencies: [python=3.11, numpy, pip: [rich, -i https://a.example]]\nvariables: {A: 1}\n",
        "channels: [conda-forge, nvidia]\n"
            "dependencies: [python =3.11, numpy=1.26, pip=24, pip: [tqdm==4, Rich>=13]]\nvariables: {B: x}\n",
    ))  # fmt: skip
    assert merged == {
        "name": "himl",
        "channels": ["pytorch", "conda-forge", "nvidia"],
        "dependencies": [
            "numpy=1.26",
            "pip=24",
            "python =3.11",
            "python=3.11",
            {"pip": ["--index-url https://a.example", "Rich>=13", "tqdm==4"]},
        ],
        "variables": {"A": "1", "B": "x"},
    }
    write_files(tmp_path, {"c.yml": PLAIN})
    assert chosen(tmp_path, conda_env=["c.yml", "c.yml"]) == chosen(tmp_path, conda_env=["c.yml"])
    markers = [
        "dependencies: [pip: ['a==1; python_version < \"3.9\"']]",
        "dependencies: [pip: ['a==2; python_version >= \"3.9\"']]",
    ]
    assert len(yaml.safe_load(text_of(tmp_path, *markers))["dependencies"][-1]["pip"]) == 2
    expected = text_of(
        tmp_path, "channels: [x, y]\ndependencies: [numpy=1.26, pip, python=3.11, scipy, pip: [rich, tqdm]]"
    )
    assert (
        text_of(
            tmp_path,
            "name: b c\nprefix: /home/b\nchannels: [x, y]\n"
            "dependencies: [{pip: [tqdm, rich]}, scipy, python=3.11, numpy=1.26]",
        )
        == expected
    )
    assert (
        text_of(tmp_path, "channels: [y, x]\ndependencies: [numpy=1.26, pip, python=3.11, scipy, pip: [rich, tqdm]]")
        != expected
    )
    assert yaml.safe_load(text_of(tmp_path, "dependencies: []"))["dependencies"] == []


@pytest.mark.parametrize(("first", "second", "what"), [
    ("dependencies: [python=3.10]", "dependencies: [python=3.11]", "python =3.10"),
    ("dependencies: [pip: [Torch_Geometric==1]]", "dependencies: [pip: [torch-geometric==2]]", "torch-geometric ==1"),
    ("dependencies: [pip: [-i https://u:hunter2@a.example]]", "dependencies: [pip: [--index-url https://b.example]]",
        "***@a.example"),
    ("dependencies: []\nvariables: {A: 1}", "dependencies: []\nvariables: {A: 2}", "variable 'A'"),
])  # fmt: skip
def test_contradiction_of_conda_files_names_both(tmp_path: Path, first: str, second: str, what: str) -> None:
    message = refused_conda(tmp_path, first, second)
    assert all(part in message for part in (what, "0.yml", "1.yml"))
    assert "hunter2" not in message
    assert "requires python 3.11 and python 3.12." in refused_conda(
        tmp_path, "dependencies: [python=3.11, numpy, Python==3.12]\n"
    )
    text_of(tmp_path, "dependencies: [python=3.11, python=3.11.4, numpy>=1, numpy<3, pip=24.*]\n")


@pytest.mark.parametrize(("content", "complaint"), [
    ("dependencies: [a\nb: }", "line 2"),
    ("- a\n- b\n", "must contain sections"),
    ("", "must contain sections, not nothing"),
    ("name: x\n", "has no 'dependencies'"),
    ("dependencies: numpy\n", "not a list"),
    ("dependencies: ['']\n", "is not a package"),
    ("dependencies: [npm: [x]]\n", "'npm'"),
    ("dependencies: [pip: x]\n", "must be a list of texts"),
    ("dependencies: []\nchannels: {a: b}\n", "'channels'"),
    ("dependencies: []\nvariables: [a]\n", "'variables'"),
    ("dependencies: [pip: ['-r requirements.txt']]\n", "there is no file"),
    ("dependencies: [pip: ['-e .']]\n", "is not a project"),
    ("dependencies: [pip: ['-e ..']]\n", "path on this machine"),
    ("dependencies: [pip: ['dist/mine-1-py3-none-any.whl']]\n", "path on this machine"),
    ("dependencies: [pip: ['--extra-index-url https://${TOKEN}@a.example']]\n", "${TOKEN} is not set"),
])  # fmt: skip
def test_unusable_conda_file_is_named(tmp_path: Path, content: str, complaint: str) -> None:
    message = refused_conda(tmp_path, content)
    assert "0.yml" in message
    assert complaint in message


def test_missing_files_encodings_and_lines_of_pip(project: Path) -> None:
    """The files have the encoding of Windows shells."""
    with pytest.raises(BadUsage, match=r"--conda_env: there is no file '.*nowhere\.yml'"):
        read_conda_file(project / "nowhere.yml")
    assert "--requirements: there is no file" in refused(project, requirements="requirements.txt")[0]
    for encoding in ("utf-8-sig", "utf-16"):
        (project / "environment.yml").write_text("dependencies: [python=3.11]\n", encoding=encoding)
        assert [package.text for package in read_conda_file(project / "environment.yml").packages] == ["python=3.11"]
    (project / "requirements.txt").write_text("torch\n", encoding="utf-16")
    assert dependencies(project)[-1] == {"pip": ["torch"]}
    for line in (
        "-e git+https://github.com/x/y#egg=y",
        "y @ https://example.org/y-1-py3-none-any.whl",
        "--pre",
        "torch[a,b]==2.0",
    ):
        text = text_of(project, yaml.safe_dump({"dependencies": ["pip", {"pip": [line]}]}))
        assert yaml.safe_load(text)["dependencies"] == ["pip", {"pip": [line]}]


def dependencies(project: Path, env: Mapping[str, str] | None = None, script_folder: Path | None = None) -> Any:
    content = conda(chosen(project, script_folder, env, requirements="requirements.txt"))
    assert content["channels"] == ["conda-forge"]
    return content["dependencies"]


def test_requirements_file_becomes_environment_of_project_python(project: Path, tmp_path: Path) -> None:
    write_files(project, {
        "requirements.txt": "# all\n-r more/base.txt\ntorch==2.0  # pinned\n\nnumpy \\\n  >=1.26\n"
            "--extra-index-url=https://a.example/simple\n",
        "more/base.txt": "-r../last.txt\ntqdm\n",
        "last.txt": "rich#no-comment\n",
    })  # fmt: skip
    pip = ["--extra-index-url https://a.example/simple", "numpy >=1.26", "rich#no-comment", "torch==2.0", "tqdm"]
    assert dependencies(project) == ["pip", f"python={OWN_PYTHON}", {"pip": pip}]
    write_files(project, {"last.txt": "-r requirements.txt"})
    assert "which includes it" in refused(project, requirements="requirements.txt")[0]
    no_file = "there is no file"
    lines = {"-c constraints.txt": no_file, "--constraint=constraints.txt": no_file, "-r nowhere.txt": no_file}
    for line, complaint in {
        **lines,
        "--find-links wheels": "path on this machine",
        "-e ..": "path on this machine",
        "-e .": "is not a project",
        "-e a\0b": "path on this machine",  # names that no file can have
        f"-e {'a' * 300}": "path on this machine",
    }.items():
        write_files(project, {"requirements.txt": f"torch\n{line}\n"})
        message = refused(project, requirements="requirements.txt")[0]
        assert ("line 2" in message, complaint in message) == (True, True), line
    write_files(project, {"requirements.txt": "torch", "a/train.py": "", ".python-version": "pypy\n"})
    write_files(
        tmp_path, {"venv/pyvenv.cfg": "home = /usr\nversion = 3.12.1\n", "conda/conda-meta/python-3.10.4-h1.json": "{}"}
    )
    assert dependencies(project, {"VIRTUAL_ENV": str(tmp_path / "gone")})[1] == f"python={OWN_PYTHON}"
    assert dependencies(project, {"CONDA_PREFIX": str(tmp_path / "conda")})[1] == "python=3.10"
    assert (
        dependencies(project, {"VIRTUAL_ENV": str(tmp_path / "venv"), "CONDA_PREFIX": str(tmp_path / "conda")})[1]
        == "python=3.12"
    )
    write_files(project, {".python-version": "3.13.2\n"})
    assert dependencies(project, {"VIRTUAL_ENV": str(tmp_path / "venv")}, project / "a")[1] == "python=3.13"


def test_included_files_constraints_and_own_projects_are_part_of_the_environment(project: Path) -> None:
    """pip's files and options, from a conda file below the root of the snapshot."""
    pyproject = (
        '[project]\nname = "Mine"\ndependencies = ["pandas>=2", "tqdm"]\n'
        '[project.optional-dependencies]\ndev = ["ruff"]\nall = ["mine[dev]", "rich; python_version>\'3\'"]\n'
    )
    write_files(project, {
        "env/environment.yml": 'dependencies: [python=3.11, {pip: ["-r ../requirements.txt # all", '
            '"-c limits/a.txt", "-e ..[all]", "# no", "lightning"]}]\n',
        "requirements.txt": "-rmore/base.txt\nnumpy[x]>=1 ; python_version > '3'\n\ntorch==2.0 # pinned\n",
        "more/base.txt": "--requirement=deeper.txt\n--pre\n",
        "more/deeper.txt": "scipy \\\n  >1\nsolo @ https://example.org/solo-1-py3-none-any.whl\n",
        "env/limits/a.txt": "# tested\n-c b.txt\nNumPy==1.26\ntorch==2.0\n",
        "env/limits/b.txt": "pandas<3\nsix==1.16\nrich==1 ; python_version<'3'\n",
        "pyproject.toml": pyproject,
        "src/mine/__init__.py": "",
    })  # fmt: skip
    spec, remarks = choose_environment(
        SubmitRequest(cwd=project, conda_env=("env/environment.yml",)), project, project, {}
    )
    pip = [
        "--pre",
        "lightning",
        "numpy[x]>=1,==1.26; python_version > '3'",
        "pandas>=2,<3",
        "rich; python_version>'3'",
        "ruff",
        "scipy >1",
    ]
    pip += ["solo @ https://example.org/solo-1-py3-none-any.whl", "torch==2.0", "tqdm"]
    assert conda(spec)["dependencies"] == ["pip", "python=3.11", {"pip": ["-c constraints.txt", *pip]}]
    assert (spec.limits, spec.beside) == ("six==1.16\nrich==1 ; python_version<'3'\n", ["constraints.txt"])
    assert [remark for remark in remarks if "Mine" in remark] == [
        "Not installed, because the snapshot has their source: Mine. To import them, add --env_var PYTHONPATH=src"
    ]
    write_files(project, {"env/limits/b.txt": "pandas<3\n"})
    assert (
        chosen(project, conda_env=("env/environment.yml",)).beside,
        "-c" in chosen(project, conda_env=("env/environment.yml",)).conda,
    ) == ([], False)
    computed = (
        '[project]\nname = "mine"\ndynamic = ["dependencies"]\n[tool.setuptools.dynamic]\n'
        'dependencies = {file = ["more/base.txt"]}\n'
    )
    write_files(project, {"requirements.txt": "-e.\n", "pyproject.toml": computed})
    assert dependencies(project)[-1]["pip"] == [
        "--pre",
        "scipy >1",
        "solo @ https://example.org/solo-1-py3-none-any.whl",
    ]
    write_files(project, {"pyproject.toml": "[tool.poetry]\n", "requirements.txt": "six\n./\n"})
    _, remarks = choose_environment(SubmitRequest(cwd=project, requirements="requirements.txt"), project, project, {})
    assert "himl cannot read what project requires" in remarks[-1]
    for text, line, complaint in (
        (pyproject, "-e .[al]", "has no extra 'al'"),
        ("[project]\ndependencies = 3\n", "-e .", "is damaged"),
        ("[project", "-e .", "is not valid TOML"),
    ):
        write_files(project, {"requirements.txt": f"six\n{line}\n", "pyproject.toml": text})
        assert complaint in refused(project, requirements="requirements.txt")[0]


LACKS_HIML = EnvironmentSpec(image="i", conda="dependencies:\n- python=3.11\n- pip:\n  - torch\n")


def remarks_of(folder: Path, script: str, spec: EnvironmentSpec = LACKS_HIML, name: str = "train.py") -> str:
    (folder / name).write_text(script, encoding="utf-8")
    return " ".join(environment_remarks(spec, folder / name))


def test_environment_that_lacks_himl_is_warned_about(tmp_path: Path) -> None:
    for script in (
        "import himl_cli",
        "from himl_cli import x",
        "import os, himl_cli.job as j",
        "def f():\n    from himl_cli.job import inputs\n",
    ):
        text = remarks_of(tmp_path, script)
        assert "'train.py' imports himl_cli" in text
        assert "lacks himl-cli" in text
    for script in (
        "import himl_client",
        "# import himl_cli",
        "x = 'import himl_cli'",
        "from .himl_cli import x",
        "import himl_cli (",
        f"import himl_cli\n{'lambda:' * 5000}1",  # more than the stack of Python's parser holds
        "'\\d'",
    ):
        assert not remarks_of(tmp_path, script)
    assert not remarks_of(tmp_path, "import himl_cli", name="run.sh")
    assert not environment_remarks(LACKS_HIML, None)
    assert not environment_remarks(LACKS_HIML, tmp_path / "nowhere.py")
    known = [EnvironmentSpec(image="i", conda=f"dependencies:\n- pip:\n  - {line}\n") for line in
             ("himl-cli", "himl_cli==0.1", "Himl.CLI[plot]>=1", "git+https://example.org/himl-cli.git")]  # fmt: skip
    known.append(EnvironmentSpec(image="i", conda=LACKS_HIML.conda, wheels=(Path("himl_cli-0.1-py3-none-any.whl"),)))
    for spec in (*known, EnvironmentSpec(name="registered"), EnvironmentSpec(image="alone")):
        assert not remarks_of(tmp_path, "import himl_cli", spec)
    for python, is_old in (("=3.7.3", True), (" = 3.9", True), ("=3.10", False), ("=3.12.1", False), (">=3.7", False)):
        text = f"dependencies:\n  - python{python}\n  - pip:\n    - torch\n"
        said = remarks_of(tmp_path, "", EnvironmentSpec(image="i", conda=f"{text}    - himl-cli\n"))
        assert ("himl-cli needs at least 3.10" in said) is is_old
        assert not remarks_of(tmp_path, "", EnvironmentSpec(image="i", conda=text)), (
            "other scripts may run on what they like"
        )
    project = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    assert f'requires-python = ">={".".join(map(str, OLDEST_PYTHON))}"' in project
