"""`examples/ci/train.sh` ends as the training and its model deserve, and says what it lacks before."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.project.ci_lab import PLAIN, TRAIN, Lab, check_said, write_program
from tests.project.ci_lab import lab as lab
from tests.support.ci_files import EXAMPLES, Machine
from tests.support.running import Himl, write_files

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the steps are for bash")


def test_failed_job_ends_script_with_end_of_its_log(lab: Lab) -> None:
    write_files(lab.project, {"train.py": "import sys\nprint('out of ideas')\nsys.exit(7)\n"})
    with lab.azure.run_jobs():
        code, said = lab.machine("a principal").run(PLAIN)
    assert code == 1
    assert "out of ideas" in said
    assert "exited with status code 7" in said.splitlines()[-2]
    assert list((lab.project / "results").iterdir()) == []
    check_said(lab, said)


@pytest.mark.parametrize("logged", ["0.89", "float('nan')", None])
def test_a_model_that_is_not_good_enough_ends_the_script(
    himl: Himl, project: Path, tmp_path: Path, require_program: Callable[[str], str], logged: str | None
) -> None:
    """With the cluster `local` the script runs here, without Azure."""
    require_program("jq")
    himl.ok("init", "--local")
    write_files(project, {"train.py": TRAIN.replace("0.95", logged) if logged else TRAIN.partition("RUN_CONTEXT.log")[0]})
    shutil.copytree(EXAMPLES, project / "ci")
    machine = Machine(project, {"CLUSTER": "local", "LEAST_ACCURACY": "0.9"}, {}, tmp_path)
    code, said = machine.run(PLAIN)
    assert (code, said.splitlines()[-1]) == (1, "The accuracy is below 0.9, or was not logged.")
    if logged == "0.89":
        assert machine.run(replace(PLAIN, variables={"LEAST_ACCURACY": "0.8"}))[0] == 0


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"CLUSTER": ""}, "CLUSTER is not set: it has to name a cluster, or be 'local'."),
        ({"LEAST_ACCURACY": ""}, "LEAST_ACCURACY is '': it has to be a number such as 0.9."),
        ({"LEAST_ACCURACY": "0,9"}, "LEAST_ACCURACY is '0,9': it has to be a number such as 0.9."),
        ({"LEAST_ACCURACY": "nan"}, "LEAST_ACCURACY is 'nan': it has to be a number such as 0.9."),
        ({"PATH_OF_SCRIPT": "/nowhere"}, "jq is not installed: this script reads the accuracy with it."),
    ],
)
def test_what_the_script_needs_is_looked_at_before_the_training(tmp_path: Path, variables: dict[str, str], said: str) -> None:
    """No himl is called: in this folder it would say that there is no workspace."""
    own = {"CLUSTER": "local", "LEAST_ACCURACY": "0.9", **variables}
    step = replace(PLAIN, script=f"""PATH="${{PATH_OF_SCRIPT-$PATH}}" '{shutil.which("bash")}' '{EXAMPLES / "train.sh"}'""")
    code, told = Machine(tmp_path, own, {}, tmp_path).run(step)
    assert (code, told) == (2, f"{said}\n")


def test_a_fault_of_jq_is_not_called_one_of_the_model(
    himl: Himl, project: Path, tmp_path: Path, require_program: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    require_program("jq")
    himl.ok("init", "--local")
    write_files(project, {"train.py": TRAIN})
    shutil.copytree(EXAMPLES, project / "ci")
    write_program(tmp_path / "jq", "echo 'jq: out of memory' >&2; exit 2")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    code, said = Machine(project, {"CLUSTER": "local", "LEAST_ACCURACY": "0.9"}, {}, tmp_path).run(PLAIN)
    assert (code, said.splitlines()[-1]) == (1, "jq: out of memory")
