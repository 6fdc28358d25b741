"""Tests of a job's packages from lock files: uv's (`locks/`) and other formats, hashes as pip checks them, and
refusals.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from himl_cli.core.errors import BadUsage
from himl_cli.services.submission.environment import choose_environment
from himl_cli.services.submission.request import SubmitRequest
from tests.support.running import write_files

LOCKS = Path(__file__).with_name("locks")
UV = (LOCKS / "uv.lock").read_text(encoding="utf-8")
READS_PYLOCK = find_spec("packaging.pylock") is not None
PYPI = 'source = { registry = "https://pypi.org/simple" }'
SIGNED = "https://me:hunter2@index.example/simple"
HASH = f"sha256:{'0' * 64}"
COMMON = ["linkify-it-py==2.2.0", "markdown-it-py==4.3.0", "mdurl==0.1.2", "psutil==7.2.2", "toolz==1.2.0"]


def submitted(
    project: Path, python: str = "3.11", script_folder: Path | None = None, **options: Any
) -> tuple[list[str], list[str]]:
    """Return the requirements that a job passes to pip, and himl's remarks."""
    write_files(project, {".python-version": python})
    spec, remarks = choose_environment(SubmitRequest(cwd=project, **options), script_folder or project, project, {})
    dependencies = yaml.safe_load(spec.conda)["dependencies"]
    assert f"python={python}" in dependencies
    return dependencies[-1]["pip"], list(remarks)


def refused(project: Path, python: str = "3.11", **options: Any) -> str:
    with pytest.raises(BadUsage) as caught:
        submitted(project, python, **options)
    assert "\n" not in f"{caught.value}{caught.value.hint}"
    return f"{caught.value} {caught.value.hint}"


def pins(lines: Sequence[str]) -> list[str]:
    return [line.split(" --hash")[0] for line in lines]


def wheel(folder: Path, name: str, *needs: str) -> str:
    """Create a wheel that pip installs, and return its hash."""
    path, info = folder / f"{name}-1.0-py3-none-any.whl", f"{name}-1.0.dist-info"
    metadata = "".join(f"Requires-Dist: {need}\n" for need in needs)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.py", "")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{metadata}")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def locked(name: str, *, digest: str = HASH, source: str = PYPI, file: str = "", more: str = "") -> str:
    """Return the lines of a package in a uv.lock."""
    files = (
        f'wheels = [{{ url = "https://files.example/{file or f"{name}-1.0-py3-none-any.whl"}", hash = "{digest}" }}]\n'
        if digest
        else ""
    )
    return f'[[package]]\nname = "{name}"\nversion = "1.0"\n{source}\n{files}{more}\n'


def lock_of(*packages: str, needs: str = "", more: str = "") -> str:
    """Return a uv.lock of a project that *needs* its own dependencies."""
    return (
        f'version = 1\n{more}\n[[package]]\nname = "mine"\nsource = {{ virtual = "." }}\n'
        f"dependencies = [{needs}]\n\n{''.join(packages)}"
    )


@pytest.mark.parametrize(("python", "lock", "more"), [
    ("3.11", None, ["six==1.16.0"]),
    ("3.12", "uv.lock", ["six==1.17.0"]),
    ("3.11", "uv.lock[old]", ["iniconfig==2.0.0", "six==1.16.0"]),
    ("3.13", "uv.lock[new, dev]", ["iniconfig==2.1.0", "pluggy==1.7.0", "six==1.17.0"]),
])  # fmt: skip
def test_uv_lock_gives_the_packages_that_uv_would_install(
    project: Path, python: str, lock: str | None, more: list[str]
) -> None:
    """`uv export --no-default-groups` gives the same packages for these extras and groups, Linux and that Python."""
    write_files(project, {"uv.lock": UV, "packages/core/src/core/__init__.py": ""})
    lines, remarks = submitted(project, python, lock=lock)
    assert pins(lines) == sorted([*COMMON, *more])
    assert f"python={python} and {len(lines)} packages of '{lock or project / 'uv.lock'}'." in remarks[0]
    assert remarks[1:] == [
        "Not installed, because the snapshot has their source: core. To import them, add --env_var "
        "PYTHONPATH=packages/core/src"
    ]
    files = {
        name: digest for name, digest in re.findall(r'/([^/"]+)", hash = "([^"]+)"', UV) if name.startswith("psutil")
    }
    fitting = {
        digest
        for name, digest in files.items()
        if name.endswith(".gz") or re.search(r"cp36-abi3-manylinux.*x86_64", name)
    }
    (psutil,) = [line for line in lines if line.startswith("psutil")]
    assert set(psutil.split(" --hash=")[1:]) == fitting
    assert len(fitting) == 2 < len(files)


