"""Tests of failures: each prints an error line and a hint to stderr, with the right exit code.

The hint's command works, and no secret is printed or written.
"""

from __future__ import annotations

import errno
import os
import re
import shlex
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import platformdirs
import pytest

from himl_cli.commands.error_handler import as_himl_error
from himl_cli.services.transfer.local_files import disk_error
from himl_cli.workspaces.local.run_folder import explain_disk_error
from tests.azureml_double.faults import Action, ExpireSas, Reset, Status
from tests.azureml_double.seeding import StagedWorkspace
from tests.conftest import lacking
from tests.support.documents import shapes
from tests.support.folders import files_below, mounted_small_disk
from tests.support.running import Himl, Outcome, write_files
from tests.support.runs import RecordedRuns
from tests.support.users import ADA, as_user

# A path in the home of an unknown user, which himl uses literally.
NOBODY = "~nobody_at_all/x"
CASES: list[tuple[list[str], int, str]] = [
    (["dowload"], 2, "No such command 'dowload'. Did you mean 'download'?"),
    (["runs", "list", "--experimnt", "x"], 2, "No such option '--experimnt'. Did you mean '--experiment'?"),
    (["runs", "list", "--json", "--quiet"], 2, "Only one output format is allowed, not json and quiet."),
    (["runs", "list", "--num_runs", "0"], 2, "--num_runs must be a positive integer or 'all', not '0'."),
    (["runs", "list", "--status", "runing"], 2, "Unknown status 'runing'."),
    (["runs", "list", "--workspace", "nowhere"], 3, "No workspace at"),
    (["runs", "list", "-w", "a", "--config_file", "b.json"], 2, "--workspace and --config_file cannot be combined."),
    (["runs", "show", "https://store.blob.core.windows.net/x?sv=1&sig=abcdefSECRET%3D"], 2, "sig=***"),
    (["runs", "show", "--experiment", "train", "--status", "queued"], 3, "No run of experiment 'train' is Queued."),
    (["runs", "show", "--run", ""], 2, "--run got an empty value."),
    (["runs", "list", "--tags", ""], 2, "--tags got an empty value."),
    (["runs", "list", "--status", ","], 2, "--status got an empty value."),
    (["runs", "delete", "--experiment", "train", "--status", "", "--yes"], 2, "--status got an empty value."),
    (["download", ","], 2, "RUN got an empty value."),
    (["datastore", "upload", "x", ""], 2, "REMOTE_PREFIX got an empty value."),
    (["datastore", "download", "x", ""], 2, "LOCAL_DIR got an empty value."),
    (["download", "train_1_aa", "--output_dir", ""], 2, "--output_dir got an empty value."),
    (
        ["tb", "--experiment", "train", "--tags", "a=b", "--tags", "c=d", "--sync_only"],
        3,
        "No run of experiment 'train' is a=b and c=d.",
    ),
    (["runs", "show"], 3, "No run was given, and there is no most_recent_run.txt in"),
    (["runs", "show", "train_1_aa", "--children"], 3, "No child runs: train_1_aa."),
    (["runs", "cancel", ""], 2, "RUN got an empty value."),
    (["runs", "delete", "train_1_aa"], 2, "This needs confirmation, and there is no terminal."),
    (["runs", "logs", "train_1_aa"], 3, "Run 'train_1_aa' ended without a log."),
    (["submit", "train.py", "extra"], 2, "extra"),
    *(
        (["runs", "list", "--workspace", NOBODY], 3, NOBODY),
        (["runs", "list", "--config_file", NOBODY], 3, NOBODY),
        (["montage", NOBODY], 3, NOBODY),
    ),
    (["checkpoint", "fetch", f"{NOBODY}.ckpt"], 3, f"There is no file '{NOBODY}.ckpt'"),
]
ROOT_ONLY = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become a user that nobody knows"
)
SCRIPT = "import sys\nprint('args', *sys.argv[1:])\n"
OF_SUBMIT = {
    "submit --lr 3 --cluster local": "himl submit train.py --cluster local -- --lr 3",
    "submit python -m lab.train --lr 3": "himl submit -m lab.train -- --lr 3",
    "submit 'python train.py --lr 3' --tag a=b": "himl submit train.py --tag a=b -- --lr 3",
    "submit -m lab/train.py": "himl submit lab/train.py",
    "submit 'train.py --lr 3'": "himl submit train.py -- --lr 3",
    "submit -m lab/train -- --lr 3": "himl submit -m lab.train -- --lr 3",
    "submit train.py --azure_datasets=faces,hands": "himl submit train.py --input faces --input hands",
    "submit train.py --input faces --mount_in_azureml=True --lr 3": (
        "himl submit train.py --input faces,mode=mount -- --lr 3"
    ),
    "submit train.py --azure_dataset_id faces --use_dataset_mount --extra_azure_dataset_ids=hands": (
        "himl submit train.py --input faces,mode=mount --input hands,mode=mount"
    ),
    "submit torchrun --standalone --nproc-per-node=1 train.py --lr 3": (
        "himl submit train.py --processes_per_node 1 -- --lr 3"
    ),
    "submit train.py --tag team blue": "himl submit train.py --tag team=blue",
    "run train.py --lr 3": "himl submit train.py -- --lr 3",
}
PROGRAMS = ("accelerate", "mpirun")
"""Launchers that start what follows their own words."""
OF_LAUNCHERS = {
    "submit accelerate launch train.py --lr 3": "himl submit --command 'accelerate launch train.py --lr 3'",
    "submit 'accelerate launch train.py --lr 3'": "himl submit --command 'accelerate launch train.py --lr 3'",
    "accelerate launch train.py --lr 3": "himl submit --command 'accelerate launch train.py --lr 3'",
    "submit -- accelerate launch train.py --lr 3": "himl submit --command 'accelerate launch train.py --lr 3'",
    "submit --command accelerate launch train.py --lr 3": "himl submit --command 'accelerate launch train.py --lr 3'",
    "submit --command accelerate launch train.py": "himl submit --command 'accelerate launch train.py'",
    "submit mpirun -n 2 python train.py --tag a=b": "himl submit --command 'mpirun -n 2 python train.py' --tag a=b",
    "submit sh -c 'python train.py'": "himl submit --command 'python train.py'",
    "submit 'sh -c \"python train.py\"'": "himl submit --command 'python train.py'",
    "submit nohup python train.py": "himl submit train.py --no_wait",
    "submit train.py --detach": "himl submit train.py --no_wait",
    "submit A=3 python -u train.py": "himl submit train.py --env_var A=3",
    "submit train.py --env A=3": "himl submit train.py --env_var A=3",
    "submit torchrun train.py": "himl submit train.py --processes_per_node 1",
    "submit torchrun --master_port 29500 --nproc_per_node=1 train.py": "himl submit train.py --processes_per_node 1",
    "submit time python train.py": "himl submit train.py",
    "himl submit train.py": "himl submit train.py",
    "submit train.py --tags team=blue --name x": "himl submit train.py --tag team=blue --display_name x",
    "submit train.py --display_name my run": "himl submit train.py --display_name 'my run'",
    "submit train.py --sweep a=1, 2": "himl submit train.py --sweep a=1,2",
    "submit train.py --sweep a=1 2": "himl submit train.py --sweep a=1,2",
    "submit train.py --sweep a 1 2": "himl submit train.py --sweep a=1,2",
    "submit train.py --tag a = b": "himl submit train.py --tag a=b",
    "submit train.py --env_var A: 1": "himl submit train.py --env_var A=1",
    "submit train.py /Tag a=b": "himl submit train.py --tag a=b",
    "submit train.py '--tag a=b'": "himl submit train.py --tag a=b",
    "submit train.py --args '--lr 3'": "himl submit train.py -- --lr 3",
    "submit train.py - --lr 3": "himl submit train.py -- --lr 3",
    "submit --script train.py": "himl submit train.py",
    "submit -c 'python train.py'": "himl submit --command 'python train.py'",
}
OF_COMMANDS = {
    "job list -q": "himl runs list -q",
    "get runs": "himl runs list",
    "jobs": "himl runs list",
    "logs latest": "himl runs logs latest",
    "describe run latest": "himl runs show latest",
    "runs metrics latest": "himl runs show latest",
    "runs download latest": "himl download latest",
    "runs list -o json": "himl runs list --format json",
    "runs list --sort_by started --limit 3": "himl runs list --sort started --num_runs 3",
    "download latest --dry-run": "himl download latest --list",
    "runs delete latest -y": "himl runs delete latest --yes",
    "runs list --csv": "himl runs list --format csv",
    "runs list --tail 3": "himl runs list --num_runs 3",
    "runs list -3": "himl runs list --num_runs 3",
    "runs logs latest -5": "himl runs logs latest --tail 5",
    "runs list --failed": "himl runs list --status Failed",
    "runs aggregate latest --csv a.csv": "himl runs aggregate latest --output_csv a.csv",
    "upload lab faces": "himl datastore upload lab faces",
    "init local": "himl init --local",
    "sumbit train.py": "himl submit train.py",
    "rums list -q": "himl runs list -q",
    "runs lst": "himl runs list",
    "skill installl --yes": "himl skill --install --yes",
    "ps -a -q": "himl runs list --num_runs all -q",
    "job show -n latest": "himl runs show --run latest",
    "job list --max-results 5": "himl runs list --num_runs 5",
    "artifacts download --name latest": "himl download --run latest",
    "runs list –experiment train": "himl runs list --experiment train",
    "runs list -Experiment train": "himl runs list --experiment train",
    "runs list '--experiment train'": "himl runs list --experiment train",
    "runs list -- --experiment train": "himl runs list --experiment train",
    "runs list --sort started desc": "himl runs list --sort -started",
    "download train_1_aa --file outputs": "himl download train_1_aa --prefix outputs",
    "runs delete -f latest": "himl runs delete --yes latest",
}
BY_HAND: dict[str, tuple[str, ...]] = {
    "login": ("az login, then himl doctor", "himl doctor"),
    "sweep": ("himl submit SCRIPT.py --sweep lr=0.1,0.01", "himl submit train.py --sweep lr=0.1,0.01"),
    "submit train.py --gpus-per-node 1": (
        "In himl: himl submit train.py --gpus 1",
        "himl submit train.py --gpus 1 --dry_run",
    ),
    "submit train.py -v data:/data": (
        "For data: --input NAME,local=FOLDER",
        "himl submit train.py --input data,local=lab",
    ),
    "submit train.py --partition gpu": (
        "In himl: himl submit train.py --cluster slurm:gpu",
        "himl submit train.py --cluster slurm:gpu --dry_run",
    ),
    "submit train.py -p gpu": (
        "In himl: himl submit train.py --cluster slurm:gpu",
        "himl submit train.py --cluster slurm:gpu --dry_run",
    ),
    "submit sbatch -p gpu train.sh": (
        "In himl: himl submit train.sh --cluster slurm:gpu",
        "himl submit train.sh --cluster slurm:gpu --dry_run",
    ),
    "submit train.py --crossval 2 --sweep a=1,2": (
        "--sweep a=1,2 --sweep crossval_index=0,1",
        "himl submit train.py --sweep a=1,2 --sweep crossval_index=0,1",
    ),
    "submit TRAIN.PY": ("Did you mean 'train.py'?", "himl submit train.py"),
    "submit 'lab\\train.py'": ("Did you mean 'lab/train.py'?", "himl submit lab/train.py"),
    "submit https://example.com/train.py": ("Download it, or clone its repository, first.", "himl submit train.py"),
    "submit deep.py": ("Did you mean 'lab/deep.py'?", "himl submit lab/deep.py"),
    "submit lab.train": ("Did you mean -m lab.train?", "himl submit -m lab.train"),
    "submit train.py lab/train.py": (
        "One job runs one script. If the others are its arguments: himl submit train.py -- lab/train.py",
        "himl submit train.py -- lab/train.py",
    ),
    "submit train.py --cluster gpu:4": (
        "Write --cluster gpu (its nodes decide the number of GPUs), or --cluster slurm:PARTITION",
        "himl submit train.py --cluster slurm:gpu --dry_run",
    ),
    "submit train.py --sweep a=1:5": (
        "or write --sweep 'a=uniform(1,5)' --max_trials 10. For the text '1:5': --sweep 'a=\"1:5\"'",
        "himl submit train.py --sweep 'a=uniform(1,5)' --max_trials 10 --dry_run",
        "himl submit train.py --sweep 'a=\"1:5\"'",
    ),
    "submit train.py --sweep 'a=1; 2.5 3'": (
        "Write --sweep a=1,2.5,3, or for a single value --sweep 'a=\"1; 2.5 3\"'",
        "himl submit train.py --sweep a=1,2.5,3",
        "himl submit train.py --sweep 'a=\"1; 2.5 3\"'",
    ),
    "submit train.py --sweep 'a=1,2 b=3,4'": (
        "Write --sweep a=1,2 --sweep b=3,4. For one value: --sweep 'a=\"1,2 b=3,4\"'",
        "himl submit train.py --sweep a=1,2 --sweep b=3,4 --dry_run",
        "himl submit train.py --sweep 'a=\"1,2 b=3,4\"' --dry_run",
    ),
    "submit train.py --sweep 'a=1,2;b=3'": (
        "Write --sweep a=1,2 --sweep b=3. For one value: --sweep 'a=\"1,2;b=3\"'",
        "himl submit train.py --sweep a=1,2 --sweep b=3 --dry_run",
    ),
    "submit train.py --sweep 'a=linspace(0,1,5)'": (
        "List the values, or write --sweep 'a=uniform(0,1)' --max_trials 10",
        "himl submit train.py --sweep 'a=uniform(0,1)' --max_trials 10 --dry_run",
    ),
    "submit train.py --sweep 'a=uniform 1 2'": (
        "Write --sweep 'a=uniform(1,2)'",
        "himl submit train.py --sweep 'a=uniform(1,2)' --max_trials 2 --dry_run",
    ),
    "submit train.py --sweep 'a=uniform'": ("Write --sweep 'a=uniform(low,high)'",),
    "runs show @latest": ("Did you mean latest?", "himl runs show latest"),
    "runs show 'train_*'": (
        "For runs of an experiment, which the script names: --experiment NAME --num_runs all",
        "himl runs show --experiment train --num_runs all",
    ),
    "download --include train.py other.py": (
        "It is a file here. Quote patterns, so that the shell does not replace them. For runs of a script: "
        "--experiment other",
        "himl download train_1_aa --include 'outputs/*.txt'",
    ),
    "runs show all": (
        "For all runs of an experiment: --experiment NAME --num_runs all",
        "himl runs show --experiment train --num_runs all",
    ),
    "runs show latest~1": ("For earlier runs, use their ids: himl runs list", "himl runs list"),
    "download latest:outputs/model.txt": (
        "For a file of a run: himl download latest --prefix outputs/model.txt",
        "himl download train_1_aa --prefix outputs/model.txt",
    ),
    "runs list --sort duration:desc": (
        "Write 'duration', or '-duration' for the greatest first.",
        "himl runs list --sort duration",
        "himl runs list --sort=-duration",
    ),
    "runs list --where 'status == Failed'": ("Write = in place of ==.", "himl runs list --where 'status = Failed'"),
    "submit train.py --gpu": ("In himl: himl submit train.py --gpus N", "himl submit train.py --gpus 1 --dry_run"),
    "submit train.py --cluster me@box": (
        "For a machine by SSH: --cluster ssh:me@box",
        "himl submit train.py --cluster ssh:me@box --dry_run",
    ),
    "submit train.py --cluster aml:gpu": (
        "Write --cluster slurm:gpu for Slurm, ssh:gpu for a machine, or gpu for Azure ML.",
        "himl submit train.py --cluster slurm:gpu --dry_run",
    ),
    "submit train.py --gpus all": (
        "--gpus N: GPUs per node for a local or Slurm job, which waits until they are free.",
    ),
    "submit train.py --tags a=b,c=d": (
        "In himl: himl submit train.py --tag a=b --tag c=d",
        "himl submit train.py --tag a=b --tag c=d",
    ),
    "submit train.py -o results": (
        "If it is an option of the script, write it after --: himl submit train.py -- -o results",
        "himl submit train.py -- -o results",
    ),
    "submit train.py --folds 3": ("In himl: himl submit train.py --crossval 3", "himl submit train.py --crossval 3"),
    "resume latest": ("To resume a run: himl submit --resume RUN",),
    "rerun latest": ("To submit a run's job again: himl submit --from RUN", "himl submit --from latest"),
    "cp latest:outputs/model.txt .": (
        "From a run: himl download RUN --prefix NAME. To a datastore: himl datastore upload LOCAL REMOTE_PREFIX",
        "himl download train_1_aa --prefix outputs/model.txt",
        "himl datastore upload other.py scripts",
    ),
    "runs list --best loss": (
        "Name the metric: himl runs list --best --metrics loss",
        "himl runs list --best --metrics loss",
    ),
    "download --output_path m": ("In himl: himl download --output_dir m", "himl download --output_dir m"),
    "runs list --top 2": ("In himl: himl runs list --num_runs 2", "himl runs list --num_runs 2"),
    "runs list --primary_metric loss": (
        "In himl: himl runs list --metrics loss",
        "himl runs list --metrics loss",
    ),
    "runs list --children": ("For the trials of a sweep: himl runs show RUN", "himl runs show train_1_aa"),
    "runs list --reverse": ("For the oldest first: --sort started", "himl runs list --sort started"),
    "runs aggregate --sort loss": (
        "To sort runs by a metric: himl runs list --sort METRIC",
        "himl runs list --sort loss",
    ),
    "submit train.py --job-name x --mem-per-cpu 4G": (
        "For a job on Slurm: --cluster slurm:PARTITION --sbatch mem-per-cpu=VALUE",
        "himl submit train.py --cluster slurm:gpu --sbatch mem-per-cpu=4G --dry_run",
    ),
    "submit train.py --rm": (
        "Omit it. himl keeps the results of a job, and himl gc deletes what no run needs.",
        "himl submit train.py",
        "himl gc",
    ),
    "submit train.py -it --rm": ("Omit it. himl keeps the results of a job, and himl gc deletes what no run needs.",),
    "submit train.py -p 80:80": ("For services of a job on Azure ML: --jupyter or --vscode",),
    "submit train.py --project lab --entity me": (
        "Omit it. himl has no accounts: a run's user is the one of the machine.",
    ),
    "init azure": (
        "For Azure ML, use --subscription_id, --resource_group and --workspace_name. For a host, --ssh "
        "HOST. For a local workspace: himl init",
        "himl init",
    ),
    "upload lab": ("See 'himl datastore upload --help'.", "himl datastore upload --help"),
    "runs plot": (
        "For curves: himl runs aggregate --plot FILE.png, himl tb or himl ui",
        "himl runs aggregate train_1_aa --plot a.png",
    ),
    "runs list --status done": (
        "Did you mean Completed? Statuses: Queued, Running, Completed, Failed, Canceled.",
        "himl runs list --status Completed",
    ),
    "submit '*.py'": (
        "One job runs one script. For values of its arguments, use --sweep.",
        "himl submit train.py --sweep a=1,2",
    ),
    "submit train.py --env_var FOO": (
        "For example --env_var OMP_NUM_THREADS=1",
        "himl submit train.py --env_var OMP_NUM_THREADS=1",
    ),
    "submit train.py --no_such 3": (
        "If it is an option of the script, write it after --: himl submit train.py -- --no_such 3",
        "himl submit train.py -- --no_such 3",
    ),
    "submit train.py --num_node 2": (
        "Did you mean '--num_nodes'?",
        "himl submit train.py --num_nodes 2 --cluster slurm:gpu --dry_run",
    ),
    "runs list --time 3": ("See 'himl runs list --help'.", "himl runs list --help"),
    "runs cancel --all": (
        "For all runs of an experiment: himl runs cancel --experiment NAME --num_runs all",
        "himl runs cancel --experiment train --num_runs all",
    ),
    "runs logs -n": ("See 'himl runs logs --help'.", "himl runs logs --help"),
    "ui latest": ("Omit it: himl ui",),
    "checkpoint download train_1_aa": ("In himl: himl checkpoint fetch train_1_aa", "himl checkpoint fetch --help"),
    "runs untag latest team": ("To remove a tag: himl runs tag RUN KEY=", "himl runs tag train_1_aa team="),
    "runs list --where 'status > Failed'": (
        "<, <=, > and >= take a number. For text: =, != or LIKE '%TEXT%'",
        "himl runs list --where 'status != Failed'",
    ),
    "runs list --where 'started > 2026-01-01'": (
        "For runs since a time: --since TIME, such as 7d or 2026-03-01",
        "himl runs list --since 2026-01-01",
    ),
    "checkpoint list": (
        "In himl: himl download --list --prefix outputs/checkpoints",
        "himl download train_1_aa --list --prefix outputs/checkpoints",
    ),
    "workspace use x": ("For all commands in this folder: himl init", "himl init", "himl runs list --workspace .himl"),
}
"""Hints that are no whole command, with commands that follow them. A hint with several parts has a command for each."""
IN_HIMLS_WORDS = {
    "submit train.py --crossval five": "--crossval needs a number, not 'five'.",
    "runs list --format yaml": "--format must be human, table, csv, tsv, json or quiet, not 'yaml'.",
    "submit train.py --resume": "--resume needs a value: --resume RUN.",
    "completion": "SHELL is missing: bash, zsh, fish or powershell.",
    "ui latest": "Unexpected argument 'latest'.",
    "runs list --watch=3": "--watch takes no value, but got '3'.",
}
OF_OTHERS = {
    "run list -q": "himl runs list -q",
    "runs list -q train": "himl runs list -q --experiment train",
    "runs list --tags=a=b c=d": "himl runs list --tags=a=b --tags c=d",
    "runs list -t a=b c=d": "himl runs list -t a=b -t c=d",
    "runs list 5 -q": "himl runs list --num_runs 5 -q",
    "runs ls -q --experiment_name train": "himl runs list -q --experiment_name train",
    "himl-download --run_ids train_1_aa": "himl download --run_ids train_1_aa",
    "download --run-recovery-id train_1_aa": "himl download --run train_1_aa",
    "download latest results": "himl download latest --output_dir results",
    "download results": "himl download latest --output_dir results",
}
JWT = re.compile(rb"eyJ[\w-]{8,}\.[\w-]{4,}")
SIGNATURE = re.compile(rb"[?&]sig=(?!\*\*\*)[^&\s\"']{8,}")
COMMANDS: list[tuple[list[str], int]] = [
    (["doctor"], 0),
    (["runs", "show", "train_1_aa"], 0),
    (["runs", "logs", "train_1_aa"], 0),
    (["runs", "tag", "train_1_aa", "a=b"], 0),
    (["runs", "show", "nothing"], 3),
    (["download", "train_1_aa"], 0),
    (["download", "train_1_aa", "--output_key", "model", "--output_dir", "model"], 0),
    (["datastore", "list", "--datastore", "signed"], 0),
    (["datastore", "download", "data", "here", "--datastore", "signed"], 0),
    (["datastore", "upload", "up", "new"], 0),
    (["datastore", "list", "--datastore", "lake"], 0),
    (["datastore", "list", "--datastore", "own"], 0),
]
FAULTS: dict[str, tuple[Action, str]] = {
    "refused": (Status(403, code="AuthorizationFailure"), ""),
    "rejected": (Status(401, code="InvalidAuthenticationToken"), "api.azureml.ms|management"),
    "signature expired": (ExpireSas(), "comp=list|outputs"),
    "reset": (Reset(), "api.azureml.ms|blob"),
}


