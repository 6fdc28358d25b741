"""A checkout with the files of `examples/ci` in their places, and the double that their steps meet."""

from __future__ import annotations

import json
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.servers.azureml.issued import listening
from tests.servers.azureml.principals import Principal
from tests.servers.azureml.seeding import StagedWorkspace
from tests.support.azure import Az, token_of
from tests.support.ci_files import DEVOPS_BASH, EXAMPLES, Machine, Step, document
from tests.support.running import write_files

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


def write_program(path: Path, script: str) -> None:
    """Write a program that bash runs *script* of."""
    path.write_text(f"#!/usr/bin/env bash\n{script}\n")
    path.chmod(0o755)
