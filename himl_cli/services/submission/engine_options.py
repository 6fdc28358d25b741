"""Options of a job in the queue of an engine, from `--cluster ENGINE:NAME`, the table `[ENGINE.NAME]` of himl.toml, and
for Slurm `--sbatch`."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from himl_cli.core.errors import BadUsage
from himl_cli.core.jobs import EngineSpec
from himl_cli.core.runs import Run, RunStatus, queued_in
from himl_cli.core.settings import FileSetting, section_settings
from himl_cli.core.text import did_you_mean
from himl_cli.workspaces.engine_modules import engine_module

SECTION = "slurm"
KEYS = ("partition", "host", "sbatch", "setup", "run_with", "python", "controller", "poll")
LINES = ("setup", "sbatch", "controller")  # keys with several values
# Options of sbatch that himl sets, each with an option of himl for the same, if there is one
OWN = {
    **dict.fromkeys(
        ("chdir", "error", "help", "input", "job-name", "output", "parsable", "usage", "version", "wrap"), ""
    ),
    "array": "--sweep, --crossval or --different_seeds",
    "nodes": "--num_nodes",
    "ntasks": "--num_nodes and --processes_per_node",
    "ntasks-per-node": "--processes_per_node",
    "test-only": "--dry_run",
    "wait": "--wait",
}
GRACE = EngineSpec("").grace


def engine_spec(
    engine: str, name: str, cwd: Path, typed: Sequence[str] = (), seconds: float = 0.0, grace: float | None = None
) -> EngineSpec:
    """The options for `--cluster ENGINE:NAME`, as `slurm_spec`. Those of engines from other packages are the keys of
    the table besides `setup` and `run_with`, as texts, and `place`, which is *name*."""
    if engine == SECTION:
        return slurm_spec(name, cwd, typed, seconds, grace)
    setting = section_settings(cwd, engine).get(name)
    table = setting.value if setting is not None else {}
    if setting is not None and not isinstance(table, Mapping):
        raise setting.wrong("must be a table.", hint=f"Write [{engine}.{name}].")
    known = engine_module(engine).OPTIONS
    for key in () if known is None else table.keys() - {"setup", "run_with", *known}:
        hint = did_you_mean(key, known) or f"Its keys: {', '.join([*known, 'setup', 'run_with'])}."
        raise BadUsage(f"[{engine}.{name}] of the settings has the unknown key '{key}'.", hint=hint)
    options = {key: str(value) for key, value in table.items() if key not in ("setup", "run_with")}
    setup = table.get("setup", ())
    lines = setup.splitlines() if isinstance(setup, str) else setup
    return EngineSpec(engine, {"place": name, **options}, lines, str(table.get("run_with", "")))


def login_host(name: str, cwd: Path) -> str:
    """The machine that himl reaches by SSH to submit jobs for `--cluster slurm:NAME`, as `host` of the settings names
    it. Empty without it, and where this machine has sbatch itself. Raises BadUsage for an invalid table."""
    tables = section_settings(cwd, SECTION)
    host = str(_table(tables[name]).get("host", "")) if name in tables else ""
    return host if host and engine_module(SECTION).unavailable() is not None else ""


def slurm_spec(
    name: str, cwd: Path, typed: Sequence[str] = (), seconds: float = 0.0, grace: float | None = None
) -> EngineSpec:
    """The Slurm options for `--cluster slurm:NAME`: those of the settings table of that name in the folder *cwd*, if
    there is one, and the partition of that name unless the table has another one.

    Options that were *typed* (`--sbatch`) override both. The job's limit of *seconds* (0 for none) is the default time
    limit. It receives SIGTERM *grace* seconds before its limit. Raises BadUsage for options that himl sets. sbatch
    itself rejects others.
    """
    tables = section_settings(cwd, SECTION)
    table = {"partition": name} | (_table(tables[name]) if name in tables else {})
    options: dict[str, str | None] = {"partition": table["partition"]} if table.get("partition") else {}
    of_table = _options(table.get("sbatch", ()), f"[{SECTION}.{name}] sbatch")
    options |= of_table | _options(typed, "--sbatch")
    if seconds and "time" not in options:
        minutes = math.ceil(seconds / 60)
        # Slurm counts in minutes, so a short job gets a margin in which himl ends it first
        options["time"] = str(minutes if minutes > 10 else minutes + 2)
    if grace is not None:
        if "signal" in options:
            raise BadUsage(
                f"--grace and --sbatch signal={options['signal']} cannot be combined.", hint="Omit one of them."
            )
        options["signal"] = f"TERM@{grace:.0f}"
    grace = _set_signal(options)
    controller = _options(table.get("controller", ()), f"[{SECTION}.{name}] controller")
    words = table.get("run_with", ""), grace, table.get("python", "")
    return EngineSpec(SECTION, options, table.get("setup", ()), *words, controller, table.get("poll", 60.0))


def _table(setting: FileSetting) -> dict[str, Any]:
    """The table of a name, with its values in the form that `slurm_spec` reads."""
    setting = replace(setting, key=f"{SECTION}.{setting.key}")
    if not isinstance(setting.value, Mapping):
        raise setting.wrong("must be a table.", hint=f'Write [{setting.key}] with partition = "…" below it.')
    found: dict[str, Any] = {}
    for key, value in setting.value.items():
        if key not in KEYS:
            near = get_close_matches(key, KEYS, n=1)
            hint = f"Did you mean {near[0]}?" if near else f"Use one of: {', '.join(KEYS)}."
            raise setting.wrong(f"has the unknown key '{key}'.", hint=hint)
        lines = value.splitlines() if isinstance(value, str) and key in LINES else value
        if key in LINES:
            if key != "setup" and isinstance(lines, Mapping):
                lines = [name if each is True else f"{name}={each}" for name, each in lines.items()]
            if not isinstance(lines, Sequence) or not all(isinstance(line, str) for line in lines):
                raise setting.wrong(f"has a '{key}' that is neither a text nor a list of texts.")
        elif key == "poll":
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 1:
                raise setting.wrong("has a 'poll' that is not a number of seconds from 1 on.")
        elif not isinstance(value, str):
            raise setting.wrong(f"has a '{key}' that is not a text.")
        found[key] = lines
    return found


def _options(given: Sequence[str], where: str) -> dict[str, str | None]:
    """The long options of sbatch in *given*, each `KEY=VALUE` or `KEY`, with or without leading dashes."""
    found: dict[str, str | None] = {}
    for text in given:
        key, has_value, value = text.strip().partition("=")
        key = key.strip().lstrip("-").replace("_", "-")
        if not re.fullmatch(r"[a-z][a-z0-9-]+", key) or "\n" in value:
            raise BadUsage(f"{where} '{text}' is not an option of sbatch.", hint="Write KEY=VALUE, as in gres=gpu:2")
        if (
            own := key if key in OWN else next((each for each in OWN if each.startswith(key)), "")
        ):  # sbatch completes it
            hint = f"Use {OWN[own]} of himl submit." if OWN[own] else "Omit it."
            raise BadUsage(f"{where} '{text}' is not allowed, because himl sets --{own}.", hint=hint)
        found[key] = value.strip() if has_value else None
    return found


def with_names_only(engine: EngineSpec) -> tuple[EngineSpec, dict[str, str]]:
    """The options with the names of the variables in `export=ALL,NAME=VALUE`, and these variables of the job. Others
    see the arguments of sbatch, and himl stores options in files."""
    words = re.findall(r"""((?:[^,'"]|'[^']*'|"[^"]*")+)""", engine.options.get("export") or "")
    pairs = [word.partition("=") for word in words]
    if not pairs:
        return engine, {}
    options = {**engine.options, "export": ",".join(name for name, _, _ in pairs)}
    values = {name: re.sub(r"""['"]""", "", value) for name, has_value, value in pairs if has_value}
    return replace(engine, options=options), values


def _set_signal(options: dict[str, str | None]) -> float:
    """Send the `signal` of *options* to the supervisor, which passes it on to the script, and return the seconds
    between SIGTERM and the time limit, 0 for another signal."""
    given = options.get("signal") or f"TERM@{GRACE:.0f}"
    found = re.fullmatch(r"(?:([BR]{1,2}):)?(?:SIG)?(\w+)(?:@(\d+))?", given.strip(), re.IGNORECASE)
    if found is None:
        raise BadUsage(f"--sbatch signal={given} is not a signal.", hint="Write NAME@SECONDS, as in signal=USR1@300")
    flags, name, lead = (found[1] or "").upper().replace("B", ""), found[2].upper(), found[3] or f"{GRACE:.0f}"
    options["signal"] = f"{flags}B:{name}@{lead}"
    return float(lead) if name in ("TERM", "15") else 0.0


def after_jobs(given: Sequence[str], runs: Sequence[Run]) -> list[str]:
    """The options of sbatch *given*, and those with which a job starts once *runs* have completed. Raises BadUsage for
    a run without a job in Slurm, and for one that has not completed."""
    numbers = list[str]()
    for run in runs:
        engine, handle = queued_in(run.tags) or ("", "")
        if engine != SECTION or (not handle and not run.status.is_final):
            raise BadUsage(f"--after {run.id}: the run has no job in Slurm.", hint=f"See: himl runs show {run.id}")
        if run.status.is_final and run.status is not RunStatus.completed:
            hint = f"Resume it first: himl submit --resume {run.id}"
            status = run.status.value.lower()
            raise BadUsage(f"--after {run.id}: the run is {status}, so the job would never start.", hint=hint)
        if not run.status.is_final:
            # With its cluster, '' for the default one, which the engine compares
            numbers += [re.sub(r"\[.*\]", "", part) + ";" * (";" not in part) for part in handle.split(",")]
    if not numbers:
        return [*given]
    own = [text for text in given if not text.strip().lstrip("-").startswith("dependency=")]
    others = [text.partition("=")[2].strip() for text in given if text not in own]
    if any("?" in text for text in others):
        raise BadUsage(f"--after cannot be combined with --sbatch dependency={others[0]}.", hint="Omit one of them.")
    conditions = ",".join([*others, f"afterok:{':'.join(numbers)}"])
    return [*own, f"dependency={conditions}", "kill-on-invalid-dep=yes"]


def settings_text(partitions: Sequence[tuple[str, str, str]]) -> str:
    """Tables for himl.toml from the names, time limits and generic resources of partitions."""
    tables = []
    for name, limit, resources in partitions:
        known = f", {resources}" if resources not in ("", "(null)") else ""
        tables.append(
            f"[{SECTION}.{name}]  # himl submit train.py --cluster slurm:{name}\n"
            f'partition = "{name}"  # time limit {limit}{known}\n'
            '# sbatch = ["gres=gpu:1", "account=NAME"]\n'
            '# setup = ["module load cuda"]\n'
            '# run_with = "apptainer exec --nv image.sif"\n'
            '# python = "python3"  # in the image\n'
        )
    return "\n".join(tables)
