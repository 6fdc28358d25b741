"""What himl aims at, as data, and whether raw figures keep it: judged only where they are rendered, so that no verdict can differ from its figures."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.raw import FIGURES, Raw

MB = 1_000_000


@dataclass(frozen=True)
class Of:
    """The figures of each of these candidates in each of these scenarios."""

    scenarios: tuple[str, ...]
    candidates: tuple[str, ...]


@dataclass(frozen=True)
class Aim:
    """*numerator*, divided by *denominator* or less *minus* where there is one, is to be *limit* at most (or, with `at_least`, at least).

    Of several figures that one counts which is worst for himl. `cause` says why it is missed, where it is; it may have the placeholders of the document.
    """

    bench: str
    text: str
    numerator: Of
    limit: float
    figure: str = "wall"
    denominator: Of | None = None
    minus: Of | None = None
    at_least: bool = False
    cause: str = ""


@dataclass(frozen=True)
class Verdict:
    """`value` is None where a figure is lacking; `why` then says which."""

    aim: Aim
    value: float | None
    why: str = ""

    @property
    def is_kept(self) -> bool:
        return self.value is not None and (self.value >= self.aim.limit if self.aim.at_least else self.value <= self.aim.limit)


def median(raw: Raw, scenario: str, candidate: str, figure: str) -> float | None:
    """Of all rounds; of memory the most. None where there is no such figure."""
    assert figure in FIGURES
    found = values(raw, scenario, candidate, figure)
    if not found:
        return None
    return max(found) if figure == "memory" else statistics.median(found)


def values(raw: Raw, scenario: str, candidate: str, figure: str) -> Sequence[float]:
    """Of each round, in order."""
    rounds = [one for one in raw.rounds if one.scenario == scenario and one.candidate == candidate]
    return [value for one in rounds if (value := getattr(one, figure)) is not None]


def judge(aim: Aim, results: Mapping[str, Raw]) -> Verdict:
    """Whether *results*, by benchmark, keep it."""
    raw = results.get(aim.bench)
    if raw is None:
        return Verdict(aim, None, f"`{aim.bench}` has no results")
    above, why = _figures(raw, aim.numerator, aim.figure)
    other = aim.denominator or aim.minus
    below, why_not = _figures(raw, other, aim.figure) if other else ([], "")
    if why or why_not:
        return Verdict(aim, None, why or why_not)
    worst = min(above) if aim.at_least else max(above)
    if not below:
        return Verdict(aim, worst)
    against = max(below) if aim.at_least else min(below)
    return Verdict(aim, worst / against if aim.denominator else worst - against)


def _figures(raw: Raw, of: Of, figure: str) -> tuple[list[float], str]:
    """The medians, and which of them is lacking."""
    found = []
    for scenario in of.scenarios:
        for candidate in of.candidates:
            value = median(raw, scenario, candidate, figure)
            if value is None:
                why = raw.meta["missing"].get(candidate, "not measured")
                return [], f"{candidate}, {scenario}: {why}"
            found.append(value)
    return found, ""


def _of(scenario: str, *candidates: str) -> Of:
    return Of((scenario,), candidates)


TYPER = 'python -c "import typer"'
HELPS = ("himl --help", "himl submit --help", "himl runs --help", "himl download --help", "himl runs list --help", "himl montage --help")
ENGINE, COMMAND, RCLONE, AZCOPY, SDK = "himl engine", "himl command", "rclone", "azcopy", "azure-storage-blob"
DOWN, UP, LARGE_DOWN, LARGE_UP, LATE = "small down", "small up", "large down", "large up", "small down, 30 ms"
MOVES = (DOWN, LATE, "small down from Azurite", UP, "small up, 30 ms", LARGE_DOWN, "large down, 30 ms", "large down from Azurite", LARGE_UP, "large up, 30 ms")
MONTAGE, HI_ML_LAYOUT, HI_ML = "himl montage", "himl montage --layout hi-ml", "hi-ml-cpath 0.5.2"
SUBMIT, AZURE_AI_ML = "himl submit", "azure-ai-ml"
TB, TB_ALONE, WHOLE_FILES = "himl tb", "TensorBoard alone, files here", "whole files again"
TRIALS, CHILD_BY_CHILD, AGGREGATE = "200 trials x 10 metrics there", "azureml-core, child by child", "himl runs aggregate"
LOGGED = "mlflow.log_metric"
TAB = "himl --complete runs="

BEST_OF_ALL = (
    "Nobody else computes what himl does: of each block an MD5 that the service checks, and the MD5 of the whole, which is stored with the blob. "
    "azure-storage-blob sends no MD5 and stores none. himl takes {{cpu transfer | large up | himl engine}} of processor time, azure-storage-blob "
    "{{cpu transfer | large up | azure-storage-blob}}; the MD5 of these bytes alone takes {{cpu transfer | large up | MD5 alone}}, and himl needs it twice. "
    "All of that is taken from Azurite, which is one busy core of the two."
)
EIGHT_TIMES = (
    "azcopy takes {{wall transfer | small down | azcopy}} for this job, nearly as long as for a job of a few files, and the engine "
    "{{wall transfer | small down | himl engine}}: a few hundredths of a second decide. Of the engine's time, that of its processor is "
    "{{cpu transfer | small down | himl engine}}, most of it libcurl's and the file system's work for each file."
)
START = (
    "Of {{wall transfer | small down | himl command}} the engine takes {{wall transfer | small down | himl engine}}: the rest is the start of Python, some "
    "hundred modules, and the look-up of workspace and datastore. rclone, in one piece, takes {{wall transfer | small down | rclone}} in all. A limit in "
    "seconds is missed or kept by the speed of the machine."
)
LAYOUT = "Decoding, resizing and encoding keep both cores busy: himl takes {{wall montage | 20,000 wide | himl montage}}."
PIXELS = (
    "The pixels of old montages are those of Pillow's bicubic filter, which takes about half of the processor time; decoding and encoding are most of the "
    "rest. himl's own layout, with another filter, is at {{ratio wall | montage | 20,000 wide | hi-ml-cpath 0.5.2 | himl montage}} times."
)

AIMS = (
    Aim("startup", "any help: at most 1.5 times `import typer`", _of("help", *HELPS), 1.5, denominator=_of("help", TYPER)),
    Aim(
        "startup", "any help: at least 20 times as fast as hi-ml's", _of("help", "himl-tb --help of hi-ml"), 20, denominator=_of("help", *HELPS), at_least=True
    ),
    Aim("submit_local", "`himl submit` adds at most 0.5 s", _of("a job here", "himl submit train.py"), 0.5, minus=_of("a job here", "python train.py")),
    Aim("runs_list", "`himl runs list` of 2,000 runs: at most 0.5 s", _of("2,000 runs", "himl runs list"), 0.5),
    Aim("runs_list", "run ids by Tab: at most 150 ms", _of("Tab, 2,000 runs", TAB), 0.15),
    Aim("tracking", "a `log_metric` call: at most 3 ms", _of("a call", LOGGED), 0.003),
    Aim("azure_start", "`himl runs list`: at most 1 s of processor time", Of(("first", "again"), ("himl runs list",)), 1.0, "cpu"),
    Aim("submit_azure", "first: no more time than azure-ai-ml", _of("first", SUBMIT), 1.0, denominator=_of("first", AZURE_AI_ML)),
    Aim("submit_azure", "first: no more requests", _of("first", SUBMIT), 1.0, "requests", _of("first", AZURE_AI_ML)),
    Aim("submit_azure", "again: at most 0.7 of the time", _of("again", SUBMIT), 0.7, denominator=_of("again", AZURE_AI_ML)),
    Aim("submit_azure", "again: at most 0.7 of the requests", _of("again", SUBMIT), 0.7, "requests", _of("again", AZURE_AI_ML)),
    Aim("aggregate", "at least 10 times as fast as child by child", _of(TRIALS, CHILD_BY_CHILD), 10, denominator=_of(TRIALS, AGGREGATE), at_least=True),
    Aim("aggregate", "two million points here: the table in at most 3 s", _of("1,000 trials x 20 metrics x 100 steps here", AGGREGATE), 3.0),
    Aim(
        "tb",
        "event bytes: at most 1.02 times the new ones",
        _of("event bytes of 40 refreshes", TB),
        1.02,
        "bytes",
        _of("event bytes of 40 refreshes", "new bytes"),
    ),
    Aim(
        "tb",
        "all bytes: at least 20 times fewer than whole files",
        _of("all bytes of 40 refreshes", WHOLE_FILES),
        20,
        "bytes",
        _of("all bytes of 40 refreshes", TB),
        at_least=True,
    ),
    Aim(
        "tb",
        "first picture: at most 3 s more than TensorBoard alone",
        _of("until the first scalar is served", TB),
        3.0,
        minus=_of("until the first scalar is served", TB_ALONE),
    ),
    Aim(
        "montage",
        "20,000 wide: at least 10 times as fast as hi-ml",
        _of("20,000 wide", HI_ML),
        10,
        denominator=_of("20,000 wide", MONTAGE),
        at_least=True,
        cause=LAYOUT,
    ),
    Aim(
        "montage",
        "20,000 wide, hi-ml's own picture: at least 10 times as fast",
        _of("20,000 wide", HI_ML),
        10,
        denominator=_of("20,000 wide", HI_ML_LAYOUT),
        at_least=True,
        cause=PIXELS,
    ),
    Aim("montage", "20,000 wide: at most 300 MB", _of("20,000 wide", MONTAGE, HI_ML_LAYOUT), 300 * MB, "memory"),
    Aim("montage", "60,000 wide: at least 15 times as fast as hi-ml", _of("60,000 wide", HI_ML), 15, denominator=_of("60,000 wide", MONTAGE), at_least=True),
    Aim(
        "montage",
        "60,000 wide, hi-ml's own picture: at least 15 times as fast",
        _of("60,000 wide", HI_ML),
        15,
        denominator=_of("60,000 wide", HI_ML_LAYOUT),
        at_least=True,
        cause=PIXELS,
    ),
    Aim("montage", "60,000 wide: at most 700 MB", _of("60,000 wide", MONTAGE, HI_ML_LAYOUT), 700 * MB, "memory"),
    Aim("transfer", "small down: faster than rclone", _of(DOWN, ENGINE), 1.0, denominator=_of(DOWN, RCLONE)),
    Aim(
        "transfer", "small down: azcopy takes at least 8 times the time", _of(DOWN, AZCOPY), 8, denominator=_of(DOWN, ENGINE), at_least=True, cause=EIGHT_TIMES
    ),
    Aim("transfer", "small down: azure-storage-blob takes at least 8 times the time", _of(DOWN, SDK), 8, denominator=_of(DOWN, ENGINE), at_least=True),
    Aim("transfer", "small down: the whole command within 0.3 s of rclone", _of(DOWN, COMMAND), 0.3, minus=_of(DOWN, RCLONE), cause=START),
    Aim("transfer", "small down, 30 ms: no slower than rclone", _of(LATE, ENGINE), 1.0, denominator=_of(LATE, RCLONE)),
    Aim("transfer", "small up: no slower than rclone", _of(UP, ENGINE), 1.0, denominator=_of(UP, RCLONE)),
    Aim("transfer", "large down: faster than rclone", _of(LARGE_DOWN, ENGINE), 1.0, denominator=_of(LARGE_DOWN, RCLONE)),
    Aim("transfer", "large down: at most 1.25 times the MD5 alone", _of(LARGE_DOWN, ENGINE), 1.25, denominator=_of(LARGE_DOWN, "MD5 alone")),
    Aim(
        "transfer",
        "large up: at most 1.1 times the best of those that store an MD5",
        _of(LARGE_UP, ENGINE),
        1.1,
        denominator=_of(LARGE_UP, RCLONE, AZCOPY),
    ),
    Aim(
        "transfer", "large up: at most 1.1 times the best of all", _of(LARGE_UP, ENGINE), 1.1, denominator=_of(LARGE_UP, RCLONE, AZCOPY, SDK), cause=BEST_OF_ALL
    ),
    Aim("transfer", "memory: at most 150 MB, whatever moves", Of(MOVES, (ENGINE, COMMAND)), 150 * MB, "memory"),
)
