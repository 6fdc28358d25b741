"""Search for secrets in the traces of every command with every channel for secrets, without a fault and with each of
six.
"""

from __future__ import annotations

import json
import os
import random
import re
import secrets
import select
import shlex
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from stress.records import Case, Outcome, Result
from stress.secrets.browsing import browsed
from stress.secrets.searching import Marks, Search, Shown, watching
from stress.world import Ended, Verdict, World, last_line, lost
from tests.azureml_double.faults import Action, ExpireSas, Reset, Status
from tests.azureml_double.log import listening
from tests.azureml_double.seeding import DEFAULT, StagedWorkspace
from tests.support import running, runs, tensorboard
from tests.support.processes import MARK, processes_marked, stop
from tests.support.running import Outcome as Left
from tests.support.slurm import running_cluster
from tests.support.ssh import running_ssh

# kinds that the user gives begin so: what he typed he may find where it belongs, in the job's arguments and variables
GIVEN = "typed"
ARGUMENT = f"{GIVEN} argument"
VENDOR = ("AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET")
PRINCIPAL = ("HIML_TENANT_ID", "HIML_SERVICE_PRINCIPAL_ID", "HIML_SERVICE_PRINCIPAL_PASSWORD")
SERVICE_TAG = "_aml_system_"  # tags that begin so are the service's own: it keeps whole jobs in them
Call = Callable[["Lab", Sequence[str]], Left]


class Lab:
    """The environment of one case: a separate workspace, a project, the secrets in use, and the call to search.

    `arguments` are those of the command, `script` those after `--`. A channel adds to them and to `env`. `typed`
    are all commands. `own` are the user's own files with secrets, `private` those that himl writes for the user.
    `printed` are kinds of secrets that stdout contains by design. `shown` are texts that others can see, each with
    its name, when the command has ended. `resources` end with the case."""

    def __init__(self, world: World, staged: StagedWorkspace, marks: Marks) -> None:
        self.world, self.staged, self.marks = world, staged, marks
        self.project = world.project
        self.project.mkdir()
        self.token = uuid.uuid4().hex
        self.arguments: list[str] = []
        self.script: list[str] = []
        self.typed: list[bytes] = []
        self.own: set[Path] = set()
        self.private: set[Path] = set()
        self.printed: set[str] = set()
        self.shown: dict[str, Callable[[], str]] = {}
        self.resources = ExitStack()
        self.told = world.place / f"told_{self.token[:8]}"
        slow = world.lasting("slow git", slow_git)
        self.env = world.environment(staged) | {
            MARK: self.token,
            "TELL": str(self.told),
            "PATH": f"{slow}{os.pathsep}{os.environ['PATH']}",
        }
        for name in VENDOR:
            del self.env[name]

    def secret(self, what: str = "") -> str:
        text = f"s3{secrets.token_hex(8)}~{secrets.token_hex(4)}"
        self.marks.add(f"{GIVEN} {what}".strip(), text)
        return text

    def filled(self, text: str) -> str:
        """*text* with a secret for each `@KIND@`."""
        return re.sub("@(.*?)@", lambda found: self.secret(found[1]), text)

    def write_own(self, name: str, text: str) -> None:
        """Write a file of the project with a secret of the user."""
        running.write_files(self.project, {name: text})
        (self.project / name).chmod(0o600)
        self.own.add(self.project / name)

    def run(self, form: str, call: Call | None = None) -> tuple[Left, float, Search]:
        words = [*self.arguments, form, *(["--", *self.script] if self.script else [])]
        self.typed.append("\0".join(words).encode())
        begun = time.monotonic()
        with watching(f"{MARK}={self.token}") as watcher:
            outcome = call(self, words) if call else self.world.himl(*words, cwd=self.project, env=self.env)
            seconds = time.monotonic() - begun
            processes_marked(self.token, patience=20.0)  # waits for a supervisor, a mirror
        if self.told.exists():
            self.marks.add("job token", self.told.read_text())
            self.told.unlink()
        search = Search()
        search.look("stdout", outcome.raw_stdout, self.marks, self.printed)
        search.look("stderr", outcome.raw_stderr, self.marks)
        search.look_at_files(self.world.folder, self.world.home, self.marks, self.own | self.private)
        for path in filter(Path.exists, self.private):
            search.look_at_modes(path, path.parent)
        self._look_at_processes(search, watcher.take())
        for arguments in watcher.strange:
            search.look("the arguments of another process", arguments, self.marks, {ARGUMENT})
        for name, text in self.shown.items():
            search.look(name, text().encode(), self.marks)
        self._look_at_runs(search)
        return outcome, seconds, search

    def close(self) -> None:
        stop(processes_marked(self.token, patience=0.0))
        self.resources.close()
        self.told.unlink(missing_ok=True)

    def _look_at_processes(self, search: Search, processes: Sequence[Shown]) -> None:
        """Find secrets in arguments, except those of the user's commands and of the script, and in variables, except
        the user's own and those of a job."""
        typed = {kind for kind in self.marks.kinds if kind.startswith(GIVEN)}
        given = b"\0".join(value.encode() for value in self.env.values())
        for shown in processes:
            for arguments in (each for each in shown.arguments if not any(map(each.__contains__, self.typed))):
                search.look(
                    f"the arguments of {shown.program}", arguments, self.marks, {ARGUMENT} if shown.is_job else ()
                )
            more = b"\0".join(
                value for name, value in shown.variables.items() if self.env.get(name, "").encode() != value
            )
            search.look(
                f"the variables of {shown.program}",
                more,
                self.marks,
                {*typed, "job token"} if shown.is_job else self.marks.found(given),
            )
        search.processes = len(processes)

    def _look_at_runs(self, search: Search) -> None:
        """Find secrets in data that all of the workspace's users see: runs and snapshots. Jobs have the arguments
        that the user typed.
        """
        state = self.staged.state
        for run in state.runs.values():
            tags = {name: value for name, value in run.tags.items() if not name.startswith(SERVICE_TAG)}
            shown = {
                "tags": tags,
                **{name: getattr(run, name) for name in ("display_name", "description", "properties", "parameters")},
            }
            for name, value in shown.items():
                search.look(f"the {name} of a run in Azure", repr(value).encode(), self.marks)
            job = repr(run.job)
            search.look(
                "a job's document",
                job.encode(),
                self.marks,
                {kind for kind in self.marks.kinds if kind.startswith(GIVEN)},
            )
        for storage in (state.storage, state.second_storage):
            for container in storage.client.list_containers():
                for blob in storage.list(container.name):
                    search.look(
                        f"the blob {blob.name.rpartition('/')[2]}", storage.get(container.name, blob.name), self.marks
                    )


