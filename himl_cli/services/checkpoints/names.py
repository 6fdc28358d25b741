"""What the names of checkpoints say: epoch, step, metrics; which one to go on from, and whether it was written to its
end."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from himl_cli.core.errors import BadUsage
from himl_cli.core.runs import Goal
from himl_cli.core.text import read_json

log = logging.getLogger(__name__)

FOLDER = "outputs/checkpoints"
LAST = "last.ckpt"
NOT_CHECKPOINTS = re.compile(
    r"\.(json|jsonl|txt|ya?ml|toml|csv|tsv|log|md|html|png|jpe?g|svg|pdf|py|md5|sha256)$", re.IGNORECASE
)
LONGEST_NAME, MOST_DIGITS = 1024, 18
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
SMALLER = re.compile(r"loss|errors?|err|mse|rmse|mae|mape|nlll?|perplexity|ppl|[cw]er|fid|ece|brier")
GREATER = re.compile(
    r"acc|accuracy|auc|auroc|rocauc|auprc|aucpr|f1|f1score|dice|m?iou|jaccard|map|precision|recall"
    r"|sensitivity|specificity|r2|bleu|rouge|psnr|ssim|kappa|mcc|reward"
)
# Words beside which those above may mean the opposite, or nothing: `neg_log_loss`, `error_free_rate`, `accuracy_drop`,
# `loss_scale`.
TURNING = re.compile(
    r"neg|negative|negated|minus|inv|inverse|inverted|reciprocal|complement"
    r"|free|reduction|decrease|drop|improvement|gap|scale"
)


class Kind(IntEnum):
    """What a checkpoint is for, the less telling first: the end of a training, an autosave, a recovery checkpoint whose
    name has its epoch."""

    last = 1
    autosave = 2
    recovery = 3


@dataclass(frozen=True, order=True)
class Rank:
    """Which of two checkpoints to go on from: the greater one. `attempt` is the try that wrote it, `version`
    Lightning's `-v1`."""

    kind: Kind
    epoch: int
    attempt: int
    version: int


def rank_of(name: str, folder: str = FOLDER) -> Rank | None:
    """The rank of the file (or folder) called *name*, as a run has it; None for what is no checkpoint to go on from.

    It lies in *folder*, or, from the second try on, in the folder of the same name in `retry_001`, `retry_002`, …
    beside it. Recovery checkpoints begin with `recovery`, and the first number in their name is the epoch, as in hi-ml:
    `recovery_epoch=9.ckpt`, `recovery_9`, `recovery_epoch=9-step=90-v1.ckpt`.
    """
    attempt, base = below_folder(name, folder) or (0, "/")
    if "/" in base or is_temporary(base):
        return None
    plain, version = _without_version(base.rpartition(".")[0] or base)
    if plain.startswith("recovery"):
        number = re.search(r"\d{1,18}", plain)
        return Rank(Kind.recovery, int(number[0]) if number else -1, attempt, version)
    if plain in ("autosave", "last"):
        return Rank(Kind[plain], -1, attempt, version)
    return None


def best_first(names: Iterable[str], folder: str = FOLDER, *, least: Kind = Kind.last) -> list[str]:
    """Those of *names* that are checkpoints of the kind *least* or a more telling one, the one to go on from first."""
    ranked = [(rank, name) for name in names if (rank := rank_of(name, folder)) is not None and rank.kind >= least]
    return [name for _, name in sorted(ranked, reverse=True)]


def is_better(rank: Rank | None, than: Rank | None) -> bool:
    return rank is not None and (than is None or rank > than)


def below_folder(name: str, folder: str = FOLDER) -> tuple[int, str] | None:
    """The try (0 for the first) that the file called *name* is of, and its name below that try's folder of checkpoints;
    None where it lies elsewhere."""
    if name.startswith(f"{folder}/"):
        return 0, name[len(folder) + 1 :]
    above, slash, last = folder.rpartition("/")
    parts = name[len(above + slash) :].split("/", 2) if name.startswith(above + slash) else []
    found = re.match(r"retry_(\d{1,18})$", parts[0]) if len(parts) == 3 and parts[1] == last else None
    return (int(found[1]), parts[2]) if found else None


