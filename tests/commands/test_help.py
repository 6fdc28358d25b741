"""Tests of what all commands share: help, names, spellings and streams, and their output in terminals of all widths,
with and without colours.
"""

from __future__ import annotations

import gc
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.text import Text

import himl_cli
from docs.tools.terminal import settled
from himl_cli.commands.table import COMMANDS
from tests.azureml_double.seeding import StagedWorkspace
from tests.support.documents import shapes
from tests.support.dsa import Archive
from tests.support.running import PROGRAM, Himl
from tests.support.runs import RecordedRuns, posix
from tests.support.terminals import RUN, VIEWS, Terminal, View, make_world

HEAVY = [
    "rich",
    "pydantic",
    "msgspec",
    "azure",
    "mlflow",
    "tensorboard",
    "importlib.metadata",
    "sqlite3",
    "asyncio",
    "numpy",
    "PIL",
    "tifffile",
    "openslide",
]
ALL = shapes()
ASK = """
import sys
from himl_cli.app import main
try:
    main()
except SystemExit as end:
    assert end.code == 0, end.code
loaded = [name for name in {heavy!r} if name in sys.modules]
print("LOADED", loaded, file=sys.stderr)
"""
STOPPED = "error: Interrupted.\n"
LAID_OUT = [name for name, view in VIEWS.items() if view.is_laid_out]
SERVED = "fit_1"
AZURE_VIEWS = {
    "runs": View(["runs", "list"], RUN),
    "a run": View(["runs", "show", RUN], "Studio", is_folded=False),
    "its metrics": View(["runs", "aggregate", "--run", RUN], "0.12346", said=("has no child runs",)),
    "services": View(["runs", "attach", SERVED], "https://", is_folded=False),
    "files": View(["download", RUN, "--list"], "last.ckpt"),
    "checks": View(["doctor"], "sign-in"),
    "a workspace": View(["workspace", "show"], "Subscription ID", is_folded=False),
    "a link": View(["checkpoint", "url", RUN], "https://", is_folded=False),
    "annotations": View(["dsa", "upload", "--run", RUN], f"Annotation '{RUN}", said=("Annotation",)),
    "an archive": View(["dsa", "list", "Biopsies/PANDA"], "slide_1.svs"),
}
TILES = b"slide_id,left,top,right,bottom,bag_attn\nslide_1,0,0,9,9,0.5\n"
PLAIN = {"0", "1", "2"}  # bold and dim
# The escape codes that himl may use. Red, green, yellow and cyan come from the user's theme, where they are readable on
# its background.
STYLES: dict[str, set[str]] = {
    "with colours": PLAIN | {"31", "32", "33", "36"},
    "without colour": PLAIN,
    "and dumb": set(),
}
WISHES = {"with colours": {}, "without colour": {"NO_COLOR": "1"}, "and dumb": {"TERM": "dumb"}}
WIDTHS = (60, 80, 200)
NARROW = (60, "with colours")
# Each width is combined with each wish. Each view with a layout appears in three of these combinations, which cover all
# widths and wishes. The narrow one shows all views.
SEATS: dict[tuple[int, str], list[str]] = {
    (columns, wish): [
        name
        for name in VIEWS
        if (columns, wish) == NARROW or (name in LAID_OUT and LAID_OUT.index(name) % 3 == (row + column) % 3)
    ]
    for row, columns in enumerate(WIDTHS)
    for column, wish in enumerate(WISHES)
}
FORKING = """
import atexit, json, os, sys
import himl_cli.commands.download, himl_cli.commands.datastore, himl_cli.commands.runs, himl_cli.commands.submit
import himl_cli.render.file_views, rich.progress, rich.table
from himl_cli.__main__ import main
for folder, words in json.loads(sys.argv[1]):
    if not (process := os.fork()):
        os.chdir(folder)
        sys.argv, code = ["himl", *words], 0
        try:
            main()
        except SystemExit as end:
            code = end.code
        atexit._run_exitfuncs()
        sys.stdout.flush()
        os._exit(code or 0)
    print(end=f"\\0{os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])}\\0", flush=True)
"""
"""One process for many commands. Each runs in a fork of it, which has the imports already."""