@pytest.fixture
def recorded(project: Path) -> RecordedRuns:
    runs = RecordedRuns(project)
    runs.add("train_1_aa")
    runs.add("failed_2_bb", files={"user_logs/std_log.txt": "hello\n"})
    return runs


@pytest.mark.usefixtures("recorded")
def test_a_bug_is_one_line_and_its_traceback_comes_with_verbose(project: Path) -> None:
    """A library that raises an unexpected exception plays the bug."""
    write_files(project, {"libraries/sqlite3.py": "raise ValueError('exploded')"})
    short = _himl(project, "runs", "list", libraries="libraries")
    assert short.returncode == 1
    assert short.stderr.splitlines()[0].startswith("error: This is a bug in himl: ValueError: exploded")
    assert "Traceback" not in short.stderr
    assert "Traceback" in _himl(project, "runs", "list", "--verbose", libraries="libraries").stderr


def _himl(folder: Path, *arguments: str, libraries: str = "") -> subprocess.CompletedProcess[str]:
    """Start himl in a new process, with the modules in *libraries* first on the path."""
    environment = {**os.environ, "PYTHONPATH": str(folder / libraries)} if libraries else None
    return subprocess.run(
        [sys.executable, "-m", "himl_cli", *arguments], cwd=folder, capture_output=True, text=True, env=environment
    )


