"""A sweep in one line."""

from __future__ import annotations

from himl_cli.core.sweeps import REPEATED, Draw, EarlyStop, SearchRange, SweepSpec, value_text

LONGEST_LIST = 12


def sweep_text(spec: SweepSpec) -> str:
    """What is searched and how, as it could be typed: `lr=0.1,0.01 depth=randint(5), random(seed=7), 20 trials,
    minimize val/loss`.

    Of folds and seeds, nothing is searched: `random_seed=0,1,2, 3 runs, mean of val/loss`.
    """
    parts = [" ".join(f"{name}={range_text(found)}" for name, found in spec.space.items())]
    if spec.kind in REPEATED:
        return ", ".join(
            (*parts, f"{spec.max_trials} run{'s' * (spec.max_trials != 1)}, mean of {spec.primary_metric}")
        )
    parts.append(spec.sampling if spec.seed is None else f"{spec.sampling}(seed={spec.seed})")
    parts.append(f"{spec.max_trials} trial{'s' * (spec.max_trials != 1)}")
    parts.append(f"{spec.goal} {spec.primary_metric}")
    parts += [stop_text(spec.early_stop)] if spec.early_stop else []
    return ", ".join(parts)


def range_text(found: SearchRange) -> str:
    """A list with commas between, or the distribution with its arguments."""
    values = [f'"{text}"' if "," in text else text for text in map(value_text, found.values)]
    if found.draw is Draw.choice:
        left_out = len(values) - LONGEST_LIST
        return ",".join(values) if left_out <= 0 else f"{','.join(values[:LONGEST_LIST])},… ({len(values)} values)"
    return f"{found.draw.value}({','.join(values)})"


def stop_text(stop: EarlyStop) -> str:
    """The policy with what is not as usual."""
    given = {
        "slack_factor": stop.slack_factor,
        "slack_amount": stop.slack_amount,
        "truncation_percentage": stop.truncation_percentage,
        "evaluation_interval": stop.evaluation_interval if stop.evaluation_interval != 1 else None,
        "delay_evaluation": stop.delay_evaluation or None,
    }
    inside = ",".join(f"{name}={value:g}" for name, value in given.items() if value is not None)
    return f"{stop.policy}({inside})" if inside else stop.policy
