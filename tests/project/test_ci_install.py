"""The steps of `examples/ci` that install himl take what the variable names, and nothing else."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.support.ci_files import FILES, VARIABLES, Machine, steps_of

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the steps are for bash")


def installed(name: str, package: str, folder: Path, **variables: str) -> tuple[int, str]:
    """What the file's step says that installs *package*, as the service hands it over; pip asks no index."""
    service = {"PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PYTHONPATH": pip_elsewhere(), **variables}
    if name.startswith("azure"):
        service["HIML_PACKAGE"] = package
    values = {f"vars.{key}": package if key == "HIML_PACKAGE" else "" for key in VARIABLES}
    return Machine(folder, service, values, folder).run(steps_of(name)["Install himl"])


def pip_elsewhere() -> str:
    """Where pip is, if not in the environment of the tests: Python brings one along for new environments."""
    ensurepip = find_spec("ensurepip")
    if find_spec("pip") or ensurepip is None or ensurepip.origin is None:
        return ""
    return "".join(str(wheel) for wheel in Path(ensurepip.origin).parent.glob("_bundled/pip-*.whl"))


def write_wheel(folder: Path) -> Path:
    """The smallest wheel of a package called himl-cli."""
    wheel = folder / "himl_cli-99-py3-none-any.whl"
    files = {
        "himl_cli.py": "",
        "himl_cli-99.dist-info/METADATA": "Metadata-Version: 2.1\nName: himl-cli\nVersion: 99\n",
        "himl_cli-99.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},,\n" for name in [*files, "himl_cli-99.dist-info/RECORD"])
    with ZipFile(wheel, "w") as archive:
        for name, content in {**files, "himl_cli-99.dist-info/RECORD": record}.items():
            archive.writestr(name, content)
    return wheel


@pytest.mark.parametrize("name", FILES)
def test_what_the_variable_names_is_installed(name: str, tmp_path: Path) -> None:
    if find_spec("pip") is None and not pip_elsewhere():
        pytest.skip("NEEDS pip in the environment of the tests")
    wheel = write_wheel(tmp_path)
    code, said = installed(name, f"himl-cli @ {wheel.as_uri()}", tmp_path, PIP_TARGET=str(tmp_path / "installed"))
    assert code == 0, said
    assert (tmp_path / "installed" / "himl_cli.py").exists()


@pytest.mark.parametrize("name", FILES)
def test_nothing_is_installed_where_the_variable_is_not_set(name: str, tmp_path: Path) -> None:
    """No index is asked for a package of some name, which anybody may have taken there."""
    code, said = installed(name, "", tmp_path)
    assert code != 0
    assert "HIML_PACKAGE: a wheel or a repository of himl" in said
