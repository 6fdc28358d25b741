"""Draw the terminal pictures of the README: the output of real commands in a terminal of 80 columns, as SVG.

    scripts/generate terminal     redraw docs/pictures/terminal-light.svg and terminal-dark.svg

Fixed values of the same width replace ids, times and durations, which differ from run to run.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
import tempfile
from io import StringIO
from pathlib import Path
from xml.etree import ElementTree

from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

from tests.support.terminals import Terminal

ROOT = Path(__file__).parents[2]
COLUMNS = 80
COMMANDS = ("himl submit train.py -- --epochs 5", "himl runs list", "himl download --prefix outputs")
SVG = "{http://www.w3.org/2000/svg}"
NAME = "himl"

LIGHT = TerminalTheme(
    (255, 255, 255),
    (31, 35, 40),
    [
        (31, 35, 40),
        (180, 35, 24),
        (17, 99, 41),
        (125, 78, 0),
        (9, 105, 218),
        (130, 80, 223),
        (4, 100, 116),
        (87, 96, 106),
    ],
)
DARK = TerminalTheme(
    (13, 17, 23),
    (230, 237, 243),
    [
        (230, 237, 243),
        (255, 123, 114),
        (86, 211, 100),
        (227, 179, 65),
        (121, 192, 255),
        (210, 168, 255),
        (86, 212, 221),
        (177, 186, 196),
    ],
)
PICTURES = {
    ROOT / "docs" / "pictures" / "terminal-light.svg": LIGHT,
    ROOT / "docs" / "pictures" / "terminal-dark.svg": DARK,
}

FORMAT = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">
<style>
.{unique_id}-matrix {{ font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace;
 font-size: {char_height}px }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/></clipPath>
{lines}
</defs>
<rect width="100%" height="100%" rx="8" fill="BACKGROUND" stroke="#8b949e" stroke-opacity="0.6" stroke-width="2"/>
<g fill="#8b949e" fill-opacity="0.6">
<circle cx="27" cy="23" r="7"/><circle cx="49" cy="23" r="7"/><circle cx="71" cy="23" r="7"/></g>
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""

_ID = re.compile(r"\btrain_\d{10}_[0-9a-f]{8}\b")
_SHORT_ID = re.compile(r"(?m)^[0-9a-f]{5}(?= +train )")
_EPOCH_TIME = re.compile(r"\b\d+\.\d\d s\b")
_CLOCK = re.compile(r"\b\d\d:\d\d\b")
_TRANSFER_TIME = re.compile(r"(?<=' in )\d+\.\ds")
_DURATION = re.compile(r"(?P<gap> +)(?:\d+\.\ds|\d+s|\d+m \d\ds)(?=[.\s]|\x1b|$)")
_LINE_END = re.compile(r"<text [^>]*>\n</text>")
"""The element that Rich draws for the end of a line."""
_PIECES = re.compile(r"\n|\r|\x1b\[[?\d;]*[A-Za-z]|[^\x1b\r\n]+")
"""Line ends, carriage returns, control sequences, and text between them."""


def captured(folder: Path) -> str:
    """Run COMMANDS in a terminal, in the empty *folder*, and return their output with prompts and colour codes.

    Raises RuntimeError if a command fails.
    """
    lab, home = folder / "lab", folder / "home"
    lab.mkdir()
    home.mkdir()
    shutil.copy(ROOT / "examples" / "train.py", lab)
    lines: list[str] = []
    for command in COMMANDS:
        lines += [*([""] if lines else []), f"\x1b[34m$\x1b[0m \x1b[1m{command}\x1b[0m", *_printed(command, lab, home)]
    return fixed("\n".join(lines).replace(str(lab.resolve()), "/home/me/lab").replace(str(lab), "/home/me/lab"))


def _printed(command: str, lab: Path, home: Path) -> list[str]:
    """Return the output lines of one command, which gets only PATH of the user's environment."""
    program, *arguments = shlex.split(command)
    folder = Path(sys.executable).parent
    variables = {
        "PATH": os.pathsep.join([str(folder), os.environ["PATH"]]),
        "HOME": str(home),
        "TERM": "xterm-256color",
        "LANG": "C.UTF-8",
        "TZ": "UTC",
    }
    clean = ["env", "-i", *(f"{name}={value}" for name, value in variables.items()), str(folder / program)]
    terminal = Terminal([*clean, *arguments], cwd=lab, columns=COLUMNS)
    code = terminal.finish(timeout=120)
    if code != 0:
        raise RuntimeError(f"{command} exited with {code}:\n{terminal.screen}")
    return settled(terminal.screen)


def settled(screen: str) -> list[str]:
    """Return the lines that remain on the screen, without bars that were removed. Colour codes are kept."""
    lines, row = [""], 0
    for piece in _PIECES.findall(screen):
        is_control, number, letter = piece.startswith("\x1b"), piece[2:-1], piece[-1]
        if piece == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif is_control and letter == "A":
            row = max(0, row - int(number or 1))
        elif is_control and letter == "K":
            lines[row] = ""
        elif piece != "\r" and (not is_control or letter == "m"):
            lines[row] += piece
    while lines and not Text.from_ansi(lines[-1]).plain.strip():
        lines.pop()
    return lines


def fixed(text: str) -> str:
    """Replace ids, times of day and durations in *text* by fixed ones of the same width."""
    text = _SHORT_ID.sub("b15e2", _ID.sub("train_1795161581_b15e2215", text))
    text = _EPOCH_TIME.sub("0.05 s", _CLOCK.sub("14:05", text))
    text = _DURATION.sub(lambda found: "2.9s".rjust(len(found[0])) if len(found["gap"]) > 1 else " 2.9s", text)
    return _TRANSFER_TIME.sub("0.1s", text)


def drawn(text: str, theme: TerminalTheme) -> str:
    """Return the picture as SVG. It contains no address except its namespace, and uses the fonts of the reader's
    system.
    """
    console = Console(
        record=True, width=COLUMNS, file=StringIO(), force_terminal=True, color_system="standard", legacy_windows=False
    )
    for line in Text.from_ansi(text).split("\n", allow_blank=True):
        for part in line.divide(range(COLUMNS, len(line), COLUMNS)) or [line]:
            console.print(part, no_wrap=True, overflow="ignore", crop=False, highlight=False)
    # Without this line, Rich cuts off the descenders of the last one.
    console.print()
    form = FORMAT.replace("BACKGROUND", theme.background_color.hex)
    svg = console.export_svg(title="", theme=theme, code_format=form, font_aspect_ratio=0.6, unique_id=NAME)
    return _LINE_END.sub("", svg).replace("</text><text", "</text>\n<text")


def lines_of(svg: str) -> list[str]:
    """Return the visible lines of a picture, without empty ones."""
    found: dict[float, str] = {}
    for element in ElementTree.fromstring(svg).iter(f"{SVG}text"):
        at, text = float(element.attrib["y"]), (element.text or "").replace("\xa0", " ")
        column = round(float(element.attrib["x"]) * len(text) / float(element.attrib["textLength"]))
        found[at] = found.get(at, "").ljust(column) + text
    return [found[at].rstrip() for at in sorted(found) if found[at].strip()]


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="himl-picture-") as folder:
        text = captured(Path(folder))
    for path, theme in PICTURES.items():
        path.write_text(drawn(text, theme), encoding="utf-8", newline="\n")
    sys.stdout.write(Text.from_ansi(text).plain + "\n")


if __name__ == "__main__":
    main()
