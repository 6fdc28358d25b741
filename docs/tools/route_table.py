"""Update the table of routes in docs/azure-double.md: `scripts/generate routes` runs all clients and records which
routes each requests.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from starlette.routing import Route

from tests.azure.lab import AZURE_AI_ML, BEST, RUNNING, SWEEP, Lab, fill, ready, visit
from tests.azureml_double.log import Seen
from tests.azureml_double.stage import CONTROL_PLANE, DATA_PLANE, Stage, routes_of, running_stage
from tests.support import clients
from tests.support.client_calls import variables_of_machine
from tests.support.running import PROGRAM, Himl, write_files

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "azure-double.md"
BEGIN, END = "<!-- routes: begin -->", "<!-- routes: end -->"
HIML = "himl"
HYPERDRIVE = "azureml-train-core"  # in himl's extra v1
CLIENTS = (AZURE_AI_ML, clients.AZUREML_CORE, HYPERDRIVE, clients.AZUREML_MLFLOW, HIML)
CALLS: Mapping[str, Sequence[str]] = {
    AZURE_AI_ML: ("read", "act", "submit", "train", "fail", "sweep", "pipeline"),
    clients.AZUREML_CORE: ("read", "write", "in_job", "submit"),
    clients.HIML_V1: ("hyperdrive_submit",),
    clients.AZUREML_MLFLOW: ("read", "write", "in_job"),
}
COMMANDS: Sequence[Sequence[str]] = (
    ("doctor",),
    ("workspace", "show"),
    ("runs", "list"),
    ("runs", "list", "--experiment", "lungs", "--tags", "kind=best"),
    ("runs", "show", "--run", SWEEP),
    ("runs", "show", "--run", BEST),
    ("runs", "logs", "--run", BEST),
    ("runs", "tag", BEST, "a=b", "gone="),
    ("runs", "cancel", RUNNING),
    ("download", "--run", BEST, "--output_dir", "out"),
    ("download", "--run", BEST, "--output_key", "predictions", "--output_dir", "named"),
    ("download", "--run", BEST, "--output_key", "weights", "--output_dir", "model"),
    ("datastore", "list"),
    ("datastore", "upload", "config.json", "up"),
    ("datastore", "download", "scans/", "data"),
    ("submit", "train.py", "--cluster", "cpu-cluster", "--input", "scans", "--output", "model", "--wait"),
    ("submit", "train.py", "--cluster", "cpu-cluster", "--environment", "torch", "--input", "scans:1", "--follow"),
    ("submit", "train.py", "--record_in", "azure"),
    ("submit", "own_run.py"),
    ("runs", "aggregate", SWEEP, "--json"),
    (
        "submit",
        "train.py",
        "--cluster",
        "cpu-cluster",
        "--environment",
        "torch",
        "--sweep",
        "lr=0.1,0.2",
        "--primary_metric",
        "loss",
        "--wait",
    ),
    ("submit", "piped/pipeline.json", "--create_cluster", "--wait"),
    ("runs", "delete", BEST, "--outputs", "--yes"),
)
PROJECT: Mapping[str, str] = {
    "environment.yml": "dependencies:\n- python=3.11\n- pip\n- pip:\n  - himl-cli\n",
    "train.py": """
from pathlib import Path
from himl_cli import RUN_CONTEXT

RUN_CONTEXT.log("loss", 0.5, step=0)
RUN_CONTEXT.log("kind", "linear")
RUN_CONTEXT.log_text("a note", "note.txt")
RUN_CONTEXT.tag("stage", "final")
Path("outputs").mkdir(exist_ok=True)
Path("outputs/model.txt").write_text("weights")
""",
    "piped/.env": "AML_COMPUTE_CLUSTER_NAME=new-cluster\nAML_COMPUTE_CLUSTER_SKU=Standard_NC6\n",
    "piped/pipeline.json": """
{"step1": {"type": "PythonScriptStep", "name": "one", "script": "one.py", "source_directory": "steps",
    "requirements": "requirements.txt"}}
""",
    "piped/requirements.txt": "numpy\n",
    "piped/steps/one.py": "print(1)\n",
    "own_run.py": """
from himl_cli import create_aml_run_object

with create_aml_run_object("digits", snapshot_directory=".") as run:
    run.log_table("scores", {"fold": [0, 1], "accuracy": [0.9, 0.8]})
    assert run.get_metrics()
