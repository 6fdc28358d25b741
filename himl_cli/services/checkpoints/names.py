"""What the names of checkpoints say: epoch, step, metrics, and which one to resume from."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum

from himl_cli.core.checkpoints import Goal
from himl_cli.core.errors import BadUsage

FOLDER = "outputs/checkpoints"
LAST = "last.ckpt"

_RETRY = re.compile(r"^retry_(\d{1,18})$")
_VERSION = re.compile(r"-v(\d{1,18})$")
_NUMBER = re.compile(r"\d{1,18}")
_TEMPORARY = re.compile(r"(\.(tmp|temp|part|partial|lock|download|incomplete|swp)|~)$", re.IGNORECASE)

NOT_CHECKPOINTS = re.compile(
    r"\.(json|jsonl|txt|ya?ml|toml|csv|tsv|log|md|html|png|jpe?g|svg|pdf|py|md5|sha256)$", re.IGNORECASE
)
LONGEST_NAME, MOST_DIGITS = 1024, 18
_ENDING = re.compile(r"\.[A-Za-z]\w*$")  # begins with a letter: `val_loss=0.12` has none
_PAIR = re.compile(
    r"(?P<name>[^=]+)=(?P<value>[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?|nan|inf))(?=$|[-_,;+ /)\]])", re.IGNORECASE
)
_AROUND = "-_,;+ /()[]"
_COMMON_PREFIX = re.compile(
    r"(?:.*/)?(?:best|model|checkpoint|ckpt|weights)-", re.IGNORECASE
)  # `filename="best-{val_loss:.2f}"`
_EPOCH = re.compile(r"(?<![a-z])epochs?[ _-]?(\d{1,18})", re.IGNORECASE)
_STEP = re.compile(r"(?<![a-z])steps?[ _-]?(\d{1,18})", re.IGNORECASE)
_RECOVERY = re.compile(r"recovery_?(\d{1,18})")
_BEST = re.compile(r"best(?:[-_ ](?P<metric>.+))?", re.IGNORECASE)
_OF_NOTHING = {"checkpoint", "ckpt", "model", "weights", "epoch", "state", "so_far"}
_COUNTERS = {"epoch": "epoch", "epochs": "epoch", "step": "step", "steps": "step"}
SMALLER = re.compile(r"loss|errors?|err|mse|rmse|mae|mape|nlll?|perplexity|ppl|[cw]er|fid|ece|brier")
GREATER = re.compile(
    r"acc|accuracy|auc|auroc|rocauc|auprc|aucpr|f1|f1score|dice|m?iou|jaccard|map|precision|recall"
    r"|sensitivity|specificity|r2|bleu|rouge|psnr|ssim|kappa|mcc|reward"
)
TURNING = re.compile(
    r"neg|negative|negated|minus|inv|inverse|inverted|reciprocal|complement"
    r"|free|reduction|decrease|drop|improvement|gap|scale"
)
"""Words beside which those above may mean the opposite, or nothing: `neg_log_loss`, `error_free_rate`, `accuracy_drop`,
`loss_scale`."""


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
    if "/" in base or not is_kept(base):
        return None
    plain, version = without_version(base.rpartition(".")[0] or base)
    if plain.startswith("recovery"):
        number = _NUMBER.search(plain)
        return Rank(Kind.recovery, int(number[0]) if number else -1, attempt, version)
    if plain in ("autosave", "last"):
        return Rank(Kind[plain], -1, attempt, version)
    return None


def best_first(names: Iterable[str], folder: str = FOLDER, *, least: Kind = Kind.last) -> list[str]:
    """Those of *names* that are checkpoints of the kind *least* or a more telling one, the one to go on from first."""
    ranked = [(rank, name) for name in names if (rank := rank_of(name, folder)) is not None and rank.kind >= least]
    return [name for _, name in sorted(ranked, reverse=True)]


def below_folder(name: str, folder: str = FOLDER) -> tuple[int, str] | None:
    """The try (0 for the first) that the file called *name* is of, and its name below that try's folder of checkpoints;
    None where it lies elsewhere."""
    if name.startswith(f"{folder}/"):
        return 0, name[len(folder) + 1 :]
    above, _, last = folder.rpartition("/")
    parts = (name[len(above) + 1 :] if above and name.startswith(f"{above}/") else "" if above else name).split("/", 2)
    found = _RETRY.match(parts[0]) if len(parts) == 3 and parts[1] == last else None
    return (int(found[1]), parts[2]) if found else None


def is_kept(name: str) -> bool:
    """False for the names of hidden and temporary files, whichever folder on the way is called so."""
    return not any(part.startswith(".") or _TEMPORARY.search(part) for part in name.split("/"))


def without_version(stem: str) -> tuple[str, int]:
    """*stem* without Lightning's `-v1` at its end, and that number; 0 where it has none."""
    found = _VERSION.search(stem)
    return (stem[: found.start()], int(found[1])) if found else (stem, 0)


def retry_pattern(folder: str = FOLDER) -> str:
    """The glob for the folders of later tries."""
    above, _, last = folder.rpartition("/")
    return f"{above}/retry_*/{last}" if above else f"retry_*/{last}"


@dataclass(frozen=True)
class ParsedName:
    """`stem` is the name without ending and version (equal in every try); `metrics` may be NaN.

    `best_of` is the metric that a name such as `best_val_loss.ckpt` has it the best of, '' for `best.ckpt`; None where
    the name does not say that, or has the values.
    """

    stem: str
    version: int
    epoch: int | None = None
    step: int | None = None
    metrics: Mapping[str, float] | None = None
    best_of: str | None = None


def parse_name(name: str) -> ParsedName:
    """What *name* says, of a file or folder below a folder of checkpoints: `epoch=3-val/loss=0.12-v1.ckpt`,
    `recovery_9`, `best_val_loss.ckpt`.

    One that is longer than any store takes says nothing.
    """
    if len(name) > LONGEST_NAME:
        return ParsedName(name, 0, metrics={})
    stem, version = without_version(_ENDING.sub("", name))
    counters: dict[str, int] = {}
    metrics: dict[str, float] = {}
    for found in _PAIR.finditer(stem):
        label = _COMMON_PREFIX.sub("", found["name"].strip(_AROUND))
        counter = _COUNTERS.get(re.split(r"[-_ /(\[]", label)[-1].lower())
        if counter is None:
            metrics[label] = float(found["value"])
        elif found["value"].isdecimal() and len(found["value"]) <= MOST_DIGITS:
            counters.setdefault(counter, int(found["value"]))
    for counter, pattern in (("epoch", _EPOCH), ("epoch", _RECOVERY), ("step", _STEP)):
        plain = pattern.search(stem)
        if plain is not None:
            counters.setdefault(counter, int(plain[1]))
    best_of = None
    if not metrics and (best := _BEST.fullmatch(stem.rpartition("/")[2])):
        label = _EPOCH.sub("", re.sub(r"=\d+", "", best["metric"] or "")).strip("-_ ")
        best_of = "" if label.lower() in _OF_NOTHING else label
    return ParsedName(stem, version, counters.get("epoch"), counters.get("step"), metrics, best_of)


def same_metric(one: str, other: str) -> bool:
    """Whether two names mean one metric: file names cannot hold all signs, so `val/loss` may be `val_loss` there."""
    return _plain(one) == _plain(other)


def ends_with_metric(label: str, metric: str) -> bool:
    """Whether *label*, all that stands before a value in a name, ends with *metric* as a word of its own:
    `resnet-val_loss` with `val_loss`."""
    return _plain(label).endswith(f"_{_plain(metric)}")


def _plain(metric: str) -> str:
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
