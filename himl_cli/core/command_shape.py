"""The command line as a plain record, from which the reference pages and the completions are made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from himl_cli.core.records import dataclass


@dataclass(frozen=True)
class ParameterShape:
    """An option as in help, or a plain argument, which has no `names` and a metavar such as `[RUN]...`.

    `names` are the spellings of an option, long ones first (`--quiet`, `-q`), `off_names` the negative ones
    (`--no_wait`), `old_names` the hidden ones of hi-ml. `metavar` is empty for a Boolean option. `help` excludes the
    default, which is the text `default`, or empty. `panel` is its heading in help, `variable` the environment variable
    that sets it, or empty. `kind` determines the completion of its values (`render.completions`), if known.
    """

    metavar: str
    help: str = ""
    repeats: bool = False
    names: Sequence[str] = ()
    off_names: Sequence[str] = ()
    old_names: Sequence[str] = ()
    panel: str = ""
    takes_value: bool = True
    default: str = ""
    variable: str = ""
    kind: str = ""

    @property
    def long_name(self) -> str:
        """The name for texts: the first with two dashes, else the first."""
        return next((name for name in self.names if name.startswith("--")), self.names[0])


@dataclass(frozen=True)
class CommandShape:
    """A command, or a group of commands (which has `children`).

    `path` begins with the program: `("himl", "runs", "list")`. `summary` is its line in the help of its parent, and
    `panel` its heading there. `text` is the help without the examples: paragraphs of one line each, separated by empty
    lines. `examples` are shell commands.
    """

    path: tuple[str, ...]
    usage: str
    summary: str
    panel: str
    text: str
    examples: Sequence[str]
    options: Sequence[ParameterShape]
    arguments: Sequence[ParameterShape]
    children: Sequence[CommandShape] = ()

    @property
    def words(self) -> str:
        """The command as typed."""
        return " ".join(self.path)

    def walk(self) -> Iterator[CommandShape]:
        """This command and all its subcommands, in the order of help."""
        yield self
        for child in self.children:
            yield from child.walk()
