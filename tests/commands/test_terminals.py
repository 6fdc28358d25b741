"""What a person sees of every command in narrow, usual and wide terminals, with colours and without."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import typer.main
from rich.cells import cell_len
from rich.text import Text

from docs.tools.terminal import settled
from himl_cli.app import app
from himl_cli.commands.completion import app_shape
from tests.servers.azureml.seeding import StagedWorkspace
from tests.support.forked_himl import PROGRAM
from tests.support.running import Himl
from tests.support.terminals import RUN, VIEWS, Terminal, View, make_world

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX terminal")

COMMANDS = [each.path[1:] for each in app_shape(typer.main.get_command(app)).walk()]
LEAVES = [" ".join(path) for path in COMMANDS if not any(other[: len(path)] == path and other != path for other in COMMANDS)]
AZURE_VIEWS = {
    "runs": View(["runs", "list"], RUN),
    "a run": View(["runs", "show", RUN], "Studio", is_folded=False),
    "its metrics": View(["runs", "aggregate", "--run", RUN], "0.12346", said=("has no children",)),
    "files": View(["download", RUN, "--list"], "last.ckpt"),
    "checks": View(["doctor"], "sign-in"),
    "a workspace": View(["workspace", "show"], "Subscription ID", is_folded=False),
    "a link": View(["checkpoint", "url", RUN], "https://", is_folded=False),
}

PLAIN = {"0", "1", "2"}
READABLE = PLAIN | {"31", "32", "33", "36"}
"""Bold and dim, and red, green, yellow and cyan as the user's theme has them: whoever chose a background chose those to be read on it."""
STYLE = re.compile(r"\x1b\[([0-9;:]*)m")


@dataclass(frozen=True)
class Seat:
    """A terminal, and what its user wants of it."""

    columns: int
    env: Mapping[str, str] = field(default_factory=dict)

    @property
    def styles(self) -> set[str]:
        """The codes that may be used while bars are drawn."""
        return READABLE if not self.env else PLAIN if "NO_COLOR" in self.env else set()


WIDTHS = (60, 80, 200)
WISHES: dict[str, dict[str, str]] = {"with colours": {}, "without colour": {"NO_COLOR": "1"}, "and dumb": {"TERM": "dumb"}}
SEATS = {f"{columns} {wish}": Seat(columns, env) for columns in WIDTHS for wish, env in WISHES.items()}
NARROW = "60 with colours"
BY_TURNS = [[f"{columns} {[*WISHES][(turn + place) % 3]}" for place, columns in enumerate(WIDTHS)] for turn in range(3)]
"""Three times three seats, each width and each wish once in each of them, all seats in them together."""
SEATED = [(NARROW, name) for name in VIEWS]
SEATED += [(seat, name) for turn, name in enumerate(name for name, view in VIEWS.items() if view.is_laid_out) for seat in BY_TURNS[turn % 3] if seat != NARROW]


@dataclass(frozen=True)
class Seen:
    """What a command showed: its exit code, the screen with all codes, and the lines that stay on it."""

    code: int
    screen: str
    lines: Sequence[str]

    @property
    def plain(self) -> Sequence[str]:
        return [Text.from_ansi(line).plain for line in self.lines]


def seen(arguments: Sequence[str], folder: Path, seat: Seat) -> Seen:
    terminal = Terminal([str(PROGRAM), *arguments], cwd=folder, columns=seat.columns, env=seat.env)
    code = terminal.finish(60)
    return Seen(code, terminal.screen, settled(terminal.screen))


def assert_fits(shown: Seen, seat: Seat, view: View) -> None:
    """No line is wider than the terminal but those that the view names, and no code is used that it does not want."""
    if view.is_folded:
        assert [line for line in shown.plain if cell_len(line.rstrip()) > seat.columns and not any(said in line for said in view.said)] == []
    if seat.columns == min(WIDTHS):
        assert [said for said in view.said if not any(said in line for line in shown.plain)] == [], "these need no naming"
    assert_wanted(shown, seat)


def assert_wanted(shown: Seen, seat: Seat) -> None:
    """No code is used that the terminal's user does not want."""
    used = {code or "0" for codes in STYLE.findall(shown.screen) for code in re.split("[;:]", codes)}
    assert used <= seat.styles
    assert not seat.env or "\x1b" not in "".join(shown.lines)
    assert seat.env.get("TERM") != "dumb" or "\x1b" not in shown.screen


def prepare(view: View, folder: Path, himl: Himl) -> None:
    """Give the command that the view comes after, where it has one."""
    if view.after:
        himl.ok(*view.after, cwd=folder)


