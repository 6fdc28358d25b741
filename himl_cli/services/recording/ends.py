"""What a failure of a recording means."""

from __future__ import annotations

from himl_cli.core.errors import DiskFailed, HimlError, NotAllowed, NotAllowedNow, NotFound, ServiceFailed


def passes(failure: HimlError) -> bool:
    """Whether what went wrong may be over some time later, without anybody's doing."""
    return isinstance(failure, (DiskFailed, NotAllowedNow)) or (
        isinstance(failure, ServiceFailed) and not failure.is_lasting
    )


def is_refusal(failure: HimlError) -> bool:
    """Whether it is not this or that which is not taken, but us: no right, no such run, no such workspace."""
    return isinstance(failure, (NotAllowed, NotFound)) and not passes(failure)


def may_be_allowed(failure: HimlError) -> bool:
    """Whether what is missing is a right, which somebody may give (again): roles that are taken for some hours lapse at
    night."""
    return isinstance(failure, NotAllowed)
