"""`examples/ci/with-github-token.sh` keeps GitHub's token fresh for the command that it runs."""

from __future__ import annotations

import os
import shutil
import sys

import pytest

from tests.project.ci_lab import Lab, check_said, write_program
from tests.project.ci_lab import lab as lab
from tests.support.ci_files import DEVOPS_BASH, Machine, Step

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the steps are for bash")
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
