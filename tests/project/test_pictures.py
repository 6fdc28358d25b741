"""The terminal pictures show what the real commands print, need nothing from the network, and can be read on light and dark."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from rich.text import Text

from docs.tools.terminal import COLUMNS, COMMANDS, DARK, LIGHT, PICTURES, SVG, captured, drawn, fixed, lines_of, settled
from tests.support.terminals import Terminal

NUMBER = re.compile(r"(\d+\.\d+)(?: ([KM]B))?")
BYTES = {"KB": 1e3, "MB": 1e6, "": 1.0}
RUN = "train_1795161581_b15e2215"
TABLE = "{run}  Completed  09:31    {row}\nepoch 1/5  loss 0.512  0.11 s\nCompleted in {time}. See {run}\nDownloaded 1 file to 'outputs' in 0.4s."
BARS = """
from himl_cli.core.events import Counting, Finished, Moved, Planned
from himl_cli.render.bars import Bars
print("before", flush=True)
bars = Bars()
bars.draw(Planned(1, 10))
bars.draw(Counting("slides", 2))
bars.draw(Moved("x", 10))
bars.draw(Finished("x"))
bars.say("a notice")
bars.stop()
print("done")
"""
LEAST_CONTRAST = 4.5
"""Of text before its background, as the guidelines for web content ask it (WCAG 2, AA)."""


def shown(path: Path) -> list[str]:
    return lines_of(path.read_text(encoding="utf-8"))


def words(lines: list[str]) -> list[list[str]]:
    """The words of each line that has some, numbers with a point, and sizes, as `#`."""
    return [NUMBER.sub("#", line).split() for line in lines if line.strip()]


def numbers(lines: list[str]) -> list[float]:
    return [float(number) * BYTES[unit] for line in lines for number, unit in NUMBER.findall(line)]


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX terminal")
@pytest.mark.timeout(240)
def test_the_pictures_show_what_the_commands_print(tmp_path: Path) -> None:
    """To the letter but for losses and sizes, which differ a little between versions of scikit-learn. `scripts/pictures` draws them anew."""
    folder = tmp_path / "world"
    folder.mkdir()
    fresh = Text.from_ansi(captured(folder)).plain.splitlines()
    assert [line[2:] for line in fresh if line.startswith("$ ")] == list(COMMANDS)
    assert max(map(len, fresh)) <= COLUMNS
    for path in PICTURES:
        assert words(shown(path)) == words(fresh)
        assert numbers(shown(path)) == pytest.approx(numbers(fresh), rel=0.4)


@pytest.mark.parametrize("path", PICTURES, ids=lambda path: str(path.stem))
def test_a_picture_fetches_nothing(path: Path) -> None:
    svg = path.read_text(encoding="utf-8")
    assert re.findall(r"\w+://[^\"' ]*", svg) == [SVG.strip("{}")]
    assert "@import" not in svg
    assert "url(" not in svg.replace("url(#", "")
    assert set(re.findall(r"url\(#([^)]+)\)", svg)) <= set(re.findall(r"id=\"([^\"]+)\"", svg))
    tags = {element.tag.removeprefix(SVG) for element in ElementTree.fromstring(svg).iter()}
    assert tags <= {"svg", "style", "defs", "clipPath", "rect", "g", "circle", "text"}


@pytest.mark.parametrize("path", PICTURES, ids=lambda path: str(path.stem))
def test_every_colour_can_be_read(path: Path) -> None:
    background = PICTURES[path].background_color.hex
    colours = set(re.findall(r"fill: (#[0-9a-f]{6})", path.read_text(encoding="utf-8")))
    assert len(colours) > 2
    assert {colour: contrast(colour, background) for colour in colours if contrast(colour, background) < LEAST_CONTRAST} == {}


def contrast(one: str, other: str) -> float:
    """From 1 to 21, by WCAG's formula."""
    darker, lighter = sorted(map(luminance, (one, other)))
    return (lighter + 0.05) / (darker + 0.05)


def luminance(colour: str) -> float:
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_what_is_drawn_can_be_read_back() -> None:
    text = "\x1b[1mID\x1b[0m      STATUS\na & <b>  \x1b[32mCompleted\x1b[0m\n\n  it's done"
    for theme in (LIGHT, DARK):
        assert lines_of(drawn(text, theme)) == ["ID      STATUS", "a & <b>  Completed", "  it's done"]


def test_a_line_that_is_too_long_goes_on_in_the_next() -> None:
    assert lines_of(drawn("x" * (COLUMNS + 5), LIGHT)) == ["x" * COLUMNS, "x" * 5]


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX terminal")
def test_bars_that_were_taken_away_are_gone(tmp_path: Path) -> None:
    terminal = Terminal([sys.executable, "-c", BARS], cwd=tmp_path, columns=COLUMNS)
    assert terminal.finish() == 0
    assert "1 file" in terminal.screen
    assert settled(terminal.screen) == ["before", "a notice", "done"]


def test_ids_times_and_durations_are_fixed_and_columns_stay() -> None:
    one, other = (TABLE.format(run=run, row=row, time=time) for run, row, time in (("train_1700000000_00c0ffee", "  1.4s", "12s"), (RUN, "1m 02s", "3.1s")))
    assert fixed(one) == fixed(other)
    assert fixed(one).splitlines()[0] == f"{RUN}  Completed  14:05      2.9s"
