"""The examples do what their pages say: the training script, the sample tool, and the steps of `examples/ci` with
each way to sign in, without leaking secrets.
"""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs
from zipfile import ZipFile

import joblib
import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from himl_cli.core.runs import RunStatus
from tests.api.scripts import run_script
from tests.azureml_double.log import listening
from tests.azureml_double.seeding import StagedWorkspace
from tests.azureml_double.state import Principal
from tests.support.azure import Az, sign_ins, token_of
from tests.support.documents import blocks, himl_commands, page, wrong_with
from tests.support.running import PROGRAM, Himl, until, write_files
from tests.support.runs import RecordedRuns
from tests.support.web import Asked, FileServer, serving_files

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the steps are for bash")
EXAMPLES = Path(__file__).parents[2] / "examples" / "ci"
FILES = ("github-actions.yml", "github-actions-oidc.yml", "azure-pipelines.yml", "azure-pipelines-oidc.yml")
CANCELED = ("cancelled()", "canceled()")
VARIABLES = sorted(
    {
        name
        for file in FILES
        for name in re.findall(r"(?:HIML|AZURE)_[A-Z_]+|CLUSTER|LEAST_ACCURACY", (EXAMPLES / file).read_text())
    }
)
"""All variables that the files require."""
GITHUB_BASH = ("bash", "--noprofile", "--norc", "-eo", "pipefail")
"""The command that GitHub uses for `shell: bash`."""
DEVOPS_BASH = ("bash", "--noprofile", "--norc")
"""The command that Azure DevOps uses for a `bash:` step and for a script of its task AzureCLI."""


@dataclass(frozen=True)
class Step:
    """A script in a file. `uses` is the task that runs it, if any, and `inputs` are the task's inputs."""

    name: str
    script: str
    shell: tuple[str, ...]
    variables: Mapping[str, str] = field(default_factory=dict)
    condition: str = ""
    uses: str = ""
    inputs: Mapping[str, Any] = field(default_factory=dict)


def document(name: str) -> dict[Any, Any]:
    """Load a file of `examples/ci`. YAML 1.1 parses the key `on` as true."""
    found: dict[Any, Any] = yaml.safe_load((EXAMPLES / name).read_text(encoding="utf-8"))
    return found


def github_steps(name: str) -> list[Step]:
    """The scripts of a workflow's only job, in order."""
    (job,) = document(name)["jobs"].values()
    assert job["defaults"]["run"] == {"shell": "bash"}
    return [
        Step(step["name"], step["run"], GITHUB_BASH, {**job["env"], **step.get("env", {})}, step.get("if", ""))
        for step in job["steps"]
        if "run" in step
    ]


def devops_steps(name: str) -> list[Step]:
    """The scripts of a pipeline's only job, in order. The variables that the file sets are included in the variables
    of each step.
    """
    whole = document(name)
    (job,) = whole["jobs"]
    common = {variable["name"]: variable["value"] for variable in whole["variables"] if "name" in variable}
    return list(_devops_scripts(job["steps"], common))


def _devops_scripts(steps: list[dict[str, Any]], common: dict[str, str]) -> Iterator[Step]:
    for step in steps:
        inputs, condition = step.get("inputs", {}), step.get("condition", "")
        variables = {**common, **step.get("env", {})}
        if "bash" in step:
            yield Step(step["displayName"], step["bash"], DEVOPS_BASH, variables, condition)
        elif "inlineScript" in inputs:
            assert (inputs["scriptType"], inputs["scriptLocation"]) == ("bash", "inlineScript")
            yield Step(
                step["displayName"], inputs["inlineScript"], DEVOPS_BASH, variables, condition, step["task"], inputs
            )


def steps_of(name: str) -> dict[str, Step]:
    """The scripts of the file by name, in order."""
    steps = github_steps(name) if name.startswith("github") else devops_steps(name)
    return {step.name: step for step in steps}


def resolved(text: str, values: Mapping[str, str]) -> str:
    """Replace `${{ … }}` and `$(…)` in *text* by *values*. Raises KeyError for a missing value."""
    return re.sub(r"\$\{\{ ([\w.]+) \}\}|\$\(([\w.]+)\)", lambda found: values[found[1] or found[2]], text)