def slow_git(world: World) -> Path:
    """A folder with a `git` that waits at its start, since the real one ends before its arguments can be read in
    /proc.
    """
    git = shutil.which("git")
    assert git, "there is no git"
    folder = world.place / "slow"
    folder.mkdir()
    (folder / "git").write_text(f'#!/bin/sh\nsleep 0.1\nexec {shlex.quote(git)} "$@"\n')
    (folder / "git").chmod(0o755)
    return folder


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
STEP = {"type": "PythonScriptStep", "script": "train.py", "arguments": [], "source_directory": "."}
STEPS = {"step1": {"name": "first", **STEP}, "step2": {"name": "second", **STEP}}
INDEX = "https://ada:@index password@@index.example/simple"
INDEXED = f"dependencies:\n- python=3.11\n- pip:\n  - --extra-index-url {INDEX}\n  - himl-cli\n"
SETTING = '[submit]\nenv_var = ["WANDB_API_KEY=@variable@"]\n'
SIGN_IN = ("variables", "azure_variables", "private_toml", "proxy")
IN_JOB = ("run_token", "identity")
STORES = ("key", "sas", "store_principal", "store_identity")
TYPED = ("env_var", "arguments", "remote", "env_var_setting")
SENT = ("index", "index_variable", "docker_args")
CLUSTER = "submit train.py --cluster cpu-cluster"
SERVING_SECONDS = 120.0


