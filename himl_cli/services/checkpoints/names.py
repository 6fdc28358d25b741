"""Parse the names of checkpoints (epoch, step, metrics), rank them, and check whether files are complete."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from enum import IntEnum
from pathlib import Path

from himl_cli.core.files import walk_files
from himl_cli.core.json_text import read_json
from himl_cli.core.records import dataclass

log = logging.getLogger(__name__)

CHECKPOINT_FOLDER = "outputs/checkpoints"
LAST = "last.ckpt"
NOT_CHECKPOINTS = re.compile(
    r"\.(json|jsonl|txt|ya?ml|toml|csv|tsv|log|md|html|png|jpe?g|svg|pdf|py|md5|sha256)$", re.IGNORECASE
)
LONGEST_CHECKPOINT_NAME, MOST_DIGITS = 1024, 18
_TEMPORARY = re.compile(r"(\.(tmp|temp|part|partial|lock|download|incomplete|swp)|~)$", re.IGNORECASE)
_PAIR = re.compile(
    r"(?P<name>[^=]+)=(?P<value>[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?|nan|inf))(?=$|[-_,;+ /)\]])", re.IGNORECASE
)
_COMMON_PREFIX = re.compile(
    r"(?:.*/)?(?:best|model|checkpoint|ckpt|weights)-", re.IGNORECASE
)  # `filename="best-{val_loss:.2f}"`
_EPOCH = re.compile(r"(?<![a-z])epochs?[ _-]?(\d{1,18})", re.IGNORECASE)
_COUNTERS = (
    ("epoch", _EPOCH),
    ("epoch", re.compile(r"recovery_?(\d{1,18})")),
    ("step", re.compile(r"(?<![a-z])steps?[ _-]?(\d{1,18})", re.IGNORECASE)),
)
_BEST = re.compile(r"best(?:[-_ ](?P<metric>.+))?", re.IGNORECASE)


class CheckpointKind(IntEnum):
    """Kind of a checkpoint, from the least to the most specific: the end of a training, an autosave, a recovery
    checkpoint with its epoch in the name."""

    last = 1
    autosave = 2
    recovery = 3


@dataclass(frozen=True, order=True)
class CheckpointRank:
    """Order of checkpoints to continue from, the greatest first. `attempt` is the attempt that wrote it, `version` is
    Lightning's `-v1`."""

    kind: CheckpointKind
    epoch: int
    attempt: int
    version: int


def rank_of(name: str, folder: str = CHECKPOINT_FOLDER) -> CheckpointRank | None:
    """Rank of the file or folder *name* of a run. None if it is not a checkpoint to continue from.

    It is in *folder*, or, for later attempts, in the folder with the same name in `retry_001`, `retry_002`, … beside
    it. Recovery checkpoints begin with `recovery`, and the first number in their name is the epoch, as in hi-ml:
    `recovery_epoch=9.ckpt`, `recovery_9`, `recovery_epoch=9-step=90-v1.ckpt`.
    """
    attempt, base = below_folder(name, folder) or (0, "/")
    if "/" in base or is_temporary(base):
        return None
    plain, version = _without_version(base.rpartition(".")[0] or base)
    if plain.startswith("recovery"):
        number = re.search(r"\d{1,18}", plain)
        return CheckpointRank(CheckpointKind.recovery, int(number[0]) if number else -1, attempt, version)
    if plain in ("autosave", "last"):
        return CheckpointRank(CheckpointKind[plain], -1, attempt, version)
    return None


def best_first(
    names: Iterable[str], folder: str = CHECKPOINT_FOLDER, *, least: CheckpointKind = CheckpointKind.last
) -> list[str]:
    """Names of checkpoints that are at least as specific as *least*, the one to continue from first."""
    ranked = [(rank, name) for name in names if (rank := rank_of(name, folder)) is not None and rank.kind >= least]
    return [name for _, name in sorted(ranked, reverse=True)]


def is_better(rank: CheckpointRank | None, than: CheckpointRank | None) -> bool:
    return rank is not None and (than is None or rank > than)


def below_folder(name: str, folder: str = CHECKPOINT_FOLDER) -> tuple[int, str] | None:
    """Attempt (0 for the first) that wrote the file *name*, and its name below the checkpoint folder of that attempt.
    None if it is elsewhere."""
    if name.startswith(f"{folder}/"):
        return 0, name[len(folder) + 1 :]
    above, slash, last = folder.rpartition("/")
    parts = name[len(above + slash) :].split("/", 2) if name.startswith(above + slash) else []
    found = re.match(r"retry_(\d{1,18})$", parts[0]) if len(parts) == 3 and parts[1] == last else None
    return (int(found[1]), parts[2]) if found else None


def is_temporary(name: str) -> bool:
    return any(part.startswith(".") or _TEMPORARY.search(part) for part in name.split("/"))


