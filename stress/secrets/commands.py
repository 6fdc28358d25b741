"""Each command with what it needs, and the ways by which it can be given a secret."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from stress.secrets.lab import Call, Lab
from tests.servers.azureml.seeding import DEFAULT
from tests.support.forked_himl import PROGRAM
from tests.support.running import Outcome
from tests.support.runs import RecordedRuns
from tests.support.tensorboard import NAME, event_bytes

RUN, OTHER = "train_1_aa", "train_2_bb"
TRAIN = """
import os, pathlib, sys
told = os.environ.get("TELL")
if told and "MLFLOW_TRACKING_TOKEN" in os.environ:
    pathlib.Path(told).write_text(os.environ["MLFLOW_TRACKING_TOKEN"])
from himl_cli import RUN_CONTEXT
RUN_CONTEXT.log("val/loss", 0.5)
pathlib.Path("outputs").mkdir(exist_ok=True)
pathlib.Path("outputs/last.txt").write_text("done")
sys.exit(int(os.environ.get("FAILS", "0")))
"""
CONDA = "dependencies:\n- python=3.11\n- pip:\n  - himl-cli\n"
STEPS = {
    "step1": {"type": "PythonScriptStep", "name": "first", "script": "train.py", "arguments": [], "source_directory": "."},
    "step2": {"type": "PythonScriptStep", "name": "second", "script": "train.py", "arguments": [], "source_directory": "."},
}
SIGN_IN = ("variables", "azure_variables", "private_toml", "proxy")
IN_JOB = ("run_token", "identity")
STORES = ("key", "sas", "store_principal", "store_identity")
TYPED = ("env_var", "arguments", "remote", "env_var_setting")
SENT = ("index", "index_variable", "docker_args")
CLUSTER = ("--cluster", "cpu-cluster")
BOARD_SECONDS, BOARD_SHOWN = 40.0, 1.0


@dataclass(frozen=True)
class Command:
    """*set_up* makes a lab ready and says its arguments. `codes` are right without a fault.

    `meets_faults`: it asks Azure for something, so that faults have a meaning; `signs`: by signed links, which may expire.
    """

    name: str
    channels: Sequence[str]
    set_up: Callable[[Lab], None]
    meets_faults: bool = True
    codes: frozenset[int] = frozenset({0})
    signs: bool = True
    call: Call | None = field(default=None)


def _asks(*words: str) -> Callable[[Lab], None]:
    """A command about runs that are there."""

    def set_up(lab: Lab) -> None:
        _azure(lab)
        run = lab.staged.add_run(RUN, "train", error="it failed", status="Failed")
        lab.staged.put_artifacts(run, {"outputs/m.bin": b"m" * 10, "user_logs/std_log.txt": b"log\n", "outputs/checkpoints/last.ckpt": b"last"})
        lab.staged.put_artifact(run, f"logs/{NAME}", event_bytes([1.0, 0.5]))
        lab.staged.add_output(run, "model", {"m": b"m"})
        lab.staged.add_metric(run, "val/loss", [0.5, 0.25])
        lab.staged.add_run(OTHER, "train", status="Running")
        lab.arguments += words

    return set_up


def _stores(*words: str) -> Callable[[Lab], None]:
    """A command about a datastore."""

    def set_up(lab: Lab) -> None:
        _azure(lab)
        lab.staged.put_blobs(DEFAULT, {"data/a.txt": b"a"})
        lab.write("up/x.txt", "x")
        lab.arguments += words

    return set_up


def _link(lab: Lab) -> None:
    _asks("checkpoint", "url", RUN)(lab)
    lab.printed.add("signature")


def _delete(lab: Lab) -> None:
    RecordedRuns(lab.project).add(RUN, files={"outputs/m.bin": b"m"})
    lab.arguments += ["runs", "delete", RUN, "--yes"]


def _shows(what: str) -> Callable[[Lab], None]:
    """A submission that is only shown: with variables, but for those that a secret's name is known by."""

    def set_up(lab: Lab) -> None:
        _submit("train.py", *CLUSTER, what)(lab)
        lab.printed.add("typed value")

    return set_up


