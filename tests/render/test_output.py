"""Output and progress, in processes with real streams and terminals. Tables and texts omit the least important parts
if they do not fit.
"""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from himl_cli.core.errors import RunNotFound
from himl_cli.core.jobs import STEP, STEP_AFTER
from himl_cli.core.logged import SweepView, TrialView
from himl_cli.core.runs import Run, RunStatus
from himl_cli.render.aggregation import table_lines
from himl_cli.render.bars import rate
from himl_cli.render.file_views import FILE_COLUMNS
from himl_cli.render.forms import json_form
from himl_cli.render.output import GAP, Column, as_cells, as_table, duration_text, fitted, folded, local_time, size_text
from himl_cli.render.run_views import RUN_COLUMNS, WORKSPACE_COLUMN, best_lines, run_columns, steps_view, trials_view
from himl_cli.services.transfer.plan import Filters, list_files
from tests.support.runs import RecordedRuns, aggregation, posix, run
from tests.support.terminals import Terminal


def ran(code: str, **options: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-c", f"from himl_cli.render.output import *\n{code}"],
        capture_output=True,
        input=options.get("input", "").encode(),
    )


def drawn(screen: str) -> list[str]:
    """The lines that a terminal showed at any time, without control sequences."""
    return [
        line.strip()
        for line in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen).replace("\r", "\n").splitlines()
        if line.strip()
    ]


def in_terminal(folder: Path, code: str, columns: int = 80) -> str:
    terminal = Terminal([sys.executable, "-c", code], cwd=folder, columns=columns)
    assert terminal.finish() == 0
    return terminal.screen


def piped(code: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)


@pytest.mark.large("takes long, and other tests run its branches")
def test_each_format_prints_its_form_alone() -> None:
    code = "Output(Format.{}).result([{{'id': 'caf\\udce9'}}], human={}, quiet=['a', 'b', 'caf\\udce9'])"
    assert ran(code.format("human", "'all about a'")).stdout.split(b"\n")[0].strip() == b"all about a"
    assert ran(code.format("json", "lambda: 1 / 0")).stdout.strip() == b'[{"id": "caf\\udce9"}]'
    assert ran(code.format("quiet", "''")).stdout.split() == [b"a", b"b", b"caf\xe9"]


def test_a_stream_that_takes_text_only_gets_text() -> None:
    """Standard output and error in a notebook are such streams."""
    kernel = (
        "import io, sys\nclass Text(io.TextIOBase):\n  encoding = 'utf-8'\n"
        "  write = lambda self, text: kept.append(text) or len(text)\nkept = []"
    )
    code = (
        f"{kernel}\nsaid, sys.stdout = sys.stdout, Text()\nOutput().lines(['zw\u00f6lf'])\n"
        "Output().stream(b'log')\nprint(ascii(''.join(kept)), file=said)"
    )
    assert ran(code).stdout.strip() == b"'zw\\xf6lf\\nlog'"


@pytest.mark.large("takes long, and other tests run its branches")
def test_notices_go_to_stderr_without_secrets_and_not_when_quiet() -> None:
    done = ran("Output().notice('see https://h/x?sig=abcdef\\nnow')")
    assert (done.stdout, done.stderr.split()) == (b"", [b"see", b"https://h/x?sig=***", b"now"])
    assert ran("Output(Format.quiet).notice('hello')").stderr == b""


@pytest.mark.large("takes long, and other tests run its branches")
def test_a_question_that_nobody_can_answer_is_an_error() -> None:
    code = "for format in Format:\n    print(Output(format, yes=True).confirm('Delete?'))\n"
    done = ran(
        f"{code}    try:\n        Output(format).confirm('Delete?')\n    except NeedsYes as err:\n"
        "        print('--yes' in err.hint)",
        input="y\n",
    )
    assert set(done.stdout.split()) == {b"True"}
    assert len(done.stdout.split()) >= 6


