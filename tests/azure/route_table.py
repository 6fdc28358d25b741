"""Which routes the double has, and which client asks each: `python -m tests.azure.route_table` runs them all and renews docs/azure-double.md."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from starlette.routing import Route

from tests.azure.lab import BEST, RUNNING, SWEEP, Lab, fill
from tests.servers.azureml.app import CONTROL_PLANE, DATA_PLANE, routes_of
from tests.servers.azureml.log import Seen
from tests.servers.azureml.stage import running_stage
from tests.support import clients

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "azure-double.md"
BEGIN, END = "<!-- routes: begin -->", "<!-- routes: end -->"
HIML = "himl"
HYPERDRIVE = "azureml-train-core"  # himl's own extra holds it
CLIENTS = ("azure-ai-ml", clients.AZUREML_CORE, HYPERDRIVE, clients.AZUREML_MLFLOW, HIML)
RUNS_JOBS = ("azure_ai_ml_jobs", "azureml_core_submit", "azure_ai_ml_pipeline", "azure_ai_ml_sweep", "hyperdrive_submit")
PROGRAMS: Sequence[tuple[str, str, str]] = (
    ("azure-ai-ml", "azure_ai_ml_read", ""),
    ("azure-ai-ml", "azure_ai_ml_act", ""),
    ("azure-ai-ml", "azure_ai_ml_submit", ""),
    ("azure-ai-ml", RUNS_JOBS[0], ""),
    ("azure-ai-ml", "azure_ai_ml_sweep", ""),
    ("azure-ai-ml", RUNS_JOBS[2], ""),
    (clients.AZUREML_CORE, "azureml_core_read", ""),
    (clients.AZUREML_CORE, "azureml_core_write", ""),
    (clients.AZUREML_CORE, "azureml_core_job", RUNNING),
    (clients.AZUREML_CORE, RUNS_JOBS[1], ""),
    (HYPERDRIVE, "hyperdrive_submit", ""),
    (clients.AZUREML_MLFLOW, "mlflow_read", ""),
    (clients.AZUREML_MLFLOW, "mlflow_write", ""),
    (clients.AZUREML_MLFLOW, "mlflow_job", RUNNING),
)
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
    """Markdown: a line a route, a column a client."""
    head = f"| route | {' | '.join(CLIENTS)} |\n|---|{'---|' * len(CLIENTS)}\n"
    lines = [f"| {row.shown.replace('|', chr(92) + '|')} | {' | '.join('x' if one in who else '' for one in CLIENTS)} |" for row, who in asked.items()]
    return head + "\n".join(lines) + "\n"


def documented() -> str:
    """What stands between the marks in the document."""
    return DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0].strip()


def _heard() -> dict[Row, set[str]]:
    rows = all_routes()
    asked: dict[Row, set[str]] = {row: set() for row in rows}
    with tempfile.TemporaryDirectory() as folder, running_stage(Path(folder)) as stage:
        for number, (client, program, job) in enumerate((*PROGRAMS, (HIML, "", ""))):
            stage.clear()
            lab, place = fill(stage.workspace()), Path(folder) / str(number)
            place.mkdir()
            if program in RUNS_JOBS or client == HIML:
                lab.azure.add_environment("torch")
                lab.azure.run_jobs(python=Path(sys.executable) if client == HIML else clients.client_python(clients.AZUREML_MLFLOW))
            if program:
                lab.program(_python_of(client), program, place, job=job, seconds=300)
            else:
                _run_himl(lab, place)
            for seen in stage.log.all():
                row = answering(seen, rows)
                if row is not None:
                    asked[row].add(client)
    return asked


def _python_of(client: str) -> Path:
    return Path(sys.executable) if client == "azure-ai-ml" else clients.client_python(clients.HIML_V1 if client == HYPERDRIVE else client)


def _run_himl(lab: Lab, folder: Path) -> None:
    lab.azure.write_config(folder)
    for name, content in PROJECT.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")
    program = Path(sys.executable).with_name("himl.exe" if sys.platform == "win32" else "himl")
    env = {**os.environ, "HOME": str(folder), "USERPROFILE": str(folder), **lab.azure.environment()}
    for command in COMMANDS:
        done = subprocess.run([str(program), *command], cwd=folder, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}: {done.stderr}"


def main() -> None:
    heard = table(_heard())
    before, _, rest = DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)  # only now: it may have been edited meanwhile
    DOCUMENT.write_text(f"{before}{BEGIN}\n{heard}{END}{rest.partition(END)[2]}", encoding="utf-8")


if __name__ == "__main__":
    main()
