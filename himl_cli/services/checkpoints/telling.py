"""What else a checkpoint's name says: its epoch and step, the values of metrics, that it is the best. Pure text."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from himl_cli.services.checkpoints.names import without_version

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


@dataclass(frozen=True)
class Telling:
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


def read_name(name: str) -> Telling:
    """What *name* says, of a file or folder below a folder of checkpoints: `epoch=3-val/loss=0.12-v1.ckpt`,
    `recovery_9`, `best_val_loss.ckpt`.

    One that is longer than any store takes says nothing.
    """
    if len(name) > LONGEST_NAME:
        return Telling(name, 0, metrics={})
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
    return Telling(
        stem, version, counters.get("epoch"), counters.get("step"), metrics, None if metrics else _best_of(stem)
    )


def same_metric(one: str, other: str) -> bool:
    """Whether two names mean one metric: file names cannot hold all signs, so `val/loss` may be `val_loss` there."""
    return _plain(one) == _plain(other)


def ends_with_metric(label: str, metric: str) -> bool:
    """Whether *label*, all that stands before a value in a name, ends with *metric* as a word of its own:
    `resnet-val_loss` with `val_loss`."""
    return _plain(label).endswith(f"_{_plain(metric)}")


def _plain(metric: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", metric.lower()).strip("_")


def _best_of(stem: str) -> str | None:
    found = _BEST.fullmatch(stem.rpartition("/")[2])
    if found is None:
        return None
    metric = _EPOCH.sub("", re.sub(r"=\d+", "", found["metric"] or "")).strip("-_ ")
    return "" if metric.lower() in _OF_NOTHING else metric