@dataclass(frozen=True)
class Command:
    """A command with *words* in a lab of the kind *place*. `codes` are correct without a fault.

    `meets_faults`: it sends requests to Azure, so that faults apply. `signs`: it uses signed links, which may expire.
    `printed` is a kind of secret that stdout contains by design."""

    name: str
    channels: Sequence[str]
    words: str
    place: Callable[[Lab], None]
    meets_faults: bool = True
    codes: frozenset[int] = frozenset({0})
    signs: bool = True
    call: Call | None = None
    printed: str = ""


def _azure(lab: Lab) -> None:
    lab.staged.write_config(lab.project)


def _runs(lab: Lab) -> None:
    _azure(lab)
    run = lab.staged.add_run(RUN, "train", error="it failed", status="Failed")
    lab.staged.put_artifacts(
        run, {"outputs/m.bin": b"m" * 10, "user_logs/std_log.txt": b"log\n", "outputs/checkpoints/last.ckpt": b"last"}
    )
    lab.staged.put_artifact(run, f"logs/{tensorboard.NAME}", tensorboard.event_bytes([1.0, 0.5]))
    lab.staged.add_output(run, "model", {"m": b"m"})
    lab.staged.add_metric(run, "val/loss", [0.5, 0.25])
    lab.staged.add_run(OTHER, "train", status="Running")
    running.write_files(lab.project, {"changed.ckpt": "changed"})


def _stores(lab: Lab) -> None:
    _azure(lab)
    lab.staged.put_blobs(DEFAULT, {"data/a.txt": b"a"})
    running.write_files(lab.project, {"up/x.txt": "x"})


def _recorded(lab: Lab) -> None:
    runs.RecordedRuns(lab.project).add(
        RUN, files={"outputs/m.bin": b"m", f"logs/{tensorboard.NAME}": tensorboard.event_bytes([1.0, 0.5])}
    )


def _here(lab: Lab, code: str = "0") -> None:
    lab.env["FAILS"] = code
    running.write_files(lab.project, {"train.py": TRAIN, "environment.yml": CONDA, "pipe.json": json.dumps(STEPS)})


def _cluster(lab: Lab) -> None:
    _azure(lab)
    _here(lab)


def _slurm(lab: Lab) -> None:
    """A cluster that has its files outside of the folder to search: it stores each batch script, which only its
    owner can read.
    """
    _here(lab)
    folder = lab.world.folder.with_name(f"{lab.world.folder.name}_slurm")
    folder.mkdir()
    lab.resources.callback(shutil.rmtree, folder)
    slurm = lab.resources.enter_context(running_cluster(folder))
    lab.env["PATH"] = f"{slurm.programs}{os.pathsep}{lab.env['PATH']}"
    lab.shown |= {
        "the calls of Slurm's programs": slurm.calls.read_text,
        "squeue": lambda: slurm("squeue", "-t", "all", "-o", "%all"),
        "scontrol show job": lambda: slurm("scontrol", "-a", "show", "job"),
        "the controller's log": (folder / "controller.log").read_text,
    }


def _ssh(lab: Lab) -> None:
    """A machine by SSH, whose home is outside of the folder to search."""
    _here(lab)
    folder = lab.world.folder.with_name(f"{lab.world.folder.name}_ssh")
    folder.mkdir()
    lab.resources.callback(shutil.rmtree, folder)
    box = lab.resources.enter_context(running_ssh(folder))
    box.set(lab.project)
    lab.env["PATH"] = f"{box.programs}{os.pathsep}{lab.env['PATH']}"
    lab.shown["a file at the other end"] = lambda: "\0".join(
        path.read_bytes().decode("latin-1") for path in box.home.rglob("*") if path.is_file()
    )


def _swept(lab: Lab) -> None:
    _here(lab)
    lab.world.himl("submit", "train.py", "--sweep", "lr=1,2", "-q", cwd=lab.project, env=lab.env | {"FAILS": "3"})


def _slides(lab: Lab) -> None:
    from tests.support.slides import write_kind

    _azure(lab)
    folder = lab.world.folder.with_name(f"{lab.world.folder.name}_slides")
    folder.mkdir()
    try:
        write_kind("png", folder, seed=1, name="a")
        lab.staged.put_blobs(DEFAULT, {f"scans/{path.name}": path.read_bytes() for path in folder.iterdir()})
    finally:
        shutil.rmtree(folder)
    running.write_files(
        lab.project, {"environment.yml": CONDA}
    )  # an installation of a checkout's own cannot be had elsewhere


