"""`himl schema` and `himl skill`: descriptions of the commands for programs and coding agents.

Functions import the services that they use, to keep help fast.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from himl_cli.commands.groups import command, group
from himl_cli.commands.options import AskingOptions, OutputOptions, option
from himl_cli.core.errors import BadUsage, DiskFailed
from himl_cli.core.files import write_atomic
from himl_cli.core.text import did_you_mean, named
from himl_cli.render.output import Declined

if TYPE_CHECKING:
    from himl_cli.core.command_shape import CommandShape

schema_app = group()
skill_app = group()

SKILL_FILES = (".agents/skills/himl/SKILL.md", ".claude/skills/himl/SKILL.md")
"""Where coding agents find skills of a project: the common folder, and that of Claude Code."""
SKILL_HEAD = """\
---
name: himl
description: Run training scripts on this machine, on Slurm or on Azure ML with the himl command line, and read the \
status, logs, metrics, files and checkpoints of runs. Use it to submit jobs and sweeps, to follow and compare runs, \
and to download results.
---

# himl
"""
SKILL_RULES = """\
## Rules

- `himl COMMAND --help` lists the options of a command. Write the arguments of a script after `--`.
- Commands take a run id or `latest`. Without one, they use the run that you submitted last from the current folder,
  except `himl runs cancel`, `tag`, `archive`, `restore` and `delete`.
- `himl submit` waits for a job on this machine. With `--cluster` it returns at once: add `--wait` to wait.
- himl sets `MLFLOW_TRACKING_URI` in each job. Log metrics in the script with MLflow.
- `--json` prints one JSON document on stdout, and `himl schema COMMAND` prints its JSON Schema. `-q` prints ids or
  paths alone, one on each line. Messages go to stderr.
- An error is a message and a hint with the next step. With `--json` it is one document on stderr:
  `{"error": {"code": ..., "message": ..., "hint": ...}}`.
- Exit codes: 0 done, 1 the job or the operation failed, 2 wrong usage, 3 not found, 4 not signed in or not allowed,
  5 a service failed, 6 a checksum is wrong, 130 interrupted. Repeat a command only after 5.
- `himl runs delete` asks before it deletes. Without a terminal, add `--yes`.
"""


@command(schema_app, "schema")
def schema(
    *,
    output_opts: OutputOptions,
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[COMMAND]...", help="A command, such as runs list, or error.", show_default=False),
    ] = None,
) -> None:
    """Print the JSON Schema of the document that a command prints with --json.

    Without COMMAND, list the commands that print one. Use the word error for the document that a failed command prints
    on stderr.

    \b
      himl schema
      himl schema runs list
      himl schema error > error.schema.json
    """
    found, name = documents(), " ".join(words or ())
    if not name:
        return output_opts.output().result([*found], human="\n".join(found), quiet=found)
    if name not in found:
        near = did_you_mean(name, found)
        raise BadUsage(f"No command '{name}' prints a document. {near}".strip(), hint="List the commands: himl schema")
    text = json.dumps(found[name], indent=2)
    output_opts.output().result(found[name], human=text, quiet=text)


def documents() -> dict[str, dict[str, Any]]:
    """The JSON Schema of the document that each command prints with `--json`. docs/tools/json_documents makes them."""
    found: dict[str, dict[str, Any]] = json.loads((Path(__file__).parents[1] / "schemas.json").read_bytes())
    return found


@command(skill_app, "skill")
def skill(
    ctx: typer.Context,
    *,
    install: bool = option("Write it to this project's folders for agents.", default=False),
    output_opts: AskingOptions,
) -> None:
    """Print a skill file (SKILL.md) that describes himl for coding agents.

    With --install, himl writes it to .agents/skills/himl and .claude/skills/himl. himl asks before it replaces a file
    that differs.

    \b
      himl skill
      himl skill --install
    """
    from himl_cli.commands.completion import app_shape

    output, text = output_opts.output(), skill_text(app_shape(ctx.find_root().command))
    if not install:
        return output.result({"skill": text}, human=text.rstrip("\n"), quiet=text.rstrip("\n"))
    from himl_cli.services.submission.snapshot import find_snapshot_root

    root = find_snapshot_root(Path.cwd())
    paths = [root / name for name in SKILL_FILES]
    differing = [str(path) for path in paths if path.exists() and path.read_bytes() != text.encode()]
    if differing and not output.confirm(f"Replace {named(differing)} with the skill of this version?"):
        raise Declined("himl wrote nothing.")
    try:
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
        for path in paths:
            write_atomic(path, text)
    except OSError as err:
        hint = "Print the skill instead: himl skill > FILE"
        raise DiskFailed(f"Cannot write '{err.filename}': {err.strerror}.", hint=hint) from err
    names = [str(path) for path in paths]
    output.result({"files": names}, human="\n".join(f"Wrote '{name}'." for name in names), quiet=names)


def skill_text(program: CommandShape) -> str:
    """The skill file: the first example and help line of each command, all examples of `himl submit`, and rules for
    all commands."""
    parts = [SKILL_HEAD, program.text.partition("\n")[0] + "\n"]
    for panel in dict.fromkeys(child.panel for child in program.children):
        commands = [each for child in program.children if child.panel == panel for each in child.walk()]
        lines = [line for each in commands if not each.children for line in _calls(each)]
        parts.append("\n".join([f"## {panel}\n", "```sh", *lines, "```\n"]))
    return "\n".join([*parts, SKILL_RULES])


def _calls(command: CommandShape) -> Iterator[str]:
    first, *others = command.examples or [command.words]  # other packages may have none
    yield f"{first:<49}  # {command.summary}"
    yield from others if command.words == "himl submit" else ()
