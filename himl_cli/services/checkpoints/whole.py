"""Whether a checkpoint was written to its end: a process that is killed leaves half of one behind."""

from __future__ import annotations

from pathlib import Path

from himl_cli.core.text import read_json

ZIP, SAFETENSORS = b"PK\x03\x04", ".safetensors"
LONGEST_HEADER = 100_000_000


def is_whole(path: Path) -> bool:
    """False for what is empty, or can be seen to end too early; True for the rest. A folder is whole when it has files
    and all are, but for empty marks.

    Files of torch.save (since 1.6), NumPy's `.npz` and Keras's `.keras` are zip archives, whose index stands at their
    end; a file of safetensors says how long it is. Of other formats only their being empty can be seen: these should be
    written beside their place and renamed.
    """
    try:
        if path.is_dir():
            files = [file for file in path.rglob("*") if file.is_file()]
            return any(file.stat().st_size for file in files) and all(
                _is_whole_file(file) or is_mark(file) for file in files
            )
        return _is_whole_file(path)
    except OSError:
        return False


def is_mark(path: Path) -> bool:
    """Whether it is an empty file without an ending, as programs leave them beside the files of a checkpoint. Raises
    OSError."""
    return not path.suffix and path.stat().st_size == 0


def _is_whole_file(path: Path) -> bool:
    size = path.stat().st_size
    if size == 0:
        return False
    with path.open("rb") as stream:
        start = stream.read(8)
        if start.startswith(ZIP):
            from zipfile import is_zipfile

            return is_zipfile(stream)
        if path.suffix == SAFETENSORS:
            length = int.from_bytes(start, "little")
            return length < min(size, LONGEST_HEADER) and _tensors_end(stream.read(length)) + length + 8 == size
    return True


def _tensors_end(header: bytes) -> int:
    """How many bytes of data the header of a file of safetensors speaks of."""
    try:
        entries = read_json(header)
        return max(
            (int(entry["data_offsets"][1]) for name, entry in entries.items() if name != "__metadata__"), default=0
        )
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError):
        return -1
