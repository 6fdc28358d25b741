"""Whether a metric is the better the smaller or the greater it is, as far as its name leaves no doubt."""

from __future__ import annotations

import re

from himl_cli.core.checkpoints import Goal
from himl_cli.core.errors import BadUsage

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


def goal_of(metric: str, given: Goal | None) -> Goal:
    """The *given* goal, else what the metric's name says. A word for a loss outweighs others: `dice_loss`. Raises
    BadUsage asking for --goal."""
    if given is not None:
        return given
    words = _words(metric)
    if not any(map(TURNING.fullmatch, words)):
        if any(map(SMALLER.fullmatch, words)):
            return "minimize"
        if any(map(GREATER.fullmatch, words)):
            return "maximize"
    raise BadUsage(
        f"Nobody can tell from its name whether '{metric}' is to be small or great.",
        hint="Add --goal minimize or --goal maximize.",
    )


def _words(metric: str) -> set[str]:
    """The words of a name, apart at capitals (`valLoss`) and not (`mAP`), with the number behind them (`f1`) and
    without (`mAP50`)."""
    apart = re.sub(r"([a-z\d])([A-Z])", r"\1 \2", metric)
    return {each for found in re.finditer(r"([a-z]+)\d*", f"{metric} {apart}".lower()) for each in (found[0], found[1])}