def test_no_workspace_or_current_folder_is_said(himl: Himl, tmp_path: Path, project: Path) -> None:
    outcome = himl("runs", "list", cwd=tmp_path)
    assert (outcome.code, "himl submit" in outcome.stderr.splitlines()[1]) == (3, True)
    assert (
        himl("train.py").stderr == "error: No such command 'train.py'.\nhint: To run a script: himl submit train.py\n"
    )
    assert himl("runs", "train.py").stderr.endswith("hint: See 'himl runs --help'.\n")
    done = subprocess.run(
        ["sh", "-c", f'mkdir gone && cd gone && rmdir ../gone && "{himl.program}" runs list'],
        cwd=project,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, "current folder" in done.stderr) == (1, True)


def commands_with(*options: str) -> list[list[str]]:
    """The commands that have all of *options*. `runs tag` gets the tag that it requires."""
    found = [
        each.path
        for each in shapes().values()
        if {*options} <= {name for option in each.options for name in option.names}
    ]
    return [[*path[1:], *(["a=b"] if path[-1] == "tag" else [])] for path in found]


WITHOUT_A_WORKSPACE = [
    *(
        ([*command, "--run", "a", "--experiment", "b"], "--run and --experiment cannot be combined.")
        for command in commands_with("--run", "--experiment")
    ),
    *(
        ([*command, "--num_runs", "2"], "--num_runs requires an experiment.")
        for command in commands_with("--run", "--num_runs")
    ),
    *(([*command, "--run", "a:b:c"], "'a:b:c' is not a run.") for command in commands_with("--run")),
    *(
        ([*command, "x", "y", "--workers", "0"], "--workers must be")
        for command in commands_with("--workers", "--include")
    ),
    *(([*command, "--include", "[b-a]"], "Not a glob: [b-a]") for command in commands_with("--run", "--include")),
    (["runs", "delete"], "No run was given."),
    (["runs", "logs", "a", "--follow", "--json"], "--follow and --json cannot be combined"),
    (["submit", "--resume", "a:b:c"], "'a:b:c' is not a run."),
    (["submit", "--resume", "a", "--max_concurrent", "0"], "--max_concurrent must be a positive integer, not 0."),
]


