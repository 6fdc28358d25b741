"""What is said where a montage cannot be written."""

from __future__ import annotations

from pathlib import Path

from himl_cli.core.errors import FULL_DISK, DiskFailed
from himl_cli.core.files import PART_SUFFIX
from himl_cli.services.transfer.local_files import DiskFull

ASIDE = f".montage{PART_SUFFIX}"
"""The folder inside the output folder that everything is made in: on the same disk, so that moving it out takes no
time."""
NEW = "new"
HINT = "Choose another folder with --output_path, or check its permissions."
FULL_HINT = "Free some space, or choose another folder with --output_path, and run the command again."


def explained(err: OSError, what: str) -> DiskFailed:
    """*err* as ours; *what* is the sentence's beginning, such as `Cannot write 'x'`."""
    if err.errno in FULL_DISK:
        return DiskFull(f"{what}: no space left on the disk.", hint=FULL_HINT)
    return DiskFailed(f"{what}: {err.strerror or err}.", hint=HINT)


def unwritten(err: OSError, path: Path, what: str = "write") -> DiskFailed:
    """*err*, met in doing *what* with *path*; what is being made in `new` is called by the path that it would have had
    in the end."""
    return explained(err, f"Cannot {what} '{_final(path)}'")


def _final(path: Path) -> Path:
    for above in path.parents:
        if above.name == NEW and above.parent.name == ASIDE:
            return above.parent.parent / path.relative_to(above)
    return path
