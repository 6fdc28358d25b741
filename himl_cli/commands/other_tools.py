"""Words that users know from other tools, and himl's words for them: commands, options, programs in front of a script.

The tables have a row for each word that somebody typed to himl. An option gets himl's words only if the command takes
them, and is never called the script's unless the script has it. The functions share the tables, but little code.
"""

from __future__ import annotations

import re
import shlex
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise, takewhile
from pathlib import Path

from himl_cli.core.patterns import lazy_pattern

OTHER_COMMANDS = {
    "ls": "list",
    "ps": "list",
    "status": "show",
    "describe": "show",
    "inspect": "show",
    "info": "show",
    "metrics": "show",
    "compare": "aggregate",
    "rm": "delete",
    "remove": "delete",
    "stop": "cancel",
    "kill": "cancel",
    "log": "logs",
    "tail": "logs",
    "follow": "logs --follow",
    "watch": "show --watch",
    "wait": "show --watch",
    "run": "submit",
    "runner": "submit",
    "himl-runner": "submit",
    "hi-ml-runner": "submit",
    "himl-tb": "tb",
    "himl-download": "download",
    "stream": "logs --follow",
    "search": "list",
    "create": "submit",
    "apply": "submit",
    "squeue": "list",
    "sacct": "list",
    "scancel": "cancel",
    "server": "ui",
    "system": "gc",
    "tensorboard": "tb",
    "mlflow": "ui",
    "get": "download",
    "put": "upload",
    "cp": "upload",
    "push": "upload",
    "pull": "download",
    "configure": "init",
    "checkpoint list": "download --list --prefix outputs/checkpoints",
    "checkpoint ls": "download --list --prefix outputs/checkpoints",
    **{f"checkpoint {word}": "checkpoint fetch" for word in ("download", "get", "pull")},
    "artifacts": "download --list",
    "files": "download --list",
    "history": "list",
    "queue": "list",
    "top": "list --watch",
    "clean": "gc",
    "prune": "gc",
    "dashboard": "ui",
    "serve": "ui",
    "upload": "datastore upload",
    "workspace list": "workspace show",
    "workspace ls": "workspace show",
}
"""himl's words for commands of other tools, including hi-ml's: for a word in any group, or after a group."""
NOUNS = (
    *("run", "runs", "job", "jobs", "experiment", "experiments", "exp", "trial", "trials", "task", "tasks"),
    *("pod", "pods", "container", "containers", "artifact", "artifacts", "metrics", "params"),
)
"""Words for runs, as in `himl job list` and `himl get runs`."""
NO_COMMANDS = {
    "login": "Local runs need no login. For Azure ML: az login, then himl doctor",
    "config": "To show settings: himl submit --show_settings. To set them, edit himl.toml.",
    "settings": "To show settings: himl submit --show_settings. To set them, edit himl.toml.",
    "set": "To show settings: himl submit --show_settings. To set them, edit himl.toml.",
    "plot": "For curves: himl runs aggregate --plot FILE.png, himl tb or himl ui",
    "plots": "For curves: himl runs aggregate --plot FILE.png, himl tb or himl ui",
    "exec": "For a command line as a job: himl submit --command LINE. To enter a job: himl runs attach --ssh",
    "port-forward": "For the addresses of a job's services: himl runs attach",
    "checkout": "For the code of a run: himl runs code RUN --output_dir DIR",
    "compute": "To use a cluster: himl submit SCRIPT.py --cluster NAME. To list them: az ml compute list",
    "sinfo": "To use a partition: himl submit SCRIPT.py --cluster slurm:PARTITION. To list them: himl doctor",
    "environment": "To use one: himl submit SCRIPT.py --environment NAME. To list them: az ml environment list",
    "models": "For registered models: himl ui",
    "cp": "From a run: himl download RUN --prefix NAME. To a datastore: himl datastore upload LOCAL REMOTE_PREFIX",
    "resume": "To resume a run: himl submit --resume RUN",
    "rerun": "To submit a run's job again: himl submit --from RUN",
    "retry": "To submit a run's job again: himl submit --from RUN",
    "sync": "There is nothing to sync: himl reads runs where they are.",
    "uninstall": "To remove himl: pip uninstall himl-cli",
    "rename": "Name a run at its start, with --display_name. For a note: himl runs tag RUN KEY=VALUE",
    "untag": "To remove a tag: himl runs tag RUN KEY=",
    "update": "Install the new version over the old one, as at first. himl doctor shows the version.",
    "upgrade": "Install the new version over the old one, as at first. himl doctor shows the version.",
    "sweep": "For a sweep: himl submit SCRIPT.py --sweep lr=0.1,0.01",
    "workspace use": "Name it in a command: --workspace SPEC. For all commands in this folder: himl init",
    "workspace set": "Name it in a command: --workspace SPEC. For all commands in this folder: himl init",
}
"""Hints for commands of other tools that are no command of himl."""

