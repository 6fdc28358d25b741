"""Completion scripts: commands, options, and kinds of values.

The engines of all shells read a kind, which is a word of parts joined by `+`:

    choice:A,B          one of these
    runs, experiments   names from `himl --complete`
    files, files:.A,.B  files (with these suffixes) and folders
    folders             folders
    list                several, separated by commas

An empty word means free text without completion.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path

from himl_cli.core.command_shape import CommandShape, ParameterShape

SCRIPT_FILES: Mapping[str, str] = {"bash": "himl.bash", "zsh": "_himl", "fish": "himl.fish", "powershell": "himl.ps1"}
"""The shells, and the name of each script in `completions/`."""


def completion_script(program: CommandShape, shell: str) -> str:
    """The completion script of *program*, whose options and arguments have kinds, for *shell*, one of FILES. Plain
    ASCII. Raises KeyError for another shell."""
    text = (Path(__file__).with_name("templates") / SCRIPT_FILES[shell]).read_text(encoding="ascii")
    old_names = sorted(
        {
            old: option.long_name for each in program.walk() for option in each.options for old in option.old_names
        }.items()
    )
    for name, lines in TABLES[shell]([*program.walk()], old_names).items():
        text = text.replace(f"@{name}@", "\n".join(lines))
    return text


def posix_quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def powershell_quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def option_row(option: ParameterShape) -> str:
    """An option for the engines: `--json`, `--workspace|-w=folders`, `+--tag=`, with a plus if it can be repeated."""
    names = sorted((*option.names, *option.off_names), key=lambda name: not name.startswith("--"))
    return f"{'+' if option.repeats else ''}{'|'.join(names)}{f'={option.kind}' if option.takes_value else ''}"


def _kinds(command: CommandShape) -> list[str]:
    """The kinds of the arguments for the engines: `text` for free text, three dots for a repeated one."""
    return [f"{each.kind or 'text'}{'...' * each.repeats}" for each in command.arguments]


def _verb_pairs(command: CommandShape) -> list[tuple[str, str]]:
    return [(child.path[-1], child.summary) for child in command.children]


def _row_pairs(command: CommandShape) -> list[tuple[str, str]]:
    return [(option_row(option), option.help) for option in command.options]


Commands = Sequence[CommandShape]
OldNames = Sequence[tuple[str, str]]
Tables = dict[str, list[str]]


def _bash(commands: Commands, old_names: OldNames) -> Tables:
    lines: list[str] = []
    for each in commands:
        lines.append(f"    {posix_quoted(each.words)})")
        if each.children:
            lines.append(f"        verbs='{' '.join(child.path[-1] for child in each.children)}'")
        if each.options:
            lines += ["        rows='", *(f"            {option_row(option)}" for option in each.options), "        '"]
        if each.arguments:
            lines.append(f"        kinds='{' '.join(_kinds(each))}'")
        lines.append("        ;;")
    return {"TABLE": lines, "OLD_NAMES": [f"    {old}) name={today} ;;" for old, today in old_names]}


def _zsh(commands: Commands, old_names: OldNames) -> Tables:
    lines: list[str] = []
    for each in commands:
        lines.append(f"    ({posix_quoted(each.words)})")
        for name, pairs in (("verbs", _verb_pairs(each)), ("rows", _row_pairs(each))):
            rows = [f"            {posix_quoted(word)} {posix_quoted(text)}" for word, text in pairs]
            lines += [f"        {name}=(", *rows, "        )"] if rows else []
        if each.arguments:
            lines.append(f"        kinds=({' '.join(_kinds(each))})")
        lines.append("        ;;")
    return {"TABLE": lines, "OLD_NAMES": [f"    ({old}) name={today} ;;" for old, today in old_names]}


def _fish(commands: Commands, old_names: OldNames) -> Tables:
    old = ((f"        case {old}", f"            echo -- {today}") for old, today in old_names)
    return {
        "VERBS": _fish_cases((each.words, _verb_pairs(each)) for each in commands),
        "ROWS": _fish_cases((each.words, _row_pairs(each)) for each in commands),
        "KINDS": _fish_cases((each.words, [(kind,) for kind in _kinds(each)]) for each in commands),
        "OLD_NAMES": [*chain.from_iterable(old)],
    }


def _fish_cases(tables: Iterable[tuple[str, Sequence[tuple[str, ...]]]]) -> list[str]:
    lines: list[str] = []
    for words, rows in tables:
        if rows:
            form = "\\t".join("%s" for _ in rows[0])
            lines += [f"        case {fish_quoted(words)}", f"            printf '{form}\\n' \\"]
            lines += [f"                {' '.join(map(fish_quoted, row))} \\" for row in rows]
            lines[-1] = lines[-1].removesuffix(" \\")
    return lines


def _powershell(commands: Commands, old_names: OldNames) -> Tables:
    lines: list[str] = []
    for each in commands:
        lines.append(f"        {powershell_quoted(each.words)} = @{{")
        for name, pairs in (("Verbs", _verb_pairs(each)), ("Rows", _row_pairs(each))):
            rows = ",\n".join(
                f"                {powershell_quoted(word)}, {powershell_quoted(text)}" for word, text in pairs
            )
            lines += [f"            {name} = @("] + [rows] * bool(rows) + ["            )"]
        lines += [f"            Kinds = @({', '.join(map(powershell_quoted, _kinds(each)))})", "        }"]
    return {"TABLE": lines, "OLD_NAMES": [f"        '{old}' = '{today}'" for old, today in old_names]}


TABLES: Mapping[str, Callable[[Commands, OldNames], Tables]] = {
    "bash": _bash,
    "zsh": _zsh,
    "fish": _fish,
    "powershell": _powershell,
}
