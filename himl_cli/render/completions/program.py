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

from collections.abc import Iterator, Sequence
from dataclasses import dataclass


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