OTHER_OPTIONS: Mapping[str, Sequence[str]] = {
    "-f": ("--follow", "--yes"),
    "-n": ("--tail", "--num_runs", "--run"),
    "-c": ("--command",),
    "--epoch": ("--select epoch={}",),
    "--best": ("--select best",),
    "--last": ("--select last", "--num_runs"),
    "--id": ("--run",),
    "--target": ("--output_dir",),
    "--output_format": ("--format",),
    "--from": ("--since",),
    "--after": ("--since",),
    "--stream": ("--follow",),
    "--environment_variables": ("--env_var",),
    "--instance_count": ("--num_nodes",),
    "--method": ("--sampling",),
    "--count": ("--max_trials",),
    "--grid": ("--sweep",),
    "--multirun": ("--sweep",),
    "--bind_all": ("--host 0.0.0.0",),
    "--file": ("--prefix",),
    "--head": ("--num_runs", "--tail"),
    "--tail": ("--num_runs",),
    "--max_results": ("--num_runs",),
    "--csv": ("--output_csv", "--format csv"),
    "--ids": ("--quiet",),
    "--failed": ("--status Failed",),
    "--running": ("--status Running",),
    "--completed": ("--status Completed",),
    "--async": ("--no_wait",),
    "--exp": ("--experiment",),
    "--exp_name": ("--experiment",),
    "--folds": ("--crossval",),
    "--num_folds": ("--crossval",),
    "--kfold": ("--crossval",),
    "--cv": ("--crossval",),
    "--seeds": ("--different_seeds",),
    "--num_seeds": ("--different_seeds",),
    "--workers": ("--max_concurrent",),  # also --parallel, by its name in himl
    "--max_parallel": ("--max_concurrent",),
    "--jobs": ("--max_concurrent",),
    "-j": ("--max_concurrent",),
    "--num_trials": ("--max_trials",),
    "--n_trials": ("--max_trials",),
    "--trials": ("--max_trials",),
    "--local": ("--cluster local",),
    "--remote": ("--cluster NAME",),
    "--azure": ("--cluster NAME",),
    "--cloud": ("--cluster NAME",),
    "--slurm": ("--cluster slurm:PARTITION",),
    "--pdb": ("--in_place --tty",),
    "--force": ("--overwrite", "--yes"),
    "--tsv": ("--format tsv",),
    "--table": ("--format table",),
    "--lines": ("--tail",),
    "--limit": ("--num_runs",),
    "--top": ("--num_runs",),
    "--primary_metric": ("--metrics",),
    "-a": ("--num_runs all",),
    "--all": ("--num_runs all",),
    "--latest": ("--run latest",),
    "-o": ("--output_dir", "--output_path", "--format"),
    "--output": ("--output_dir", "--output_path", "--format"),
    "--output_dir": ("--output_path",),
    "--output_path": ("--output_dir",),
    "--dest": ("--output_dir",),
    "--destination": ("--output_dir",),
    "--local_dir": ("--output_dir",),
    "--out": ("--output_dir", "--output_path"),
    "--size": ("--tile_size",),
    "--path": ("--prefix",),
    "-p": ("--prefix", "--port", "--cluster slurm:{}"),
    "--dry_run": ("--list",),
    "--sort_by": ("--sort",),
    "--order_by": ("--sort",),
    "--filter": ("--where",),
    "--query": ("--where",),
    "--user": ("--tags build_user={}",),
    "--tag": ("--tags",),
    "--tags": ("--tag",),
    "--label": ("--tag", "--tags"),
    "-t": ("--tag", "--tags"),
    "-y": ("--yes",),
    "--debug": ("--verbose",),
    "--silent": ("--quiet",),
    "--share": ("--host 0.0.0.0",),
    "--public": ("--host 0.0.0.0",),
    "--run_recovery_id": ("--checkpoint", "--run"),
    "-e": ("--env_var",),
    "--env": ("--env_var",),
    "-d": ("--no_wait", "--output_dir"),
    "--detach": ("--no_wait",),
    "--background": ("--no_wait",),
    "--watch": ("--follow",),
    "--name": ("--display_name", "--run"),
    "--job_name": ("--display_name",),
    "--run_name": ("--display_name",),
    "-J": ("--display_name",),
    "--notes": ("--description",),
    "--project": ("--experiment",),
    "--partition": ("--cluster slurm:{}",),
    "--compute": ("--cluster",),
    "--compute_target": ("--cluster",),
    "--nodes": ("--num_nodes",),
    "-N": ("--num_nodes",),
    "--ntasks_per_node": ("--processes_per_node",),
    "--nproc_per_node": ("--processes_per_node",),
    "--num_processes": ("--processes_per_node",),
    "--gpu": ("--gpus",),
    "--gpus_per_node": ("--gpus",),
    "--image": ("--docker_image",),
    "--flavor": ("--instance_type",),
    "-it": ("--tty",),
    "-i": ("--tty",),
    "--interactive": ("--tty",),
    "-r": ("--requirements",),
}
"""Options of other tools, and himl's words for them. The first ones that a command takes apply, with `{}` for a
value."""
OF_RUNNER = {
    "--src_checkpoint": "--checkpoint",
    "--run_recovery_id": "--checkpoint",
    "--workers_per_node": "--processes_per_node",
    "--azureml_datastore": "--default_datastore",
    "--log_from_vm": "--record_in azure",
    "--strictly_aml_v1": "--sdk v1",
}
"""Options of the runners of hi-ml and InnerEye, which scripts for them may have, too."""
OF_TORCHRUN = {"--nproc_per_node": "--processes_per_node", "--nnodes": "--num_nodes"}
_OF_SBATCH = "For a job on Slurm: --cluster slurm:PARTITION --sbatch {}=VALUE"
_DURATION = "For a limit: --max_run_duration TIME, such as 30m or 2h"
OF_TARGETS = ("--file", "--script", "--entry_script")
"""Options of other tools for the script."""
OF_ARGUMENTS = ("--args", "--arguments", "--script_args", "--script_arguments")
"""Options of other tools for the arguments of the script, in one text."""
NO_OPTIONS = {
    "--dsa_key": "Set the environment variable DSA_API_KEY. Others can read a command line.",
    "--login_only": "To test the sign-in: himl dsa list",
    "--max_slides": "To select slides by a part of their ids: --id_filter TEXT",
    "--columns": "For more columns: --metrics GLOB or --params",
    "--fields": "For more columns: --metrics GLOB or --params",
    "--no_browser": "himl prints the address, and opens no browser.",
    "--stderr": "A log has both streams of the script: himl runs logs RUN",
    "--stdout": "A log has both streams of the script: himl runs logs RUN",
    "--gres": _OF_SBATCH.format("gres"),
    "--mem": _OF_SBATCH.format("mem"),
    "--memory": _OF_SBATCH.format("mem"),
    "--cpus_per_task": _OF_SBATCH.format("cpus-per-task"),
    "--cpus": _OF_SBATCH.format("cpus-per-task"),
    "--seed": "For runs with several seeds: --different_seeds N. Write a seed for the script after --.",
    "--device": "For GPUs: --gpus N. Write a device for the script after --.",
    "--rm": "Omit it. himl keeps the results of a job, and himl gc deletes what no run needs.",
    "--children": "For the trials of a sweep: himl runs show RUN",
    "--reverse": "For the oldest first: --sort started",
    "--page": "For more runs: --num_runs N",
    "--before": "For runs since a date: --since TIME",
    "--skip_existing": "Omit it. himl skips complete files, and resumes partial ones.",
    "--resume": "Omit it. himl skips complete files, and resumes partial ones.",
    "--metrics": "For a table of metrics: himl runs aggregate --metrics GLOB",
    "--sort": "To sort runs by a metric: himl runs list --sort METRIC",
    "--azure": "For Azure ML: himl init --subscription_id ID --resource_group RG --workspace_name WS",
    "--workdir": "A job runs in a copy of the project: --snapshot_root DIR",
    "--chdir": "A job runs in a copy of the project: --snapshot_root DIR",
    "--user": "Omit it. A job runs as you.",
    "--privileged": "For Docker on a cluster: --docker_args ARGS",
    "--ipc": "For Docker on a cluster: --docker_args ARGS",
    "--restart": "To restart a failed job: --retries N",
    "--network": "For Docker on a cluster: --docker_args ARGS",
    "--entrypoint": "For a command line: --command LINE",
    "--publish": "For services of a job on Azure ML: --jupyter or --vscode",
    "-p": "For services of a job on Azure ML: --jupyter or --vscode",
    "-n": "For processes: --processes_per_node N. For a name: --display_name TEXT",
    "--entity": "Omit it. himl has no accounts: a run's user is the one of the machine.",
    "--group": "For runs with something in common: --experiment NAME or --tag KEY=VALUE",
    "--array": "For many runs: --sweep NAME=SPEC",
    "--dependency": "To start after another job on Slurm: --after RUN",
    "--mail_type": "For a message at the end: --notify URL",
    "--mail_user": "For a message at the end: --notify URL",
    "--backend_store_uri": "For other runs: --workspace SPEC",
    "-r": "Omit it. himl takes folders with all files below.",
    "--recursive": "Omit it. himl takes folders with all files below.",
    "--fix": "Omit it. himl doctor prints a fix for each problem, and changes nothing.",
    "--add": "Write the tag alone: himl runs tag RUN KEY=VALUE",
    "--remove": "To remove a tag: himl runs tag RUN KEY=",
    "--dry_run": "Without --yes, himl deletes nothing before you agree.",
    "--resource_group": "Name the workspace once: himl init --subscription_id ID --resource_group RG "
    "--workspace_name WS",
    "--subscription": "Name the workspace once: himl init --subscription_id ID --resource_group RG --workspace_name WS",
    "--code": "A job runs in a copy of the project: --snapshot_root DIR",
    "--workspace_name": "Name the workspace once: himl init --subscription_id ID --resource_group RG "
    "--workspace_name WS",
    "--account": _OF_SBATCH.format("account"),
    "--qos": _OF_SBATCH.format("qos"),
    **{f"--{name}": _OF_SBATCH.format(name) for name in ("nodelist", "constraint", "ntasks", "licenses")},
    "--mem_per_cpu": _OF_SBATCH.format("mem-per-cpu"),
    "--requeue": "To restart a failed job: --retries N",
    "--time": _DURATION,
    "--timeout": _DURATION,
    "--volume": "For data: --input NAME,local=FOLDER",
    "--mount": "For data: --input NAME,local=FOLDER",
    "--env_file": "Name each variable: --env_var KEY=VALUE",
    "--secrets": "A local job gets your environment. On a cluster: --env_var KEY=VALUE",
}
"""Hints for options without an equivalent. A command that changes many runs has no `--all`."""
_OF_FILES = ("upload", "download", "fetch", "push", "tiles")
_OF_COMMANDS = {
    "--children": ("list", "diff", "code"),
    "--dry_run": ("delete", "gc"),
    "--skip_existing": _OF_FILES,
    "--resume": _OF_FILES,
    "-r": (*_OF_FILES, "list", "montage"),
    "--recursive": (*_OF_FILES, "list", "montage"),
    "--rm": ("submit",),
    "--fix": ("doctor",),
    "--no_browser": ("ui", "tb"),
    "--add": ("tag",),
    "--remove": ("tag",),
}
"""The commands for which a hint of `NO_OPTIONS` is true, if it is not for all."""