@pytest.mark.usefixtures("recorded")
def test_a_failure_is_one_line_and_an_exit_code(himl: Himl, tmp_path: Path) -> None:
    for arguments, code, message in CASES:
        outcome = himl(*arguments)
        lines = outcome.stderr.splitlines()
        assert (outcome.code, outcome.stdout) == (code, "")
        assert lines[0].startswith('{"error"' if "--json" in arguments else "error: ")
        assert message in lines[0]
        assert all(line.startswith("hint: ") for line in lines[1:])
        assert len(lines) <= 2
    empty = tmp_path / "empty"
    empty.mkdir()
    for arguments, said in WITHOUT_A_WORKSPACE:
        outcome = himl(*arguments, cwd=empty)
        assert (outcome.code, outcome.stdout, list(empty.iterdir())) == (2, "", [])
        assert said in (outcome.error_json()["message"] if "--json" in arguments else outcome.stderr)


@pytest.mark.usefixtures("recorded")
def test_record_that_no_version_writes_is_damage(project: Path) -> None:
    path = project / ".himl" / "workspace.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    path.write_bytes(path.read_bytes().replace(b"display_name", b"\x80isplay_name"))
    outcome = _himl(project, "runs", "list")
    assert (outcome.returncode, outcome.stdout) == (1, "")
    assert "workspace.db' is damaged: it has invalid values." in outcome.stderr.splitlines()[0]


