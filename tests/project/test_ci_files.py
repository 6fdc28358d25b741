"""The files of `examples/ci` do what docs/ci.md says: their steps run on the double, with each way to sign in, without a terminal."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from dataclasses import replace

import pytest

from tests.project.ci_lab import PLAIN, Lab, check_said
from tests.project.ci_lab import lab as lab
from tests.support.azure import sign_ins
from tests.support.ci_files import FILES, GITHUB_BASH, Step, steps_of
from tests.support.documents import blocks, page

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the steps are for bash")
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
def test_wrong_secret_ends_step_with_code_4_and_logs_cause(lab: Lab, name: str) -> None:
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
