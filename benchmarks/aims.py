"""himl's performance aims as data, and the verdicts on them.

Verdicts are computed when a page is rendered, so that none can differ from its figures.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.raw import Raw

MB = 1_000_000
GROWTH = "growth"
"""The figure that is the growth of memory without files per hour."""
FACT = "fact"
"""The figure that is the value of a fact."""
RIGHT, TISSUE, BACKGROUND = "pictures with all tiles right", "tiles of tissue kept", "tiles of background kept"


@dataclass(frozen=True)
class Of:
    """Selects the figures of each candidate in each scenario."""

    scenarios: tuple[str, ...]
    candidates: tuple[str, ...]


@dataclass(frozen=True)
class Aim:
    """Requires *numerator*, divided by *denominator* or minus *minus* if given, to be at most *limit* (with `at_least`:
    at least).

    If there are several figures, the worst one for himl counts. `cause` explains a missed aim and may contain the
    placeholders of a page."""

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
    """Result of an aim. If a figure is missing, `value` is None and `why` names the figure."""

    aim: Aim
    value: float | None
    why: str = ""

    @property
    def is_kept(self) -> bool:
        return self.value is not None and (
            self.value >= self.aim.limit if self.aim.at_least else self.value <= self.aim.limit
        )


def judge(aim: Aim, raw: Raw) -> Verdict:
    values = list[list[float]]()
    for of in filter(None, (aim.numerator, aim.denominator or aim.minus)):
        places = [(scenario, candidate) for scenario in of.scenarios for candidate in of.candidates]
        found = {place: _figure(raw, place, aim.figure) for place in places}
        values.append([value for value in found.values() if value is not None])
        for scenario, candidate in (place for place, value in found.items() if value is None):
            return Verdict(aim, None, f"{candidate}, {scenario}: {raw.meta['missing'].get(candidate, 'not measured')}")
    worst, best = (min, max) if aim.at_least else (max, min)
    value = worst(values[0])
    if aim.denominator:
        value /= best(values[1])
    elif aim.minus:
        value -= best(values[1])
    return Verdict(aim, value)


def _figure(raw: Raw, place: tuple[str, str], figure: str) -> float | None:
    if figure == FACT:
        return raw.fact(*place)
    if figure != GROWTH:
        return raw.median(*place, figure)
    return raw.growth(*place, "bytes")[0] if raw.rounds_of(*place) else None


def _within(scenario: str, candidate: str, seconds: float, megabytes: int) -> Iterator[Aim]:
    """Limit time and memory of *candidate* in the benchmark `scale`."""
    yield Aim("scale", f"{candidate}, {scenario}: at most {seconds:g} s", _of(scenario, candidate), seconds)
    yield Aim(
        "scale", f"{candidate}, {scenario}: at most {megabytes} MB", _of(scenario, candidate), megabytes * MB, "memory"
    )


def _grown(subject: str, candidate: str, few: int, many: int, limit: float, figure: str) -> Aim:
    """Require a figure of *candidate* for *many* to be at most *limit* times that for *few*."""
    text = (
        f"{candidate}, {many:,} {subject}: at most {limit:g} times the "
        f"{'memory' if figure == 'memory' else 'time'} of {few:,}"
    )
    return Aim(
        "scale", text, _of(f"{many:,} {subject}", candidate), limit, figure, _of(f"{few:,} {subject}", candidate)
    )


COST_SIZES = {
    "show": (100, 200),
    "tag": (100, 200),
    "delete": (10, 20),
    "list": (2_500, 5_000),
    "show --children": (1_000, 2_000),
}
NAMES, BATCH = 50_000, "values in a call of log_metrics, with a rollback journal"
LOCAL_SIZES = {
    "files of a submission": (10_000, 50_000),
    f"rules for {NAMES:,} names": (250, 500),
    "points of a run": (500_000, 1_000_000),
    "runs and a wrong id": (50_000, 100_000),
    "values with an active model": (2_000, 4_000),
    BATCH: (50, 100),
    "levels of folders": (550, 1_100),
}
COPY, STORED_CODE, CALLED_BARE, SHORT = (
    "cp -r",
    "himl submit, until its code is in the store",
    "without a model",
    "start",
)
TYPER, WITHOUT_PYC = 'python -c "import typer"', "himl --help, without .pyc files"
WAITING, FOLLOW, WATCH = "while the run continues", "himl runs logs --follow", "himl runs list --watch, 19,000 points"


def cost_scenario(command: str, size: int) -> str:
    return f"{size:,} runs at 200 ms: {command}"


def local_scenario(subject: str, size: int) -> str:
    return f"{size:,} {subject}"


def _local(subject: str, limit: float, figure: str, unit: str) -> Iterator[Aim]:
    """Limit a figure for the larger size, and its growth: to a tenth more than that of the sizes, or to a tenth if
    it is a figure of one file or point.
    """
    sizes = LOCAL_SIZES[subject]
    few, many = (_of(local_scenario(subject, size), "himl") for size in sizes)
    yield Aim("cost", f"{many.scenarios[0]}: at most {limit:g} {unit}", many, limit, figure)
    growth = 1.1 if unit.endswith((" a file", " a point")) else 1.1 * sizes[1] / sizes[0]
    noun = "processor time" if figure == "cpu" else unit
    yield Aim(
        "cost",
        f"{many.scenarios[0]}: at most {growth:g} times the {noun} of {sizes[0]:,}",
        many,
        growth,
        figure,
        few,
    )


def _submitted(size: int, seconds: float) -> Aim:
    scenario = local_scenario("files of a submission", size)
    return Aim(
        "cost",
        f"{scenario}: at most {seconds:g} s",
        _of(scenario, "himl"),
        seconds,
        cause=COPIED.replace("SIZE", f"{size:,}"),
    )


def _called(size: int) -> Aim:
    scenario = local_scenario("values with an active model", size)
    text = f"{scenario}: at most 1.25 times the time of a call without one"
    return Aim("cost", text, _of(scenario, "himl"), 1.25, "wall", _of(scenario, CALLED_BARE))


def _seconds(command: str, seconds: float) -> Aim:
    size = COST_SIZES[command][-1]
    return Aim(
        "cost",
        f"`runs {command}` of {size:,} at 200 ms: at most {seconds:g} s",
        _of(cost_scenario(command, size), "himl"),
        seconds,
    )


def _slope(command: str) -> Aim:
    """Require at most twice the requests for twice as many runs."""
    few, many = (_of(cost_scenario(command, size), "himl") for size in COST_SIZES[command])
    return Aim("cost", f"`runs {command}`, twice as many: at most twice the requests", many, 2.0, "requests", few)


def _per_hour(name: str, seconds: float) -> Aim:
    return Aim(
        "cost",
        f"{name}, waiting: at most {seconds:g} s of processor time per hour",
        _of(WAITING, name),
        seconds,
        "cpu",
        cause=WOKEN,
    )


def _of(scenario: str, *candidates: str) -> Of:
    return Of((scenario,), candidates)


def _times(
    bench: str,
    text: str,
    scenario: str,
    above: str,
    limit: float,
    below: str,
    figure: str = "wall",
    *,
    least: bool = False,
    cause: str = "",
) -> Aim:
    """Require the figure of *above* to be at most (*least*: at least) *limit* times that of *below*."""
    return Aim(bench, text, _of(scenario, above), limit, figure, _of(scenario, below), at_least=least, cause=cause)


HELPS = [f"himl{name} --help" for name in ("", " submit", " runs", " download", " runs list", " montage")]
COPIED = (
    "`cp -r` of the same files, in the same turns, takes {{wall cost | SIZE files of a submission | cp "
    "-r}}. Of 2.0 s, 0.3 s go by until the list begins, 0.3 s list the files, 1.2 s are those of two processes that "
    "copy them on both cores while the file system writes, and 0.1 s find those that the script wrote. For minutes "
    "after many files were deleted, ext4 takes longer to create others, for `cp -r` too."
)
WOKEN = (
    "To wake up takes 0.1 to 0.3 ms, however little a command does then. It wakes up 2.5 times a second, and five "
    "times while the log grows. The same code takes two to three times as much in some periods as in others."
)
ENGINE, COMMAND, RCLONE, AZCOPY, SDK = "himl engine", "himl command", "rclone", "azcopy", "azure-storage-blob"
DOWN, UP, LARGE_DOWN, LARGE_UP = "small down", "small up", "large down", "large up"
LARGE_AZURITE = f"{LARGE_DOWN} from Azurite"
FROM_AZURITE = [f"{DOWN} from Azurite", LARGE_AZURITE]
MOVES = [*(f"{name}{late}" for name in (DOWN, UP, LARGE_DOWN, LARGE_UP) for late in ("", ", 30 ms")), *FROM_AZURITE]
MONTAGE, HI_ML_LAYOUT, HI_ML = "himl montage", "himl montage --layout hi-ml", "hi-ml-cpath 0.5.2"
SUBMIT, AZURE_AI_ML, TB, AGGREGATE = "himl submit", "azure-ai-ml", "himl tb", "himl runs aggregate"
UI, MLFLOW_SERVER, FIRST_PAGE, CURVES = (
    "himl ui",
    "mlflow server, SQLite",
    "2,000 runs: the first page",
    "50 runs compared: all curves",
)
SLIDES = "12 slides"
FIRST_SCALAR, TRIALS, SWEEP = (
    "until the first scalar is served",
    "200 trials x 10 metrics on Azure ML",
    "1,000 local trials x 20 metrics x 100 steps",
)

BEST_OF_ALL = (
    "Only himl computes an MD5 of each block, which the service checks, and the MD5 of the whole, which it "
    "stores with the blob. "
    "azure-storage-blob sends no MD5 and stores none. himl takes {{cpu transfer | large up | himl engine}} "
    "of processor time, azure-storage-blob "
    "{{cpu transfer | large up | azure-storage-blob}}. Computing the MD5 of these bytes takes {{cpu "
    "transfer | large up | MD5 alone}}, which himl does twice. "
    "Azurite, which uses one of the two cores, computes the MD5 of each block as well. azure-storage-blob "
    "with a checked MD5 of each block takes "
    "{{wall transfer | large up | azure-storage-blob checked}}, and still stores none. In a trial, himl "
    "without the MD5 of each block took a quarter less "
    "processor time and the same wall time (6.99 s beside 7.01 s), because Azurite is the bottleneck."
)
EIGHT_TIMES = (
    "azcopy takes {{wall transfer | small down | azcopy}} for this job, nearly as long as for a job of a "
    "few files, and the engine "
    "{{wall transfer | small down | himl engine}}. The engine uses {{cpu transfer | small down | himl "
    "engine}} of processor time. A profile shows half of it "
    "in Python's interpreter, a quarter in the kernel for sockets and files, a tenth in MD5 and 3 % in "
    "libcurl. Python alone takes 41 ms to create, write "
    "and rename 2,000 such files, and 44 ms for their MD5."
)
CONTENTION = (
    "The 16 commands start together, three processes each, and have all started after about 2 s. Until "
    "then a list, which needs "
    "{{cpu runs_list | while 16 jobs start | himl runs list}} of a processor, shares two cores with dozens "
    "of processes. In the same turns, "
    '`python -c "import typer"`, which needs {{cpu runs_list | while 16 jobs start | python -c "import typer"}}, takes '
    '{{wall runs_list | while 16 jobs start | python -c "import typer"}}.'
)
SHARED = (
    "Azurite keeps one of the two cores busy, and each byte that a client computes with the other one "
    "delays it. himl takes "
    "{{cpu transfer | large down from Azurite | himl engine}} of processor time, of which the MD5 is "
    "{{cpu transfer | large down from Azurite | MD5 alone}}. A profile shows 43 % in MD5, 45 % in the "
    "kernel for sockets and files, and 8 % in copies of "
    "bytes. azure-storage-blob checks no MD5."
)
FILE_ORDER = (
    "A profile of 14 downloads (1.76 to 2.13 s) shows the thread that computes the MD5. It computes for "
    "1.4 to 1.5 s, as long as the MD5 alone, reads the "
    "bytes back from the file for 0.2 s, and waits 0.03 to 0.09 s for the first bytes and 0.15 to 0.34 s "
    "for later ones: 32 pieces arrive at once, and the "
    "thread needs them in the order of the file. In a trial with shorter pieces near the start of the file "
    "(from 512 KiB instead of 2 MiB), downloads took "
    "1.23 instead of 1.32 times as long as the MD5 alone, but with 30 ms of latency 1.29 instead of 1.31 "
    "times, and a file of 64 MiB took 109 requests "
    "instead of 32."
)
START = (
    "Of {{wall transfer | small down | himl command}}, the engine takes {{wall transfer | small down | "
    "himl engine}}. The rest is the start of Python, the "
    "import of some 400 modules, of which Typer and requests take half of the time, and the request for the "
    "datastore. rclone, a single "
    "binary, takes {{wall transfer | small down | rclone}} in "
    "total. Whether himl meets a limit in seconds depends on the speed of the machine."
)
LAYOUT = (
    "Decoding, resizing and encoding keep both cores busy: himl takes {{wall montage | 20,000 wide | himl montage}}."
)
PIXELS = (
    "This layout has the pixels of Pillow's bicubic filter, which takes half of the processor time in a "
    "profile. Decoding JPEG takes 13 %, encoding both "
    "files 12 %, copies of bytes 6 % and Python 4 %. himl uses {{cpu montage | 20,000 wide | himl montage "
    "--layout hi-ml}} of processor time on two cores. The "
    "default layout of himl, with another filter, reaches {{ratio wall | montage | 20,000 wide | "
    "hi-ml-cpath 0.5.2 | himl montage}} times."
)

DRAWING = (
    "MLflow's page requests each run, then each curve, then all curves again, and draws them with Plotly, "
    "in this benchmark without a GPU. A profile "
    "of one visit (2.98 s) shows 1.7 s in which React renders the page again after each answer, 0.3 s in "
    "Plotly and 0.3 s in which the page parses JSON. "
    "With all answers from memory, the page still takes 1.9 to 2.0 s, and with himl's 2.15 s (both at "
    "real-time priority). With MLflow's own store, the "
    "page takes {{ratio wall | ui | 50 runs compared: all curves | mlflow server, SQLite | himl ui}} times as long."
)
LOGS = "while a job logs eighty points a second"
LASTING = (
    *(f"{name}, {place}" for name in ("script", "supervisor") for place in ("here", "by SSH")),
    *(
        "runs list --watch",
        "runs list --watch, by SSH",
        "agent, by SSH",
        "himl tb",
        "server of himl tb",
        "himl ui",
        "server of himl ui",
    ),
)
SSH_LIST, SSH_SUBMIT, SSH_SMALL, SSH_DISTANT, SSH_LARGE, SSH_NETWORK = (
    "a list of 100 runs",
    "an unchanged project of 100 files",
    "2,000 files of 16 KiB",
    "2,000 files of 16 KiB, down from a machine 10 ms away",
    "1 GiB",
    "1 GiB, down over a gigabit network",
)
SSH_RUNS, SSH_JOB, SSH_DOWN = "himl runs list -w ssh:HOST", "himl submit --cluster ssh:HOST", "himl download"
STARTS = (
    "rsync moves all files in {{cpu ssh | 2,000 files of 16 KiB, down | rsync -a}} of processor time. Of the {{cpu "
    "ssh | 2,000 files of 16 KiB, down | himl download}} of himl, {{cpu ssh | a list of 100 runs | himl runs list -w "
    "ssh:HOST}} are those of a list of runs: two starts of Python with the modules of himl. The rest is for each file "
    "its MD5 at both ends, its checks, its partial file and its record, all in Python. Here, an answer takes no "
    "time. From a machine 10 ms away, scp takes {{ratio wall | ssh | 2,000 files of 16 KiB, down from a machine 10 "
    "ms away | scp -r | himl download}} times as long as himl."
)
TWO_MD5S = (
    "himl computes the MD5 at both ends, which takes {{cpu ssh | 1 GiB, down | MD5 alone}} of processor time at each, "
    "and scp none. Here, both ends and both processes of ssh share two cores: scp needs {{cpu ssh | 1 GiB, down | scp "
    "-r}}, himl {{cpu ssh | 1 GiB, down | himl download}}. Each end alone computes faster than a gigabit network "
    "moves bytes: there, himl takes {{ratio wall | ssh | 1 GiB, down over a gigabit network | himl download | scp "
    "-r}} times as long as scp."
)
ON_SLURM, OPEN = tuple(f"{what}, until the command returns" for what in ("a job", "100 trials")), "500 open runs"
WIDE, WIDER, HI_ML_TB, BEST = (
    "20,000 wide",
    "60,000 wide",
    "himl-tb --help of hi-ml",
    "large up: at most 1.1 times the fastest of",
)
AIMS = (
    Aim(
        "startup",
        "each help text: at most 1.5 times `import typer`",
        _of("help", *HELPS),
        1.5,
        denominator=_of("help", TYPER),
    ),
    Aim(
        "startup",
        "each help text: at least 20 times as fast as hi-ml's",
        _of("help", HI_ML_TB),
        20,
        denominator=_of("help", *HELPS),
        at_least=True,
    ),
    Aim(
        "submit_local",
        "`himl submit` adds at most 0.18 s",
        _of("a local job", "himl submit train.py"),
        0.18,
        minus=_of("a local job", "python train.py"),
    ),
    Aim(
        "submit_local",
        "200 trials, two at a time: at most 0.2 s for each",
        _of("200 trials", "himl submit trial.py --sweep"),
        200 * 0.2,
    ),
    Aim("runs_list", "`himl runs list` of 2,000 runs: at most 0.5 s", _of("2,000 runs", "himl runs list"), 0.5),
    *(
        Aim(
            "find",
            f"`himl runs list --sort METRIC` of {runs} runs: at most {seconds:g} s",
            _of(f"{runs} runs by a metric", "himl runs list, the best 20"),
            seconds,
            cause=cause,
        )
        for runs, seconds, cause in (
            (
                "10,000",
                0.5,
                "It needs {{cpu find | 10,000 runs by a metric | himl runs list, the best 20}} of a processor.",
            ),
            (
                "100,000",
                1.0,
                "A profile has a third of the time in SQLite, which looks in each run for the last value of the "
                "metric, and for a parameter or tag of that name. Nearly half is in Python, which orders the values.",
            ),
        )
    ),
    Aim(
        "runs_list",
        "`himl runs list` while 16 jobs start: at most 1 s",
        _of("while 16 jobs start", "himl runs list"),
        1.0,
        cause=CONTENTION,
    ),
    _times(
        "runs_list",
        "deleting 100,000 files: at most twice `rm -rf`",
        "a run with 100,000 files",
        "himl runs delete",
        2,
        "rm -rf",
    ),
    Aim(
        "runs_list",
        "completing run ids with Tab: at most 150 ms",
        _of("Tab, 2,000 runs", "himl --complete runs="),
        0.15,
    ),
    Aim("tracking", "a `log_metric` call: at most 3 ms", _of("one call", "mlflow.log_metric"), 0.003),
    Aim(
        "system_metrics",
        "a sample every 10 s: at most 50 ms, 0.5 % of a processor",
        _of("a sample", "200 processes"),
        0.05,
        "cpu",
    ),
    Aim(
        "azure_start",
        "`himl runs list`: at most 1 s of processor time",
        Of(("first", "again"), ("himl runs list",)),
        1.0,
        "cpu",
    ),
    _times("submit_azure", "first submission: no slower than azure-ai-ml", "first", SUBMIT, 1.0, AZURE_AI_ML),
    _times("submit_azure", "first submission: no more requests", "first", SUBMIT, 1.0, AZURE_AI_ML, "requests"),
    _times("submit_azure", "second submission: at most 0.7 of the time", "again", SUBMIT, 0.7, AZURE_AI_ML),
    _times(
        "submit_azure", "second submission: at most 0.7 of the requests", "again", SUBMIT, 0.7, AZURE_AI_ML, "requests"
    ),
    _times(
        "aggregate",
        "at least 10 times as fast as azureml-core, child by child",
        TRIALS,
        "azureml-core, child by child",
        10,
        AGGREGATE,
        least=True,
    ),
    Aim("aggregate", "two million local points: a table in at most 3 s", _of(SWEEP, AGGREGATE), 3.0),
    _times(
        "tb",
        "event bytes: at most 1.02 times the new bytes",
        "event bytes of 40 refreshes",
        TB,
        1.02,
        "new bytes",
        "bytes",
    ),
    _times(
        "tb",
        "all bytes: at least 20 times fewer than whole files",
        "all bytes of 40 refreshes",
        "whole files each time",
        20,
        TB,
        "bytes",
        least=True,
    ),
    Aim(
        "tb",
        "first scalar: at most 3 s after TensorBoard alone",
        _of(FIRST_SCALAR, TB),
        3.0,
        minus=_of(FIRST_SCALAR, "TensorBoard alone, local files"),
    ),
    Aim("ui", "2,000 runs: the first page within 1.5 s", _of(FIRST_PAGE, UI), 1.5),
    Aim("ui", "the curves of 50 runs within 2 s", _of(CURVES, UI), 2.0, cause=DRAWING),
    _times("ui", "the first page: no slower than MLflow with SQLite", FIRST_PAGE, UI, 1.0, MLFLOW_SERVER),
    _times("ui", "the curves: no slower than MLflow with SQLite", CURVES, UI, 1.0, MLFLOW_SERVER),
    Aim("ssh", "`himl runs list -w ssh:HOST`: at most 0.5 s", _of(SSH_LIST, SSH_RUNS), 0.5),
    Aim(
        "ssh",
        "`himl runs list -w ssh:HOST` with a new connection: at most 1.5 s",
        _of(SSH_LIST, f"{SSH_RUNS}, cold"),
        1.5,
    ),
    Aim("ssh", "`himl submit --cluster ssh:HOST`: at most 0.7 s", _of(SSH_SUBMIT, SSH_JOB), 0.7),
    _times(
        "ssh",
        "small down: at least 3 times as fast as scp -r",
        f"{SSH_SMALL}, down",
        "scp -r",
        3,
        SSH_DOWN,
        least=True,
        cause=STARTS,
    ),
    _times("ssh", "small down: no slower than rsync -a", f"{SSH_SMALL}, down", SSH_DOWN, 1.0, "rsync -a", cause=STARTS),
    _times(
        "ssh",
        "small down from a machine 10 ms away: at least 3 times as fast as scp -r",
        SSH_DISTANT,
        "scp -r",
        3,
        SSH_DOWN,
        least=True,
    ),
    _times("ssh", "large down: no slower than scp", f"{SSH_LARGE}, down", SSH_DOWN, 1.0, "scp -r", cause=TWO_MD5S),
    _times("ssh", "large down over a gigabit network: at most 1.05 times scp", SSH_NETWORK, SSH_DOWN, 1.05, "scp -r"),
    Aim(
        "slurm",
        "`himl submit` returns within 0.4 s of sbatch",
        Of(ON_SLURM, (SUBMIT,)),
        0.4,
        minus=Of(ON_SLURM, ("sbatch",)),
    ),
    Aim("slurm", "`himl runs list` of 500 open runs: at most 0.5 s", _of(OPEN, "himl runs list"), 0.5),
    Aim("slurm", "`himl runs list` of 500 open runs: one request", _of(OPEN, "himl runs list"), 1, "requests"),
    _times(
        "montage", "20,000 wide: at least 10 times as fast as hi-ml", WIDE, HI_ML, 10, MONTAGE, least=True, cause=LAYOUT
    ),
    _times(
        "montage",
        "20,000 wide, hi-ml's layout: at least 10 times as fast",
        WIDE,
        HI_ML,
        10,
        HI_ML_LAYOUT,
        least=True,
        cause=PIXELS,
    ),
    Aim("montage", "20,000 wide: at most 300 MB", _of(WIDE, MONTAGE, HI_ML_LAYOUT), 300 * MB, "memory"),
    _times("montage", "60,000 wide: at least 15 times as fast as hi-ml", WIDER, HI_ML, 15, MONTAGE, least=True),
    _times(
        "montage",
        "60,000 wide, hi-ml's layout: at least 15 times as fast",
        WIDER,
        HI_ML,
        15,
        HI_ML_LAYOUT,
        least=True,
        cause=PIXELS,
    ),
    Aim("montage", "60,000 wide: at most 700 MB", _of(WIDER, MONTAGE, HI_ML_LAYOUT), 700 * MB, "memory"),
    *(
        _times("tiles", f"at least 4 times as fast as {other}", SLIDES, other, 4, "himl tiles", least=True)
        for other in ("OpenSlide, region by region", HI_ML)
    ),
    Aim("tiles", "at most 300 MB", _of(SLIDES, "himl tiles"), 300 * MB, "memory"),
    _times("transfer", "small down: faster than rclone", DOWN, ENGINE, 1.0, RCLONE),
    _times(
        "transfer",
        "small down: at least 8 times as fast as azcopy",
        DOWN,
        AZCOPY,
        8,
        ENGINE,
        least=True,
        cause=EIGHT_TIMES,
    ),
    _times("transfer", "small down: at least 8 times as fast as azure-storage-blob", DOWN, SDK, 8, ENGINE, least=True),
    Aim(
        "transfer",
        "small down: the whole command at most 0.15 s slower than rclone",
        _of(DOWN, COMMAND),
        0.15,
        minus=_of(DOWN, RCLONE),
        cause=START,
    ),
    _times("transfer", "small down, 30 ms: no slower than rclone", "small down, 30 ms", ENGINE, 1.0, RCLONE),
    _times("transfer", "small up: no slower than rclone", UP, ENGINE, 1.0, RCLONE),
    _times("transfer", "large down: faster than rclone", LARGE_DOWN, ENGINE, 1.0, RCLONE),
    _times(
        "transfer",
        "large down: at most 1.25 times the MD5 alone",
        LARGE_DOWN,
        ENGINE,
        1.25,
        "MD5 alone",
        cause=FILE_ORDER,
    ),
    _times(
        "transfer", "large down from Azurite: no slower than rclone", LARGE_AZURITE, ENGINE, 1.0, RCLONE, cause=SHARED
    ),
    _times(
        "transfer",
        "large down from Azurite: no slower than azure-storage-blob",
        LARGE_AZURITE,
        ENGINE,
        1.0,
        SDK,
        cause=SHARED,
    ),
    Aim(
        "transfer",
        f"{BEST} the clients that store an MD5",
        _of(LARGE_UP, ENGINE),
        1.1,
        denominator=_of(LARGE_UP, RCLONE, AZCOPY),
    ),
    Aim(
        "transfer",
        f"{BEST} all clients",
        _of(LARGE_UP, ENGINE),
        1.1,
        denominator=_of(LARGE_UP, RCLONE, AZCOPY, SDK),
        cause=BEST_OF_ALL,
    ),
    Aim("transfer", "memory: at most 150 MB in all scenarios", Of(tuple(MOVES), (ENGINE, COMMAND)), 150 * MB, "memory"),
    Aim("tissue", "all tissue kept", _of(TISSUE, "himl"), 1.0, FACT, _of(TISSUE, "labels"), at_least=True),
    Aim("tissue", "no background kept", _of(BACKGROUND, "himl"), 0, FACT),
    *_within("1,000,000 blobs", "himl", 60, 200),
    _grown("blobs", "himl", 1_000, 1_000_000, 3, "memory"),
    *_within("100,000 runs", "himl, newest 100", 0.5, 50),
    *_within("100,000 runs", "himl, all as JSON", 10, 300),
    _grown("runs", "himl, newest 100", 100, 100_000, 1.5, "wall"),
    _grown("runs", "himl, newest 100", 100, 100_000, 1.5, "memory"),
    *_within("10,000 trials", "himl, local", 10, 200),
    Aim(
        "scale",
        "himl, Azure ML, 10,000 trials: at most 100 requests",
        _of("10,000 trials", "himl, Azure ML"),
        100,
        "requests",
    ),
    Aim(
        "scale",
        "himl, Azure ML, 10,000 trials: at most 200 MB",
        _of("10,000 trials", "himl, Azure ML"),
        200 * MB,
        "memory",
    ),
    *_within("500 Slurm runs", "himl", 0.5, 50),
    *_within("5,000 slides", "himl", 60, 300),
    _grown("slides", "himl", 50, 5_000, 3, "memory"),
    *(
        _seconds(command, seconds)
        for command, seconds in (("show", 16.0), ("tag", 6.0), ("delete", 8.0), ("list", 13.0))
    ),
    *map(_slope, COST_SIZES),
    Aim(
        "cost",
        "`runs show SWEEP --children` of 2,000 trials: at most 200 requests",
        _of(cost_scenario("show --children", 2_000), "himl"),
        200,
        "requests",
    ),
    *map(_submitted, LOCAL_SIZES["files of a submission"], (0.9, 2.1)),
    *_local("files of a submission", 10, "operations", "calls a file"),
    *_local(f"rules for {NAMES:,} names", 1.0, "cpu", "s of processor time"),
    *_local("points of a run", 0.4, "cpu", "s of processor time"),
    *_local("points of a run", 45, "bytes", "bytes a point"),
    *_local("runs and a wrong id", 0.2, "cpu", "s of processor time"),
    *_local(BATCH, 80, "operations", "calls of the file system"),
    *map(_called, LOCAL_SIZES["values with an active model"]),
    *_local("levels of folders", 1.0, "cpu", "s of processor time"),
    _times(
        "cost",
        "start: at most 1.2 times the processor time of `import typer`",
        SHORT,
        "himl --help",
        1.2,
        TYPER,
        "cpu",
    ),
    *(
        _per_hour(command, seconds)
        for command, seconds in (("himl submit", 5.0), (FOLLOW, 5.0), ("its supervisor", 2.0), (WATCH, 10.0))
    ),
    *(
        Aim("cost", f"{name}, waiting: at most 30 calls per second", _of(WAITING, name), 30, "operations")
        for name in ("himl submit", FOLLOW, WATCH)
    ),
    Aim("soak", "scripts, supervisors, watches and pages: at most 1 MB an hour", Of((LOGS,), LASTING), MB, GROWTH),
)