def hint_without(option: str, command: str) -> str:
    """The hint for *option* in *command*, which has no equivalent. Empty if there is none."""
    return NO_OPTIONS.get(option, "") if command in _OF_COMMANDS.get(option, (command,)) else ""


TARGET_SUFFIXES = (".py", ".sh", ".yml", ".yaml", ".json")
SCRIPT_SUFFIXES = (".py", ".sh")
LAUNCHER = lazy_pattern(r"(.*[\\/])?(python[\d.]*w?|py|bash|sh|torchrun)(\.exe)?", re.IGNORECASE)
"""Launchers that himl replaces."""
ASSIGNMENT = lazy_pattern(r"[A-Za-z_]\w*=.*", re.DOTALL)
WRAPPERS: Mapping[str, Sequence[str]] = {
    "nohup": ("--no_wait",),
    "setsid": ("--no_wait",),
    "time": (),
    "env": (),
    "sbatch": ("--cluster", "slurm:PARTITION"),
}
"""Programs in front of another one, and himl's options with their effect. himl prints the duration of each job."""
OF_PARTITION = ("-p", "--partition")
"""Options of sbatch for a partition."""
SHELL_OPERATOR = lazy_pattern(r"[&|;<>]")
PLAIN_FLAG = lazy_pattern(r"-[A-Zabd-lo-z]+")  # without -c, -m and -n
PARSER_BY_SIGNATURE = lazy_pattern(
    r"\b(typer|fire|tyro|hydra|HfArgumentParser|jsonargparse|LightningCLI|simple_parsing|draccus)\b"
)

