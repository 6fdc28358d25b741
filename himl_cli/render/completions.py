"""What completion scripts know of the program: its commands, their options, and what may stand for values.

A kind of value is a word that the engines of all shells read, of parts joined by `+`:

    choice:A,B          one of these
    runs, experiments   names that `himl --complete` tells
    files, files:.A,.B  files (of these suffixes) and folders
    folders             folders
    list                several, with commas between

An empty word is free text: nothing is offered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path


@dataclass(frozen=True)
class Offered:
    """An option. `names` are all its spellings, those that say no included; `kind` is None for a flag; `help` is at
    most a line."""

    names: Sequence[str]
    kind: str | None
    repeats: bool
    help: str

    @property
    def row(self) -> str:
        """As the engines read it: `--json`, `--workspace|-w=folders`, `+--tag=`; a plus for what may be given again."""
        return f"{'+' if self.repeats else ''}{'|'.join(self.names)}{'' if self.kind is None else f'={self.kind}'}"


@dataclass(frozen=True)
class Verb:
    """A command, or a group of them. `kinds` are those of its plain arguments; the last one `repeats` or not."""

    words: str
    help: str
    options: Sequence[Offered]
    kinds: Sequence[str]
    repeats: bool
    children: Sequence[Verb]

    @property
    def name(self) -> str:
        """The last of its words."""
        return self.words.split()[-1]

    @property
    def places(self) -> Sequence[str]:
        """The kinds as the engines read them: `text` for free text, three dots after what repeats."""
        words = [kind or "text" for kind in self.kinds]
        return [*words[:-1], f"{words[-1]}..."] if self.repeats else words

    def walk(self) -> Iterator[Verb]:
        """Itself and all below."""
        yield self
        for child in self.children:
            yield from child.walk()


@dataclass(frozen=True)
class Program:
    """All of it; `old_names` are hi-ml's names of options with today's, known and not offered."""

    root: Verb
    old_names: Sequence[tuple[str, str]]


TEMPLATES = Path(__file__).with_name("templates")
FILES: Mapping[str, str] = {"bash": "himl.bash", "zsh": "_himl", "fish": "himl.fish", "powershell": "himl.ps1"}
"""The shells, and what the script of each is called in `completions/`."""


def completion_script(program: Program, shell: str) -> str:
    """The completion script of *program* for *shell*, one of FILES; plain ASCII. Raises KeyError for another."""
    text = (TEMPLATES / FILES[shell]).read_text(encoding="ascii")
    for name, lines in TABLES[shell](program).items():
        text = text.replace(f"@{name}@", "\n".join(lines))
    return text


def posix_quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def powershell_quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _bash(program: Program) -> dict[str, list[str]]:
    lines: list[str] = []
    for verb in program.root.walk():
        lines.append(f"    {posix_quoted(verb.words)})")
        if verb.children:
            lines.append(f"        verbs='{' '.join(child.name for child in verb.children)}'")
        if verb.options:
            lines += ["        rows='", *(f"            {option.row}" for option in verb.options), "        '"]
        if verb.kinds:
            lines.append(f"        kinds='{' '.join(verb.places)}'")
        lines.append("        ;;")
    return {"TABLE": lines, "OLD_NAMES": [f"    {old}) name={today} ;;" for old, today in program.old_names]}


def _zsh(program: Program) -> dict[str, list[str]]:
    lines: list[str] = []
    for verb in program.root.walk():
        lines.append(f"    ({posix_quoted(verb.words)})")
        for name, pairs in (("verbs", _verb_pairs(verb)), ("rows", _row_pairs(verb))):
            if pairs:
                lines += [
                    f"        {name}=(",
                    *(f"            {posix_quoted(word)} {posix_quoted(text)}" for word, text in pairs),
                    "        )",
                ]
        if verb.kinds:
            lines.append(f"        kinds=({' '.join(verb.places)})")
        lines.append("        ;;")
    return {"TABLE": lines, "OLD_NAMES": [f"    ({old}) name={today} ;;" for old, today in program.old_names]}


def _fish(program: Program) -> dict[str, list[str]]:
    verbs = list(program.root.walk())
    old_names = chain.from_iterable(
        (f"        case {old}", f"            echo -- {today}") for old, today in program.old_names
    )
    return {
        "VERBS": _fish_cases((verb.words, _verb_pairs(verb)) for verb in verbs),
        "ROWS": _fish_cases((verb.words, _row_pairs(verb)) for verb in verbs),
        "KINDS": _fish_cases((verb.words, [(place,) for place in verb.places]) for verb in verbs),
        "OLD_NAMES": list(old_names),
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


def _powershell(program: Program) -> dict[str, list[str]]:
    lines: list[str] = []
    for verb in program.root.walk():
        lines.append(f"        {powershell_quoted(verb.words)} = @{{")
        for name, pairs in (("Verbs", _verb_pairs(verb)), ("Rows", _row_pairs(verb))):
            rows = ",\n".join(
                f"                {powershell_quoted(word)}, {powershell_quoted(text)}" for word, text in pairs
            )
            lines += [f"            {name} = @("] + [rows] * bool(rows) + ["            )"]
        lines += [f"            Kinds = @({', '.join(map(powershell_quoted, verb.places))})", "        }"]
    return {"TABLE": lines, "OLD_NAMES": [f"        '{old}' = '{today}'" for old, today in program.old_names]}


def _verb_pairs(verb: Verb) -> list[tuple[str, str]]:
    return [(child.name, child.help) for child in verb.children]


def _row_pairs(verb: Verb) -> list[tuple[str, str]]:
    return [(option.row, option.help) for option in verb.options]


TABLES: Mapping[str, Callable[[Program], dict[str, list[str]]]] = {
    "bash": _bash,
    "zsh": _zsh,
    "fish": _fish,
    "powershell": _powershell,
}
