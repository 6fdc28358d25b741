"""The failures a user can act on. Anything else that escapes is a bug and keeps its traceback.

HimlError                 exit 1
├── JobFailed             exit 1   the job that was waited for did not complete
├── ChecksFailed          exit 1   something that himl needs is not in order
├── TransferIncomplete    exit 1   some files were left as they are
├── BlobChanged           exit 1   a file is no longer what was listed
├── DiskFailed            exit 1   a file or folder here cannot be read or written
├── BadUsage              exit 2   the command line, a setting or a file that it names is wrong
│   └── NeedsYes          exit 2   a question, and nobody to answer it
├── NotFound              exit 3
│   ├── RunNotFound
│   └── WorkspaceNotFound
├── NotAllowed            exit 4   not signed in, or no permission
│   └── NotAllowedNow     exit 4   nobody is signed in any more, or not from this network
├── ServiceFailed         exit 5   the service or the network failed after retries
├── IntegrityFailed       exit 6   bytes that do not match their checksum
└── Interrupted           exit 130
"""

from __future__ import annotations

import errno
from collections.abc import Sequence

# Numbers of OSErrors that mean: no room, on the disk or in the user's share of it
FULL_DISK = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}


class HimlError(Exception):
    """A failure with what to say about it: one line, a hint that names the next move, an exit code.

    `code` is a stable word for scripts (`--json`); changing one is a breaking change.
    """

    code = "failed"
    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class JobFailed(HimlError):
    """The job that was waited for failed or was canceled, trials of its sweep failed, or its supervisor here did not
    start."""

    code = "job_failed"


class ChecksFailed(HimlError):
    """`himl doctor` found something that is not in order."""

    code = "checks_failed"


class TransferIncomplete(HimlError):
    """`differing` are files that were left because they have another content here, and that can be replaced."""

    code = "transfer_incomplete"
    differing: Sequence[str] = ()


class BlobChanged(HimlError):
    """The blob is no longer what was listed; list it again and retry."""

    code = "blob_changed"


class DiskFailed(HimlError):
    """A file or folder of this machine cannot be read or written, or is a link where none may be."""

    code = "disk_failed"


class BadUsage(HimlError):
    """The command line, an argument, a setting or a file that one of them names is wrong: the same call would fail
    again."""

    code = "usage"
    exit_code = 2


class NeedsYes(BadUsage):
    """A command has a question, and there is nobody to answer it: no terminal, or `--json` or `--quiet`. `--yes` is the
    answer."""

    code = "needs_yes"


class NotFound(HimlError):
    """What was named is not there: a file, a dataset, a datastore, a cluster, an environment."""

    code = "not_found"
    exit_code = 3


class RunNotFound(NotFound):
    """`run` is what was asked for, `similar` holds ids that may have been meant."""

    code = "run_not_found"

    def __init__(self, run: str, where: str, *, similar: Sequence[str] = ()) -> None:
        hint = f"Did you mean {' or '.join(similar)}?" if similar else "See 'himl runs list' for the runs there are."
        super().__init__(f"No run '{run}' in {where}.", hint=hint)
        self.run = run
        self.similar = tuple(similar)


class WorkspaceNotFound(NotFound):
    """No workspace is configured, or the one that was named is not there."""

    code = "workspace_not_found"


class NotAllowed(HimlError):
    """Nobody is signed in, whoever is may not do this, or a link's signature is not, or no longer, good for it."""

    code = "not_allowed"
    exit_code = 4


class NotAllowedNow(NotAllowed):
    """Not for lack of a right: nobody is signed in (any more), or this network is one from which nobody is let in."""


class ServiceFailed(HimlError):
    """`is_lasting` where the same request would be refused again, so that only another one can help."""

    code = "service_failed"
    exit_code = 5
    is_lasting = False


class IntegrityFailed(HimlError):
    """Bytes do not match their checksum after all tries, or a file is not whole."""

    code = "integrity_failed"
    exit_code = 6


class Interrupted(HimlError):
    """Ctrl-C or a signal ended the call; the message says what was left and what goes on."""

    code = "interrupted"
    exit_code = 130