def _served(visit: Callable[[str], bytes], lab: Lab, words: Sequence[str]) -> Left:
    """Run a command that serves pages, and end it with Ctrl-C after *visit*, which gets its first line and returns
    answers. Raises TimeoutExpired.
    """
    with (lab.world.folder / "tmp" / "said.txt").open("w+b") as said:
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": said}
        process = subprocess.Popen(
            [running.PROGRAM, *words], cwd=lab.project, env=lab.env, start_new_session=True, **streams
        )  # type: ignore[call-overload]
        try:
            if not select.select([process.stdout], [], [], SERVING_SECONDS)[0]:
                raise subprocess.TimeoutExpired(words, SERVING_SECONDS)
            first = process.stdout.readline()
            answers = visit(first.decode())
            process.send_signal(signal.SIGINT)
            output, _ = process.communicate(timeout=SERVING_SECONDS)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
        said.seek(0)
        return Left(process.returncode, first + output + answers, said.read())


def _wait(line: str) -> bytes:
    time.sleep(1.0)
    return b""


def _browse(line: str) -> bytes:
    found = re.search(r"http://[^\s\"]+", line)
    assert found, line
    return browsed(found[0])


SHOW_BOARD, SHOW_PAGES = partial(_served, _wait), partial(_served, _browse)


def _submit_and_browse(lab: Lab, words: Sequence[str]) -> Left:
    left = lab.world.himl(*words, cwd=lab.project, env=lab.env)
    seen = SHOW_PAGES(lab, ["ui", "--workspace", "local", "--port", "0"])
    return Left(left.code or seen.code, left.raw_stdout + seen.raw_stdout, left.raw_stderr + seen.raw_stderr)


def _submit_and_show(lab: Lab, words: Sequence[str]) -> Left:
    calls = [list(words), ["runs", "show"], ["runs", "list"]]
    if "cpu-cluster" not in words:  # a job that waits for its cluster has no log yet
        calls.append(["runs", "logs"])
    return _run_each(lab, calls)


def _submit_and_compare(lab: Lab, words: Sequence[str]) -> Left:
    """Submit a job, and again as the stored one, then compare, list, save and archive both."""
    again = ["submit", "--from", "latest", *words[2:]]
    lab.typed.append("\0".join(again).encode())
    shown = (
        "runs diff --code",
        "runs show latest --environment",
        "runs list --metrics val/* --params",
        "runs code latest --output_dir saved",
        "runs export --experiment train --num_runs 2 --to archive",
    )
    return _run_each(lab, [list(words), again, *map(str.split, shown)])


def _run_each(lab: Lab, calls: Sequence[Sequence[str]]) -> Left:
    """Run the *calls*, those after the first one in the form of the first one."""
    form = [word for word in calls[0] if word in FORMS]
    calls = [call if set(form) & {*call} else [*call, *form] for call in calls]
    left = [lab.world.himl(*call, cwd=lab.project, env=lab.env) for call in calls]
    return Left(
        next((one.code for one in left if one.code), 0),
        b"".join(one.raw_stdout for one in left),
        b"".join(one.raw_stderr for one in left),
    )


