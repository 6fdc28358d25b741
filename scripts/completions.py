"""Write the scripts in `completions/`, or with `--check` name those that differ from the output of `himl completion`.

python -m scripts.completions
python -m scripts.completions --check
"""

from __future__ import annotations

import sys
from functools import cache

import typer.main

from himl_cli.app import app
from himl_cli.commands.completion import app_shape, program_of
from himl_cli.core.command_shape import CommandShape
from himl_cli.render.completions import SCRIPT_FILES, completion_script
from tests.completions.shells import SCRIPTS

AGAIN = "python -m scripts.completions"


@cache
def shape() -> CommandShape:
    return app_shape(typer.main.get_command(app))


@cache
def program() -> CommandShape:
    return program_of(shape())


def scripts() -> dict[str, str]:
    """The text of each script by its file name."""
    return {name: completion_script(program(), shell) for shell, name in SCRIPT_FILES.items()}


def outdated() -> dict[str, bytes]:
    texts = {name: text.encode("ascii") for name, text in scripts().items()}
    return {name: text for name, text in texts.items() if not (SCRIPTS / name).is_file() or (SCRIPTS / name).read_bytes() != text}


def main() -> None:
    found = outdated()
    if sys.argv[1:] == ["--check"]:
        sys.exit(f"Outdated in completions/: {', '.join(found)}. Run: {AGAIN}" if found else 0)
    for name, text in found.items():
        (SCRIPTS / name).write_bytes(text)


if __name__ == "__main__":
    main()