def test_member_of_a_workspace_has_packages_of_its_own(project: Path) -> None:
    write_files(project, {"uv.lock": UV, "packages/core/src/core/train.py": ""})
    assert pins(submitted(project, script_folder=project / "packages/core/src/core")[0]) == ["toolz==1.2.0"]


def test_pylock_is_read_by_packaging(project: Path) -> None:
    write_files(project, {"uv.lock": UV, "pylock.toml": (LOCKS / "pylock.toml").read_text(encoding="utf-8")})
    if not READS_PYLOCK:
        assert "pip install 'packaging>=" in refused(project)
        return
    lines, remarks = submitted(project)
    assert (pins(lines), "pylock.toml" in remarks[0]) == (sorted([*COMMON, "six==1.16.0"]), True)
    assert all(" --hash=sha256:" in line for line in lines)

    def package(name: str, marker: str, source: str) -> str:
        return f'[[packages]]\nname = "{name}"\nmarker = "{marker}"\n{source}\n'

    def indexed(name: str, marker: str) -> str:
        file = f'sdist = {{ url = "https://files.example/{name}-1.tar.gz", hashes = {{ sha256 = "{"0" * 64}" }} }}'
        return package(name, marker, f'version = "1"\nindex = "{SIGNED}"\n{file}')

    head = (
        'lock-version = "1.0"\ncreated-by = "x"\nextras = ["gpu"]\ndependency-groups = ["dev", "docs"]\n'
        'default-groups = ["dev"]\n'
    )
    packages = [
        indexed("a", "'gpu' in extras"),
        indexed("b", "'dev' in dependency_groups"),
        indexed("c", "'docs' in dependency_groups"),
    ]
    write_files(project, {"pylock.gpu.toml": head + "".join(packages)})
    options = [f"--index-url {SIGNED}"]
    assert pins(submitted(project, lock="pylock.gpu.toml")[0]) == [*options, "b==1"]
    assert pins(submitted(project, lock="pylock.gpu.toml[gpu,docs]")[0]) == [*options, "a==1", "b==1", "c==1"]
    archive = f'archive = {{ url = "https://files.example/d.zip", hashes = {{ sha256 = "{"0" * 64}" }} }}'
    write_files(project, {"pylock.gpu.toml": head + package("d", "python_version > '3'", archive)})
    assert submitted(project, lock="pylock.gpu.toml")[0] == [f"d @ https://files.example/d.zip --hash={HASH}"]
    git = 'vcs = { type = "git", url = "https://git.example/e", commit-id = "abc", subdirectory = "sub" }'
    write_files(
        project,
        {"pylock.gpu.toml": head + indexed("b", "python_version > '3'") + package("e", "python_version > '3'", git)},
    )
    lines, remarks = submitted(project, lock="pylock.gpu.toml")
    assert lines == [*options, "b==1", "e @ git+https://git.example/e@abc#subdirectory=sub"], (
        "pip checks all packages or none"
    )
    assert "warning: pip cannot check e by hashes" in remarks[1]
    write_files(project, {"pylock.gpu.toml": head + package("d", "python_version > '3'", archive) * 2})
    assert "Multiple packages" in refused(project, lock="pylock.gpu.toml")
    write_files(project, {"pylock.gpu.toml": 'lock-version = "1.0"\n'})
    assert "created-by" in refused(project, lock="pylock.gpu.toml")


