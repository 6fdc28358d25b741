"""Failures that a user can act on. Any other exception is a bug and keeps its traceback.

HimlError                 exit 1
├── JobFailed             exit 1   the awaited job did not complete
├── ChecksFailed          exit 1   a check of himl doctor failed
├── TransferIncomplete    exit 1   some files were not transferred
├── BlobChanged           exit 1   a file differs from its listing
├── DiskFailed            exit 1   a local file or folder cannot be read or written
├── BadUsage              exit 2   the command line, a setting or a named file is wrong
│   └── NeedsYes          exit 2   a question without a terminal to answer it
├── NotFound              exit 3
│   ├── RunNotFound
│   └── WorkspaceNotFound
├── NotAllowed            exit 4   not signed in, or no permission
│   └── NotAllowedNow     exit 4   signed out, or refused from this network
├── ServiceFailed         exit 5   the service or the network failed after retries
├── IntegrityFailed       exit 6   a checksum does not match
└── Interrupted           exit 130
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Sequence
from contextlib import suppress

# Error numbers for a full disk or an exhausted quota
FULL_DISK = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}


# What a failure lacks, by a part of its text, and what to do
_SHORTAGES = {
    r"Resource temporarily unavailable|can't start new thread": (
        "no more processes or threads are allowed",
        "End some of your processes, or raise the limit: ulimit -u, or the pids of the container.",
    ),
    r"MemoryError|Cannot allocate memory": (
        "no memory is left",
        "Raise the limit (ulimit -v, or that of the container or the batch job), or use less memory.",
    ),
    r"Too many open files": (
        "too many files are open",
        "Raise the limit: ulimit -n 4096",
    ),
}


def shortage(text: str, folder: str = "") -> tuple[str, str] | None:
    """The lack that the *text* of a failure shows (processes, memory, open files, inodes of the disk of *folder*), and
    a hint. None for other failures."""
    for pattern, found in _SHORTAGES.items():
        if re.search(pattern, text):
            return found
    if os.strerror(errno.ENOSPC) in text and folder and hasattr(os, "statvfs"):
        with suppress(OSError):
            disk = os.statvfs(folder)
            if disk.f_files and not disk.f_favail:
                return (
                    "no inodes are left",
                    f"Delete files. Their number on the disk of '{folder}' is at its limit.",
                )
    return None


class HimlError(Exception):
    """A failure with a message of one line, a hint with the next step, and an exit code.

    `code` is a stable word for scripts (`--json`). Changing one is a breaking change. `is_lasting`: the same call would
    fail again.
    """

    code = "failed"
    exit_code = 1
    is_lasting = False

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class JobFailed(HimlError):
    """The awaited job failed or was canceled, trials of its sweep failed, or its local supervisor did not start."""

    code = "job_failed"


class ChecksFailed(HimlError):
    """A check of `himl doctor` failed."""

    code = "checks_failed"


class TransferIncomplete(HimlError):
    """Some files were not transferred. `differing` are local files with other content, which can be replaced."""

    code = "transfer_incomplete"
    differing: Sequence[str] = ()


class BlobChanged(HimlError):
    """The blob differs from its listing. List it again and retry."""

    code = "blob_changed"


class DiskFailed(HimlError):
    """A local file or folder cannot be read or written, or is a link where links are not allowed."""

    code = "disk_failed"
    is_lasting = True


class BadUsage(HimlError):
    """The command line, an argument, a setting or a file that one of them names is wrong. The same call would fail
    again."""

    code = "usage"
    exit_code = 2
    is_lasting = True


class NeedsYes(BadUsage):
    """A command has a question, and no user can answer it: without a terminal, or with `--json` or `--quiet`. `--yes`
    answers it."""

    code = "needs_yes"


class NotFound(HimlError):
    """A named thing does not exist: a file, a dataset, a datastore, a cluster, an environment."""

    code = "not_found"
    exit_code = 3
    is_lasting = True


class RunNotFound(NotFound):
    """`run` is the requested id, `similar` holds similar ids, and `abbreviated` those of which it is an abbreviation:
    among all runs, or, unless `is_complete`, among the newest ones."""

    code = "run_not_found"

    def __init__(
        self,
        run: str,
        where: str,
        *,
        similar: Sequence[str] = (),
        abbreviated: Sequence[str] = (),
        is_complete: bool = True,
    ) -> None:
        hint = f"Did you mean {' or '.join(similar)}?" if similar else "List the runs with 'himl runs list'."
        super().__init__(f"No run '{run}' in {where}.", hint=hint)
        self.run = run
        self.similar = tuple(similar)
        self.abbreviated = tuple(abbreviated)
        self.is_complete = is_complete


class WorkspaceNotFound(NotFound):
    """No workspace is configured, or the named one does not exist."""

    code = "workspace_not_found"


class NotAllowed(HimlError):
    """The user is not signed in or lacks the permission, or the signature of a link is invalid or has expired."""

    code = "not_allowed"
    exit_code = 4
    is_lasting = True


class NotAllowedNow(NotAllowed):
    """The refusal is not a missing permission: the user is (no longer) signed in, or the network is not allowed."""


class ServiceFailed(HimlError):
    """`is_lasting` if the service would refuse the same request again."""

    code = "service_failed"
    exit_code = 5


class IntegrityFailed(HimlError):
    """Bytes still do not match their checksum after all retries, or a file is incomplete."""

    code = "integrity_failed"
    exit_code = 6


class Interrupted(HimlError):
    """Ctrl-C or a signal ended the call. The message says what remains and what continues."""

    code = "interrupted"
    exit_code = 130


class StoppedWatching(Interrupted):
    """The user stopped watching runs, which continue. himl prints it like a notice, not like a failure."""
