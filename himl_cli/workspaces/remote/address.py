"""The addresses of workspaces on other machines: `ssh:HOST[:FOLDER]`, and `[remote.HOST]` of the settings."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from himl_cli.core.errors import BadUsage
from himl_cli.core.records import dataclass
from himl_cli.core.text import did_you_mean

PREFIX, REMOTE = "ssh:", "remote"
KEYS = ("host", "himl_python", "python", "setup", "run_with", "folder")
# Relative to the home folder there, in which ssh starts each command
INSTALLED = ".cache/himl/ssh/bin/python"


@dataclass(frozen=True)
class RemoteAddress:
    """A workspace on another machine. ssh knows the machine as *host*, *himl_python* is an interpreter there that has
    himl, *python* that of jobs (the same by default), and *folder* the folder of the workspace. Relative paths begin at
    the home folder there. *setup* and *run_with* are those of `JobSpec`."""

    name: str
    host: str
    himl_python: str = INSTALLED
    python: str = ""
    setup: Sequence[str] = ()
    run_with: str = ""
    folder: str = "."

    @property
    def table(self) -> str:
        """The name of its table in the settings, which is its name without a folder."""
        return self.name.partition(":")[0]

    @property
    def label(self) -> str:
        return f"workspace {PREFIX}{self.name}"


def is_remote(spec: str) -> bool:
    """Whether *spec* names a workspace on another machine."""
    return spec.startswith(PREFIX)


def remote_address(spec: str | None, start: Path) -> RemoteAddress | None:
    """The workspace that `--workspace` *spec* names with the settings for *start*, None for one of another kind. Raises
    BadUsage."""
    from himl_cli.core.settings import section_settings

    if not spec or not is_remote(spec):
        return None
    host, _, folder = spec.removeprefix(PREFIX).partition(":")
    settings = section_settings(start, REMOTE)
    for key, each in settings.items():
        if not isinstance(each.value, Mapping):
            raise each.wrong("must be a table.", hint=f"Write [{REMOTE}.{'HOST' if key in KEYS else key}].")
    setting = settings.get(host)
    table = {} if setting is None else setting.value
    for key, value in table.items():
        assert setting is not None
        if key not in KEYS:
            hint = did_you_mean(key, KEYS) or f"Its keys: {', '.join(KEYS)}."
            raise setting.wrong(f"has the unknown key '{key}'.", hint=hint)
        if key == "setup" and isinstance(value, list) and all(isinstance(line, str) for line in value):
            continue
        if not isinstance(value, str) or not value:
            lines = ", or for lines a list of texts" if key == "setup" else ""
            raise setting.wrong(f"has a '{key}' that is not a text{lines}.")
    setup = table.get("setup", ())
    given = {"host": host, **table, "setup": setup.splitlines() if isinstance(setup, str) else setup}
    named = RemoteAddress(spec.removeprefix(PREFIX), **{**given, **({"folder": folder} if folder else {})})
    # ssh would read a leading dash as an option, and a shell there the rest of the line
    if not re.fullmatch(r"[\w.@%\[\]][\w.@%:\[\]-]*", named.host):
        hint = "Write ssh:HOST or ssh:HOST:FOLDER, with a host of ~/.ssh/config, a name, or USER@NAME."
        raise BadUsage(f"'{spec}' names no host for ssh.", hint=hint)
    return named


def remote_facts(start: Path) -> Sequence[tuple[str, str, str]]:
    """The keys of all tables of the section in the settings for *start*, as tuples of key, value and source. Raises
    BadUsage for invalid settings."""
    from himl_cli.core.settings import section_settings

    found = list[tuple[str, str, str]]()
    for name, setting in section_settings(start, REMOTE).items():
        remote_address(f"{PREFIX}{name}", start)  # raises
        for key, value in setting.value.items():
            text = value if isinstance(value, str) else "\n".join(value)
            found.append((f"{REMOTE}.{name}.{key}", text, setting.place))
    return found


def settings_text(name: str) -> str:
    """The table for himl.toml of a machine where `himl init --ssh` installed himl."""
    table = name if re.fullmatch(r"[\w-]+", name, re.ASCII) else f'"{name}"'
    return (
        f"[{REMOTE}.{table}]  # himl submit train.py --cluster {PREFIX}{name}\n"
        f'himl_python = "{INSTALLED}"\n'
        '# python = "miniforge3/envs/NAME/bin/python"  # of jobs\n'
        '# setup = ["module load cuda"]\n'
        '# run_with = "apptainer exec --nv image.sif"\n'
    )
