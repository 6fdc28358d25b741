"""The files of `examples/ci` do what docs/ci.md says: their steps run on the double, with each way to sign in, without a terminal."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import parse_qs, urlsplit
from zipfile import ZipFile

import pytest

from tests.azure_connections import sign_ins
from tests.azure_tools import Az, token_of
from tests.ci_files import DEVOPS_BASH, EXAMPLES, FILES, GITHUB_BASH, VARIABLES, Machine, Step, document, steps_of
from tests.documents import blocks, page
from tests.running import Himl, write_files
from tests.servers.azureml.issued import listening
from tests.servers.azureml.principals import Principal
from tests.servers.azureml.seeding import StagedWorkspace

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the steps are for bash")

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
    """GitHub's endpoint that gives a job its tokens: each call makes one that *principal* trusts."""

    def __init__(self, principal: Principal) -> None:
        self.given: list[str] = []
        self.calls = 0
        self.refused: set[int] = set()
        """Calls, counted from 1, that are refused."""
        self.answer: dict[str, object] | None = None
        """Given in place of one with a token."""
        ours = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked = {name: value for name, (value, *_) in parse_qs(urlsplit(self.path).query).items()}
                is_right = (asked, self.headers["Authorization"]) == ({"v": "2", "audience": "api://AzureADTokenExchange"}, f"Bearer {ASKING}")
                ours.calls += 1
                if not is_right or ours.calls in ours.refused:
                    return self.send_error(400)
                if ours.answer is None:
                    ours.given.append(principal.new_assertion())
                self.send_response(200)
                self.end_headers()
                self.wfile.write(json.dumps({"count": 1, "value": ours.given[-1]} if ours.answer is None else ours.answer).encode())

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.variables = {"ACTIONS_ID_TOKEN_REQUEST_URL": f"http://127.0.0.1:{self._server.server_port}/token?v=2", "ACTIONS_ID_TOKEN_REQUEST_TOKEN": ASKING}

    @contextmanager
    def serving(self) -> Iterator[IdTokens]:
        thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            thread.join()
            self._server.server_close()


@dataclass(frozen=True)
class Lab:
    """A checkout with the files in their places, and the workspace; `secrets` is all that must not be said."""

    azure: StagedWorkspace
    project: Path
    scratch: Path
    principal: Principal
    id_tokens: IdTokens
    secrets: list[str]

    def machine(self, name: str) -> Machine:
        """The service for whose file *name* is, or `train.sh` with a principal's variables, or with those of workload identity."""
        state, principal = self.azure.state, self.principal
        place = {"HIML_SUBSCRIPTION_ID": state.subscription, "HIML_RESOURCE_GROUP": state.group, "HIML_WORKSPACE_NAME": state.name}
        himl = {"HIML_TENANT_ID": principal.tenant, "HIML_SERVICE_PRINCIPAL_ID": principal.client_id}
        password = {"HIML_SERVICE_PRINCIPAL_PASSWORD": principal.secret}
        vendor = {"AZURE_TENANT_ID": principal.tenant, "AZURE_CLIENT_ID": principal.client_id}
        common, token_file = self.azure.stage.environment(), self.scratch / "federated_token"
        if name.startswith("github"):
            service = {"GITHUB_ACTIONS": "true", "GITHUB_REF_NAME": "main", "GITHUB_RUN_NUMBER": "17", "GITHUB_ACTOR": "grace"}
            if document(name)["permissions"].get("id-token") == "write":
                service |= self.id_tokens.variables
            values = {f"vars.{key}": value for key, value in (place | himl | vendor).items()} | {f"secrets.{key}": value for key, value in password.items()}
            return Machine(self.project, common | service, values | {"runner.temp": str(self.scratch)}, self.scratch)
        if name.startswith("azure"):
            service = {"TF_BUILD": "True", "BUILD_SOURCEBRANCHNAME": "main", "BUILD_BUILDNUMBER": "17", "BUILD_REQUESTEDFOR": "grace", **place}
            if "HIML_SERVICE_PRINCIPAL_PASSWORD" in (EXAMPLES / name).read_text():
                service |= himl
            return Machine(self.project, common | service, password, self.scratch)
        token_file.write_text(principal.new_assertion())
        signed = vendor | {"AZURE_FEDERATED_TOKEN_FILE": str(token_file)} if "token" in name else himl | password
        return Machine(self.project, {**common, **place, **signed, "CLUSTER": "gpu", "LEAST_ACCURACY": "0.9"}, {}, self.scratch)