ASKED, BOARD, SWEPT = (*SIGN_IN, "run_token"), "--port 0 --refresh 1", "--sweep lr=1,2"
MONTAGE = f"montage scans --datastore {DEFAULT} --width 600"
ENDED_BOARD = frozenset({0, 130})
COMMANDS = (
    Command("doctor", (*SIGN_IN, *IN_JOB), "doctor", _runs, codes=frozenset({0, 1})),
    Command("workspace_show", SIGN_IN, "workspace show", _runs, signs=False),
    Command("runs_list", ASKED, "runs list", _runs, signs=False),
    Command("runs_show", ASKED, f"runs show {RUN}", _runs, signs=False),
    Command("runs_logs", ASKED, f"runs logs {RUN}", _runs),
    Command("runs_tag", ASKED, f"runs tag {RUN} a=b", _runs, signs=False),
    Command("runs_cancel", SIGN_IN, f"runs cancel {OTHER}", _runs, signs=False),
    Command("runs_delete", ("idle",), f"runs delete {RUN} --yes", _recorded, meets_faults=False),
    Command("runs_aggregate", ASKED, f"runs aggregate {RUN} {OTHER}", _runs, signs=False),
    Command("download", (*SIGN_IN, *IN_JOB, "links"), f"download {RUN}", _runs),
    Command("download_output", (*SIGN_IN, "identity"), f"download {RUN} --output_key model --output_dir model", _runs),
    Command("datastore_list", (*SIGN_IN, *IN_JOB, *STORES), "datastore list data", _stores),
    Command("datastore_download", (*SIGN_IN, *IN_JOB, *STORES), "datastore download data here", _stores),
    Command("datastore_upload", (*SIGN_IN, *IN_JOB, *STORES), "datastore upload up new", _stores),
    Command("tb_sync", (*ASKED, "links"), f"tb {RUN} --sync_only --run_logs_dir copies", _runs),
    Command(
        "tb_board",
        ("variables", "private_toml", "links"),
        f"tb {RUN} {BOARD}",
        _runs,
        meets_faults=False,
        codes=ENDED_BOARD,
        call=SHOW_BOARD,
    ),
    Command(
        "tb_board_here",
        ("idle",),
        f"tb {RUN} {BOARD}",
        _recorded,
        meets_faults=False,
        codes=ENDED_BOARD,
        call=SHOW_BOARD,
    ),
    Command("checkpoint_fetch", (*ASKED, "links"), f"checkpoint fetch {RUN}", _runs),
    Command("checkpoint_push", SIGN_IN, f"checkpoint push changed.ckpt --from {RUN}", _runs),
    Command("checkpoint_url", (*SIGN_IN, "delegation"), f"checkpoint url {RUN}", _runs, printed="signature"),
    Command("init", ("dotenv", "innereye"), "init", _azure, meets_faults=False),
    Command(
        "show_settings",
        (*TYPED, *SENT, "source"),
        f"{CLUSTER} --show_settings",
        _cluster,
        meets_faults=False,
        printed="typed value",
    ),
    Command(
        "dry_run",
        (*TYPED, *SENT, "conda_index"),
        f"{CLUSTER} --dry_run",
        _cluster,
        meets_faults=False,
        printed="typed value",
    ),
    Command("submit_here", (*TYPED, "mlflow", "source", "idle"), "submit train.py", _here, meets_faults=False),
    Command("submit_from_link", ("source",), "submit train.py --workspace local", _here),
    Command("shown_here", (*TYPED, "mlflow"), "submit train.py", _here, meets_faults=False, call=_submit_and_show),
    Command("shown_cluster", (*TYPED, *SENT), CLUSTER, _cluster, meets_faults=False, call=_submit_and_show),
    Command(
        "submit_slurm",
        (*TYPED, "mlflow", "notify", "idle"),
        "submit train.py --cluster slurm:gpu --wait",
        _slurm,
        meets_faults=False,
    ),
    Command(
        "sweep_slurm",
        (*TYPED, "mlflow", "notify"),
        f"submit train.py --cluster slurm:gpu --wait {SWEPT}",
        _slurm,
        meets_faults=False,
    ),
    Command("compared_here", TYPED, "submit train.py", _here, meets_faults=False, call=_submit_and_compare),
    Command(
        "shown_ssh",
        (*TYPED, "notify"),
        "submit train.py --cluster ssh:box --wait",
        _ssh,
        meets_faults=False,
        call=_submit_and_show,
    ),
    Command("notified_here", ("notify",), "submit train.py", _here, meets_faults=False, call=_submit_and_show),
    Command(
        "browsed_here",
        (*TYPED, "mlflow", "notify", "idle"),
        "submit train.py",
        _here,
        meets_faults=False,
        call=_submit_and_browse,
    ),
    Command(
        "browsed_azure",
        ("variables", "private_toml", "links"),
        "ui --port 0",
        _runs,
        meets_faults=False,
        call=SHOW_PAGES,
        codes=ENDED_BOARD,
    ),
    Command(
        "submit_fails",
        (*TYPED, "mlflow"),
        "submit train.py",
        lambda lab: _here(lab, "3"),
        meets_faults=False,
        codes=frozenset({1}),
    ),
    Command("submit_cluster", (*SIGN_IN, *TYPED, *SENT, "source"), CLUSTER, _cluster),
    Command(
        "submit_recorded",
        ("variables", "private_toml", "proxy", "mlflow", *TYPED),
        "submit train.py --record_in azure",
        _cluster,
    ),
    Command("sweep_here", (*TYPED, "mlflow", "source"), f"submit train.py {SWEPT}", _here, meets_faults=False),
    Command("sweep_cluster", ("variables", "proxy", *TYPED, *SENT, "source"), f"{CLUSTER} {SWEPT}", _cluster),
    Command("resume", ("env_var", "env_var_setting", "mlflow"), "submit --resume latest", _swept, meets_faults=False),
    Command(
        "pipeline_here",
        ("env_var", "env_var_setting", "remote", "mlflow"),
        "submit pipe.json",
        _here,
        meets_faults=False,
    ),
    Command(
        "pipeline_cluster",
        ("variables", "proxy", "env_var", "remote", "index"),
        "submit pipe.json --cluster cpu-cluster",
        _cluster,
    ),
    Command("montage", ("variables", "proxy"), MONTAGE, _slides),
    Command(
        "montage_cluster",
        ("variables", "private_toml", "proxy"),
        f"{MONTAGE} --cluster cpu-cluster --conda_env environment.yml",
        _slides,
    ),
)


