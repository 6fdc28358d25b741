"""Which routes the double has, and which client asks each: `python -m tests.azure.route_table` runs them all and renews docs/azure-double.md."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from starlette.routing import Route

from tests.azure.lab import AZURE_AI_ML, BEST, RUNNING, SWEEP, Lab, fill, ready, visit
from tests.azureml_double.log import Seen
from tests.azureml_double.stage import CONTROL_PLANE, DATA_PLANE, Stage, routes_of, running_stage
from tests.support import clients
from tests.support.client_calls import variables_of_machine

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "azure-double.md"
BEGIN, END = "<!-- routes: begin -->", "<!-- routes: end -->"
HIML = "himl"
HYPERDRIVE = "azureml-train-core"  # himl's own extra holds it
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
    ("runs", "tag", BEST, "a=b"),
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
    ("submit", "train.py", "--cluster", "cpu-cluster", "--environment", "torch", "--sweep", "lr=0.1,0.2", "--primary_metric", "loss", "--wait"),
    ("submit", "piped/pipeline.json", "--create_cluster", "--wait"),
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
{"step1": {"type": "PythonScriptStep", "name": "one", "script": "one.py", "source_directory": "steps", "requirements": "requirements.txt"}}
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
"""What himl submits; own_run.py runs here and starts a run of Azure ML."""
WORKSPACE = re.compile(r"/subscriptions/[^/]+/resourceGroups/[^/]+/providers/Microsoft\.MachineLearningServices/workspaces/[^/]+", re.IGNORECASE)
FAMILY = re.compile(r"^(/history)/(?:experiments/\{experiment\}|experimentids/\{experiment_id\})(/runs.*)$")


@dataclass(frozen=True)
class Row:
    """A line of the table: routes that differ only in how they name the experiment share one."""

    plane: str
    method: str
    path: str

    @property
    def shown(self) -> str:
        return f"{self.plane} {self.method} `{self.path}`"


def row_of(plane: str, route: Route) -> Row:
    method = next(iter(sorted((route.methods or set()) - {"HEAD"})))
    family = FAMILY.match(route.path)
    path = f"{family[1]}[/experiments/NAME|/experimentids/ID]{family[2]}" if family else route.path
    path = re.sub(r"\{(\w+)(?::path)?\}", lambda name: name[1].upper(), path)
    return Row(plane, method, re.sub(r"^(/history)(/runs/)", r"\1[/experiments/NAME|/experimentids/ID]\2", path) or "/")


def all_routes() -> dict[Row, list[Route]]:
    """The double's routes below a workspace, by the line that shows them."""
    rows: dict[Row, list[Route]] = {}
    for plane, modules in (("ARM", CONTROL_PLANE), ("DP", DATA_PLANE)):
        for route in routes_of(modules):
            assert isinstance(route, Route), route
            rows.setdefault(row_of(plane, route), []).append(route)
    return rows


def answering(seen: Seen, rows: Mapping[Row, Iterable[Route]]) -> Row | None:
    """The line of the route that answered; None for what is not below a workspace (sign-in, discovery, storage)."""
    plane = "ARM" if seen.host == "management.azure.com" else "DP"
    found = WORKSPACE.search(seen.path)
    if found is None:
        return None
    service = "" if plane == "ARM" else f"/{seen.path.split('/')[1]}"
    path = f"{service}{seen.path[found.end() :]}"
    for row, routes in rows.items():
        if (row.plane, row.method) == (plane, seen.method) and any(route.path_regex.match(path or "/") or route.path_regex.match(path) for route in routes):
            return row
    return None


def table(asked: Mapping[Row, set[str]]) -> str:
    head = f"| route | {' | '.join(CLIENTS)} |\n|---|{'---|' * len(CLIENTS)}\n"
    lines = [f"| {row.shown.replace('|', chr(92) + '|')} | {' | '.join('x' if one in who else '' for one in CLIENTS)} |" for row, who in asked.items()]
    return head + "\n".join(lines) + "\n"


def documented() -> str:
    return DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0].strip()


def _heard() -> dict[Row, set[str]]:
    rows = all_routes()
    asked: dict[Row, set[str]] = {row: set() for row in rows}
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
                row = answering(seen, rows)
                if row is not None:
                    asked[row].add(HYPERDRIVE if client == clients.HIML_V1 else client)
    return asked


def _lab(stage: Stage, name: str) -> Lab:
    if name in ("read", "act", "write", "in_job"):
        return replace(fill(stage.workspace()), job=RUNNING if name == "in_job" else "")
    return ready(stage.workspace(), python=clients.client_python(clients.AZUREML_MLFLOW))


def _run_himl(lab: Lab, folder: Path) -> None:
    lab.azure.write_config(folder)
    for name, content in PROJECT.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")
    program = Path(sys.executable).with_name("himl.exe" if sys.platform == "win32" else "himl")
    env = {**os.environ, **variables_of_machine(folder.with_name("home")), **lab.azure.environment()}
    for command in COMMANDS:
        done = subprocess.run([str(program), *command], cwd=folder, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}: {done.stderr}"


def main() -> None:
    heard = table(_heard())
    before, _, rest = DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)  # only now: it may have been edited meanwhile
    DOCUMENT.write_text(f"{before}{BEGIN}\n{heard}{END}{rest.partition(END)[2]}", encoding="utf-8")


if __name__ == "__main__":
    main()