@ROOT_ONLY
def test_user_without_home_runs_jobs_but_installs_no_completion(
    himl: Himl, require_program: Callable[[str], str], project: Path
) -> None:
    rights = "+dac_read_search,+dac_override"
    # Containers often run as a user with such rights.
    as_nobody = ("--reuid=54321", "--clear-groups", f"--inh-caps={rights}", f"--ambient-caps={rights}")
    without_home = (require_program("setpriv"), *as_nobody, "env", "--unset=HOME", "--unset=XDG_DATA_HOME")
    for shell in ("bash", "zsh", "fish"):
        outcome = himl("completion", shell, "--install", prefix=without_home)
        assert (outcome.code, outcome.stdout) == (3, "")
        assert (
            outcome.stderr == "error: The script needs a home folder, but this user has none.\n"
            f"hint: Set HOME, or print the script: himl completion {shell}\n"
        )
    (project / "train.py").write_text("print('trained')\n", encoding="utf-8")
    outcome = himl("submit", "train.py", prefix=without_home)
    assert (outcome.code, outcome.stdout) == (0, "trained\n"), outcome.stderr


@pytest.fixture
def code(project: Path) -> RecordedRuns:
    write_files(
        project,
        {
            "train.py": SCRIPT,
            "lab/train.py": SCRIPT,
            "lab/__init__.py": "",
            "lab/deep.py": SCRIPT,
            "train.sh": "echo args $*\n",
            "other.py": "",
        },
    )
    runs = RecordedRuns(project)
    files = {
        "outputs/model.txt": "weights",
        "outputs/checkpoints/last.ckpt": "weights",
        "user_logs/std_log.txt": "hello\n",
    }
    runs.log(runs.add("train_1_aa", tags={"a": "b", "c": "d"}, files=files), [("loss", 1.0, 0, 0), ("loss", 0.5, 1, 1)])
    write_files(project, {f".himl/datastores/local/{name}/1.txt": "smile" for name in ("faces", "hands")})
    return runs


def hint_of(outcome: Outcome) -> str:
    (error, hint) = outcome.stderr.splitlines()
    assert error.startswith("error: ")
    return hint.removeprefix("hint: ")


def typed(himl: Himl, command: str) -> Outcome:
    program, *arguments = shlex.split(command)
    assert program == "himl"
    return himl.ok(*arguments)