@dataclass(frozen=True)
class Channel:
    """A channel for secrets. *set_up* makes a lab use it. The *kinds* of secrets must then be in use, or it proves
    nothing.
    """

    kinds: Sequence[str]
    set_up: Callable[[Lab], None] = lambda lab: None


def _azure_variables(lab: Lab) -> None:
    _unsigned(lab)
    lab.env |= {name: lab.staged.environment()[name] for name in VENDOR}


def _private_toml(lab: Lab) -> None:
    values = {name.removeprefix("HIML_").lower(): lab.env[name] for name in PRINCIPAL}
    _unsigned(lab)
    lines = ["[azure]", *(f"{name} = {json.dumps(value)}" for name, value in values.items())]
    lab.write_own("himl.private.toml", "\n".join(lines) + "\n")


def _dotenv(lab: Lab) -> None:
    principal, state = lab.staged.state.principal, lab.staged.state
    lines = {
        "SUBSCRIPTION_ID": state.subscription,
        "RESOURCE_GROUP": state.group,
        "WORKSPACE_NAME": state.name,
        "TENANT_ID": principal.tenant,
    }
    lines |= {
        "SP_ID": principal.client_id,
        "SP_PASSWORD": principal.secret,
        "BLOB_ACCOUNT_KEY": state.storage.key,
        "WANDB_API_KEY": lab.secret("value"),
    }
    lab.write_own(".env", "".join(f"{name}={value}\n" for name, value in lines.items()))
    _takes_over(lab, ".env")


def _innereye(lab: Lab) -> None:
    state, principal = lab.staged.state, lab.staged.state.principal
    public = {
        "tenant_id": principal.tenant,
        "subscription_id": state.subscription,
        "resource_group": state.group,
        "workspace_name": state.name,
    }
    private = {
        "application_id": principal.client_id,
        "application_key": principal.secret,
        "datasets_account_key": state.storage.key,
    }
    private |= {"pip_extra_index_url": f"https://ada:{lab.secret('password')}@index.example/simple"}
    for name, values in (("settings.yml", public), ("InnerEyePrivateSettings.yml", private)):
        lab.write_own(name, "".join(["variables:\n", *(f"  {key}: '{value}'\n" for key, value in values.items())]))
    lab.own.remove(lab.project / "settings.yml")
    _takes_over(lab, "settings.yml")


def _takes_over(lab: Lab, name: str) -> None:
    _unsigned(lab)
    (lab.project / "config.json").unlink()
    lab.arguments += ["--from", name]
    lab.private.add(lab.project / "himl.private.toml")