def test_sources_of_uv_other_than_an_index(project: Path) -> None:
    git, url = (
        'source = { git = "https://git.example/g?tag=v1#abc" }',
        'source = { url = "https://files.example/u-1.0-py3-none-any.whl" }',
    )
    corporate = 'source = { registry = "https://index.example/simple/" }'
    needs = '{ name = "a" }, { name = "g" }, { name = "u" }, { name = "c" }'
    both = [locked("a"), locked("c", source=corporate), locked("u", source=url)]
    write_files(project, {"uv.lock": lock_of(*both, needs=needs.replace('{ name = "g" }, ', ""))})
    lines, _ = submitted(project)
    assert lines == ["--extra-index-url https://index.example/simple", *(f"{each} --hash={HASH}" for each in
                     ("a==1.0", "c==1.0", "u @ https://files.example/u-1.0-py3-none-any.whl"))]  # fmt: skip
    lines, _ = submitted(project, pip_extra_index_url=SIGNED)
    assert lines[:1] == [f"--extra-index-url {SIGNED}"], "in place of the one without a login"
    write_files(project, {"uv.lock": lock_of(both[1], needs='{ name = "c" }')})
    assert submitted(project)[0] == ["--index-url https://index.example/simple", f"c==1.0 --hash={HASH}"]
    assert submitted(project, pip_extra_index_url=SIGNED)[0][0] == f"--index-url {SIGNED}"
    write_files(project, {"uv.lock": lock_of(*both, needs=needs.replace('{ name = "g" }, ', ""))})
    assert submitted(project, pip_extra_index_url="https://other.example")[0][:2] == [
        "--extra-index-url https://index.example/simple",
        "--extra-index-url https://other.example",
    ]
    write_files(project, {"uv.lock": lock_of(*both, locked("g", source=git, digest=""), needs=needs)})
    lines, remarks = submitted(project)
    assert "g @ git+https://git.example/g@abc" in lines
    assert not any("--hash" in line for line in lines)
    assert "warning: pip cannot check g by hashes" in remarks[1]
    write_files(project, {"uv.lock": lock_of(more='[manifest]\noverrides = [{ name = "numpy", specifier = "<2" }]\n')})
    assert "warning: uv overrides requirements for numpy" in submitted(project, pip_extra_index_url=SIGNED)[1][1]


def test_extras_that_conflict_decide_between_versions(project: Path) -> None:
    """The markers are those of uv, with an extra or group and the length of its package's name."""
    old, new = "extra == 'extra-4-mine-old'", "extra != 'extra-4-mine-old' and python_full_version >= '3.8'"
    other = locked("b", source='source = { registry = "https://index.example" }')
    needs = [
        f'{{ name = "b", {PYPI}, marker = "{old}" }}',
        f'{{ name = "b", source = {{ registry = "https://index.example" }}, marker = "{new}" }}',
    ]
    lock = lock_of(locked("a", more=f"dependencies = [{', '.join(needs)}]"), locked("b"), other, needs='{ name = "a" }')
    extra = '[package.optional-dependencies]\nold = [{ name = "a" }]\n'
    write_files(
        project,
        {"uv.lock": lock.replace('dependencies = [{ name = "a" }]\n', f'dependencies = [{{ name = "a" }}]\n{extra}')},
    )
    assert any("index.example" in line for line in submitted(project)[0])
    assert not any("index.example" in line for line in submitted(project, lock="uv.lock[old]")[0])