def rows_of(help_text: str) -> dict[str, list[str]]:
    sections: dict[str, list[str]] = {}
    names: list[str] = []
    for line in help_text.splitlines():
        if re.fullmatch(r"\S.*:", line):
            names = sections.setdefault(line[:-1], [])
        elif line.startswith("  ") and line[2] != " ":
            names.append(line[2:].split("  ")[0])
    return sections


@pytest.mark.large("takes long, and other tests run its branches")
@pytest.mark.usefixtures("unmeasured")
def test_help_has_all_of_the_shape_and_fits_terminal(project: Path) -> None:
    for words in ["", "submit", "runs list", "checkpoint fetch"]:
        done = subprocess.run(
            [sys.executable, "-c", ASK.format(heavy=HEAVY), *words.split(), "--help"], capture_output=True, text=True
        )
        assert done.stderr.strip() == "LOADED []"
        assert done.stdout.startswith("Usage: himl")
    himl = Himl(PROGRAM, project, modules=("himl_cli.app",))
    listed = [(child.path[-1], child.panel, child.summary) for child in ALL["himl"].children]
    assert listed == [(name, each.panel, each.help) for name, each in COMMANDS.items()]
    for words, shape in ALL.items():
        assert shape.text
        assert shape.children or shape.examples
        for columns in (60, 80):
            text = himl.ok(*words.split()[1:], "--help", env={"COLUMNS": str(columns)}).stdout
            assert text.startswith(f"Usage: {words} [OPTIONS]")
            lines = text.splitlines()
            assert max(map(len, lines)) <= 80
            assert [
                line for line in lines if len(line) > columns and not (line.startswith("    ") and "himl " in line)
            ] == []
        assert " ".join(text.partition("\n\n")[0].split()) == f"Usage: {shape.usage}"
        shown, shared = rows_of(text), ""
        if line := re.search(r" Shared options: (.*?)\. See 'himl --help'\. Manual:", " ".join(text.split())):
            shared = line[1]
        found = [each for each in shape.options if not {*each.names} & {*shared.replace(",", "").split()}]
        assert shared.endswith("-h") or words == "himl"
        assert (page := re.search(r"^Manual: (\S+) in the repository of himl\.$", text, re.MULTILINE)), words
        assert Path(himl_cli.__file__).parents[1].joinpath(page[1]).is_file(), page[1]
        assert [name for name in shown.get("Arguments", []) if not name.startswith("-")] == [
            each.metavar for each in shape.arguments
        ], words
        panels = {
            heading: [each for each in found if each.panel == heading]
            for heading in dict.fromkeys(each.panel for each in found)
        }
        assert [name for name in shown if name in panels] == list(panels)
        for panel, options in panels.items():
            kept = [set(re.findall(r"(?<![\w-])--?\w+", name)) for name in shown[panel] if name.startswith("-")]
            assert kept == [{*each.names, *each.off_names} for each in options]


@pytest.mark.large("takes long, and other tests run its branches")
def test_help_of_runs_list_has_examples_and_no_old_names(started_himl: Himl, project: Path) -> None:
    himl = started_himl
    assert himl.ok("--version").stdout == f"himl {himl_cli.__version__}\n"
    done = subprocess.run([sys.executable, "-m", "himl_cli", "--version"], capture_output=True, text=True, cwd=project)
    assert (done.returncode, done.stdout) == (0, f"himl {himl_cli.__version__}\n")
    (project / "himl.toml").write_text("this is = = no TOML")
    text = himl.ok("runs", "list", "--help").stdout
    assert ("--config_file" in text, "--config-file" in text) == (True, False)
    assert "\n    himl runs list --experiment train --status Failed\n    himl runs list --num_runs all --json\n" in text
    assert himl.ok("runs", "list", "-h", env={"COLUMNS": "200"}).stdout == text
    old = himl.ok("runs", "show", "--help").stdout
    assert ("--run_ids" in old, "--experiment_name" in old) == (False, False)


def test_short_help_of_submit_has_one_screen_and_names_the_long_one(himl: Himl) -> None:
    short, whole = (himl.ok("submit", name).stdout for name in ("-h", "--help"))
    assert len(short.splitlines()) <= 45
    assert [*rows_of(short)] == ["Arguments", "Common options"] == [*rows_of(whole)][:2]
    assert len(rows_of(short)["Common options"]) == 15
    count = len(ALL["himl submit"].options)
    assert short.startswith(whole.partition("\n")[0])
    assert short.endswith(f"\nAll {count} options: himl submit --help\n")
    for words in ("list -n 5 -q", "list -t a=b -q"):
        assert (
            himl("runs", *words.split()).code
            == himl("runs", *words.replace("-n", "--num_runs").replace("-t", "--tags").split()).code
        )