def _store(credentials: str, kind: str = "AzureBlob") -> Callable[[Lab], None]:
    def set_up(lab: Lab) -> None:
        lab.staged.add_datastore("stored", credentials=credentials, kind=kind)
        lab.staged.put_blobs("stored", {"data/a.txt": b"a", "data/b/c.txt": b"c"})
        lab.arguments += ["--datastore", "stored"]
        if credentials == "Sas":
            lab.staged.state.storage.takes_keys = True

    return set_up


def _source(lab: Lab) -> None:
    lab.staged.put_blob(DEFAULT, "given/last.ckpt", b"given")
    where = lab.staged.state.datastores[DEFAULT]
    link = where.storage.blob_link(where.container, "given/last.ckpt")
    lab.arguments += ["--checkpoint", link]


def _proxy(lab: Lab) -> None:
    address = lab.env["HTTPS_PROXY"].replace("http://", f"http://ada:{lab.secret('proxy password')}@")
    lab.env |= {"HTTPS_PROXY": address, "https_proxy": address}


def _typed(*words: str, to: str = "arguments") -> Callable[[Lab], None]:
    return lambda lab: getattr(lab, to).extend(map(lab.filled, words))


def _remote(lab: Lab) -> None:
    remote = f"https://ada:{lab.secret('remote token')}@git.example/lab/train.git"
    for words in (
        ("init", "-q"),
        ("add", "train.py"),
        ("commit", "-q", "-m", "first"),
        ("remote", "add", "origin", remote),
    ):
        author = (
            "-c",
            "user.name=Ada",
            "-c",
            "user.email=ada@example.org",
            "-c",
            "init.defaultBranch=main",
            "-c",
            "commit.gpgsign=false",
        )
        subprocess.run(["git", *author, *words], cwd=lab.project, env=lab.env, check=True, capture_output=True)
    lab.own.add(lab.project / ".git" / "config")


def _run_token(lab: Lab) -> None:
    _unsigned(lab)
    lab.env |= lab.staged.job_environment(lab.staged.add_run("job_1_jj", "train", status="Running"))


def _identity(lab: Lab) -> None:
    _run_token(lab)
    lab.env |= lab.staged.identity_environment(lab.staged.add_principal())


def _unsigned(lab: Lab) -> None:
    for name in PRINCIPAL:
        lab.env.pop(name, None)


CHANNELS = {
    "variables": Channel(("password", "token")),  # `HIML_*`, as `Lab` has them
    "idle": Channel(("password",)),
    "azure_variables": Channel(("password", "token"), _azure_variables),
    "private_toml": Channel(("password", "token"), _private_toml),
    "dotenv": Channel(("password", "typed value"), _dotenv),
    "innereye": Channel(("password", "account key"), _innereye),
    "key": Channel(("account key", "token"), _store("AccountKey")),
    "sas": Channel(("signature", "token"), _store("Sas")),
    "store_principal": Channel(("password", "token"), _store("ServicePrincipal", "AzureDataLakeGen2")),
    "store_identity": Channel(("token",), _store("None")),
    "delegation": Channel(
        ("delegation key", "token"), lambda lab: setattr(lab.staged.state.storage, "takes_keys", False)
    ),
    "links": Channel(("signature", "token")),
    "source": Channel(("signature",), _source),
    "proxy": Channel(("typed proxy password", "token"), _proxy),
    "index": Channel(("typed index password",), _typed("--pip_extra_index_url", INDEX)),
    "conda_index": Channel(
        ("typed index password",), lambda lab: lab.write_own("environment.yml", lab.filled(INDEXED))
    ),
    "index_variable": Channel(
        ("typed index password",), lambda lab: lab.env.update(HIML_SUBMIT_PIP_EXTRA_INDEX_URL=lab.filled(INDEX))
    ),
    "env_var_setting": Channel(
        ("typed variable",), lambda lab: lab.write_own("himl.private.toml", lab.filled(SETTING))
    ),
    "remote": Channel(("typed remote token",), _remote),
    "env_var": Channel(
        ("typed variable",), _typed("--env_var", "WANDB_API_KEY=@variable@", "--env_var", "SEED=@value@")
    ),
    "notify": Channel(("typed webhook",), _typed("--notify", "http://127.0.0.1:9/@webhook@")),
    "docker_args": Channel(
        ("typed docker argument",), _typed("--docker_args", "-e WANDB_API_KEY=@docker argument@ --ipc host")
    ),
    "arguments": Channel(("typed argument",), _typed("--api_key", "@argument@", "--password=@argument@", to="script")),
    "run_token": Channel(("token",), _run_token),
    "identity": Channel(("password", "token"), _identity),
    "mlflow": Channel(("job token",)),  # a job here tells the token of its own MLflow server
}


