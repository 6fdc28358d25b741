"""Facts about the git checkout that a job is sent from, by asking the `git` program."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from himl_cli.core.redaction import redact

SECONDS = 5.0


@dataclass(frozen=True)
class GitFacts:
    """The checkout's state; `repository` is the URL of `origin` without credentials, `is_dirty` whether tracked files
    differ."""

    repository: str = ""
    branch: str = ""
    commit: str = ""
    author: str = ""
    message: str = ""
    is_dirty: bool = False


def git_facts(folder: Path) -> GitFacts | None:
    """Facts about the checkout that holds *folder*; None outside one, or without git. Never fails: a job runs without
    them."""
    asked = {
        "commit": ("log", "-1", "--format=%H%x00%an%x00%s"),
        "branch": ("symbolic-ref", "--short", "-q", "HEAD"),
        "repository": ("config", "--get", "remote.origin.url"),
        "changes": ("status", "--porcelain", "--untracked-files=no", "--ignore-submodules"),
    }
    processes = {name: _ask(folder, arguments) for name, arguments in asked.items()}
    answers = {name: _answer(process) for name, process in processes.items()}
    branch, commit = answers["branch"], answers["commit"]
    if commit is None and branch is None:
        return None
    number, author, message = (commit or "\0\0").split("\0")
    return GitFacts(
        redact(answers["repository"] or ""), branch or "", number, author, message, bool(answers["changes"])
    )


def _ask(folder: Path, arguments: tuple[str, ...]) -> subprocess.Popen[bytes] | None:
    """Start one question: they run side by side, since each costs a process."""
    try:
        command = ["git", "-C", str(folder), "--no-optional-locks", *arguments]
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    except OSError:
        return None


def _answer(process: subprocess.Popen[bytes] | None) -> str | None:
    if process is None:
        return None
    try:
        output, _ = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return None
    return output.decode(errors="replace").strip() if process.returncode == 0 else None
