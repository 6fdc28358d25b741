"""What git knows about a folder: the tags of a run, the tracked files, and the files with ignore rules."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from himl_cli.core.files import LATEST_RUN_FILE, expand_user, home_folder
from himl_cli.core.jobs import SnapshotReport
from himl_cli.core.records import dataclass
from himl_cli.core.redaction import redact
from himl_cli.core.settings import find_upward

if TYPE_CHECKING:
    import subprocess

GIT_SECONDS = 5.0
DIRTY = "build_source_dirty"
LARGEST_CHANGES, LARGEST_NEW_FILE = 16 << 20, 1 << 20  # bytes of a diff, and of an untracked file in it
MOST_NAMES = 200  # in one command line
RESULTS_OF_EARLIER_RUNS = frozenset({"outputs", "logs"})
Question = tuple[str, ...]  # words of a command line
FACTS = (
    ("log", "-1", "--format=%H%x00%an%x00%s"),
    ("symbolic-ref", "--short", "-q", "HEAD"),
    ("config", "--get", "remote.origin.url"),
)
STATUS: Question = ("status", "--porcelain", "--ignore-submodules=untracked", "--untracked-files=no")
LISTING = (("ls-files", "-z", "--recurse-submodules"), ("config", "--path", "--get", "core.excludesFile"))
# The caller may be a hook of git, whose variables name a repository and an index for every folder
OF_CALLER = (
    *("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_NAMESPACE", "GIT_PREFIX"),
    *("GIT_OBJECT_DIRECTORY", "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_LITERAL_PATHSPECS"),
)


@dataclass(frozen=True)
class _Answer:
    """The output of one git command, or None and the reason."""

    output: bytes | None
    problem: str = ""


_begun: dict[tuple[Path, Question], subprocess.Popen[bytes]] = {}


@contextmanager
def asking_ahead(folder: Path) -> Iterator[None]:
    """Let git answer the questions about *folder* of `git_facts` and `checkout_of`, while the caller does other things
    before them."""
    with suppress(OSError):
        for words in (*FACTS, STATUS, *LISTING) if _is_in_checkout(folder) else ():
            _begun[folder, words] = _begin(folder, words)
    try:
        yield
    finally:
        for process in _begun.values():
            process.kill()
            process.communicate()
        _begun.clear()


def _is_in_checkout(folder: Path) -> bool:
    return any(os.path.lexists(each / ".git") for each in (folder, *folder.parents))


def _begin(folder: Path, words: Question) -> subprocess.Popen[bytes]:
    import subprocess

    command, pipe = ["git", "-C", str(folder), "--no-optional-locks", *words], subprocess.PIPE
    env = {name: value for name, value in os.environ.items() if name not in OF_CALLER}
    return subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe)


def _ask(folder: Path, *questions: Question) -> list[_Answer]:
    """The answers of git in *folder*. Never fails."""
    import subprocess

    answers = []
    try:
        # In parallel, because each query starts a process
        keys = [(folder, words) for words in questions]
        processes = [_begun.pop(key) if key in _begun else _begin(*key) for key in keys]
    except OSError as err:
        reason = "git is not installed" if isinstance(err, FileNotFoundError) else str(err.strerror)
        return [_Answer(None, reason)] * len(questions)
    for process in processes:
        try:
            output, errors = process.communicate(timeout=GIT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            answers.append(_Answer(None, f"git did not answer within {GIT_SECONDS:g} seconds"))
        else:
            reason, *_ = [*errors.decode(errors="replace").splitlines(), f"git returned {process.returncode}"]
            answers.append(_Answer(output) if process.returncode == 0 else _Answer(None, redact(reason).rstrip(".")))
    return answers


def git_facts(folder: Path, *, has_snapshot: bool = True) -> dict[str, str]:
    """Tags that describe the git checkout of *folder*, or none outside a checkout or without git.

    Never fails, because a job can run without these tags. The URL of `origin` has no credentials. A checkout is dirty
    if a tracked file or a submodule differs. Untracked files also count, unless himl lists a snapshot, for which
    `with_untracked` considers exactly those that it contains. Without an answer of git, there is no tag.
    """
    if not _is_in_checkout(folder):
        return {}  # without four processes
    status: Question = STATUS
    if not has_snapshot:
        own = (f",top,glob)**/{LATEST_RUN_FILE}", *(f"){name}" for name in sorted(RESULTS_OF_EARLIER_RUNS)))
        status = (*STATUS[:-1], "--untracked-files=normal", "--", *(f":(exclude{each}" for each in own))
    answers = _ask(folder, *FACTS, status)
    commit, branch, repository, changes = (
        None if answer.output is None else answer.output.decode(errors="replace").strip() for answer in answers
    )
    if commit is None and branch is None:
        return {}
    number, author, message = (commit or "\0\0").split("\0")
    return {
        "build_source_repository": redact(repository or ""),
        "build_branch": branch or "",
        "build_source_id": number,
        "build_source_author": author,
        "build_source_message": message,
        DIRTY: "" if changes is None else str(bool(changes)).lower(),
    }


def with_untracked(
    tags: Mapping[str, str], given: Mapping[str, str], reports: Sequence[SnapshotReport]
) -> dict[str, str]:
    """*tags* of a job with the snapshots of *reports*. A clean checkout becomes dirty if a snapshot contains an
    untracked file, and unknown, without the tag, if himl cannot determine that. Tags that the user has *given* stay."""
    found = [report.has_untracked for report in reports]
    if DIRTY in given or tags.get(DIRTY) != "false" or not any(each in (True, None) for each in found):
        return dict(tags)
    kept = {name: value for name, value in tags.items() if name != DIRTY}
    return {**kept, DIRTY: "true"} if True in found else kept


@dataclass(frozen=True)
class CodeChanges:
    """The diff of code against its commit. `text` begins with `Unknown: ` and the reason in `problem` if himl does not
    have the diff, and is empty for code without changes."""

    text: bytes = b""
    problem: str = ""

    @property
    def remarks(self) -> list[str]:
        return [f"himl does not record the changes of the code: {self.problem}."] if self.problem else []


def changes_of(tags: Mapping[str, str], reports: Sequence[SnapshotReport]) -> CodeChanges:
    """The diff of the snapshots of *reports*, of a job with *tags*, as `git apply` takes it in their common folder. New
    text files are in it, and files that the snapshots leave out are not. The first lines name deleted files, and new
    ones that are not in the diff. Never fails."""
    if tags.get(DIRTY) != "true" or "build_source_id" not in tags or not reports:  # without a commit, all files are new
        return CodeChanges()
    top = Path(os.path.commonpath([report.snapshot.root for report in reports]))
    notes, found = b"", b""
    for report in reports:
        beneath = report.snapshot.root.relative_to(top).as_posix()
        more, part, problem = _changes_in(report, "" if beneath == "." else f"{beneath}/")
        notes, found = notes + more, found + part
        if len(found) > LARGEST_CHANGES:
            problem = f"they have more than {LARGEST_CHANGES >> 20} MiB"
        if problem:
            return CodeChanges(f"Unknown: {problem}\n".encode(), problem)
    return CodeChanges(notes + found)


def _changes_in(report: SnapshotReport, prefix: str) -> tuple[bytes, bytes, str]:
    """Lines about files that are not in the diff, the diff with *prefix* before the names, and why it is not known."""
    root, files = report.snapshot.root, {*report.snapshot.files}
    options = ("--no-color", "--no-ext-diff", "--no-textconv", "--ignore-submodules", "HEAD")
    command = ("diff", "--relative", f"--src-prefix=a/{prefix}", f"--dst-prefix=b/{prefix}", *options)
    (listing,) = _ask(root, (*command, "--name-only", "-z"))
    names = [name for name in os.fsdecode(listing.output or b"").split("\0") if name]
    gone = [name for name in names if name not in files and not os.path.lexists(root / name)]
    notes = b"".join(map(partial(_note, b"Deleted", prefix), gone))
    names, found, problem = [name for name in names if name in files], b"", listing.problem
    for begin in range(0, len(names), MOST_NAMES):
        (part,) = _ask(root, (*command, "--binary", "--", *names[begin : begin + MOST_NAMES]))
        found, problem = found + (part.output or b""), problem or part.problem
    for name in report.untracked or ():
        with suppress(OSError):
            is_small = os.path.getsize(root / name) <= LARGEST_NEW_FILE
            content = (root / name).read_bytes() if is_small else b"\0"
            if b"\0" in content:
                notes += _note(b"Not in this diff", prefix, name)
            else:
                found += _new_file(os.fsencode(prefix + name), content)
    return notes, found, problem


def _note(what: bytes, prefix: str, name: str) -> bytes:
    return b"%b: %b\n" % (what, os.fsencode(prefix + name).replace(b"\n", b"?"))


def _new_file(name: bytes, content: bytes) -> bytes:
    """The diff that adds a text file."""
    head = b"diff --git a/%b b/%b\nnew file mode 100644\n" % (name, name)
    if not content:
        return head
    lines = content.split(b"\n")
    ending = b"" if lines[-1] == b"" else b"\\ No newline at end of file\n"
    lines = lines if ending else lines[:-1]
    added = b"".join(b"+%b\n" % line for line in lines)
    return b"%b--- /dev/null\n+++ b/%b\n@@ -0,0 +1,%d @@\n%b%b" % (head, name, len(lines), added, ending)


@dataclass(frozen=True)
class Checkout:
    """The checkout of git at `top` that contains a folder.

    `tracked` are the tracked files in the folder, relative to it, with `/` separators, including those of submodules.
    It is None if git did not answer, with the reason in `problem`. `excludes` are the files with ignore rules for the
    whole checkout, the nearest last.
    """

    top: Path
    tracked: frozenset[str] | None
    excludes: Sequence[Path]
    problem: str = ""


def checkout_of(folder: Path) -> Checkout | None:
    """The checkout that contains *folder*, or None outside of one."""
    marker = next(find_upward((folder, *folder.parents), (".git",), by_folder=True), None)
    if marker is None:
        return None
    top = marker.parent
    listing, setting = _ask(folder, *LISTING)
    own = _common_folder(top) / "info" / "exclude"
    if listing.output is None:
        return Checkout(top, None, [own], listing.problem)
    home = home_folder() or Path()
    usual = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config", "git", "ignore")
    excludes = usual if setting.output is None else top / expand_user(os.fsdecode(setting.output.rstrip(b"\r\n")))
    return Checkout(top, frozenset(os.fsdecode(listing.output).split("\0")), [excludes, own])


def _common_folder(top: Path) -> Path:
    """The folder of the repository at *top*, where `.git` may be a file: that of a submodule, or, for a linked
    worktree, that of the main one."""
    folder = top / ".git"
    with suppress(OSError, ValueError):
        if folder.is_file():
            folder = top / folder.read_text(encoding="utf-8").removeprefix("gitdir:").strip()
            folder = folder / (folder / "commondir").read_text(encoding="utf-8").strip()
    return folder