""",
}
"""Files that himl submits. own_run.py runs locally and starts a run on Azure ML."""
WORKSPACE = re.compile(
    r"/subscriptions/[^/]+/resourceGroups/[^/]+/providers/Microsoft\.MachineLearningServices/workspaces/[^/]+",
    re.IGNORECASE,
)
FAMILY = re.compile(
    r"^/history(?:/experiments/\{experiment\}(?=/runs)|/experimentids/\{experiment_id\}(?=/runs)|(?=/runs/))"
)


def line_of(plane: str, route: Route) -> str:
    """Return the line of *route* in the table. Routes that name the experiment in different ways share a line."""
    method = min((route.methods or set()) - {"HEAD"})
    path = re.sub(
        r"\{(\w+)(?::path)?\}",
        lambda name: name[1].upper(),
        FAMILY.sub("/history[/experiments/NAME|/experimentids/ID]", route.path),
    )
    return f"{plane} {method} `{path or '/'}`"


def all_routes() -> dict[str, list[Route]]:
    """Return the routes of the double below a workspace, by their lines in the table."""
    lines: dict[str, list[Route]] = {}
    for plane, modules in (("ARM", CONTROL_PLANE), ("DP", DATA_PLANE)):
        for route in routes_of(modules):
            assert isinstance(route, Route), route
            lines.setdefault(line_of(plane, route), []).append(route)
    return lines


def answering(seen: Seen, lines: Mapping[str, Iterable[Route]]) -> str | None:
    """Return the line of the route that answered, or None for a request that is not below a workspace (sign-in,
    discovery, storage).
    """
    found = WORKSPACE.search(seen.path)
    if found is None:
        return None
    plane, service = ("ARM", "") if seen.host == "management.azure.com" else ("DP", f"/{seen.path.split('/')[1]}")
    path, begin = f"{service}{seen.path[found.end() :]}", f"{plane} {seen.method} "
    fitting = (
        line
        for line, routes in lines.items()
        if line.startswith(begin) and any(route.path_regex.match(path or "/") for route in routes)
    )
    return next(fitting, None)


def table(asked: Mapping[str, set[str]]) -> str:
    head = f"| route | {' | '.join(CLIENTS)} |\n|---|{'---|' * len(CLIENTS)}\n"
    lines = [
        f"| {line.replace('|', chr(92) + '|')} | {' | '.join('x' if one in who else '' for one in CLIENTS)} |"
        for line, who in asked.items()
    ]
    return head + "\n".join(lines) + "\n"


def documented() -> str:
    return DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0].strip()


def _heard() -> dict[str, set[str]]:
    lines = all_routes()
    asked: dict[str, set[str]] = {line: set() for line in lines}
    with tempfile.TemporaryDirectory() as folder, running_stage(Path(folder)) as stage:
        for client in (*CALLS, HIML):
            stage.clear()
            place = Path(folder) / client
            place.mkdir()
            if client == HIML:
                lab = fill(stage.workspace())
                lab.azure.add_environment("torch")
                lab.azure.run_jobs(python=Path(sys.executable))
                _run_himl(lab, place)
            else:
                called = visit(stage, client, {name: _lab(stage, name) for name in CALLS[client]}, place)
                assert [one.errors for _, one in called.values() if one.code != 0] == []
            for seen in stage.log.all():
                if (line := answering(seen, lines)) is not None:
                    asked[line].add(HYPERDRIVE if client == clients.HIML_V1 else client)
    return asked


def _lab(stage: Stage, name: str) -> Lab:
    if name in ("read", "act", "write", "in_job"):
        return replace(fill(stage.workspace()), job=RUNNING if name == "in_job" else "")
    return ready(stage.workspace(), python=clients.client_python(clients.AZUREML_MLFLOW))


def _run_himl(lab: Lab, folder: Path) -> None:
    lab.azure.write_config(folder)
    write_files(folder, PROJECT)
    for command in COMMANDS:
        Himl(PROGRAM, folder).ok(
            *command, env={**variables_of_machine(folder.with_name("home")), **lab.azure.environment()}
        )


def main() -> None:
    heard = table(_heard())
    # Read the page only now, because it may have changed in the meantime.
    before, _, rest = DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)
    DOCUMENT.write_text(f"{before}{BEGIN}\n{heard}{END}{rest.partition(END)[2]}", encoding="utf-8")


if __name__ == "__main__":
    main()