@pytest.mark.usefixtures("code")
def test_what_was_meant_is_done_by_the_command_of_the_hint(himl: Himl, project: Path) -> None:
    for mistake, meant in OF_SUBMIT.items():
        outcome = himl(*shlex.split(mistake))
        assert (outcome.code, outcome.stdout) == (2, ""), mistake
        assert hint_of(outcome).endswith(f": {meant}"), mistake
    for mistake, meant in OF_OTHERS.items():
        outcome = himl(*shlex.split(mistake))
        assert (outcome.code, outcome.stdout) == (2 if " -" in f" {mistake}" or "list" in mistake else 3, ""), mistake
        assert meant in hint_of(outcome), mistake
    assert himl.ok("runs", "list", "-q").stdout == "train_1_aa\n", "nothing has run so far"
    for meant in OF_OTHERS.values():
        assert typed(himl, meant).stdout != "", meant
    for meant in {meant.partition(" -- ")[0]: meant for meant in OF_SUBMIT.values()}.values():
        arguments = shlex.split(meant)
        assert typed(himl, meant).stdout.split() == [
            "args",
            *(arguments[arguments.index("--") + 1 :] if "--" in arguments else []),
        ], meant
    for mistake, ends, said in [
        ("submit .himl", 2, "There is no .py or .sh script in it."),
        ("submit nb.ipynb", 2, "jupyter nbconvert --to script nb.ipynb"),
        ("stop x", 2, "In himl: himl runs cancel x"),
        ("tiles s --size 256 --out t", 2, "In himl: himl tiles s --tile_size 256 --output_path t"),
        ("runs cancel --dry_run", 2, "hint: See 'himl runs cancel --help'.\n"),
        ("datastore upload a b --dry_run", 2, "hint: See 'himl datastore upload --help'.\n"),
        ("runs delete --dry_run", 2, "hint: Without --yes, himl deletes nothing before you agree.\n"),
        ("download --resume", 2, "hint: Omit it. himl skips complete files, and resumes partial ones.\n"),
        ("runs logs --resume", 2, "hint: See 'himl runs logs --help'.\n"),
        ("datastore create x", 2, "hint: See 'himl datastore --help'.\n"),
        ("datastore doctor", 2, "hint: In himl: himl doctor\n"),
        ("download outputs", 3, "himl download latest --prefix outputs"),
        ("montage s --output_dir t", 2, "In himl: himl montage s --output_path t"),
        ("himl-tb --run_ids x --num_runs 2", 2, "hint: In himl: himl tb --run_ids x --num_runs 2\n"),
        ("runs list latest", 2, "hint: For one run: himl runs show latest\n"),
        ("init --slurm --local", 2, "error: --slurm cannot be combined with other options.\n"),
        ("watch", 2, "In himl: himl runs show --watch"),
        ("runs watch latest", 2, "hint: In himl: himl runs show --watch latest\n"),
        ("workspace watch", 2, "hint: See 'himl workspace show --help'.\n"),
        (
            "himl-tb --bogus",
            2,
            "error: No such command 'himl-tb'. Did you mean 'himl tb'?\nhint: See 'himl tb --help'.\n",
        ),
        ("submit train.py --run-id x", 2, "error: No such option '--run-id'.\n"),
        ("datastore list --run_ids x", 2, "error: No such option '--run_ids'."),
        ("dsa upload --dsa-key x", 2, "hint: Set the environment variable DSA_API_KEY."),
        ("dsa upload --login_only", 2, "hint: To test the sign-in: himl dsa list\n"),
    ]:
        write_files(project, {"nb.ipynb": "{}", "outputs/model.txt": ""})
        outcome = himl(*mistake.split())
        assert outcome.code == ends
        assert said in outcome.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="launchers of POSIX")