@posix
def test_control_characters_are_cleaned_only_for_terminals(tmp_path: Path) -> None:
    code = (
        "from himl_cli.render.output import *\n"
        "for how in (lambda o, n: o.table(n, (), quiet=str), lambda o, n: o.result(n, human='', quiet=n)):\n"
    )
    code += "    how(Output(Format.quiet), ['ok\\x1b[31mred', 'two\\nlines'])"
    assert in_terminal(tmp_path, code) == "ok [31mred\ntwo\\nlines\nok [31mred\ntwo lines\n"
    assert piped(code).stdout == b"ok\x1b[31mred\ntwo\\nlines\nok\x1b[31mred\ntwo\nlines\n"
    code = "from himl_cli.render.output import *\nOutput(Format.json).json(['\\u202e\\x9b\\x1b\\x7fé'])"
    assert in_terminal(tmp_path, code) == '[\n  "\\u202e\\u009b\\u001b\\u007fé"\n]\n'
    assert piped(code).stdout.decode() == '["\u202e\x9b\\u001b\x7fé"]\n'


EVENTS = """
import time
from himl_cli.core.events import Counted, Counting, Finished, Moved, Notice, Planned
from himl_cli.render.output import Format, Output
from himl_cli.render.progress import Watcher
with Watcher(Output(Format.{format})) as notify:
    notify(Counting("slides", 2000)); notify(Counting("slides", 345))
    if {files}:
        notify(Planned(2, 2_000_000)); notify(Moved("a", 1_000_000)); notify(Finished("a"))
    for _ in range(37):
        notify(Counted())
        time.sleep(0.02)
    notify(Notice("\\x1b[31mred \\n[b]level[/b] 7 is missing"))
    time.sleep(0.3)
print("done")
"""


@posix
@pytest.mark.parametrize(("columns", "has_bar", "has_files"), [(60, True, False), (80, True, True), (40, False, True)])
def test_counts_have_a_rate_and_the_time_left(tmp_path: Path, columns: int, has_bar: bool, has_files: bool) -> None:
    """The line of the bar is erased before other output, and files in transfer have a separate line."""
    screen = in_terminal(tmp_path, EVENTS.format(format="human", files=has_files), columns)
    lines = drawn(screen)
    counted, files = ([line for line in lines if word in line] for word in ("slides", "MB"))
    assert re.fullmatch(r"37/2,345 slides\s+[━╸╺ ]*\s*\d[\d.]* slides/s\s+ETA \d+:\d\d(:\d\d)?", counted[-1])
    assert any("1.0/2.0 MB" in line and "slides" not in line for line in files) is has_files
    assert any("━" in line for line in (*counted, *files)) is has_bar
    assert max(map(len, [*counted, *files])) <= columns
    assert "[31mred [b]level[/b] 7 is missing" in "".join(lines) or columns == 40
    assert "\x1b[31m" not in screen
    assert screen.endswith("\x1b[2Kdone\n")


@pytest.mark.large("takes long, and other tests run its branches")
@posix
def test_no_progress_is_drawn_for_programs_or_off_a_terminal(tmp_path: Path) -> None:
    for format in ("json", "quiet"):
        screen = in_terminal(tmp_path, EVENTS.format(format=format, files=True))
        assert ("slides" in screen, "1 file" in screen, "level[/b] 7" in screen) == (False, False, format == "json")
    ended = piped(EVENTS.format(format="human", files=True))
    assert (ended.stdout, ended.stderr) == (b"done\n", b"[31mred [b]level[/b] 7 is missing\n")


THREADS = """
import threading, time
from himl_cli.core.events import Counted, Counting, Notice
from himl_cli.render.output import Output
from himl_cli.render.progress import Watcher
may_stop = threading.Event()
def count():
    notify(Counting("slides", 1000))
    for _ in range(1000):
        notify(Counted())
def go_on():
    while not may_stop.is_set():
        notify(Counting("slides", 10)), notify(Counted())
with Watcher(Output()) as notify:
    threads = [threading.Thread(target=count) for _ in range(8)]
    for each in threads: each.start()
    for each in threads: each.join()
    time.sleep(0.3)
    late = threading.Thread(target=go_on)
    late.start()
time.sleep(0.2)
may_stop.set()
late.join()
notify(Notice("late"))
print("done")
"""


