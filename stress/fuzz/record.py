"""Ask the double all that `replies` asks, and keep what it says: `python -m stress.fuzz.record`, after a change to what himl asks."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from himl_cli.core.errors import HimlError
from himl_cli.workspaces.azure.responses import Response
from himl_cli.workspaces.azure.workspace import AzureWorkspace
from stress.fuzz.replies import ASKED, RECORDED, RUN, SWEEP, line_of
from stress.fuzz.workspace import ADDRESS
from tests.servers.azureml.seeding import StagedWorkspace
from tests.servers.azureml.stage import running_stage
from tests.servers.azureml.sweep_seeding import add_sweep
from tests.support.azure import connected


def main() -> None:
    """Write `answers.json`. Raises HimlError where the double does not answer."""
    with tempfile.TemporaryDirectory() as place, running_stage(Path(place)) as stage:
        staged = stage.workspace()
        os.environ.update({"HIML_NO_CACHE": "1", **staged.environment()})
        seed(staged)
        said = {name: _answers_to(staged, Path(place), name) for name in ("workspace", *ASKED)}
    known = set(said["workspace"])
    kept = {name: {line: answer for line, answer in told.items() if name == "workspace" or line not in known} for name, told in said.items()}
    text = json.dumps(kept, indent=1, sort_keys=True, ensure_ascii=False)
    for there, here in _names(staged).items():
        text = text.replace(there, here)
    RECORDED.write_text(text + "\n", encoding="utf-8")


def seed(staged: StagedWorkspace) -> None:
    """A run of each kind that is asked for."""
    run = staged.add_run(RUN, "exp", tags={"a": "b"})
    staged.add_metric(run, "loss", [1.0, 0.5])
    staged.add_output(run, "data", {"file": b"1"})
    staged.put_artifacts(run, {"outputs/a.txt": b"1"})
    add_sweep(staged, SWEEP, [{"lr": 0.1}, {"lr": 0.2}])


def _answers_to(staged: StagedWorkspace, folder: Path, name: str) -> Mapping[str, Any]:
    found: dict[str, Any] = {}
    with connected(staged, folder) as connection:
        send = connection.rest.send

        def kept(method: str, url: str, **options: Any) -> Response:
            reply = send(method, url, **options)
            found[line_of(method, url)] = reply.body
            return reply

        connection.rest.send = kept  # type: ignore[method-assign]
        connection.record()
        if name != "workspace":
            try:
                ASKED[name](AzureWorkspace(connection))
            except HimlError as err:
                print(f"{name}: {err}")
    return found


def _names(staged: StagedWorkspace) -> Mapping[str, str]:
    """What the double calls its workspace, and what it is called here."""
    state = staged.state
    return {state.subscription: ADDRESS.subscription_id, state.group: ADDRESS.resource_group, state.name: ADDRESS.name}


if __name__ == "__main__":
    main()