@pytest.fixture
def recorded(project: Path) -> RecordedRuns:
    runs = RecordedRuns(project)
    runs.add("first_1_aa", experiment="first")
    runs.add("second_2_bb", experiment="second")
    return runs


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such end by a signal")
@pytest.mark.parametrize(
    ("moment", "code", "said"),
    [
        ("atexit.register(interrupt)", -signal.SIGINT, ""),
        (
            "sys.setprofile(lambda frame, event, of: frame.f_code.co_name == 'stand_in_for_closed_streams' "
            "and event == 'call' and interrupt())",
            130,
            STOPPED,
        ),
        (
            "sys.setprofile(lambda frame, event, of: frame.f_code.co_name == 'run_at_edge' and event == "
            "'return' and interrupt())",
            130,
            STOPPED,
        ),
    ],
    ids=["when it is through", "before the edge", "behind the edge"],
)
def test_ctrl_c_at_the_very_begin_or_end_is_no_traceback(project: Path, moment: str, code: int, said: str) -> None:
    interrupt = "interrupt = lambda: (sys.setprofile(None), signal.raise_signal(signal.SIGINT))"
    script = f"import atexit, signal, sys\nfrom himl_cli.__main__ import main\n{interrupt}\n{moment}\nmain()"
    done = subprocess.run([sys.executable, "-c", script, "--version"], capture_output=True, text=True, cwd=project)
    assert (done.returncode, done.stderr) == (code, said)


@pytest.mark.usefixtures("recorded")
@pytest.mark.parametrize("arguments", ["runs show first_1_aa", "--help", "--version"])
def test_a_reader_that_leaves_is_no_error(himl: Himl, arguments: str) -> None:
    running = himl.start(*arguments.split())
    assert running.stdout is not None
    assert running.stderr is not None
    running.stdout.close()
    said = running.stderr.read()
    running.stderr.close()
    assert (running.wait(60), said) == (141, b"")


def test_lists_formats_old_names_and_odd_ones(himl: Himl, recorded: RecordedRuns) -> None:
    for words in ("--run first_1_aa --run second_2_bb", "--run first_1_aa,second_2_bb", "first_1_aa second_2_bb"):
        assert himl.ok("runs", "show", *words.split(), "-q").stdout == "first_1_aa\nsecond_2_bb\n"
    outcome = himl.ok("runs", "list", "--format", "json")
    assert ([run["id"] for run in outcome.json()], outcome.stderr) == (["second_2_bb", "first_1_aa"], "")
    for arguments in ([], ["runs"]):
        outcome = himl(*arguments)
        assert (outcome.code, outcome.stdout, outcome.stderr.startswith("Usage: himl")) == (2, "", True)
    for words in [
        "list --num_runs 1",
        "list --num-runs=1",
        "show --run_ids second_2_bb",
        "show --run-ids second_2_bb",
        "show --run_recovery_ids second_2_bb",
        "show --experiment_name second",
    ]:
        assert himl.ok("runs", *words.split(), "-q").stdout == "second_2_bb\n"
    recorded.add("odd_3_cc", display_name="größe")
    outcome = himl("runs", "list", "--num_runs", "1", env={"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"})
    assert (outcome.code, rb"gr\xf6\xdfe" in outcome.raw_stdout) == (0, True)
    recorded.add("odd_4_dd", display_name="a\x1b[31m\tb\nc")
    (_, line) = himl.ok("runs", "list", "--num_runs", "1").stdout.splitlines()
    assert line.split("\t")[2] == "a [31m b c"


def given(views: Sequence[View], folders: Sequence[Path]) -> list[str]:
    commands = [(str(folder / view.folder), view.arguments) for view, folder in zip(views, folders, strict=True)]
    return [sys.executable, "-c", FORKING, json.dumps(commands)]


