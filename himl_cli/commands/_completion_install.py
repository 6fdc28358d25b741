"""What `himl completion SHELL --install` does."""

from __future__ import annotations

import os
from pathlib import Path

from himl_cli.core.errors import NeedsYes
from himl_cli.render.output import Output
from himl_cli.services.completion_files import add_line, place_of, write_script

AGAIN = "It works in shells that are started from here on."


def install_script(output: Output, shell: str, text: str) -> None:
    """Put the script where *shell* finds it, and after a yes the line into the shell's own file that loads it. Raises
    DiskFailed, NotFound."""
    place = place_of(shell, os.environ)
    write_script(place, text)
    files = [place.script]
    if not place.is_loaded and place.start_file is not None and _may_add(output, place.start_file):
        add_line(place)
        files.append(place.start_file)
    said = [f"Wrote '{each}'." for each in files]
    said.append(AGAIN if place.is_loaded else f"To load it, add this line to '{place.start_file}':\n{place.line}")
    left = "" if place.is_loaded else place.line
    output.result(
        {"shell": shell, "files": [str(each) for each in files], "line": left},
        human="\n".join(said),
        quiet=map(str, files),
    )


def _may_add(output: Output, path: Path) -> bool:
    """Whether the user wants a line in the file at *path*; where nobody can be asked, no."""
    try:
        return output.confirm(f"Add a line to '{path}' that loads it?")
    except NeedsYes:
        return False