LIGHTNING_CLI, LIGHTNING_COMMANDS = "LightningCLI", {"fit", "validate", "test", "predict"}


def is_target(word: str) -> bool:
    """Whether *word* looks like a file to run, or a program that runs one."""
    return word.endswith(TARGET_SUFFIXES) or LAUNCHER.fullmatch(word) is not None


def starts_script(word: str) -> bool:
    """Whether *word* is a script, or a program that starts one."""
    return word.endswith(SCRIPT_SUFFIXES) or LAUNCHER.fullmatch(word) is not None


def _is_program(word: str) -> bool:
    from shutil import which  # late, since help does not need it

    return which(word) is not None


def is_launch(word: str, later: Iterable[str]) -> bool:
    """Whether *word*, the first that is no option, is not a script but part of a command line that starts one."""
    if ASSIGNMENT.fullmatch(word) or word in WRAPPERS or LAUNCHER.fullmatch(word):
        return True
    if word.startswith("-") or word.endswith(TARGET_SUFFIXES) or Path(word).exists():
        return False
    is_script = any(Path(word + suffix).exists() for suffix in SCRIPT_SUFFIXES)
    return any(starts_script(each) for each in later) or (not is_script and _is_program(word))


def is_command_line(text: str) -> bool:
    """Whether *text* is not a file but a command line."""
    words = text.split()
    if len(words) < 2 or Path(text).exists():
        return False
    starts = is_target(words[0]) or ASSIGNMENT.fullmatch(words[0]) or words[0] in WRAPPERS
    is_there = any(word.endswith(SCRIPT_SUFFIXES) and Path(word).is_file() for word in words[1:])
    return bool(starts or is_there or SHELL_OPERATOR.search(text) or _is_program(words[0]))