def check(views: Sequence[View], folders: Sequence[Path], columns: int, wish: str) -> None:
    """Check that only the lines that the view names are wider than the terminal, and that no unwanted code is used."""
    terminal = Terminal(given(views, folders), cwd=folders[0], columns=columns, env=WISHES[wish])
    assert terminal.finish(200) == 0, terminal.screen
    *parts, end = terminal.screen.split("\0")
    assert (len(parts), end) == (2 * len(views), ""), terminal.screen
    for view, screen, code in zip(views, parts[::2], parts[1::2], strict=True):
        assert int(code) == view.code, screen
        lines = settled(screen)
        plain = [Text.from_ansi(line).plain for line in lines]
        assert any(view.shows.lower() in line.lower() for line in plain), screen
        if view.is_folded:
            assert [
                line
                for line in plain
                if cell_len(line.rstrip()) > columns and not any(said in line for said in view.said)
            ] == []
        if columns == min(WIDTHS):
            assert [said for said in view.said if not any(said in line for line in plain)] == [], (
                f"these need no naming: {screen}"
            )
        used = {code or "0" for codes in re.findall(r"\x1b\[([0-9;:]*)m", screen) for code in re.split("[;:]", codes)}
        assert used <= STYLES[wish], screen
        assert wish == "with colours" or "\x1b" not in "".join(lines), screen
        assert wish != "and dumb" or "\x1b" not in screen, screen


def check_in_a_pipe(views: Sequence[View], folders: Sequence[Path]) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    done = subprocess.run(
        given(views, folders), env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=200
    )
    *parts, _ = done.stdout.split(b"\0")
    assert (done.returncode, len(parts)) == (0, 2 * len(views)), done.stdout
    for view, printed, code in zip(views, parts[::2], parts[1::2], strict=True):
        assert (int(code), printed != b"", b"\x1b" in printed, b"\r" in printed) == (view.code, True, False, False), (
            printed
        )


@posix
@pytest.mark.large("runs most commands")
def test_output_of_services_fits_narrow_terminal_and_pipe(
    azure_environment: StagedWorkspace, archive: Archive, project: Path
) -> None:
    azure_environment.write_config(project)
    run = azure_environment.add_run(
        RUN, "train", display_name="A rather long display name of a first try", tags={"team": "blue"}
    )
    azure_environment.add_metric(
        run, "val/accuracy_of_the_macro_average_over_all_classes", [0.5, 0.123456789], steps=[1, 2]
    )
    azure_environment.put_artifacts(
        run, {"outputs/checkpoints/last.ckpt": b"last", "outputs/test/test_output.csv": TILES}
    )
    services = {"jupyterlab": {"jobServiceType": "JupyterLab"}, "ssh": {"jobServiceType": "SSH"}}
    azure_environment.start_services(
        azure_environment.add_run(SERVED, "train", status="Running", job={"jobType": "Command", "services": services})
    )
    archive.add("Biopsies/PANDA/slide_1.svs")
    archive.add(f"Biopsies/PANDA/{'a_long_name_of_a_slide_' * 3}.svs")
    views = list(AZURE_VIEWS.values())
    check(views, [project] * len(views), *NARROW)
    check_in_a_pipe(views, [project] * len(views))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    make_world(folder)
    gc.collect()  # closes the record
    return folder


def labs(himl: Himl, world: Path, tmp_path: Path, views: Sequence[View]) -> list[Path]:
    """Copy the world once per view, so that commands of one view do not affect another."""
    folders = [Path(shutil.copytree(world, tmp_path / f"lab{number}")) for number in range(len(views))]
    for view, folder in zip(views, folders, strict=True):
        if view.after:
            himl.ok(*view.after, cwd=folder)
    return folders


@posix
@pytest.mark.parametrize(("columns", "wish"), SEATS)
@pytest.mark.large("runs most commands")
def test_what_commands_show_fits_the_terminal(himl: Himl, world: Path, tmp_path: Path, columns: int, wish: str) -> None:
    views = [VIEWS[name] for name in SEATS[columns, wish]]
    check(views, labs(himl, world, tmp_path, views), columns, wish)


@posix
@pytest.mark.large("runs most commands")
def test_what_commands_print_into_a_pipe_is_plain(himl: Himl, world: Path, tmp_path: Path) -> None:
    views = list(VIEWS.values())
    check_in_a_pipe(views, labs(himl, world, tmp_path, views))


def test_every_command_has_a_view() -> None:
    leaves = [each.path[1:] for each in ALL.values() if not each.children]
    views = [*VIEWS.values(), *AZURE_VIEWS.values()]
    assert [path for path in leaves if not any(tuple(view.arguments[: len(path)]) == path for view in views)] == []