@pytest.mark.large("takes long, and other tests run its branches")
@posix
def test_threads_count_together_and_draw_nothing_after_the_end(tmp_path: Path) -> None:
    screen = in_terminal(tmp_path, THREADS)
    assert "8,000/8,000 slides" in screen
    assert screen.count("\x1b[?25l") == screen.count("\x1b[?25h") == 1, "the cursor is shown again"
    assert screen.rpartition("\x1b[?25h")[2].endswith("\x1b[2Klate\ndone\n")


NOON = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=timezone.utc)


@dataclass(frozen=True)
class Row:
    name: str
    note: str = ""
    size: int = 0


COLUMNS = (
    Column("NAME", lambda row: row.name),
    Column("NOTE", lambda row: row.note, rank=2, least=8),
    Column("SIZE", lambda row: f"{row.size} B", plain=lambda row: str(row.size), rank=1, least=4, right=True),
)


@pytest.fixture(autouse=True)
def plain_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def table(rows: list[Row], columns: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("COLUMNS", str(columns))
    return as_table(rows, COLUMNS).split("\n")


def test_a_table_that_fits_is_shown_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["NAME    NOTE     SIZE", "a       first     5 B", "longer  x      1000 B"]
    assert table([Row("a", "first", 5), Row("longer", "x", 1000)], 80, monkeypatch) == lines
    assert table([Row("a")], 80, monkeypatch) == ["NAME  SIZE", "a      0 B"], "a column without content is left out"
    assert table([Row("組織", "x", 1), Row("abcd", "y", 2)], 80, monkeypatch)[1:] == [
        "組織  x      1 B",
        "abcd  y      2 B",
    ]
    assert table([Row("[red]a[/red]", "[/]")], 80, monkeypatch)[1] == "[red]a[/red]  [/]    0 B"


def test_least_important_column_shrinks_then_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [Row("n" * 20, "a note of many words", 5)]
    assert table(rows, 40, monkeypatch) == [f"NAME{' ' * 18}NOTE          SIZE", f"{'n' * 20}  a note of m…   5 B"]
    wide = [Row("n" * 34, "a note of many words", 5)]
    assert table(wide, 40, monkeypatch) == [f"NAME{' ' * 32}SIZE", f"{'n' * 34}   5 B"]
    lines = table([Row("n" * 100)], 40, monkeypatch)
    assert "".join(line.strip() for line in lines[1:]) == "n" * 100, "a name is never cut"
    assert list(as_cells([Row("a b", "note", 5)], COLUMNS)) == [["name", "note", "size"], ["a b", "note", "5"]]
    assert list(as_cells([], COLUMNS)) == [["name", "note", "size"]]


@pytest.mark.large("takes long, and other tests run its branches")
@given(st.lists(st.integers(0, 60), min_size=3, max_size=3), st.integers(20, 120))
def test_fitted_columns_fit_unless_the_name_alone_is_too_wide(natural: list[int], width: int) -> None:
    widths = fitted(natural, COLUMNS, width)
    assert widths[0] == natural[0]
    assert all(size <= most for size, most in zip(widths, natural, strict=True))
    used = sum(widths) + GAP * (sum(1 for size in widths if size) - 1)
    assert used <= max(width, natural[0])


@given(st.text(alphabet="ab' (", max_size=80), st.integers(5, 40))
def test_a_folded_text_fits_and_loses_nothing(text: str, columns: int) -> None:
    lines = folded(text, columns)
    assert all(0 < len(line) <= columns for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    if all(len(word) <= columns for word in text.split()):
        assert " ".join(lines).split() == text.split()


def test_what_is_to_be_copied_stays_in_one_line() -> None:
    for text, columns, lines in (
        ("Run 'az login' first.", 12, ["Run", "'az login'", "first."]),
        ("Make one ('himl init').", 18, ["Make one", "('himl init')."]),
        ("Run 'himl runs list --all' first.", 12, ["Run 'himl", "runs list", "--all'", "first."]),
        ("The user's folder and the team's", 20, ["The user's folder", "and the team's"]),
        ("from /a/very/long/path here", 10, ["from", "/a/very/lo", "ng/path", "here"]),
        ("", 10, []),
    ):
        assert folded(text, columns) == lines


@given(st.integers(1, 300), st.integers(4, 8), st.sampled_from([0, 12]), st.integers(44, 200))
def test_the_size_of_a_file_stays_beside_a_long_name(name: int, size: int, modified: int, width: int) -> None:
    widths = fitted([name, size, modified], FILE_COLUMNS, width)
    assert widths[1] == size
    assert sum(widths) + GAP * (sum(1 for each in widths if each) - 1) <= width
    assert widths[0] == name or (widths[0] >= FILE_COLUMNS[0].folds and widths[2] == 0)


def test_a_long_name_is_folded_in_its_column(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    runs = RecordedRuns(project)
    name = f"outputs/{'n' * 70}.ckpt"
    runs.add("train_1_aa", files={name: b"x" * 1000})
    files = list(list_files(runs.workspace.run_files("train_1_aa"), Filters()))
    header, *rows = as_table(files, FILE_COLUMNS).split("\n")
    assert header.split() == ["NAME", "SIZE"]
    assert rows[0].endswith("  1.0 KB")
    assert "".join(row.split()[0] for row in rows) == name


def test_rates_durations_sizes_and_local_times_say_what_is_needed() -> None:
    rates = {0.0312: "0.031", 3.44: "3.4", 9.94: "9.9", 9.96: "10", 99.7: "100", 1240.3: "1,240"}
    assert {number: rate(number) for number in rates} == rates
    texts = {
        None: "",
        0: "0.0s",
        9.94: "9.9s",
        9.96: "10s",
        59.6: "1m 00s",
        65: "1m 05s",
        3599.9: "1h 00m",
        7500: "2h 05m",
        400_000: "4d 15h",
    }
    assert {seconds: duration_text(seconds) for seconds in texts} == texts
    sizes = {
        0: "0 B",
        999: "999 B",
        1000: "1.0 KB",
        4096: "4.1 KB",
        999_960: "1.0 MB",
        1_500_000: "1.5 MB",
        7 * 10**15: "7000.0 TB",
    }
    assert {size: size_text(size) for size in sizes} == sizes
    here = NOON.astimezone()
    assert local_time(None) == ""
    assert local_time(NOON, here) == f"{here:%H:%M}"
    assert local_time(NOON, here + timedelta(days=3)) == f"{here:%b %d %H:%M}"
    assert local_time(NOON, here + timedelta(days=400)) == f"{here:%Y-%m-%d}"


def test_json_is_strict() -> None:
    form = {
        "nan": math.nan,
        "up": math.inf,
        "down": -math.inf,
        "time": NOON,
        "path": PurePosixPath("a/b"),
        "md5": b"\x01\xff",
        "set": {1},
        "none": None,
    }
    texts = {
        "nan": "NaN",
        "up": "Infinity",
        "down": "-Infinity",
        "time": "2026-03-01T12:00:00.123Z",
        "path": "a/b",
        "md5": "01ff",
        "set": [1],
        "none": None,
    }
    assert json.loads(json.dumps(json_form(form), allow_nan=False)) == texts
    assert json_form(NOON.astimezone(timezone(timedelta(hours=5, minutes=30)))) == "2026-03-01T12:00:00.123Z"
    assert json_form(RunNotFound("x", "here", similar=["y"])) == {
        "code": "run_not_found",
        "message": "No run 'x' in here.",
        "hint": "Did you mean y?",
    }
    queued = json_form(Run("r", "e", RunStatus.queued, NOON))
    assert (queued["started"], queued["duration"], queued["ended"], queued["status"]) == (None, None, None, "Queued")


def aggregated(runs: Mapping[str, Mapping[str, float]]) -> list[str]:
    """The lines of the table of *runs*, which are metrics by the name of a run: a header, a line per metric, and
    notes.
    """
    return [*table_lines(aggregation(runs), None)]


@pytest.mark.large("takes long, and other tests run its branches")
def test_a_table_of_metrics_has_as_many_runs_as_there_is_room_for() -> None:
    header, *lines = aggregated(
        {f"run {number}": {f"metric {name}": number * 1.5 for name in range(20)} for number in range(3000)}
    )
    shown = header.count("run ")
    assert header.startswith("METRIC  ")
    assert len(header) <= 80 < len(f"{header}  run {shown}")
    assert len(lines) == 20 + 2, "a line per metric, and two notes"
    assert lines[-1].startswith(f"{3000 - shown} of 3000 runs do not fit.")


def test_the_long_name_of_a_metric_takes_no_room_from_runs() -> None:
    long = "deep/" * 30
    header, *lines = aggregated(
        {f"run {number}": {f"{long}loss": 0.5, **{f"metric {name}": 0.5 for name in range(20)}} for number in range(30)}
    )
    assert header.count("run ") > 5
    assert max(map(len, [header, *lines[:-1]])) <= 80

    _, loss, accuracy = aggregated({"run 1": {f"{long}loss": 0.5, f"{long}accuracy": 0.5}})
    assert (len(loss.split()), loss.split()[1]) == (len(accuracy.split()), accuracy.split()[1]) == (2, "0.5"), (
        "a shortened name and the value"
    )
    assert max(len(loss), len(accuracy)) <= 80


def test_numbers_in_the_names_of_runs_have_six_digits_unless_they_differ_later() -> None:
    lines = aggregated(
        {key: {"loss": 1.0} for key in ("lr=0.033234493303921135, degree=5", "lr=1.2345678901e-05", "v1.2345678901")}
    )
    assert lines[0].split("  ")[1:] == ["lr=0.0332345, degree=5", "lr=1.23457e-05", "v1.2345678901"]
    lines = aggregated({key: {"loss": 1.0} for key in ("0.12345678901", "0.12345678902")})
    assert lines[0].split("  ")[1:] == ["0.12345678901", "0.12345678902"]


def test_runs_of_two_workspaces_have_a_column_of_the_workspace() -> None:
    """It is short for people, and complete for programs."""
    here, there = (
        Run("a", "train", RunStatus.completed, NOON, workspace=workspace)
        for workspace in ("local workspace '.himl'", "workspace team/lab")
    )
    titles = [column.title for column in RUN_COLUMNS]
    assert [column.title for column in run_columns([])] == titles
    assert [column.title for column in run_columns([here, here])] == titles
    assert [column.title for column in run_columns([here, there])] == [*titles, WORKSPACE_COLUMN.title]
    assert [WORKSPACE_COLUMN.text(each) for each in (here, there)] == ["local", "team/lab"]
    assert WORKSPACE_COLUMN.plain is not None
    assert [WORKSPACE_COLUMN.plain(each) for each in (here, there)] == ["local workspace '.himl'", "team/lab"]


@pytest.mark.parametrize(("named", "kept"), [(1, "EXPERIMENT"), (4, "DISPLAY NAME")])
def test_display_names_take_the_place_of_the_experiment_if_most_of_four_runs_have_one(named: int, kept: str) -> None:
    names = ["a long name"] * named + [""] * (4 - named)
    runs = [
        Run(
            f"train_177236640{number}_0a1b2c3d",
            "a_long_experiment",
            RunStatus.completed,
            NOON,
            started=NOON,
            display_name=name,
        )
        for number, name in enumerate(names)
    ]
    columns = run_columns(runs)
    natural = [max(len(column.title), *(len(column.text(run)) for run in runs)) for column in columns]
    shown = {column.title for column, size in zip(columns, fitted(natural, columns, 75), strict=True) if size}
    assert {"EXPERIMENT", "DISPLAY NAME"} & shown == {kept}


def test_a_display_name_that_is_the_id_is_repeated_only_for_programs() -> None:
    (column,) = [column for column in RUN_COLUMNS if column.title == "DISPLAY NAME"]
    run = Run("a", "train", RunStatus.completed, NOON, display_name="a")
    assert column.plain is not None
    assert (column.text(run), column.plain(run)) == ("", "a")


def tree(waits: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """The names of a pipeline's steps, which are their keys, in the displayed order and with their indents."""
    steps = [
        replace(run(f"p_{key}", tags={STEP: key, STEP_AFTER: ",".join(waited)}), display_name=key)
        for key, waited in waits.items()
    ]
    return {line.split()[0]: len(line) - len(line.lstrip()) for line in list(steps_view(steps, {}))[3:]}


def test_steps_are_shown_below_the_last_step_they_wait_for() -> None:
    found = tree({"a": [], "b": ["a"], "c": ["b"], "d": ["a", "c"]})
    assert [*found] == ["a", "b", "c", "d"]
    assert [indent - found["a"] for indent in found.values()] == [0, 2, 4, 6]


def test_forty_layers_of_steps_that_wait_for_all_before_are_shown_once_each() -> None:
    """There are 3 ** 39 ways from a first to a last step."""
    layers = [[f"s{layer}.{number}" for number in range(3)] for layer in range(40)]
    found = tree({step: before for before, layer in zip([[], *layers], layers, strict=False) for step in layer})
    assert sorted(found) == sorted(step for layer in layers for step in layer)
    assert max(found.values()) - min(found.values()) == 2 * 39


def test_steps_that_wait_for_each_other_are_shown_too() -> None:
    found = tree({"a": [], "x": ["y"], "y": ["x"], "b": ["a", "x"]})
    assert sorted(found) == ["a", "b", "x", "y"]
    assert [*found][[*found].index("a") + 1] == "b"
    assert found["b"] == found["a"] + 2


def trials(*values: float | None) -> list[TrialView]:
    return [
        TrialView(run(f"sweep_{number}", tags={"himl.trial": str(number)}), {"fold": number}, value)
        for number, value in enumerate(values)
    ]


@pytest.mark.parametrize("shown", [best_lines, trials_view])
def test_folds_are_in_their_order_with_mean_and_std_and_without_a_best(
    shown: Callable[[SweepView], Iterable[str]],
) -> None:
    lines = list(shown(SweepView("loss", "minimize", trials(3.0, 1.0, None, 2.0, 4.0, 5.0, 6.0), is_repeated=True)))
    assert lines[-1] == "loss: mean 3.5, std 1.87083 of 6 runs"
    assert not any("best" in line for line in lines)
    names = [line.split()[0] for line in lines if line.lstrip().startswith("sweep_")]
    assert (names, len(names) >= 6) == (sorted(names), True)


def test_one_fold_has_no_std() -> None:
    assert (
        list(best_lines(SweepView("loss", "minimize", trials(0.5, None), is_repeated=True)))[-1]
        == "loss: mean 0.5 of 1 run"
    )


NOT_LAST = "The best trial, by its best value at any step, is sweep_1. The table shows last values."


@pytest.mark.parametrize("shown", [best_lines, trials_view])
def test_a_note_says_why_the_best_trial_has_not_the_best_last_value(
    shown: Callable[[SweepView], Iterable[str]],
) -> None:
    assert list(shown(SweepView("loss", "minimize", trials(0.25, 0.5), best="sweep_1")))[-1] == NOT_LAST


def test_a_failed_trial_with_a_better_last_value_needs_no_note() -> None:
    failed, *others = trials(0.1, 0.25)
    failed = replace(failed, run=replace(failed.run, status=RunStatus.failed))
    assert "The best trial" not in "".join(
        trials_view(SweepView("loss", "minimize", [failed, *others], best="sweep_1"))
    )
