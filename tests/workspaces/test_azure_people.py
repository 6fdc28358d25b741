"""Signing in by asking a person: only where there is one, and once."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.servers.azureml.device_code import USER_CODE
from tests.servers.azureml.seeding import StagedWorkspace
from tests.servers.azureml.stage import Stage
from tests.support.azure import SIGN_IN, sign_ins
from tests.support.running import Himl
from tests.support.terminals import Terminal

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="terminals are POSIX's here")


@pytest.fixture
def environment(azure: StagedWorkspace, project: Path, monkeypatch: pytest.MonkeyPatch) -> Mapping[str, str]:
    """What lets himl reach the workspace; nothing in it signs in, and there is no display."""
    azure.write_config(project)
    azure.add_run("run_1", "exp")
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
        monkeypatch.delenv(name, raising=False)
    kept = {name: value for name, value in azure.environment().items() if name not in SIGN_IN}
    return kept | {"HIML_TENANT_ID": azure.state.tenant, "PATH": os.defpath, "SSH_TTY": "/dev/pts/9"}


def test_terminal_without_browser_shows_device_code_once(himl: Himl, stage: Stage, project: Path, environment: Mapping[str, str]) -> None:
    terminal = Terminal([str(himl.program), "runs", "list"], cwd=project, env=environment)
    terminal.wait_for(f"https://microsoft.com/devicelogin in any browser and enter the code {USER_CODE}.")
    assert terminal.finish() == 0
    assert "run_1" in terminal.screen
    asked = sign_ins(stage)
    again = Terminal([str(himl.program), "runs", "list"], cwd=project, env=environment)
    assert again.finish() == 0
    assert (USER_CODE in again.screen, sign_ins(stage)) == (False, asked)


def test_interactive_sign_in_is_reused_without_terminal(himl: Himl, project: Path, environment: Mapping[str, str]) -> None:
    refused = himl("runs", "list", env=environment)
    assert refused.code == 4
    assert "browser and device code (no terminal)" in refused.stderr
    assert Terminal([str(himl.program), "runs", "list"], cwd=project, env=environment).finish() == 0
    outcome = himl("runs", "list", env=environment)
    assert (outcome.code, "run_1" in outcome.stdout) == (0, True)


def test_claims_challenge_asks_for_new_interactive_sign_in(
    himl: Himl, azure: StagedWorkspace, stage: Stage, project: Path, environment: Mapping[str, str]
) -> None:
    """Without a terminal the command fails with exit code 4."""
    assert Terminal([str(himl.program), "runs", "list"], cwd=project, env=environment).finish() == 0
    azure.state.principal.claims_wanted = '{"access_token":{"acrs":{"essential":true,"value":"p1"}}}'
    refused = himl("runs", "list", env=environment)
    assert refused.code == 4
    assert "Nothing here gives the stronger sign-in that the service wants. Tried: " in refused.stderr
    for is_first in (True, False):
        terminal = Terminal([str(himl.program), "runs", "list"], cwd=project, env=environment)
        assert terminal.finish() == 0
        assert (USER_CODE in terminal.screen, "run_1" in terminal.screen) == (is_first, True)


def test_a_person_who_interrupts_the_sign_in_ends_the_command(himl: Himl, project: Path, environment: Mapping[str, str], stage: Stage) -> None:
    terminal = Terminal([str(himl.program), "runs", "list"], cwd=project, env=environment)
    terminal.wait_for(USER_CODE)
    terminal.interrupt()
    assert terminal.finish() == 130
