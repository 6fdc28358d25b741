"""Options of a job in the queue of an engine, from `--cluster ENGINE:NAME`, the table `[ENGINE.NAME]` of himl.toml, and
for Slurm `--sbatch`."""

from __future__ import annotations

import math
import re
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from himl_cli.core.errors import BadUsage
from himl_cli.core.jobs import EngineSpec
from himl_cli.core.settings import Setting, section_settings

SECTION = "slurm"
KEYS = ("partition", "sbatch", "setup", "run_with")
# Options of sbatch that himl sets
OWN = ("array", "chdir", "dependency", "error", "export", "input", "job-name", "ntasks", "output", "parsable", "wrap")
INSTEAD = {"wait": "himl submit --wait", "test-only": "himl submit --dry_run"}


def engine_spec(engine: str, name: str, cwd: Path, typed: Sequence[str] = (), seconds: float = 0.0) -> EngineSpec:
    """The options for `--cluster ENGINE:NAME`, as `slurm_spec`. Those of engines from other packages are the keys of
    the table besides `setup` and `run_with`, as texts, and `place`, which is *name*."""
    if engine == SECTION:
        return slurm_spec(name, cwd, typed, seconds)
    setting = section_settings(cwd, engine).get(name)
    table = setting.value if setting is not None else {}
    if setting is not None and not isinstance(table, Mapping):
        raise setting.wrong("must be a table.", hint=f"Write [{engine}.{name}].")
    options = {key: str(value) for key, value in table.items() if key not in ("setup", "run_with")}
    setup = table.get("setup", ())
    lines = setup.splitlines() if isinstance(setup, str) else setup
    return EngineSpec(engine, {"place": name, **options}, lines, str(table.get("run_with", "")))


def slurm_spec(name: str, cwd: Path, typed: Sequence[str] = (), seconds: float = 0.0) -> EngineSpec:
    """The Slurm options for `--cluster slurm:NAME`: those of the settings table of that name in the folder *cwd*, if
    there is one, and the partition of that name unless the table has another one.

    Options that were *typed* (`--sbatch`) override both. The job's limit of *seconds* (0 for none) is the default time
    limit. Raises BadUsage for options that sbatch would reject.
    """
    tables = section_settings(cwd, SECTION)
    table = {"partition": name} | (_table(tables[name]) if name in tables else {})
    options: dict[str, str | None] = {"partition": table["partition"]} if table.get("partition") else {}
    of_table = _options(table.get("sbatch", ()), f"[{SECTION}.{name}] sbatch")
    options |= of_table | _options(typed, "--sbatch")
    _check_known(options)
    if seconds and "time" not in options:
        minutes = math.ceil(seconds / 60)
        # Slurm counts in minutes, so a short job gets a margin in which himl ends it first
        options["time"] = str(minutes if minutes > 10 else minutes + 2)
    return EngineSpec(SECTION, options, table.get("setup", ()), table.get("run_with", ""))


def _table(setting: Setting) -> dict[str, Any]:
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
        lines = value.splitlines() if isinstance(value, str) and key in ("setup", "sbatch") else value
        if key in ("setup", "sbatch"):
            if key == "sbatch" and isinstance(lines, Mapping):
                lines = [name if each is True else f"{name}={each}" for name, each in lines.items()]
            if not isinstance(lines, Sequence) or not all(isinstance(line, str) for line in lines):
                raise setting.wrong(f"has a '{key}' that is neither a text nor a list of texts.")
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
        if key in OWN:
            raise BadUsage(f"{where} '{text}' is not allowed, because himl sets --{key}.", hint="Omit it.")
        if key in INSTEAD:
            raise BadUsage(f"{where} '{text}' is an option of himl.", hint=f"Use: {INSTEAD[key]}")
        found[key] = value.strip() if has_value else None
    return found


def _check_known(options: Mapping[str, str | None]) -> None:
    """Raise BadUsage for an option that `sbatch --help` does not list. Without a local sbatch, accept all."""
    if not options:
        return
    text = ""
    with suppress(OSError, subprocess.SubprocessError):
        text = subprocess.run(["sbatch", "--help"], capture_output=True, text=True, timeout=10).stdout
    known = re.findall(r"--([a-z][a-z0-9-]+)", text)
    for key in options:
        if known and key not in known:
            near = get_close_matches(key, known, n=1)
            hint = f"Did you mean {near[0]}?" if near else "See: sbatch --help"
            raise BadUsage(f"--sbatch {key}: sbatch has no option --{key}.", hint=hint)


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
        )
    return "\n".join(tables)
