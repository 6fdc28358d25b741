"""`--early_stop POLICY(…)` and `--sampling WORD(…)`."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches

from himl_cli.core.errors import BadUsage
from himl_cli.core.sweeps import EarlyStop
from himl_cli.services.sweeps.calls import Call, check_names, parse_call, scalar

COMMON = ("evaluation_interval", "delay_evaluation")
POLICIES = {
    "bandit": ("slack_factor", "slack_amount", *COMMON),
    "median": COMMON,
    "truncation": ("truncation_percentage", *COMMON),
}
AZURE_WORDS = {"median_stopping": "median", "truncation_selection": "truncation"}
SAMPLINGS = ("grid", "random", "bayesian")
LARGEST_SEED = 2**31 - 1


def parse_early_stop(text: str) -> EarlyStop:
    """What `--early_stop` says. Raises BadUsage."""
    where = f"--early_stop {text}"
    call = parse_call(text) or Call(text.strip(), (), {})
    policy = AZURE_WORDS.get(call.word, call.word)
    if policy not in POLICIES:
        raise BadUsage(
            f"{where}: there is no policy '{call.word}'.",
            hint=_near(call.word, (*POLICIES, *AZURE_WORDS), tuple(POLICIES)),
        )
    check_names(call.named, POLICIES[policy], where)
    if call.values:
        raise BadUsage(
            f"{where}: '{call.values[0]}' has no name.",
            hint=f"Write --early_stop '{policy}({POLICIES[policy][0]}={call.values[0]})'",
        )
    numbers = {name: _number(where, name, value) for name, value in call.named.items()}
    return checked_stop(
        EarlyStop(
            policy,
            evaluation_interval=_whole(where, "evaluation_interval", numbers, 1),
            delay_evaluation=_whole(where, "delay_evaluation", numbers, 0),
            slack_factor=numbers.get("slack_factor"),
            slack_amount=numbers.get("slack_amount"),
            truncation_percentage=_whole(where, "truncation_percentage", numbers, 0)
            if "truncation_percentage" in numbers
            else None,
        ),
        where,
    )


def checked_stop(stop: EarlyStop, where: str = "--early_stop") -> EarlyStop:
    """*stop*, once it says all that its policy needs. Raises BadUsage, which begins with *where*."""
    if stop.policy not in POLICIES:
        raise BadUsage(f"{where}: there is no policy '{stop.policy}'.", hint=f"There are: {', '.join(POLICIES)}.")
    if stop.evaluation_interval < 1:
        raise BadUsage(
            f"{where}: evaluation_interval is to be at least 1.",
            hint="1 looks at each value that the primary metric gets.",
        )
    if stop.delay_evaluation < 0:
        raise BadUsage(f"{where}: delay_evaluation cannot be less than 0.")
    slacks = [slack for slack in (stop.slack_factor, stop.slack_amount) if slack is not None]
    if stop.policy == "bandit" and len(slacks) != 1:
        raise BadUsage(
            f"{where}: bandit takes slack_factor or slack_amount, {'not both' if slacks else 'and neither is given'}.",
            hint="bandit(slack_factor=0.1) stops what is more than 10 % worse than the best trial.",
        )
    if any(slack <= 0 for slack in slacks):
        raise BadUsage(
            f"{where}: the slack is to be greater than 0.",
            hint="bandit(slack_factor=0.1) stops what is more than 10 % worse than the best trial.",
        )
    if stop.policy == "truncation" and not 1 <= (stop.truncation_percentage or 0) <= 99:
        raise BadUsage(
            f"{where}: truncation_percentage is to be 1 to 99.",
            hint="truncation(truncation_percentage=20) stops the worst fifth.",
        )
    return stop


def parse_sampling(text: str) -> tuple[str, int | None]:
    """The word, and the seed where one is given: `random(seed=7)`. Raises BadUsage."""
    where = f"--sampling {text}"
    call = parse_call(text) or Call(text.strip(), (), {})
    if call.word not in SAMPLINGS:
        raise BadUsage(f"{where}: there is no sampling '{call.word}'.", hint=_near(call.word, SAMPLINGS, SAMPLINGS))
    check_names(call.named, () if call.word == "grid" else ("seed",), where)
    if call.values:
        raise BadUsage(
            f"{where}: '{call.values[0]}' has no name.", hint=f"Write --sampling '{call.word}(seed={call.values[0]})'"
        )
    if "seed" not in call.named:
        return call.word, None
    seed = scalar(call.named["seed"])
    if not isinstance(seed, int) or not 0 <= seed <= LARGEST_SEED:
        raise BadUsage(f"{where}: seed is to be a whole number from 0 to {LARGEST_SEED}.")
    return call.word, seed


def _near(word: str, known: tuple[str, ...], shown: tuple[str, ...]) -> str:
    near = get_close_matches(word, known, n=1, cutoff=0.5)
    return f"Did you mean '{near[0]}'?" if near else f"There are: {', '.join(shown)}."


def _number(where: str, name: str, text: str) -> float:
    value = scalar(text)
    if isinstance(value, str):
        raise BadUsage(f"{where}: {name} is to be a number, not '{text}'.")
    return value


def _whole(where: str, name: str, numbers: Mapping[str, float], default: int) -> int:
    value = numbers.get(name, default)
    if value != int(value):
        raise BadUsage(f"{where}: {name} is to be a whole number, not {value:g}.")
    return int(value)