@pytest.mark.usefixtures("code")
@pytest.mark.large("runs 80 commands")
def test_words_of_other_tools_become_those_of_himl(himl: Himl, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROGRAMS:
        write_files(
            project, {f"bin/{name}": '#!/bin/sh\nwhile [ "${1%.py}" = "$1" ]; do shift; done\nexec python3 "$@"\n'}
        )
        (project / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{project / 'bin'}{os.pathsep}{os.environ['PATH']}")
    for mistake, meant in (OF_LAUNCHERS | OF_COMMANDS).items():
        outcome = himl(*shlex.split(mistake))
        assert (outcome.code, outcome.stdout) == (2, ""), mistake
        assert hint_of(outcome).endswith(f": {meant}"), mistake
    for mistake, (said, *_) in BY_HAND.items():
        assert hint_of(himl(*shlex.split(mistake))).endswith(said), mistake
    for mistake, said in IN_HIMLS_WORDS.items():
        assert himl(*shlex.split(mistake)).stderr.splitlines()[0] == f"error: {said}"
    assert himl.ok("runs", "list", "-q").stdout == "train_1_aa\n", "nothing has run so far"
    assert himl.ok("runs", "list", "--experiment", "trian").stderr.endswith("match. Did you mean train?\n")
    for meant in dict.fromkeys((OF_LAUNCHERS | OF_COMMANDS).values()):
        outcome = typed(himl, meant)
        assert outcome.stdout != "", meant
        assert "args --lr 3" in outcome.stdout or "--lr" not in meant


@pytest.mark.large("runs a command for each of 60 hints")
@pytest.mark.usefixtures("code")
def test_who_follows_a_hint_by_hand_gets_what_was_meant(himl: Himl) -> None:
    for command in dict.fromkeys(command for _, *commands in BY_HAND.values() for command in commands):
        assert typed(himl, command).stdout != "", command
    with himl.start("ui", "--port", "0") as server:
        assert server.stdout is not None
        assert b"http://" in server.stdout.readline()
        server.terminate()


@pytest.mark.large("takes long, and other tests run its branches")
@pytest.mark.parametrize(
    "declared",
    [
        'parser.add_argument("--env")',
        '@click.option("-x", "--env/--no-env")',
        "import typer\ndef main(lr: float, env: str): ...",
        "import fire\ndef main(env=1): ...",
    ],
)
def test_options_of_other_tools_are_those_of_the_script_if_its_parser_has_them(
    himl: Himl, project: Path, declared: str
) -> None:
    write_files(project, {"train.py": f"{declared}\nif __name__ == '__main__': ..."})
    assert (
        hint_of(himl("submit", "train.py", "--env", "A=1"))
        == "Write arguments of the script after --: himl submit train.py -- --env A=1"
    )
    assert hint_of(himl("submit", "train.py", "--name", "A")) == "In himl: himl submit train.py --display_name A"


def test_an_option_that_the_parser_of_the_script_lacks_is_not_called_its_own(himl: Himl, project: Path) -> None:
    text = "import argparse\nparser = argparse.ArgumentParser()\nparser.add_argument('--lr')\nparser.parse_args()\n"
    write_files(project, {"train.py": text, "lenient.py": text.replace("parse_args", "parse_known_args")})
    assert (
        hint_of(himl("submit", "train.py", "--no_such", "3"))
        == "'train.py' has no such option, either. See 'himl submit --help'."
    )
    assert hint_of(himl("submit", "train.py", "--lr", "3")).endswith(": himl submit train.py -- --lr 3")
    assert hint_of(himl("submit", "lenient.py", "--no_such", "3")).endswith(": himl submit lenient.py -- --no_such 3")


def test_flags_of_the_runner_become_those_of_lightning_cli(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": f"{SCRIPT}# LightningCLI\n", "plain.py": SCRIPT, "last.ckpt": "weights"})
    for mistake, meant in {
        "runner --model=Line --pl_fast_dev_run --max_epochs 3 --rate 1": (
            "train.py -- fit --model=Line --trainer.fast_dev_run=true --trainer.max_epochs=3 --rate 1"
        ),
        "submit train.py --model Line --pl_limit_test_batches=2 --run_inference_only": (
            "train.py -- test --model Line --trainer.limit_test_batches=2"
        ),
        "submit train.py --mode=eval_full --src_checkpoint last.ckpt --model=Line": (
            "train.py --checkpoint last.ckpt -- test --model=Line"
        ),
        "submit train.py --resume_training --src_checkpoint=last.ckpt --model=Line": (
            "train.py --checkpoint last.ckpt -- fit --model=Line"
        ),
        "himl-runner --model=Line": "train.py -- fit --model=Line",
        "submit plain.py --run_recovery_id=last.ckpt": "plain.py --checkpoint last.ckpt",
        "submit plain.py --workers_per_node 1 --azureml_datastore local": (
            "plain.py --processes_per_node 1 --default_datastore local"
        ),
        "submit train.py test --model=Line": "train.py -- test --model=Line",
        "submit plain.py --model=Line --max_epochs=3": "plain.py -- --model=Line --max_epochs=3",
    }.items():
        outcome = himl(*shlex.split(mistake))
        assert outcome.code == 2
        assert hint_of(outcome).endswith(f": himl submit {meant}"), mistake
        assert typed(himl, f"himl submit {meant}").stdout.split() == ["args", *shlex.split(meant.partition(" -- ")[2])]
    assert hint_of(himl("submit", "train.py", "--tag", "my run")).endswith(
        "For a display name: --display_name 'my run'"
    )


@pytest.mark.parametrize(
    ("mistake", "meant"),
    {
        "submit train.py --azureml --cluster cpu-cluster --lr 3": (
            "himl submit train.py --cluster cpu-cluster -- --lr 3"
        ),
        "submit train.py --azureml": "himl submit train.py --cluster NAME",
        "submit train.py --log_from_vm": "himl submit train.py --record_in azure",
    }.items(),
)
def test_a_script_is_sent_by_the_command_of_the_hint(
    himl: Himl, azure_environment: StagedWorkspace, project: Path, mistake: str, meant: str
) -> None:
    azure_environment.add_compute("cpu-cluster")
    azure_environment.write_config(project)
    write_files(project, {"train.py": SCRIPT, "environment.yml": "dependencies: [python=3.11]\n"})
    assert hint_of(himl(*shlex.split(mistake))).endswith(f"In himl: {meant}")
    typed(himl, meant.replace("NAME", "cpu-cluster"))
    assert len(azure_environment.state.runs) == 1


@pytest.mark.usefixtures("code")
def test_old_forms_words_and_switches_are_taken(himl: Himl, project: Path) -> None:
    for words, said in [
        ("runs show --experiment train --tags a=b c=d -q", "train_1_aa\n"),
        ("runs list --quiet=True", "train_1_aa\n"),
        ("submit train.py --wait_for_completion=True", "args\n"),
        ("submit train.py --in-place=false --wait=true", "args\n"),
        ("submit train.py --compute_cluster_name local", "args\n"),
    ]:
        outcome = himl(*words.split())
        assert (outcome.stdout, outcome.code) == (said, 0), outcome.stderr
    for words, same in [
        ("help", "--help"),
        ("help submit", "submit --help"),
        ("help runs list", "runs list --help"),
        ("runs help", "runs --help"),
        ("version", "--version"),
    ]:
        assert himl.ok(*words.split()).stdout == himl.ok(*same.split()).stdout
    outcome = himl("submit", "train.py", "--wait_for_completion=maybe")
    assert (outcome.code, outcome.stderr.splitlines()[0]) == (
        2,
        "error: --wait_for_completion takes no value, but got 'maybe'.",
    )
    assert himl.ok("submit", "train.py", "--wait=False").stdout.startswith("train_")
    assert himl.ok("runs", "logs", "--follow").stdout == "args\n"
    assert himl.ok("submit", "train.py", "--", "--json=true").stdout == "args --json=true\n"
    for mistake in [
        "-v runs list",
        "runs list --bogus -v",
        "submit -v train.py --lr 3",
        "runs list -v --json --quiet",
        "-v",
    ]:
        outcome = himl(*mistake.split())
        assert (outcome.code, "Traceback" in outcome.stderr) == (2, False)
    outcome = himl.ok("submit", "train.py", "--tag", "a=b", "--", "--lr", "3", "--env-var", "A=1", "--display_name=x")
    assert outcome.stdout == "args --lr 3 --env-var A=1 --display_name=x\n"
    told = outcome.stderr.splitlines()[0]
    assert told.startswith("--env_var is after --, so the script gets it. To pass it to himl: ")
    assert typed(himl, told.partition("himl: ")[2]).stdout == "args --lr 3\n"
    write_files(project, {"train.py": f"{SCRIPT}# takes --env-var and --display_name\n"})
    assert "is after --" not in himl.ok("submit", "train.py", "--", "--env_var", "A=1", "--display_name=x", "-v").stderr


@pytest.fixture
def seeded(azure_environment: StagedWorkspace, project: Path) -> StagedWorkspace:
    azure = azure_environment
    azure.write_config(project)
    run = azure.add_run("train_1_aa", "train", error="it failed", status="Failed")
    azure.put_artifacts(run, {"outputs/m.bin": b"m" * 10, "user_logs/std_log.txt": b"log\n"})
    azure.add_output(run, "model", {"m": b"m"})
    for name, credentials in (("signed", "Sas"), ("own", "None"), ("lake", "ServicePrincipal")):
        azure.add_datastore(name, credentials=credentials, kind="AzureDataLakeGen2" if name == "lake" else "AzureBlob")
        azure.put_blob(name, "data/a.txt", b"a")
    write_files(project, {"up/x.txt": b"x"})
    return azure


def secrets_of(azure: StagedWorkspace) -> dict[str, bytes]:
    """The secrets that must not appear, by description."""
    lake = azure.state.datastores["lake"].service_principal
    assert lake is not None
    return {
        "password": azure.state.principal.secret.encode(),
        "account key": azure.state.storage.key.encode(),
        "datastore's password": lake.secret.encode(),
    }


def leaks(what: str, content: bytes, azure: StagedWorkspace) -> Iterator[str]:
    yield from (f"{kind} in {what}" for kind, secret in secrets_of(azure).items() if secret in content)
    yield from (
        f"{kind} in {what}" for kind, shape in (("token", JWT), ("signature", SIGNATURE)) if shape.search(content)
    )


def said(outcome: Outcome) -> bytes:
    return outcome.raw_stdout + outcome.raw_stderr


@pytest.mark.large("takes long, and other tests run its branches")
def test_no_secret_is_said_or_written(himl: Himl, seeded: StagedWorkspace, project: Path) -> None:
    for secret in (
        *secrets_of(seeded).values(),
        b"eyJhbGciOiJub25lIn0.eyJhdWQiOiJ4In0.x",
        b"https://h/c?sv=1&sig=abcdefghijkl%3D",
    ):
        assert list(leaks("x", b"before " + secret + b" after", seeded)), "the check itself finds it"
    assert not list(leaks("x", b"https://h/c?sv=1&sig=***", seeded))
    found: list[str] = []
    for command, code in COMMANDS:
        outcome = himl(*command, "--verbose")
        assert outcome.code == code, (command, outcome.stderr)
        assert outcome.stderr, "nothing was logged"
        found += leaks(" ".join(command), said(outcome), seeded)
    assert found + found_in_files(seeded, project) == []
    # On Windows, the access list of the user's profile protects the folder.
    if sys.platform != "win32":
        kept = files_below(cache_folder())
        assert {stat.S_IMODE(path.stat().st_mode) for path in kept} == {0o600}
        assert {
            stat.S_IMODE(folder.stat().st_mode)
            for path in kept
            for folder in path.parents
            if cache_folder() in folder.parents
        } == {0o700}
        content = b"".join(path.read_bytes() for path in kept)
        assert [kind for kind, secret in secrets_of(seeded).items() if secret in content] == []


def cache_folder() -> Path:
    return platformdirs.user_cache_path("himl")


def found_in_files(azure: StagedWorkspace, project: Path) -> list[str]:
    kept = [path for root in (Path.home(), project) for path in files_below(root) if cache_folder() not in path.parents]
    return [leak for path in kept for leak in leaks(str(path), path.read_bytes(), azure)]


@pytest.mark.large("takes long, and other tests run its branches")
@pytest.mark.parametrize("fault", FAULTS)
def test_no_secret_is_said_or_written_when_things_fail(
    himl: Himl, seeded: StagedWorkspace, project: Path, fault: str
) -> None:
    action, match = FAULTS[fault]
    seeded.stage.faults.add(action, match, times=None)
    outcome = himl("download", "train_1_aa", "--json", "--verbose")
    assert outcome.code != 0
    assert [*leaks(fault, said(outcome), seeded), *found_in_files(seeded, project)] == []


def test_usage_and_settings_errors_do_not_repeat_secrets(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": ""})
    for words in (
        "--api_key HIDDEN --verbose",
        "--lr 1 --my_pass HIDDEN --epochs 5 --json",
        "--env_var =HIDDEN --verbose",
        "--env_var HIDDEN --json",
    ):
        outcome = himl("submit", "train.py", *words.split())
        assert (outcome.code, "HIDDEN" in outcome.stdout + outcome.stderr, "hint" in outcome.stderr) == (2, False, True)
    for value in ("*HIDDEN", "!h!HIDDEN x", "&HIDDEN x\n  b: &HIDDEN y\n  c: [", "'HIDDEN", "HIDDEN: x", "@HIDDEN"):
        write_files(project, {"settings.yml": f"variables:\n  tenant_id: t\n  application_key: {value}\n"})
        for form in ("--verbose", "--json"):
            outcome = himl("init", "--from", "settings.yml", form)
            assert (outcome.code, "HIDDEN" in outcome.stdout + outcome.stderr) == (2, False)
            assert re.search(r"settings\.yml', line [345]: ", outcome.stderr)


LACKS = [
    (OSError(errno.EAGAIN, os.strerror(errno.EAGAIN)), "no more processes or threads are allowed", "ulimit -u"),
    (RuntimeError("can't start new thread"), "no more processes or threads are allowed", "ulimit -u"),
    (MemoryError(), "no memory is left", "ulimit -v"),
    (OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), "no memory is left", "ulimit -v"),
    (OSError(errno.EMFILE, os.strerror(errno.EMFILE), "/x"), "too many files are open", "ulimit -n"),
]


@pytest.mark.skipif(sys.platform == "win32", reason="limits of POSIX")
@pytest.mark.parametrize(("failure", "lack", "remedy"), LACKS, ids=range(5))
def test_what_a_limit_forbids_is_named_and_is_no_bug(
    failure: Exception, lack: str, remedy: str, tmp_path: Path
) -> None:
    error = as_himl_error(failure)
    assert (str(error), remedy in error.hint, error.exit_code) == (f"himl cannot continue: {lack}.", True, 1)
    if isinstance(failure, OSError):
        for of_disk in (
            explain_disk_error(failure, "Cannot start the job", tmp_path),
            disk_error(failure, "Cannot start the job"),
        ):
            assert str(of_disk).startswith(f"Cannot start the job: {lack}")
            assert (remedy in of_disk.hint, "permissions" in of_disk.hint) == (True, False)


def test_a_disk_without_inodes_is_not_called_full(tmp_path: Path) -> None:
    with mounted_small_disk(tmp_path / "disk", kib=4096, inodes=8) as disk:
        if disk is None or not disk.is_shared:
            lacking("a small disk, mounted as root")
        assert disk is not None
        with pytest.raises(OSError, match="No space left") as caught:
            write_files(disk.folder, {f"{number}.txt": "" for number in range(9)})
        for error in (
            explain_disk_error(caught.value, "Cannot write", disk.folder),
            disk_error(caught.value, "Cannot write"),
        ):
            assert "Cannot write: no inodes are left" in str(error)
            assert error.hint == f"Delete files. Their number on the disk of '{disk.folder}' is at its limit."


@pytest.mark.large("takes long, and other tests run its branches")
def test_a_user_without_processes_is_told_so(started_himl: Himl, shared: Path) -> None:
    write_files(shared / "project", {"train.py": ""})
    os.chown(shared / "project", ADA, ADA)
    outcome = started_himl(
        "submit", "train.py", cwd=shared / "project", prefix=(*as_user(ADA, shared), "prlimit", "--nproc=1")
    )
    assert (outcome.code, outcome.stdout) == (1, "")
    assert "no more processes or threads are allowed" in outcome.stderr
    assert "hint: End some of your processes, or raise the limit: ulimit -u" in outcome.stderr