def _without_version(stem: str) -> tuple[str, int]:
    """*stem* without Lightning's suffix `-v1`, and the number in it, 0 if there is none."""
    found = re.search(r"-v(\d{1,18})$", stem)
    return (stem[: found.start()], int(found[1])) if found else (stem, 0)


@dataclass(frozen=True)
class ParsedName:
    """`stem` is the name without suffix and version, equal in all attempts. `metrics` may be NaN.

    `best_of` is the metric in a name such as `best_val_loss.ckpt`, '' for `best.ckpt`, and None for other names or
    names with values.
    """

    stem: str
    version: int
    epoch: int | None
    step: int | None
    metrics: Mapping[str, float]
    best_of: str | None


def parse_name(name: str) -> ParsedName:
    """Parse the name of a file or folder below a checkpoint folder: `epoch=3-val/loss=0.12-v1.ckpt`, `recovery_9`,
    `best_val_loss.ckpt`.

    A name longer than any store allows gives nothing.
    """
    if len(name) > LONGEST_CHECKPOINT_NAME:
        return ParsedName(name, 0, None, None, {}, None)
    stem, version = _without_version(re.sub(r"\.[A-Za-z]\w*$", "", name))  # `val_loss=0.12` has no suffix
    counters: dict[str, int] = {}
    metrics: dict[str, float] = {}
    for found in _PAIR.finditer(stem):
        label = _COMMON_PREFIX.sub("", found["name"].strip("-_,;+ /()[]"))
        counter = re.split(r"[-_ /(\[]", label)[-1].lower().removesuffix("s")
        if counter not in ("epoch", "step"):
            metrics[label] = float(found["value"])
        elif found["value"].isdecimal() and len(found["value"]) <= MOST_DIGITS:
            counters.setdefault(counter, int(found["value"]))
    for counter, pattern in _COUNTERS:
        plain = pattern.search(stem)
        if plain is not None:
            counters.setdefault(counter, int(plain[1]))
    best_of = None
    if not metrics and (best := _BEST.fullmatch(stem.rpartition("/")[2])):
        label = _EPOCH.sub("", re.sub(r"=\d+", "", best["metric"] or "")).strip("-_ ")
        is_metric = label.lower() not in ("checkpoint", "ckpt", "model", "weights", "epoch", "state", "so_far")
        best_of = label if is_metric else ""
    return ParsedName(stem, version, counters.get("epoch"), counters.get("step"), metrics, best_of)


def same_metric(one: str, other: str) -> bool:
    """Whether two names mean the same metric. File names cannot contain all characters, so that `val/loss` may be
    `val_loss`."""
    return plain_metric(one) == plain_metric(other)


def plain_metric(metric: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", metric.lower()).strip("_")


def is_whole(path: Path) -> bool:
    """False for empty files, and files that visibly end too early. True for others. A folder is complete if it has
    files and all are complete, except for empty marker files.

    Files of torch.save (since 1.6), NumPy's `.npz` and Keras's `.keras` are zip archives with an index at the end.
    Safetensors files contain their length. For other formats, himl only detects empty files, so write these beside
    their path and then rename them.
    """
    try:
        if not path.is_dir():
            return _is_whole_file(path)
        files = [Path(file.path) for file in walk_files(str(path))]
        has_bytes = any(file.stat().st_size for file in files)
        return has_bytes and all(is_mark(file) or _is_whole_file(file) for file in files)
    except OSError:
        return False


def is_mark(path: Path) -> bool:
    """Whether it is an empty file without a suffix, which programs use as markers beside checkpoint files. Raises
    OSError."""
    return not path.suffix and path.stat().st_size == 0


def _is_whole_file(path: Path) -> bool:
    size = path.stat().st_size
    with path.open("rb") as stream:
        start = stream.read(8)
        if start.startswith(b"PK\x03\x04"):
            from zipfile import is_zipfile

            return is_zipfile(stream)
        if size == 0 or path.suffix != ".safetensors":
            return size > 0
        length = int.from_bytes(start, "little")
        if length >= min(size, 100_000_000):
            return False
        try:
            entries = read_json(stream.read(length))
            ends = [int(one["data_offsets"][1]) for name, one in entries.items() if name != "__metadata__"]
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError):
            return False
        return max(ends, default=0) + length + 8 == size


def on_disk(root: Path, folder: str = CHECKPOINT_FOLDER, *, least: CheckpointKind = CheckpointKind.last) -> Path | None:
    """Checkpoint below *root* to continue from, at least as specific as *least*. Incomplete ones are skipped and
    logged."""
    above, _, last = folder.rpartition("/")
    folders = [root / folder, *(root / above).glob(f"retry_*/{last}")]
    paths = (path for one in folders if one.is_dir() for path in one.iterdir())
    for name in best_first((path.relative_to(root).as_posix() for path in paths), folder, least=least):
        if is_whole(root / name):
            return root / name
        log.warning("'%s' is incomplete. Using the next best checkpoint.", name)
    return None
