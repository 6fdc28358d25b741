"""The secrets of one case, and the search for them in output, files, and visible data of processes. Needs /proc
(Linux).
"""

from __future__ import annotations

import base64
import json
import os
import re
import stat
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, quote_plus, unquote

SHORTEST = 8  # minimal bytes of a form, since shorter ones match by chance
_SHAPE = re.compile(rb"(?<![\w-])eyJ[\w-]{20,}\.[\w-]{20,}\.[\w-]{8,}")  # a token by its form, whoever made it
CACHE = Path("xdg_cache_home", "himl", "azure")  # himl's cache of replies of services, below the home folder
KEPT = ("token", "signature", "delegation key")  # allowed in that cache, since they expire
LARGEST = 32 << 20


class Marks:
    """Secrets by kind (`password`, `signature`, …). Adding is thread-safe."""

    def __init__(self) -> None:
        self._forms: dict[bytes, str] = {}
        self._known: set[str] = set()
        self._guard = threading.Lock()
        self.kinds: Counter[str] = Counter()

    def add(self, kind: str, secret: str) -> None:
        if len(secret) < SHORTEST:
            raise ValueError(f"a {kind} of {len(secret)} characters is no mark")
        with self._guard:
            if secret not in self._known:
                self._known.add(secret)
                self.kinds[kind] += 1
                self._forms |= dict.fromkeys(forms_of(secret), kind)

    def __len__(self) -> int:
        return len(self._known)

    def found(self, content: bytes, but: Iterable[str] = ()) -> list[str]:
        with self._guard:
            forms = list(self._forms.items())
        kinds = {kind for form, kind in forms if form in content}
        if _SHAPE.search(content):
            kinds.add("token")
        return sorted(kinds - set(but))


def forms_of(secret: str) -> set[bytes]:
    """The forms of *secret* in addresses, JSON, headers and base64, at any offset."""
    plain = {secret, unquote(secret)}
    texts = set(plain)
    for one in plain:
        quoted = {quote(one, safe=""), quote(one), quote_plus(one)}
        texts |= quoted | {re.sub("%..", lambda found: found[0].lower(), text) for text in quoted}
        texts |= {json.dumps(one)[1:-1], json.dumps(one)[1:-1].replace("/", "\\/"), repr(one)[1:-1]}
    forms = {text.encode() for text in texts}
    for content in (one.encode() for one in plain):
        for skipped, begin in enumerate(
            (0, 2, 3)
        ):  # what stays the same where so many bytes of a group of three stand before it, whatever follows
            whole = base64.b64encode(bytes(skipped) + content)[begin : (skipped + len(content)) * 8 // 6]
            forms |= {whole, whole.replace(b"+", b"-").replace(b"/", b"_")}
    return {form for form in forms if len(form) >= SHORTEST}


@dataclass
class Search:
    leaks: list[str] = field(default_factory=list)
    files: int = 0
    passed_over: int = 0
    processes: int = 0

    def look(self, what: str, content: bytes, marks: Marks, but: Collection[str] = ()) -> None:
        self.leaks += [f"{kind} in {what}" for kind in marks.found(content, but)]

    def look_at_files(self, folder: Path, home: Path, marks: Marks, own: Collection[Path]) -> None:
        """Search the files below *folder*, except the user's *own*, and check the modes in himl's cache in *home*."""
        cache = home / CACHE
        for path in (Path(above, name) for above, _, names in os.walk(folder) for name in names):
            if path in own or path.is_symlink() or not path.is_file():
                continue
            parts = path.relative_to(folder).parts
            what = f"the file {Path(*parts) if len(parts) <= 4 else f'{Path(*parts[:3])}/…/{path.name}'}"
            try:
                if path.stat().st_size > LARGEST:
                    self.passed_over += 1
                    continue
                content = path.read_bytes()
            except FileNotFoundError:  # a process in progress deleted it
                continue
            self.files += 1
            is_kept = cache in path.parents
            self.look(what, content, marks, KEPT if is_kept else ())
            self.look(f"the name of {what}", os.fsencode(path.name), marks)
            if is_kept:
                self.look_at_modes(path, cache.parent)

    def look_at_modes(self, path: Path, cache: Path) -> None:
        """Check that only the user can read *path*, and list the folders between it and *cache*."""
        for each, most in ((path, 0o600), *((folder, 0o700) for folder in path.parents if cache in folder.parents)):
            mode = stat.S_IMODE(each.stat().st_mode)
            if mode & ~most:
                self.leaks.append(f"mode {mode:o} of {each.name}")


SECONDS = 0.005
_NAME = re.compile(r"-?[A-Za-z][\w.]{0,39}")
# seconds for which a process that is none of ours is looked at again: it may be one that has not begun its program yet
YOUNG = 5.0


@dataclass
class Shown:
    arguments: set[bytes] = field(default_factory=set)
    variables: dict[str, bytes] = field(default_factory=dict)

    @property
    def is_job(self) -> bool:
        """Whether it is a script that himl runs, or was started by one, so that it may have its secrets."""
        return "AZUREML_RUN_ID" in self.variables

    @property
    def program(self) -> str:
        """The first words of its arguments that identify the program, without folders."""
        words = max(self.arguments, key=len, default=b"").decode(errors="replace").split("\0")
        return " ".join(os.path.basename(word) for word in words[:3] if _NAME.fullmatch(os.path.basename(word)))


class Watcher:
    """Watches all processes with *entry* (`NAME=value`) in their environment. `strange` are the arguments of all
    others, as `ps` shows them.
    """

    def __init__(self, entry: str) -> None:
        self._entry = entry.encode()
        self._ours: dict[str, Shown] = {}
        self._others: dict[str, float] = {}
        self._gone: list[Shown] = []
        self.strange: set[bytes] = set()
        self.stopped = threading.Event()

    def take(self) -> list[Shown]:
        ended, self._gone = self._gone, []
        return [*ended, *self._ours.values()]

    def run(self) -> None:
        while not self.stopped.wait(SECONDS):
            there, moment = {name for name in os.listdir("/proc") if name.isdigit()}, time.monotonic()
            for number in self._ours.keys() - there:
                self._gone.append(self._ours.pop(number))
            for number in self._others.keys() - there:
                del self._others[number]
            for number in there:
                if moment - self._others.setdefault(number, moment) < YOUNG or number in self._ours:
                    self._see(number)

    def _see(self, number: str) -> None:
        try:
            arguments, variables = (
                Path("/proc", number, "cmdline").read_bytes(),
                Path("/proc", number, "environ").read_bytes(),
            )
        except OSError:  # it has ended, or belongs to another user
            return
        entries = variables.split(b"\0")
        if self._entry not in entries:
            self.strange.add(arguments)
        elif arguments:
            shown = self._ours.setdefault(number, Shown())
            shown.arguments.add(arguments)
            pairs = (entry.partition(b"=") for entry in entries)
            shown.variables |= {name.decode(errors="replace"): value for name, _, value in pairs if name}


@contextmanager
def watching(entry: str) -> Iterator[Watcher]:
    watcher = Watcher(entry)
    thread = threading.Thread(target=watcher.run, name="watcher", daemon=True)
    thread.start()
    try:
        yield watcher
    finally:
        watcher.stopped.set()
        thread.join()