def test_conda_files_and_images_go_before_locks_that_nobody_named(project: Path) -> None:
    conda = "dependencies: [python=3.9, pip: [tqdm]]"
    write_files(
        project, {"uv.lock": UV, "environment.yml": conda, "packages/core/uv.lock": UV, "packages/core/train.py": ""}
    )

    def said(script_folder: Path = project, **options: Any) -> tuple[str, str]:
        spec, remarks = choose_environment(SubmitRequest(cwd=project, **options), script_folder, project, {})
        return spec.conda, " ".join(remarks)

    text, remark = said()
    assert ("tqdm" in text, "(to use the lock file beside it, add --lock uv.lock)" in remark) == (True, True)
    (project / ".python-version").write_text("3.11")
    assert "psutil==7.2.2" in said(lock="uv.lock")[0]
    assert "psutil==7.2.2" in said(project / "packages/core")[0], "the nearest"
    (project / "environment.yml").unlink()
    assert "psutil==7.2.2" in said(docker_image="mine", lock="uv.lock")[0]
    text, remark = said(docker_image="mine")
    assert (text, f"'{project / 'uv.lock'}'. To install it, add --lock FILE." in remark) == ("", True)
    for other in ({"conda_env": ("e.yml",)}, {"requirements": "r.txt"}, {"environment": "x"}, {"build_context": "."}):
        with pytest.raises(BadUsage, match=r"--lock cannot be combined|--lock and --\w+ cannot be combined"):
            said(lock="uv.lock", **other)


@pytest.mark.large("runs pip")
def test_hashes_hold_for_pip_with_a_private_wheel(project: Path) -> None:
    """The real pip checks the lines of a lock file and a hashed requirements file. It refuses packages without
    hashes.
    """
    a, b = wheel(project, "a", "b"), wheel(project, "b")
    wheel(project, "own", "a>=1; python_version > '3'", "never; extra == 'x'")
    files = {
        "uv.lock": lock_of(
            locked("a", digest=a, more='dependencies = [{ name = "b" }]'), locked("b", digest=b), needs='{ name = "a" }'
        )
    }
    wheel(project, "odd", "a; platform_version ~= '1'")
    files["requirements.txt"] = (
        "# by pip-compile\n--require-hashes\n--only-binary :all:\n-r more.txt\n-c limits.txt\na==1.0 \\\n"
        f"    --hash={a} \\\n    --hash={HASH}\n    # via x\n"
    )
    files["more.txt"] = f"b==1.0 ; python_version >= '3' \\\n    --hash={b}\n"
    write_files(project, files | {"limits.txt": "b<2\n"})
    own = "own-1.0-py3-none-any.whl"

    def pip(lines: Sequence[str]) -> str:
        (project / "sent.txt").write_text("\n".join(lines))
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--dry-run",
            "--ignore-installed",
            "--no-index",
            "--find-links",
            ".",
            "-r",
            "sent.txt",
        ]
        done = subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=300, check=False)
        return done.stdout + done.stderr

    python = ".".join(map(str, sys.version_info[:2]))
    sources: list[dict[str, Any]] = [{"lock": "uv.lock"}, {"requirements": "requirements.txt"}]
    for options in sources:
        lines, remarks = submitted(project, python, private_wheel=own, **options)
        assert (sum(" --hash=" in line for line in lines), any("warning" in remark for remark in remarks)) == (3, False)
        assert "Would install a-1.0 b-1.0 own-1.0" in pip(lines)
        assert "DO NOT MATCH THE HASHES" in pip([line.replace(b, HASH) for line in lines])
    wheel(project, "own", "elsewhere")
    submitted(project, python, private_wheel="odd-1.0-py3-none-any.whl")  # whose marker cannot be decided
    lines, remarks = submitted(project, python, private_wheel=own, requirements="requirements.txt")
    assert "warning: 'own-1.0-py3-none-any.whl' needs packages without hashes (elsewhere)" in remarks[-1]
    assert lines == ["--only-binary :all:", "a==1.0", "b==1.0 ; python_version >= '3'", own]
    write_files(
        project,
        {"uv.lock": lock_of(locked("own", source='source = { directory = "../own" }'), needs='{ name = "own" }')},
    )
    assert submitted(project, python, private_wheel=own)[0] == [own], "which takes the place of the folder"
    write_files(project, {"requirements.txt": f"a==1.0 --hash={a}\nb==1.0\n"})
    assert "'b==1.0' has no hash" in refused(project, requirements="requirements.txt")
    write_files(project, {"requirements.txt": "-c https://index.example/limits.txt\nb\n"})
    assert submitted(project, requirements="requirements.txt")[0] == ["-c https://index.example/limits.txt", "b"]