def _push(lab: Lab) -> None:
    _asks("checkpoint", "push", "changed.ckpt", "--from", RUN)(lab)
    lab.write("changed.ckpt", "changed")


def _submit(*words: str, cluster: bool = True) -> Callable[[Lab], None]:
    def set_up(lab: Lab) -> None:
        if cluster:
            _azure(lab)
        _scripts(lab)
        lab.arguments += ["submit", *words]

    return set_up


def _init(lab: Lab) -> None:
    _azure(lab)
    lab.arguments.append("init")


def _fails(lab: Lab) -> None:
    _submit("train.py", cluster=False)(lab)
    lab.env["FAILS"] = "3"


def _resume(lab: Lab) -> None:
    """A sweep of which one trial failed."""
    _scripts(lab)
    lab.world.himl("submit", "train.py", "--sweep", "lr=1,2", "-q", cwd=lab.project, env=lab.env | {"FAILS": "3"})
    lab.arguments += ["submit", "--resume", "latest"]


def _montage(*words: str) -> Callable[[Lab], None]:
    def set_up(lab: Lab) -> None:
        from tests.support.slides import write_kind

        _azure(lab)
        folder = lab.world.folder.with_name(f"{lab.world.folder.name}_slides")
        folder.mkdir()
        try:
            write_kind("png", folder, seed=1, name="a")
            lab.staged.put_blobs(DEFAULT, {f"scans/{path.name}": path.read_bytes() for path in folder.iterdir()})
        finally:
            shutil.rmtree(folder)
        lab.write("environment.yml", CONDA)  # an installation of a checkout's own cannot be had elsewhere
        environment = ["--conda_env", "environment.yml"] if words else []
        lab.arguments += ["montage", "scans", "--datastore", DEFAULT, "--width", "600", *words, *environment]

    return set_up


def _board_here(lab: Lab) -> None:
    RecordedRuns(lab.project).add(RUN, files={f"logs/{NAME}": event_bytes([1.0, 0.5])})
    lab.arguments += ["tb", RUN, "--port", "0", "--refresh", "1"]


def _board(lab: Lab) -> None:
    _asks("tb", RUN, "--port", "0", "--refresh", "1")(lab)


def _show_board(lab: Lab, words: Sequence[str]) -> Outcome:
    """Let TensorBoard be shown for a moment, then end it as Ctrl-C does. Raises subprocess.TimeoutExpired."""
    with (lab.world.folder / "tmp" / "said.txt").open("w+b") as said:
        process = subprocess.Popen(
            [PROGRAM, *words], cwd=lab.project, env=lab.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said, start_new_session=True
        )
        assert process.stdout is not None
        try:
            select.select([process.stdout], [], [], BOARD_SECONDS)
            time.sleep(BOARD_SHOWN)
            process.send_signal(signal.SIGINT)
            output, _ = process.communicate(timeout=BOARD_SECONDS)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
        said.seek(0)
        return Outcome(process.returncode, output, said.read())


def _submit_and_show(lab: Lab, words: Sequence[str]) -> Outcome:
    """Submit, and show what was submitted in each way; all that was said. Raises subprocess.TimeoutExpired."""
    form = [word for word in words if word in ("--verbose", "--json")]
    calls = [list(words), ["runs", "show", *form], ["runs", "list", *form]]
    if "--cluster" not in words:  # a job that waits for its cluster has no log yet
        calls.append(["runs", "logs", *form])
    left = [lab.world.himl(*call, cwd=lab.project, env=lab.env) for call in calls]
    return Outcome(next((one.code for one in left if one.code), 0), b"".join(one.raw_stdout for one in left), b"".join(one.raw_stderr for one in left))


def _azure(lab: Lab) -> None:
    lab.staged.write_config(lab.project)


def _scripts(lab: Lab, more: Mapping[str, str] | None = None) -> None:
    for name, text in {"train.py": TRAIN, "environment.yml": CONDA, "pipe.json": json.dumps(STEPS), **(more or {})}.items():
        lab.write(name, text)