def check(view: View, folder: Path, seat: Seat) -> None:
    shown = seen(view.arguments, folder / view.folder, seat)
    assert shown.code == view.code, shown.screen
    assert any(view.shows.lower() in line.lower() for line in shown.plain), shown.screen
    assert_fits(shown, seat, view)


def check_in_a_pipe(view: View, folder: Path, himl: Himl) -> None:
    """Programs that read what a command prints get neither codes nor bars, whatever the user wants of terminals. Call it without NO_COLOR."""
    assert "NO_COLOR" not in os.environ
    done = himl(*view.arguments, cwd=folder / view.folder, env={"FORCE_COLOR": "1"})
    printed = done.raw_stdout + done.raw_stderr
    assert (done.code, printed != b"") == (view.code, True), printed
    assert (b"\x1b" in printed, b"\r" in printed) == (False, False), printed


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    """A project whose commands are shown, as nobody has used it yet: a test sees nothing of what the commands of others left."""
    folder = tmp_path / "lab"
    folder.mkdir()
    make_world(folder)
    return folder


@pytest.mark.parametrize(("seat", "name"), SEATED)
def test_what_a_command_shows_fits_the_terminal(himl: Himl, lab: Path, seat: str, name: str) -> None:
    prepare(VIEWS[name], lab, himl)
    check(VIEWS[name], lab, SEATS[seat])


@pytest.mark.parametrize("name", VIEWS)
def test_what_a_command_prints_into_a_pipe_is_plain(himl: Himl, lab: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    prepare(VIEWS[name], lab, himl)
    monkeypatch.delenv("NO_COLOR")
    check_in_a_pipe(VIEWS[name], lab, himl)


@pytest.mark.parametrize("name", AZURE_VIEWS)
def test_azure_output_fits_narrow_terminal_and_is_plain_in_pipe(
    azure_environment: StagedWorkspace, himl: Himl, project: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    azure_environment.write_config(project)
    run = azure_environment.add_run(RUN, "train", display_name="A rather long display name of a first try", tags={"team": "blue"})
    azure_environment.add_metric(run, "val/accuracy_of_the_macro_average_over_all_classes", [0.5, 0.123456789], steps=[1, 2])
    azure_environment.put_artifacts(run, {"outputs/checkpoints/last.ckpt": b"last"})
    check(AZURE_VIEWS[name], project, SEATS[NARROW])
    monkeypatch.delenv("NO_COLOR")
    check_in_a_pipe(AZURE_VIEWS[name], project, himl)


def test_every_command_has_a_view() -> None:
    def has(view: View, command: str) -> bool:
        return view.arguments[: len(command.split())] == command.split()

    views = [*VIEWS.values(), *AZURE_VIEWS.values()]
    assert [command for command in LEAVES if not any(has(view, command) for view in views)] == []


@pytest.mark.parametrize("seat", SEATS.values(), ids=SEATS)
def test_help_on_a_terminal_is_that_of_a_pipe_of_its_width(himl: Himl, seat: Seat) -> None:
    shown = seen(["submit", "--help"], himl.folder, seat)
    assert shown.plain == himl.ok("submit", "--help", env={"COLUMNS": str(seat.columns)}).stdout.splitlines()
    assert_wanted(shown, seat)


BARS = """
import time
from himl_cli.core.events import Counted, Counting, Finished, Moved, Planned
from himl_cli.render.output import Output
from himl_cli.render.progress import observing
with observing(Output()) as notify:
    notify(Counting("slides", 40))
    notify(Planned(2, 2_000_000))
    for _ in range(40):
        notify(Counted())
        notify(Moved("a", 50_000))
        time.sleep(0.02)
    notify(Finished("a"))
    time.sleep(0.2)
"""


@pytest.mark.parametrize("seat", [SEATS[name] for name in BY_TURNS[0]], ids=BY_TURNS[0])
def test_bars_are_seen_on_a_light_and_on_a_dark_terminal(tmp_path: Path, seat: Seat) -> None:
    terminal = Terminal([sys.executable, "-c", BARS], cwd=tmp_path, columns=seat.columns, env=seat.env)
    assert terminal.finish() == 0
    assert ("40/40 slides" in terminal.screen) is (seat.env.get("TERM") != "dumb")
    assert {code or "0" for codes in STYLE.findall(terminal.screen) for code in re.split("[;:]", codes)} <= seat.styles
    drawn = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.screen).replace("\r", "\n").splitlines()
    assert all(re.match(r"\d+/40 slides .* ETA (\d\d:\d\d|--:--)|\d files? .*B/s( +\d\d:\d\d)?|$", line) for line in drawn), "a bar is one line"
    assert all(len(line.rstrip()) <= seat.columns for line in drawn)
