"""Whether a metric is the better the smaller or the greater it is, as far as its name leaves no doubt."""

from __future__ import annotations

import re

from himl_cli.core.checkpoints import Goal
from himl_cli.core.errors import BadUsage

SMALLER = re.compile(r"loss|errors?|err|mse|rmse|mae|mape|nlll?|perplexity|ppl|[cw]er|fid|ece|brier")
GREATER = re.compile(
    r"acc|accuracy|auc|auroc|rocauc|auprc|aucpr|f1|f1score|dice|m?iou|jaccard|map|precision|recall|sensitivity|specificity|r2|bleu|rouge|psnr|ssim|kappa|mcc|reward"
)


def goal_of(metric: str, given: Goal | None) -> Goal:
    """The *given* goal, else what the metric's name says. A word for a loss outweighs others: `dice_loss`. Raises BadUsage asking for --goal."""
    if given is not None:
        return given
    words = re.findall(r"[a-z]+\d?", re.sub(r"([a-z\d])([A-Z])", r"\1 \2", metric).lower())
    if any(map(SMALLER.fullmatch, words)):
        return "minimize"
    if any(map(GREATER.fullmatch, words)):
        return "maximize"
    raise BadUsage(f"Nobody can tell from its name whether '{metric}' is to be small or great.", hint="Add --goal minimize or --goal maximize.")