_asked = partial(Command, channels=(*SIGN_IN, "run_token"))
COMMANDS = (
    Command("doctor", (*SIGN_IN, *IN_JOB), _asks("doctor"), codes=frozenset({0, 1})),
    Command("workspace_show", SIGN_IN, _asks("workspace", "show"), signs=False),
    _asked("runs_list", set_up=_asks("runs", "list"), signs=False),
    _asked("runs_show", set_up=_asks("runs", "show", RUN), signs=False),
    _asked("runs_logs", set_up=_asks("runs", "logs", RUN)),
    _asked("runs_tag", set_up=_asks("runs", "tag", RUN, "a=b"), signs=False),
    _asked("runs_cancel", channels=SIGN_IN, set_up=_asks("runs", "cancel", OTHER), signs=False),
    Command("runs_delete", ("idle",), _delete, meets_faults=False),
    _asked("runs_aggregate", set_up=_asks("runs", "aggregate", RUN, OTHER), signs=False),
    Command("download", (*SIGN_IN, *IN_JOB, "links"), _asks("download", RUN)),
    Command("download_output", (*SIGN_IN, "identity"), _asks("download", RUN, "--output_key", "model", "--output_dir", "model")),
    Command("datastore_list", (*SIGN_IN, *IN_JOB, *STORES), _stores("datastore", "list", "data")),
    Command("datastore_download", (*SIGN_IN, *IN_JOB, *STORES), _stores("datastore", "download", "data", "here")),
    Command("datastore_upload", (*SIGN_IN, *IN_JOB, *STORES), _stores("datastore", "upload", "up", "new")),
    Command("tb_sync", (*SIGN_IN, "run_token", "links"), _asks("tb", RUN, "--sync_only", "--run_logs_dir", "copies")),
    Command("tb_board", ("variables", "private_toml", "links"), _board, meets_faults=False, codes=frozenset({0, 130}), call=_show_board),
    Command("tb_board_here", ("idle",), _board_here, meets_faults=False, codes=frozenset({0, 130}), call=_show_board),
    Command("checkpoint_fetch", (*SIGN_IN, "run_token", "links"), _asks("checkpoint", "fetch", RUN)),
    Command("checkpoint_push", SIGN_IN, _push),
    Command("checkpoint_url", (*SIGN_IN, "delegation"), _link),
    Command("init", ("dotenv", "innereye"), _init, meets_faults=False),
    Command("show_settings", (*TYPED, *SENT, "source"), _shows("--show_settings"), meets_faults=False),
    Command("dry_run", (*TYPED, *SENT, "conda_index"), _shows("--dry_run"), meets_faults=False),
    Command("submit_here", (*TYPED, "mlflow", "source", "idle"), _submit("train.py", cluster=False), meets_faults=False),
    Command("submit_from_link", ("source",), _submit("train.py", "--workspace", "local", cluster=False)),
    Command("shown_here", (*TYPED, "mlflow"), _submit("train.py", cluster=False), meets_faults=False, call=_submit_and_show),
    Command("shown_cluster", (*TYPED, *SENT), _submit("train.py", *CLUSTER), meets_faults=False, call=_submit_and_show),
    Command("submit_fails", (*TYPED, "mlflow"), _fails, meets_faults=False, codes=frozenset({1})),
    Command("submit_cluster", (*SIGN_IN, *TYPED, *SENT, "source"), _submit("train.py", *CLUSTER)),
    Command("submit_recorded", ("variables", "private_toml", "proxy", "mlflow", *TYPED), _submit("train.py", "--record_in", "azure")),
    Command("sweep_here", (*TYPED, "mlflow", "source"), _submit("train.py", "--sweep", "lr=1,2", cluster=False), meets_faults=False),
    Command("sweep_cluster", ("variables", "proxy", *TYPED, *SENT, "source"), _submit("train.py", "--sweep", "lr=1,2", *CLUSTER)),
    Command("resume", ("env_var", "env_var_setting", "mlflow"), _resume, meets_faults=False),
    Command("pipeline_here", ("env_var", "env_var_setting", "remote", "mlflow"), _submit("pipe.json", cluster=False), meets_faults=False),
    Command("pipeline_cluster", ("variables", "proxy", "env_var", "remote", "index"), _submit("pipe.json", *CLUSTER)),
    Command("montage", ("variables", "proxy"), _montage()),
    Command("montage_cluster", ("variables", "private_toml", "proxy"), _montage(*CLUSTER)),
)
