"""`python -m tests.servers.azureml`: start the double by hand, with sample runs, and print the variables that point `himl` at it. Ctrl-C ends it."""

from __future__ import annotations

import argparse
import shlex
import signal
import tempfile
import threading
from pathlib import Path

from tests.servers.azureml.samples import fill
from tests.servers.azureml.stage import running_stage


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.servers.azureml", description=__doc__)
    parser.add_argument("--runs", type=int, default=300, help="runs in the experiment 'many' (default: %(default)s)")
    parser.add_argument("--empty", action="store_true", help="a workspace without runs")
    parser.add_argument("--run_jobs", action="store_true", help="run the jobs that are submitted, on this machine, with its own `python`")
    parser.add_argument("--env_file", type=Path, help="write the variables there, too, for `source`")
    options = parser.parse_args()
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    with tempfile.TemporaryDirectory(prefix="himl-azureml-", ignore_cleanup_errors=True) as folder, running_stage(Path(folder)) as stage:
        workspace = stage.workspace("samples", group="research")
        if options.run_jobs:
            workspace.run_jobs()
            workspace.add_environment("training")
        if not options.empty:
            fill(workspace, many=options.runs)
        state = workspace.state
        place = {"HIML_SUBSCRIPTION_ID": state.subscription, "HIML_RESOURCE_GROUP": state.group, "HIML_WORKSPACE_NAME": state.name}
        lines = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in {**workspace.environment(), **place}.items())
        if options.env_file:
            options.env_file.write_text(lines)
        print(lines, end="")
        print("# The double of Azure ML is running; Ctrl-C ends it.", flush=True)
        while not stopped.wait(0.5):
            pass


if __name__ == "__main__":
    main()