def read_launch(words: deque[str]) -> tuple[list[str], list[str]]:
    """Remove the words that start a script from *words*, and return himl's target and options for them.

    himl starts Python, shells and torchrun itself: `python -u train.py` is `train.py`. Other programs stay in a
    command line: `accelerate launch train.py` is `--command 'accelerate launch train.py'`. The target is empty if there
    is no script.
    """
    options: list[str] = []
    while words and (ASSIGNMENT.fullmatch(words[0]) or words[0] in WRAPPERS):
        word = words.popleft()
        options += WRAPPERS.get(word, ("--env_var", word))
        if word in WRAPPERS and words and words[0].startswith("-"):  # its own options
            own = [words.popleft() for _ in takewhile(lambda each: not starts_script(each), [*words])]
            for option, value in pairwise([part for each in own for part in each.split("=")] + [""]):
                if option in OF_PARTITION and value:
                    options = [each.replace("PARTITION", value) for each in options]
    ends = [place for place, word in enumerate(words) if _is_entry(word, words[place - 1] if place else "")]
    if not words or (not ends and LAUNCHER.fullmatch(words[0])):
        words.clear()
        return [], options
    line = [words.popleft() for _ in range(ends[0] + 1 if ends else 1)]
    if len(line) == 1:
        return ([line[0]] if ends else ["--command", line[0]]), options
    is_replaced = LAUNCHER.fullmatch(line[0]) is not None
    is_torch = is_replaced and any("torchrun" in word or word.startswith("torch.distributed.") for word in line)
    front, entry = line[1:-1], line[-1]
    if line[-2] == "-m" and not Path(entry).is_file():
        front, target = line[1:-2], ["-m", entry.removesuffix(".py").replace("/", ".")]
    else:
        front, target = [word for word in front if word != "-m"], [entry]
    if is_torch:
        return target, options + _ranks(front)
    if is_replaced and re.search(r"sh(\.exe)?$", line[0]) and re.fullmatch(r"-[a-z]*c", front[-1] if front else ""):
        return ["--command", entry], options
    if is_replaced and all(map(PLAIN_FLAG.fullmatch, front)):
        return target, options
    return ["--command", shlex.join(line)], options