@pytest.fixture
def lab(
    azure: StagedWorkspace, project: Path, tmp_path: Path, git: Callable[..., str], require_program: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
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
        with IdTokens(principal).serving() as id_tokens:
            yield Lab(azure, project, scratch, principal, id_tokens, secrets)


def check_said(lab: Lab, said: str) -> None:
    """No colour, no bar, no secret."""
    assert not re.search(r"[\x1b\r\x08]", said)
    assert len(lab.secrets) > 2
    assert [secret for secret in lab.secrets if secret in said] == []


PLAIN = Step("Train", "bash ci/train.sh --build_branch main --build_number 17 --build_user grace", DEVOPS_BASH)
SIGNED_BY = {"github-actions-oidc.yml": "workload identity", "azure-pipelines-oidc.yml": "Azure CLI", "a federated token": "workload identity"}


@pytest.mark.parametrize("name", [*FILES, "a principal", "a federated token"])
def test_the_steps_train_and_bring_the_results(lab: Lab, name: str) -> None:
    machine = lab.machine(name)
    train = steps_of(name)["Train"] if name in FILES else PLAIN
    with lab.azure.run_jobs():
        code, said = machine.run(train)
    assert code == 0, said
    check_said(lab, said)
    (run,) = lab.azure.state.runs.values()
    assert run.status == "Completed"
    tags = {key: run.tags[key] for key in ("build_branch", "build_number", "build_user", "build_source_message")}
    assert tags == {"build_branch": "main", "build_number": "17", "build_user": "grace", "build_source_message": "First"}
    assert (lab.project / "results" / "outputs" / "model.txt").read_text() == "weights"
    assert json.loads((lab.project / "results" / "metrics.json").read_text())["children"][0]["last"] == {"accuracy": 0.95}
    assert sign_ins(lab.azure.stage) == (0 if name == "azure-pipelines-oidc.yml" else 1)
    assert bool(lab.id_tokens.given) == (name == "github-actions-oidc.yml")
    code, said = machine.run(replace(train, script="himl doctor"))
    assert code == 0, said
    (line,) = re.findall(r"\tsign-in\t(.*)", said)
    assert SIGNED_BY.get(name, "service principal") in line


@pytest.mark.parametrize("name", ["github-actions.yml", "azure-pipelines.yml", "a principal"])
def test_a_wrong_secret_ends_the_step_with_4_and_the_log_says_what_is_wrong(lab: Lab, name: str) -> None:
    machine = lab.machine(name)
    lab.principal.secret = "another one since"
    code, said = machine.run(steps_of(name)["Train"] if name in FILES else PLAIN)
    assert code == 4, said
    assert "failed\tsign-in\t" in said
    assert lab.azure.state.runs == {}
    check_said(lab, said)


@pytest.mark.parametrize("name", [*FILES, "a federated token"])
def test_a_network_that_is_down_ends_the_step_with_5(lab: Lab, name: str) -> None:
    """A proxy that nobody runs stands for it; GitHub's own endpoint for tokens is asked without one."""
    machine = lab.machine(name)
    nobody = dict.fromkeys(("HTTPS_PROXY", "https_proxy"), "http://127.0.0.1:9")
    code, said = replace(machine, service={**machine.service, **nobody}).run(steps_of(name)["Train"] if name in FILES else PLAIN)
    assert code == 5, said
    assert "The proxy " in said
    assert re.search(r"^failed\t", said, flags=re.MULTILINE)
    check_said(lab, said)


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


def test_a_job_that_fails_ends_the_script_with_the_end_of_its_log(lab: Lab) -> None:
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


def write_program(path: Path, script: str) -> None:
    """Write a program that bash runs *script* of."""
    path.write_text(f"#!/usr/bin/env bash\n{script}\n")
    path.chmod(0o755)


@pytest.mark.parametrize("name", FILES)
def test_a_build_that_is_canceled_cancels_the_job(lab: Lab, name: str) -> None:
    machine, steps = lab.machine(name), steps_of(name)
    with lab.azure.run_jobs(hold=True), machine.start(steps["Train"]) as training:
        deadline = time.monotonic() + 60
        while not (lab.project / "most_recent_run.txt").exists():
            assert training.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.killpg(training.pid, signal.SIGINT)
        said, _ = training.communicate(timeout=100)
        assert training.returncode != 0
        check_said(lab, said.decode())
        code, said_then = machine.run(steps["Cancel the job"])
        assert code == 0, said_then
        check_said(lab, said_then)
        (run_id,) = lab.azure.state.runs
        lab.azure.wait_for(run_id, "Canceled")


UNTIL_ANOTHER = 'first="$(cat "$AZURE_FEDERATED_TOKEN_FILE")"; until [ "$(cat "$AZURE_FEDERATED_TOKEN_FILE")" != "$first" ]; do sleep 0.05; done; exit 9'


@pytest.mark.parametrize("refused", [set(), {2}])
def test_githubs_token_is_renewed_as_long_as_the_command_runs(lab: Lab, refused: set[int]) -> None:
    """Where one renewal is refused, the token that is there stays until the next."""
    lab.id_tokens.refused = refused
    token_file = lab.scratch / "federated_token"
    variables = {"AZURE_FEDERATED_TOKEN_FILE": str(token_file), "RENEW_SECONDS": "1"}
    machine = lab.machine("github-actions-oidc.yml")
    code, said = machine.run(Step("Renew", f"bash ci/with-github-token.sh bash -c '{UNTIL_ANOTHER}'", DEVOPS_BASH, variables))
    assert (code, "400" in said, len(said.splitlines())) == (9, bool(refused), len(refused)), said
    assert lab.id_tokens.calls >= 2 + len(refused)
    assert token_file.read_text() in lab.id_tokens.given
    assert token_file.stat().st_mode & 0o077 == 0


def test_without_githubs_token_nothing_is_run(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = lab.machine("github-actions-oidc.yml")
    step = Step("Token", "bash ci/with-github-token.sh touch started", DEVOPS_BASH, {"AZURE_FEDERATED_TOKEN_FILE": str(lab.scratch / "token")})
    forbidden = Machine(machine.folder, {}, {}, machine.scratch)
    code, said = forbidden.run(step)
    assert (code, "is set where the job has the permission id-token: write" in said) == (1, True)
    lab.id_tokens.refused = {1}
    write_program(lab.scratch / "jq", f"""read -rd '' whole; [ -n "$whole" ] || exit 4; exec '{shutil.which("jq")}' "$@" <<<"$whole" """)  # as jq 1.7
    monkeypatch.setenv("PATH", f"{lab.scratch}{os.pathsep}{os.environ['PATH']}")
    code, said = machine.run(step)
    assert (code, "400" in said) == (22, True)
    lab.id_tokens.answer = {"message": "none today"}
    code, said = machine.run(step)
    assert (code, "GitHub gave no token" in said) == (5, True)
    check_said(lab, said)
    assert not (lab.project / "started").exists()
    assert not (lab.scratch / "token").exists()


@pytest.mark.timeout(300)  # three trainings
def test_the_lines_of_the_page_do_what_it_says(lab: Lab) -> None:
    """All that himl runs, one after the other; the one that makes a federated credential is for Azure's own CLI."""
    lines = [block for block in blocks(page("ci.md"), "sh") if not block.startswith("az ")]
    assert len(lines) == 5
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