@dataclass(frozen=True)
class Machine:
    """A machine that runs steps: the project's folder, the variables that the service sets in every step, and the
    values of its expressions.

    A step has no terminal and no NO_COLOR, and finds `himl` and `python` on PATH as after an installation.
    """

    folder: Path
    service: Mapping[str, str]
    values: Mapping[str, str]
    scratch: Path

    def start(self, step: Step) -> subprocess.Popen[bytes]:
        """Start the step in a new process group."""
        path = self.scratch / f"{step.name.replace(' ', '_')}.sh"
        path.write_text(step.script, encoding="utf-8")
        own = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "LINES")}
        variables = {name: resolved(str(value), self.values) for name, value in step.variables.items()}
        programs = f"{PROGRAM.parent}{os.pathsep}{own['PATH']}"
        return subprocess.Popen(
            [*step.shell, str(path)],
            cwd=self.folder,
            env={**own, "PATH": programs, "CI": "true", **self.service, **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def run(self, step: Step) -> tuple[int, str]:
        """Return the step's exit code and output."""
        with self.start(step) as process:
            said, _ = process.communicate(timeout=100)
        return process.returncode, said.decode()


GITHUB, GITHUB_OIDC, AZURE, AZURE_OIDC = FILES
SIGNED_BY = {
    GITHUB: "service principal",
    GITHUB_OIDC: "workload identity",
    AZURE: "service principal",
    AZURE_OIDC: "Azure CLI",
}
PLAIN = Step("Train", "bash ci/train.sh --build_branch main --build_number 17 --build_user grace", DEVOPS_BASH)
UNTIL_ANOTHER = (
    'first="$(cat "$AZURE_FEDERATED_TOKEN_FILE")"; until [ "$(cat "$AZURE_FEDERATED_TOKEN_FILE")" != "$first" '
    "]; do sleep 0.05; done; exit 9"
)
TRAIN = """
import pathlib, sys
from himl_cli import RUN_CONTEXT
print("trained on", sys.argv[1:])
pathlib.Path("outputs").mkdir(exist_ok=True)
pathlib.Path("outputs/model.txt").write_text("weights")
RUN_CONTEXT.log("accuracy", 0.95)
"""
CONDA = "dependencies:\n- python=3.11\n- pip:\n  - himl-cli\n"
ASKING = "asking-for-an-id-token"


class IdTokens:
    """GitHub's endpoint for the tokens of a job. Each call makes a token that *principal* trusts."""

    def __init__(self, server: FileServer, principal: Principal) -> None:
        self.given: list[str] = []
        self.calls = 0
        self.refused: set[int] = set()
        """Calls, counted from 1, that are rejected."""
        self.answer: dict[str, object] | None = None
        """Returned in place of an answer with a token."""
        self._server, self._principal = server, principal
        server.before = self._prepare
        self.variables = {
            "ACTIONS_ID_TOKEN_REQUEST_URL": server("/token", "v=2"),
            "ACTIONS_ID_TOKEN_REQUEST_TOKEN": ASKING,
        }

    def _prepare(self, asked: Asked) -> None:
        self.calls += 1
        wanted = ({"v": ["2"], "audience": ["api://AzureADTokenExchange"]}, f"Bearer {ASKING}")
        if (parse_qs(asked.query), asked.headers.get("authorization")) != wanted or self.calls in self.refused:
            self._server.put("/token", b"", status=400)
            return
        if self.answer is None:
            self.given.append(self._principal.new_assertion())
        answer = {"count": 1, "value": self.given[-1]} if self.answer is None else self.answer
        self._server.put("/token", json.dumps(answer).encode(), status=200)


@dataclass(frozen=True)
class Lab:
    """A checkout with the files in their places, and the workspace. `secrets` contains all text that must not be
    printed.
    """

    azure: StagedWorkspace
    project: Path
    scratch: Path
    principal: Principal
    id_tokens: IdTokens
    secrets: list[str]

    def machine(self, name: str) -> Machine:
        """The machine for the file *name*, or for `train.sh` with a principal's variables or with those of workload
        identity.
        """
        state, principal = self.azure.state, self.principal
        place = {
            "HIML_SUBSCRIPTION_ID": state.subscription,
            "HIML_RESOURCE_GROUP": state.group,
            "HIML_WORKSPACE_NAME": state.name,
        }
        himl = {"HIML_TENANT_ID": principal.tenant, "HIML_SERVICE_PRINCIPAL_ID": principal.client_id}
        password = {"HIML_SERVICE_PRINCIPAL_PASSWORD": principal.secret}
        vendor = {"AZURE_TENANT_ID": principal.tenant, "AZURE_CLIENT_ID": principal.client_id}
        common, token_file = self.azure.stage.environment(), self.scratch / "federated_token"
        if name.startswith("github"):
            service = {
                "GITHUB_ACTIONS": "true",
                "GITHUB_REF_NAME": "main",
                "GITHUB_RUN_NUMBER": "17",
                "GITHUB_ACTOR": "grace",
            }
            if document(name)["permissions"].get("id-token") == "write":
                service |= self.id_tokens.variables
            values = {f"vars.{key}": value for key, value in (place | himl | vendor).items()} | {
                f"secrets.{key}": value for key, value in password.items()
            }
            return Machine(self.project, common | service, values | {"runner.temp": str(self.scratch)}, self.scratch)
        if name.startswith("azure"):
            service = {
                "TF_BUILD": "True",
                "BUILD_SOURCEBRANCHNAME": "main",
                "BUILD_BUILDNUMBER": "17",
                "BUILD_REQUESTEDFOR": "grace",
                **place,
            }
            if "HIML_SERVICE_PRINCIPAL_PASSWORD" in (EXAMPLES / name).read_text():
                service |= himl
            return Machine(self.project, common | service, password, self.scratch)
        token_file.write_text(principal.new_assertion())
        signed = vendor | {"AZURE_FEDERATED_TOKEN_FILE": str(token_file)} if "token" in name else himl | password
        return Machine(
            self.project, {**common, **place, **signed, "CLUSTER": "gpu", "LEAST_ACCURACY": "0.9"}, {}, self.scratch
        )


@pytest.fixture
def lab(
    azure: StagedWorkspace,
    project: Path,
    tmp_path: Path,
    git: Callable[..., str],
    require_program: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Lab]:
    require_program("jq")
    require_program("curl")
    azure.add_compute("gpu")
    write_files(project, {"train.py": TRAIN, "environment.yml": CONDA})
    shutil.copytree(EXAMPLES, project / "ci", ignore=shutil.ignore_patterns("*.md", "*.yml"))
    git(project, "init", "-q")
    git(project, "add", ".")
    git(project, "commit", "-qm", "First")
    git(project, "checkout", "-q", "--detach")
    scratch = tmp_path / "machine"
    scratch.mkdir()
    secrets: list[str] = [ASKING]
    with listening(lambda _, secret: secrets.append(secret)):
        principal = azure.add_principal()
        az = Az(tmp_path / "az")
        az.answer(token_of(principal))
        monkeypatch.setenv("PATH", f"{az.folder}{os.pathsep}{os.environ['PATH']}")
        with serving_files(None) as server:
            yield Lab(azure, project, scratch, principal, IdTokens(server, principal), secrets)


def check_said(lab: Lab, said: str) -> None:
    """Check that the output has no colour, no progress bar and no secret."""
    assert not re.search(r"[\x1b\r\x08]", said)
    assert len(lab.secrets) > 2
    assert [secret for secret in lab.secrets if secret in said] == []


def write_program(path: Path, script: str) -> None:
    path.write_text(f"#!/usr/bin/env bash\n{script}\n")
    path.chmod(0o755)


@pytest.mark.parametrize("name", FILES)
def test_ci_steps_train_and_download_results(lab: Lab, name: str) -> None:
    train = steps_of(name)["Train"]
    machine = lab.machine(name)
    with lab.azure.run_jobs():
        code, said = machine.run(train)
        asked = sign_ins(lab.azure.stage)
        checked, signed = machine.run(replace(train, script="himl doctor"))
    assert code == 0, said
    check_said(lab, said)
    (run,) = lab.azure.state.runs.values()
    assert run.status == "Completed"
    tags = {key: run.tags[key] for key in ("build_branch", "build_number", "build_user", "build_source_message")}
    assert tags == {
        "build_branch": "main",
        "build_number": "17",
        "build_user": "grace",
        "build_source_message": "First",
    }
    assert (lab.project / "results" / "outputs" / "model.txt").read_text() == "weights"
    assert json.loads((lab.project / "results" / "metrics.json").read_text())["children"][0]["last"] == {
        "accuracy": 0.95
    }
    assert asked == (0 if name == AZURE_OIDC else 1)
    assert bool(lab.id_tokens.given) == (name == GITHUB_OIDC)
    assert (checked, SIGNED_BY[name] in re.findall(r"\tsign-in\t(.*)", signed)[0]) == (0, True), signed


def test_failed_job_or_sign_in_ends_step_and_logs_cause(lab: Lab) -> None:
    write_files(lab.project, {"train.py": "import sys\nprint('out of ideas')\nsys.exit(7)\n"})
    with lab.azure.run_jobs():
        code, said = lab.machine("a federated token").run(PLAIN)
    assert (code, "out of ideas" in said, "exited with status code 7" in said.splitlines()[-2]) == (1, True, True), said
    assert list((lab.project / "results").iterdir()) == []
    check_said(lab, said)
    machine = lab.machine(AZURE)
    lab.principal.secret = "another one since"
    code, said = machine.run(steps_of(AZURE)["Train"])
    assert (code, "failed\tsign-in\t" in said) == (4, True), said
    assert len(lab.azure.state.runs) == 1
    check_said(lab, said)


@pytest.mark.parametrize("name", [GITHUB, AZURE_OIDC])
def test_canceled_build_cancels_the_job(lab: Lab, name: str) -> None:
    machine, steps = lab.machine(name), steps_of(name)
    with lab.azure.run_jobs(hold=True), machine.start(steps["Train"]) as training:
        until(lambda: (lab.project / "most_recent_run.txt").exists() or training.poll() is not None)
        os.killpg(training.pid, signal.SIGINT)
        said, _ = training.communicate(timeout=100)
        assert training.returncode != 0
        check_said(lab, said.decode())
        code, said_then = machine.run(steps["Cancel the job"])
        assert code == 0, said_then
        check_said(lab, said_then)
        (run_id,) = lab.azure.state.runs
        lab.azure.wait_for(run_id, "Canceled")


def test_lines_of_the_page_do_what_it_says(lab: Lab) -> None:
    """Run all commands of himl in sequence. The command that creates a federated credential belongs to Azure's own
    CLI.
    """
    lines = [block for block in blocks(page("ci.md"), "sh") if not block.startswith("az ")]
    machine = lab.machine("a principal")
    with lab.azure.run_jobs():
        for number, block in enumerate(lines):
            code, said = machine.run(Step(f"Block {number}", block, GITHUB_BASH))
            assert code == 0, f"{block}\n{said}"
            check_said(lab, said)
    (_, trained, here, submitted, looked) = lines
    assert ("nightly=yes" in trained, "local" in here, "-q" in submitted, "jq -e" in looked) == (True,) * 4
    nightly = [run.run_id for run in lab.azure.state.runs.values() if run.tags.get("nightly") == "yes"]
    assert len(nightly) == 2
    assert json.loads((lab.project / "runs.json").read_text())[0]["id"] == nightly[-1]
    assert len(list((lab.project / ".himl" / "runs").iterdir())) == 1


def test_script_ends_as_the_model_deserves(
    himl: Himl, project: Path, tmp_path: Path, require_program: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    require_program("jq")
    himl.ok("init", "--local")
    shutil.copytree(EXAMPLES, project / "ci")
    machine = Machine(project, {"CLUSTER": "local", "LEAST_ACCURACY": "0.9"}, {}, tmp_path)
    for logged in (TRAIN.replace("0.95", "0.89"), TRAIN.partition("RUN_CONTEXT.log")[0]):
        write_files(project, {"train.py": logged})
        code, said = machine.run(PLAIN)
        assert (code, said.splitlines()[-1]) == (1, "The accuracy is below 0.9, or was not logged.")
    write_files(project, {"train.py": TRAIN})
    assert machine.run(PLAIN)[0] == 0
    write_program(tmp_path / "jq", "echo 'jq: out of memory' >&2; exit 2")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    code, said = machine.run(PLAIN)
    assert (code, said.splitlines()[-1]) == (1, "jq: out of memory")


def test_script_checks_its_needs_before_the_training(tmp_path: Path) -> None:
    """The script does not call himl, which would report in this folder that there is no workspace."""
    cases: dict[str, dict[str, str]] = {
        "CLUSTER is not set. It must be the name of a cluster or 'local'.": {"CLUSTER": ""},
        "LEAST_ACCURACY must be a number such as 0.9, not '0,9'.": {"LEAST_ACCURACY": "0,9"},
        "jq is not installed. This script needs it to read the accuracy.": {"PATH_OF_SCRIPT": "/nowhere"},
    }
    step = replace(
        PLAIN, script=f"""PATH="${{PATH_OF_SCRIPT-$PATH}}" '{shutil.which("bash")}' '{EXAMPLES / "train.sh"}'"""
    )
    for said, variables in cases.items():
        own = {"CLUSTER": "local", "LEAST_ACCURACY": "0.9", **variables}
        assert Machine(tmp_path, own, {}, tmp_path).run(step) == (2, f"{said}\n")


def test_token_of_github_is_renewed_and_without_it_nothing_runs(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.id_tokens.refused = {2}
    token_file = lab.scratch / "federated_token"
    variables = {"AZURE_FEDERATED_TOKEN_FILE": str(token_file), "RENEW_SECONDS": "1"}
    step = Step("Renew", f"bash ci/with-github-token.sh bash -c '{UNTIL_ANOTHER}'", DEVOPS_BASH, variables)
    code, said = lab.machine(GITHUB_OIDC).run(step)
    assert (code, "400" in said, len(said.splitlines())) == (9, True, 1), said
    assert lab.id_tokens.calls >= 3
    assert token_file.read_text() in lab.id_tokens.given
    assert token_file.stat().st_mode & 0o077 == 0
    machine = lab.machine(GITHUB_OIDC)
    step = Step(
        "Token",
        "bash ci/with-github-token.sh touch started",
        DEVOPS_BASH,
        {"AZURE_FEDERATED_TOKEN_FILE": str(lab.scratch / "token")},
    )
    code, said = Machine(machine.folder, {}, {}, machine.scratch).run(step)
    assert (code, "is not set. The job needs the permission id-token: write" in said) == (1, True)
    lab.id_tokens.refused = {lab.id_tokens.calls + 1}
    # Like jq 1.7.
    write_program(
        lab.scratch / "jq",
        f"""read -rd '' whole; [ -n "$whole" ] || exit 4; exec '{shutil.which("jq")}' "$@" <<<"$whole" """,
    )
    monkeypatch.setenv("PATH", f"{lab.scratch}{os.pathsep}{os.environ['PATH']}")
    code, said = machine.run(step)
    assert (code, "400" in said) == (22, True)
    lab.id_tokens.answer = {"message": "none today"}
    code, said = machine.run(step)
    assert (code, "GitHub returned no token" in said) == (5, True)
    assert not (lab.project / "started").exists()


def test_ci_scripts_hold_no_expressions_and_the_page_names_all() -> None:
    # The service would insert an expression as text before bash reads it: a branch called `$(…)` would run.
    for name in FILES:
        steps = steps_of(name)
        assert list(steps) == ["Install himl", "Train", "Cancel the job"]
        assert [step.name for step in steps.values() if re.search(r"\$\{\{|\$\(", step.script)] == []
        assert [step.name for step in steps.values() if step.condition in CANCELED] == ["Cancel the job"]
        assert "PASSWORD" not in str(steps["Install himl"])
        assert (
            steps["Install himl"].script
            == steps_of(AZURE if name.startswith("azure") else GITHUB)["Install himl"].script
        )
        by_connection = [step.inputs["azureSubscription"] for step in steps.values() if step.uses == "AzureCLI@2"]
        assert by_connection == (["azure-ml"] * 2 if name == AZURE_OIDC else [])
        assert not by_connection or steps["Train"].inputs["keepAzSessionActive"] is True
    text = page("ci.md")
    files = {path.name for path in EXAMPLES.iterdir()} - {"README.md"}
    assert files == {*FILES, "train.sh", "with-github-token.sh"}
    assert sorted(re.findall(r"\{literalinclude\} \.\./examples/ci/([\w.-]+)", text)) == sorted(files)
    # The table of files links each, and so does the place where a page on a forge cannot show its text.
    assert sorted(re.findall(r"\]\(\.\./examples/ci/([\w.-]+)\)", text)) == sorted([*files, *files])
    assert [name for name in VARIABLES if f"`{name}`" not in text] == []
    shell = [
        re.sub(r"^#.*$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE) for path in EXAMPLES.glob("*.sh")
    ]
    scripts = "\n".join([*shell, *(step.script for name in FILES for step in steps_of(name).values())])
    commands = [*himl_commands(text), *re.findall(r"\b(himl (?:doctor|submit|download|runs)\b[^>\n|]*)", scripts)]
    assert len(commands) > 12
    assert {command: wrong_with(command) for command in commands if wrong_with(command)} == {}


def path_of_pip() -> str:
    """The path of pip, if the environment of the tests lacks it. Python includes a copy for new environments."""
    ensurepip = find_spec("ensurepip")
    if find_spec("pip") or ensurepip is None or ensurepip.origin is None:
        return ""
    return "".join(str(wheel) for wheel in Path(ensurepip.origin).parent.glob("_bundled/pip-*.whl"))


@pytest.mark.parametrize("name", [GITHUB_OIDC, AZURE])
def test_ci_installs_what_the_variable_names_and_nothing_else(name: str, tmp_path: Path) -> None:
    """If it is not set, no index is searched for a package name that anyone may have registered."""
    wheel = tmp_path / "himl_cli-99-py3-none-any.whl"
    with ZipFile(wheel, "w") as archive:
        archive.writestr("himl_cli.py", "")
        archive.writestr("himl_cli-99.dist-info/METADATA", "Metadata-Version: 2.1\nName: himl-cli\nVersion: 99\n")
        archive.writestr(
            "himl_cli-99.dist-info/WHEEL",
            "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        archive.writestr(
            "himl_cli-99.dist-info/RECORD",
            "".join(f"{each},,\n" for each in (*archive.namelist(), "himl_cli-99.dist-info/RECORD")),
        )

    def install(package: str) -> tuple[int, str]:
        service = {
            "PIP_NO_INDEX": "1",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PYTHONPATH": path_of_pip(),
            "PIP_TARGET": str(tmp_path / "installed"),
        }
        service |= {"HIML_PACKAGE": package} if name.startswith("azure") else {}
        values = {f"vars.{key}": package if key == "HIML_PACKAGE" else "" for key in VARIABLES}
        return Machine(tmp_path, service, values, tmp_path).run(steps_of(name)["Install himl"])

    code, said = install("")
    assert code != 0
    assert "HIML_PACKAGE: a wheel or a repository of himl" in said
    if find_spec("pip") is None and not path_of_pip():
        pytest.skip("NEEDS pip in the environment of the tests")
    code, said = install(f"himl-cli @ {wheel.as_uri()}")
    assert code == 0, said
    assert (tmp_path / "installed" / "himl_cli.py").exists()


def test_example_learns_and_writes_what_it_learned(tmp_path: Path) -> None:
    done = run_script(EXAMPLES.parent / "train.py", "--epochs", "4", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [line.split()[:2] for line in done.stdout.splitlines()[:-1]] == [
        ["epoch", f"{epoch}/4"] for epoch in (1, 2, 3, 4)
    ]
    results = json.loads((tmp_path / "outputs" / "results.json").read_text())
    assert results["test_accuracy"] > 0.85
    with (tmp_path / "outputs" / "confusion_matrix.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    counts = [[int(count) for count in row[1:]] for row in rows]
    assert header == ["digit", *map(str, range(10))]
    assert sum(map(sum, counts)) == results["test_images"] == 360
    assert sum(counts[digit][digit] for digit in range(10)) / 360 == pytest.approx(results["test_accuracy"], abs=1e-4)
    checkpoints = tmp_path / "outputs" / "checkpoints"
    assert sorted(path.name for path in checkpoints.iterdir()) == [
        *(f"epoch={epoch}.ckpt" for epoch in (1, 2, 3, 4)),
        "last.ckpt",
    ]
    assert [joblib.load(checkpoints / name)["epoch"] for name in ("last.ckpt", "epoch=2.ckpt")] == [4, 2]
    events = EventAccumulator(str(tmp_path / "logs"))
    events.Reload()
    assert sorted(events.Tags()["tensors"]) == ["train/loss", "val/accuracy", "val/loss"]
    losses = {event.step: float(event.tensor_proto.float_val[0]) for event in events.Tensors("train/loss")}
    assert list(losses) == [1, 2, 3, 4]
    assert losses[4] < losses[1] / 2


def test_example_environment_on_cluster_has_imports_and_mlflow(himl: Himl) -> None:
    """Use the README's command. azureml-mlflow supports the address that Azure ML gives to MLflow."""
    requirements = EXAMPLES.parent / "requirements-cluster.txt"
    shown = himl.ok(
        "submit",
        str(EXAMPLES.parent / "train.py"),
        "--cluster",
        "gpu",
        "--requirements",
        str(requirements),
        "--dry_run",
    ).stdout
    *_, pip = yaml.safe_load(shown)["environment"]["conda_file"]["dependencies"]
    imported = {
        line.split(">=")[0]
        for line in (EXAMPLES.parent / "requirements.txt").read_text().splitlines()
        if not line.startswith("#")
    }
    assert {re.split(r"[<>=]", line)[0] for line in pip["pip"]} == imported | {"azureml-mlflow"}


@pytest.fixture
def tool(project: Path) -> Path:
    return Path(shutil.copy(EXAMPLES.parent / "own_tool" / "summary_typer.py", project))


def run_tool(tool: Path, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = run_script(tool, *arguments)
    assert done.returncode == code, done.stderr
    return done


def test_own_tool_shows_runs_and_errors_as_himl(
    tool: Path, himl: Himl, project: Path, azure_environment: StagedWorkspace
) -> None:
    runs = RecordedRuns(project)
    runs.add("digits_1_aa", experiment="digits", tags={"team": "blue"}, seconds=60)
    runs.add("digits_2_bb", experiment="digits", status=RunStatus.failed, seconds=5)
    runs.log(
        "digits_1_aa",
        [("loss", 2.0, 1, 1000), ("loss", 0.125, 2, 2000), ("loss", 0.25, 3, 3000), ("accuracy", 0.9, 1, 1000)],
    )
    write_files(project, {"most_recent_run.txt": "digits:digits_2_bb\n"})
    header = "run\tstatus\tseconds\tlast\tlowest\n"
    best, failed = "digits_1_aa\tCompleted\t60.0\t0.25\t0.125\n", "digits_2_bb\tFailed\t5.0\t\t\n"
    assert run_tool(tool, "--experiment", "digits", "--num_runs", "all").stdout == header + failed + best
    assert run_tool(tool).stdout == header + failed
    assert run_tool(tool, "digits_1_aa", "--metric", "accuracy", "-q").stdout == "digits_1_aa\n"
    (row,) = json.loads(run_tool(tool, "--run", "digits_1_aa", "--metric", "accuracy", "--json").stdout)
    assert row == {"run": "digits_1_aa", "status": "Completed", "seconds": 60.0, "last": 0.9, "lowest": 0.9}
    unknown = run_tool(tool, "digits_1_ab", code=3)
    assert (unknown.stdout, unknown.stderr) == ("", himl("runs", "show", "digits_1_ab").stderr)
    assert json.loads(run_tool(tool, "digits_1_ab", "--json", code=3).stderr)["error"]["code"] == "run_not_found"
    azure = azure_environment
    config = azure.write_config(project)
    azure.add_metric(azure.add_run("digits_3_cc", "digits", seconds=90), "loss", [0.5, 0.75])
    azure.add_run("digits_4_dd", "digits", status="Failed", error="CUDA out of memory")
    shown = json.loads(run_tool(tool, "--experiment", "digits", "--num_runs", "2", "--json").stdout)
    wanted = [("digits_4_dd", "Failed", None, None), ("digits_3_cc", "Completed", 0.75, 0.5)]
    assert [(row["run"], row["status"], row["last"], row["lowest"]) for row in shown] == wanted
    assert (
        run_tool(tool, "--config_file", str(config), "--run_recovery_ids", "digits:digits_3_cc", "-q").stdout
        == "digits_3_cc\n"
    )