def is_temporary(name: str) -> bool:
    return any(part.startswith(".") or _TEMPORARY.search(part) for part in name.split("/"))


def _without_version(stem: str) -> tuple[str, int]:
    """*stem* without Lightning's `-v1` at its end, and that number; 0 where it has none."""
    found = re.search(r"-v(\d{1,18})$", stem)
    return (stem[: found.start()], int(found[1])) if found else (stem, 0)


@dataclass(frozen=True)
class ParsedName:
    """`stem` is the name without ending and version (equal in every try); `metrics` may be NaN.

    `best_of` is the metric that a name such as `best_val_loss.ckpt` has it the best of, '' for `best.ckpt`; None where
    the name does not say that, or has the values.
    """

    stem: str
    version: int
    epoch: int | None
    step: int | None
    metrics: Mapping[str, float]
    best_of: str | None


def parse_name(name: str) -> ParsedName:
    """What *name* says, of a file or folder below a folder of checkpoints: `epoch=3-val/loss=0.12-v1.ckpt`,
    `recovery_9`, `best_val_loss.ckpt`.

    One that is longer than any store takes says nothing.
    """
    if len(name) > LONGEST_NAME:
        return ParsedName(name, 0, None, None, {}, None)
    stem, version = _without_version(re.sub(r"\.[A-Za-z]\w*$", "", name))  # `val_loss=0.12` has no ending
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
    """Whether two names mean one metric: file names cannot hold all signs, so `val/loss` may be `val_loss` there."""
    return plain_metric(one) == plain_metric(other)


def plain_metric(metric: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", metric.lower()).strip("_")


def goal_of(metric: str, given: Goal | None) -> Goal:
    """The *given* goal, else what the metric's name says. A word for a loss outweighs others: `dice_loss`. Raises
    BadUsage asking for --goal."""
    if given is not None:
        return given
    # The words of the name, apart at capitals (`valLoss`) and not (`mAP`), with the number behind them (`f1`) and
    # without (`mAP50`)
    apart = re.sub(r"([a-z\d])([A-Z])", r"\1 \2", metric)
    found = re.finditer(r"([a-z]+)\d*", f"{metric} {apart}".lower())
    words = {word for one in found for word in (one[0], one[1])}
    if not any(map(TURNING.fullmatch, words)):
        if any(map(SMALLER.fullmatch, words)):
            return "minimize"
        if any(map(GREATER.fullmatch, words)):
            return "maximize"
    raise BadUsage(
        f"Nobody can tell from its name whether '{metric}' is to be small or great.",
        hint="Add --goal minimize or --goal maximize.",
    )


def is_whole(path: Path) -> bool:
    """False for what is empty, or can be seen to end too early; True for the rest. A folder is whole when it has files
    and all are, but for empty marks.

    Files of torch.save (since 1.6), NumPy's `.npz` and Keras's `.keras` are zip archives, whose index stands at their
    end; a file of safetensors says how long it is. Of other formats only their being empty can be seen: these should be
    written beside their place and renamed.
    """
    try:
        if not path.is_dir():
            return _is_whole_file(path)
        files = [file for file in path.rglob("*") if file.is_file()]
        has_bytes = any(file.stat().st_size for file in files)
        return has_bytes and all(is_mark(file) or _is_whole_file(file) for file in files)
    except OSError:
        return False


def is_mark(path: Path) -> bool:
    """Whether it is an empty file without an ending, as programs leave them beside the files of a checkpoint. Raises
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


def on_disk(root: Path, folder: str = FOLDER, *, least: Kind = Kind.last) -> Path | None:
    """The checkpoint below *root* to go on from, of the kind *least* or a more telling one; half-written ones are
    passed over, and named in the log."""
    above, _, last = folder.rpartition("/")
    folders = [root / folder, *(root / above).glob(f"retry_*/{last}")]
    paths = (path for one in folders if one.is_dir() for path in one.iterdir())
    for name in best_first((path.relative_to(root).as_posix() for path in paths), folder, least=least):
        if is_whole(root / name):
            return root / name
        log.warning("'%s' was not written to its end; the next best checkpoint is taken.", name)
    return None