def _is_entry(word: str, before: str) -> bool:
    """Whether *word*, after *before*, is the script, the module or the text that a command line runs."""
    if before == "-m":
        return not word.startswith("torch.distributed.")
    if re.fullmatch(r"-[a-z]*c", before):
        return True
    is_file = word.endswith(TARGET_SUFFIXES) or Path(word).is_file()
    return is_file and not word.startswith("-") and LAUNCHER.fullmatch(word) is None


def _ranks(front: Sequence[str]) -> list[str]:
    """himl's options for those of torchrun, which starts one process by default."""
    given = {"--processes_per_node": "1"}
    words = deque(front)
    while words:
        name, equals, value = words.popleft().replace("-", "_").replace("__", "--", 1).partition("=")
        if name in OF_TORCHRUN:
            value = value if equals else words.popleft() if words else ""
            given[OF_TORCHRUN[name]] = value if value.isdecimal() else "N"
    return [word for pair in given.items() for word in pair]


def script_has(path: Path, option: str) -> bool:
    """Whether the parser of the script *path* has *option*: as a text such as `"--lr"` for argparse and click, or as a
    parameter or field for a parser that reads these."""
    if path.suffix != ".py" or not path.is_file():
        return False
    text = path.read_text("utf-8", "replace")
    name = re.sub("[-_]", "[-_]", option.lstrip("-"))
    dashes = "--?" if option.startswith("--") else "-"
    is_declared = re.search(rf"""["'/]{dashes}{name}["'/ =]|DEFINE_\w+\(\s*["']{name}["']""", text)
    return bool(is_declared or (PARSER_BY_SIGNATURE.search(text) and re.search(rf"[(,\n]\s*{name}\s*[:=]", text)))


def script_lacks(path: Path, option: str) -> bool:
    """Whether the parser of the script *path* is one whose options are texts, and none is *option*."""
    if path.suffix != ".py" or not path.is_file():
        return False
    text = path.read_text("utf-8", "replace")
    name = re.escape(option.lstrip("-").replace("-", "_"))
    is_declared = "add_argument(" in text or "click.option(" in text
    is_read = re.search("parse_known|add_class_arguments", text) or re.search(rf"\b{name}\b", text.replace("-", "_"))
    return is_declared and not is_read


def spelled(option: str) -> str:
    """*option* as in the tables: with underscores."""
    return option.replace("-", "_").replace("__", "--", 1) if option.startswith("--") else option


def lightning_cli_arguments(words: Sequence[str]) -> list[str]:
    """Translate arguments of hi-ml's runner for a `LightningCLI` script: after `fit` or `test`, and with the Trainer's
    (`--pl_…`, `--max_epochs`) as `--trainer.…`."""
    if LIGHTNING_COMMANDS & set(words):
        return list(words)
    command, arguments, rest = "fit", list[str](), deque(words)
    while rest:
        word = rest.popleft()
        name, _, value = word.partition("=")
        if name in ("--run_inference_only", "--resume_training", "--mode"):
            if name == "--mode":
                value = value or following(rest)
            is_test = name == "--run_inference_only" or value == "eval_full"
            command = "test" if is_test else command
        elif name.startswith("--pl_") or name == "--max_epochs":
            is_alone = not value and (not rest or rest[0].startswith("-"))
            name = name.removeprefix("--").removeprefix("pl_")
            arguments.append(f"--trainer.{name}={value or ('true' if is_alone else following(rest))}")
        else:
            arguments.append(word)
    return [command, *arguments]


def fill(words: str, value: str, rest: deque[str], metavar: str) -> list[str]:
    """*words* of OTHER_OPTIONS with *value*, or with the next of *rest*, if they need one. *metavar* replaces a value
    that is missing, and is empty for a switch."""
    if "{}" in words or (metavar and " " not in words):
        value = value or (following(rest) if rest and not rest[0].startswith("-") else metavar)
        words += "" if "{}" in words else " {}"
    values = (
        value.split(",") if words == "--tag {}" and re.fullmatch(r"([^,=]+=[^,]*,)*[^,=]+=[^,]*", value) else [value]
    )
    return [word.format(each) for each in values for word in words.split()]


def split_option(token: str, known: Iterable[str]) -> list[str]:
    """The words of an option with its value in one text, as in `'--cluster gpu'`. *known* are the options."""
    name = token.split(maxsplit=1)[0] if token.startswith("-") else ""
    return shlex.split(token) if name != token and spelled(name) in known and "'" not in token else [token]


def following(words: deque[str]) -> str:
    return words.popleft() if words else ""