@pytest.mark.parametrize(("content", "words"), [
    ("torch==2.0\n", "is not a lock file in TOML"),
    ("[[package]\n", "is not a lock file in TOML"),
    ("[metadata]\n", "is not a supported lock file. himl reads pylock.toml and uv.lock"),
    (lock_of().replace("version = 1", "version = 2"), "has version 2, but himl reads version 1. Export it: uv export"),
    (lock_of(more='requires-python = ">=3.12"'),
        "is for Python >=3.12, but the job has 3.11. Write 3.12 into the project's .python-version"),
    (lock_of(more='requires-python = "three"'), "'requires-python' must be a range of versions"),
    (lock_of(more=f'requires-python = ">={"9" * 5000}"'), "is damaged: "),
    (lock_of(needs='{ name = "a" }'), "is damaged: 'a'"),
    (lock_of(locked("a"), needs='{ name = "a", version = "2" }'), "is damaged: there is no a"),
    (lock_of(locked("a"), needs='{ name = "a", marker = "so it is" }'), "is damaged"),
    (lock_of(locked("a", file="a-1.0-cp311-cp311-win_amd64.whl"), needs='{ name = "a" }'),
        "a 1.0 has no file for Python 3.11 on Linux (x86_64)"),
    (lock_of(locked("a", source='source = { directory = "../a" }'), needs='{ name = "a" }'),
        "a is a folder outside the snapshot"),
    (lock_of(locked("a", source='source = { path = "uv.lock" }'), needs='{ name = "a" }'), "a is a file, "),
    (lock_of(locked("a", source='source = { path = "a\\u0000" }'), needs='{ name = "a" }'), "is damaged: "),
    (lock_of(locked("a", source=f'source = {{ path = "{"a" * 300}" }}'), needs='{ name = "a" }'), "is damaged: "),
    (lock_of(locked("a", source='source = { registry = ["a"] }'), needs='{ name = "a" }'), "is damaged: "),
    (lock_of(locked("a", source='source = { registry = "wheels" }'), needs='{ name = "a" }'),
        "the index 'wheels' is a local folder"),
    (lock_of(locked("a", source='source = { git = "file:///g#abc" }'), needs='{ name = "a" }'),
        "is a path on this machine"),
    (lock_of(locked("a"), locked("a", source='source = { registry = "https://index.example" }'),
        needs=f'{{ name = "a", {PYPI} }}, '
             '{ name = "a", source = { registry = "https://index.example" } }'),
                 "has a 1.0 and 1.0 for one job. Choose between them with an extra"),
])  # fmt: skip
def test_locks_that_cannot_be_used_are_refused_in_one_line(project: Path, content: str, words: str) -> None:
    write_files(project, {"uv.lock": content})
    message = refused(project)
    assert f"'{project / 'uv.lock'}'" in message
    assert words in message


def test_names_of_locks_and_their_parts_have_to_be_there(project: Path) -> None:
    write_files(project, {"uv.lock": UV})
    assert "has no extra or dependency group 'gpu'. Use one of: dev, new, old." in refused(project, lock="uv.lock[gpu]")
    assert "--lock: there is no file" in refused(project, lock="nowhere.lock")
