"""Names and tags that a job gets from where it was sent, and the file that names the latest run."""

from __future__ import annotations

import getpass
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path, PurePath

from himl_cli.core.errors import BadUsage
from himl_cli.core.redaction import redact

SECONDS = 5.0


def git_facts(folder: Path) -> dict[str, str]:
    """Facts about the checkout that holds *folder*, as tags; none outside one, or without git. Never fails: a job runs
    without them. The URL of `origin` is without credentials; dirty are tracked files that differ."""
    import subprocess

    questions = (
        ("log", "-1", "--format=%H%x00%an%x00%s"),
        ("symbolic-ref", "--short", "-q", "HEAD"),
        ("config", "--get", "remote.origin.url"),
        ("status", "--porcelain", "--untracked-files=no", "--ignore-submodules"),
    )
    command = ["git", "-C", str(folder), "--no-optional-locks"]
    pipe, null = subprocess.PIPE, subprocess.DEVNULL
    answers: list[str | None] = [None] * len(questions)
    with suppress(OSError):  # no git
        # Side by side, since each costs a process
        processes = [subprocess.Popen([*command, *words], stdin=null, stdout=pipe, stderr=null) for words in questions]
        for place, process in enumerate(processes):
            try:
                output, _ = process.communicate(timeout=SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
            else:
                is_answer = process.returncode == 0
                answers[place] = output.decode(errors="replace").strip() if is_answer else None
    commit, branch, repository, changes = answers
    if commit is None and branch is None:
        return {}
    number, author, message = (commit or "\0\0").split("\0")
    return {
        "build_source_repository": repository or "",
        "build_branch": branch or "",
        "build_source_id": number,
        "build_source_author": author,
        "build_source_message": message,
        "build_source_dirty": str(bool(changes)).lower(),
    }


LONGEST_EXPERIMENT = 256


def friendly_experiment(name: str) -> str:
    """*name* as Azure ML takes it: letters, digits, `_` and `-`, first a letter or digit. One that it takes stays as it
    is.

    Each run of other characters becomes one `_`. A name of which nothing else is left, as of a script with a Chinese
    name, becomes `experiment`. Raises BadUsage for an empty one.
    """
    if not name.strip():
        raise BadUsage("The experiment's name is empty.", hint="Name it with --experiment NAME")
    return re.sub(r"[^a-zA-Z0-9_-]+", "_", name).lstrip("_-")[:LONGEST_EXPERIMENT] or "experiment"


def hi_ml_experiment(name: str) -> str:
    """*name* as hi-ml-azure 0.5.4 sends it: as Azure ML takes it, and each run of `_` is one."""
    return re.sub("_+", "_", friendly_experiment(name))


def underscored(name: str) -> str:
    """*name* as hi-ml and older versions of himl made it: they had `_` for `-` as well."""
    return re.sub(r"[^a-zA-Z0-9_]+", "_", name)


def choose_experiment(
    asked: str | None, target: str, *, from_branch: bool, git: Mapping[str, str]
) -> tuple[str, list[str]]:
    """The experiment's name, and what the user should know of it.

    It is *asked*, else the git branch where that is wanted, else the stem of the script, else the module with `_` for
    `.`. Raises BadUsage where the branch is wanted and none is checked out, and for an empty name.
    """
    if asked is None and from_branch:
        asked = git.get("build_branch")
        if not asked:
            raise BadUsage(
                "--experiment_from_branch: no git branch is checked out here.",
                hint="Name the experiment with --experiment NAME",
            )
    if asked is not None:
        chosen = friendly_experiment(asked)
        return chosen, experiment_remarks(asked, chosen)
    path = PurePath(target)
    return friendly_experiment(path.stem if path.suffix in (".py", ".sh") else target), []


def experiment_remarks(asked: str, chosen: str) -> list[str]:
    """That the experiment is called otherwise than was asked for, where it is."""
    if asked == chosen:
        return []
    taken = f"letters, digits, _ and - only, {LONGEST_EXPERIMENT} at most, the first a letter or digit"
    return [f"The experiment is called '{chosen}', since Azure ML does not take the name '{asked}': {taken}."]


def automatic_tags(git: Mapping[str, str], build: Mapping[str, str], command_line: str) -> dict[str, str]:
    """Tags that a run gets by itself: git's facts, each replaced by what *build* says, the user, the command line.
    Empty ones are left out."""
    user = ""
    with suppress(OSError, KeyError, ImportError):  # a user id without a name, as in some containers
        user = getpass.getuser()
    tags = {**git, "build_user": user, "command_line": command_line, **build}
    return {name: redact(value) for name, value in tags.items() if value}


FILE_NAME = "most_recent_run.txt"
