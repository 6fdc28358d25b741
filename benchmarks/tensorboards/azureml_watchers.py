"""azureml-tensorboard, told what to do by lines: the runs named in the arguments, in an environment that holds that package.

`refresh FOLDER`: one pulse of its watchers, and one of its synchronizers, for each line on standard input, which is answered by a line. They are
its own objects with its own code; only the seconds that they wait between pulses, and its threads, are left out.
`serve PORT`: what its users call, `Tensorboard(runs).start()`, until standard input closes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

from azureml._run_impl.run_watcher import RunWatcher
from azureml.core import Workspace
from azureml.core.authentication import ServicePrincipalAuthentication
from azureml.core.run import Run
from azureml.tensorboard import Tensorboard
from requests import Session


class NoWait:
    """In place of the event that ends its loops: each loop ends after one pulse, and no transfer is cut short."""

    def wait(self, timeout: float | None = None) -> bool:
        return True

    def is_set(self) -> bool:
        return False


class NotYet:
    """In place of its threads: what it would start in one is called by the pulse."""

    def submit(self, call: Callable[..., Any], *arguments: Any) -> None:
        pass


def runs(names: list[str]) -> list[Run]:
    auth = ServicePrincipalAuthentication(os.environ["AZURE_TENANT_ID"], os.environ["AZURE_CLIENT_ID"], os.environ["AZURE_CLIENT_SECRET"])
    ids = {"subscription_id": os.environ["HIML_SUBSCRIPTION_ID"], "resource_group": os.environ["HIML_RESOURCE_GROUP"]}
    workspace = Workspace.get(os.environ["HIML_WORKSPACE_NAME"], auth=auth, **ids)
    return [Run.get(workspace, name) for name in names]


def refresh(folder: str, found: list[Run]) -> None:
    session, prefix = Session(), Tensorboard.LOGS_ARTIFACT_PREFIX
    watchers = [RunWatcher(run, os.path.join(folder, run.id), prefix, NotYet(), NoWait(), session) for run in found]
    over: set[Any] = set()
    answer("ready")
    for _ in sys.stdin:
        for watcher in watchers:
            if watcher in over:
                continue
            if watcher.refresh_log_artifacts():
                over.add(watcher)  # its last pulse: the synchronizers still have theirs
            for synchronizer in watcher._dir_syncs.values():
                synchronizer.state_0()
        answer("done")


def serve(port: str, found: list[Run]) -> None:
    board = Tensorboard(found, port=int(port))
    board.start()
    sys.stdin.read()
    board.stop()


def answer(word: str) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    {"refresh": refresh, "serve": serve}[sys.argv[1]](sys.argv[2], runs(sys.argv[3:]))