PASSING = 0.5  # share of the cases whose fault passes after a few requests
DOCUMENTED = frozenset(range(7))
BUG = re.compile(r"[Tt]his is a bug in himl")
FORMS = ("--verbose", "--json")
EXPIRED = "signature expired"
FAULTS: Mapping[str, tuple[Action, str]] = {
    "refused": (Status(403, code="AuthorizationFailure"), ""),
    "rejected": (Status(401, code="InvalidAuthenticationToken"), "api.azureml.ms|management"),
    "busy": (Status(429, retry_after=0), ""),
    "broken": (Status(500), ""),
    EXPIRED: (ExpireSas(), "comp=list|outputs|sig="),
    "reset": (Reset(), "api.azureml.ms|blob|management"),
}
WAYS = ("", *FAULTS)
SHOWN = 6


def secret_cases() -> list[Case]:
    return [
        Case(f"secrets/{command.name}/{channel}/{number:02d}", partial(_run, command, CHANNELS[channel], way, form))
        for command in COMMANDS
        for channel in command.channels
        for number, (way, form) in enumerate((way, form) for way in WAYS for form in FORMS)
        if not way or (command.meets_faults and (command.signs or way != EXPIRED))
    ]


def _run(command: Command, channel: Channel, way: str, form: str, world: World, dice: random.Random) -> Result:
    marks = Marks()
    with listening(marks.add), world.stage.own_workspaces():
        lab = Lab(world, world.stage.workspace(), marks)
        try:
            command.place(lab)
            lab.arguments += command.words.split()
            lab.printed |= {command.printed} - {""}
            channel.set_up(lab)
            return _judged(lab, command, channel, way, form, dice)
        finally:
            lab.close()


def _judged(lab: Lab, command: Command, channel: Channel, way: str, form: str, dice: random.Random) -> Result:
    lab.world.stage.clear()
    if way:
        action, match = FAULTS[way]
        lab.world.stage.faults.add(action, match, times=dice.randint(1, 3) if dice.random() < PASSING else None)
    begun = time.monotonic()
    try:
        left, seconds, search = lab.run(form, command.call)
    except subprocess.TimeoutExpired:
        return Result(Outcome.lost, None, time.monotonic() - begun, why="hangs")
    hits = lab.world.hits()
    lab.world.check_requests()
    if not way:  # no fault, only the channel's secrets
        hits = int(all(lab.marks.kinds[kind] for kind in channel.kinds))
    ended = Ended(left.code, left.stdout, left.stderr)
    facts = {
        "form": form,
        "way": way or "none",
        "marks": len(lab.marks),
        "files": search.files,
        "processes": search.processes,
    }
    more = {"passed_over": search.passed_over} if search.passed_over else {}
    return lab.world.told(
        verdict(ended, search, DOCUMENTED if way else command.codes), ended, seconds, hits, **facts, **more
    )


def verdict(ended: Ended, search: Search, codes: frozenset[int]) -> Verdict:
    """The verdict on a command with a user's script, whose traceback is not himl's."""
    if leaks := sorted(set(search.leaks)):
        return lost("; ".join(leaks[:SHOWN]) + (f" and {len(leaks) - SHOWN} more" if len(leaks) > SHOWN else ""))
    if BUG.search(ended.stderr):
        return lost(f"a failure that himl does not know: {last_line(ended.stderr)}")
    if ended.code not in codes:
        return lost(
            f"exit code {ended.code}, documented: {', '.join(map(str, sorted(codes)))}: {last_line(ended.stderr)}"
        )
    return Verdict(Outcome.survived if ended.code == 0 else Outcome.reported)
