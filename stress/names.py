"""Hostile file names for commands that fetch files, obstacles at the target paths, and files with other sizes than
listed.

They come from a storage service that lists any names. POSIX only, since it needs pipes, and links without privileges.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import random
import re
import stat
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import escape

from himl_cli.core.files import PART_SUFFIX, RANKS_NAME, STATE_NAME
from himl_cli.services.transfer.digests import short_hash
from himl_cli.services.transfer.local_files import part_name
from himl_cli.services.transfer.state import MARK_SIGNS
from stress.records import Case, Outcome, Result
from stress.world import Ended, Verdict, World, judge, plain
from tests.azureml_double.faults import Page
from tests.azureml_double.seeding import ARTIFACTS
from tests.azureml_double.state import Datastore, Right
from tests.azureml_double.storage import Storage as Account
from tests.support.running import PROGRAM, write_files
from tests.support.terminals import Terminal
from tests.support.web import Asked, serving_files

KEY = base64.b64encode(b"no secret").decode()


def md5_of(content: bytes) -> str:
    return base64.b64encode(hashlib.md5(content).digest()).decode()


@dataclass(frozen=True)
class Blob:
    """A blob. `told` is the listed size if it differs from that of *content*."""

    name: str
    content: bytes
    told: int | None = None
    has_md5: bool = True


@dataclass
class Storage:
    """The blobs below *root* in each container. *text* replaces the reply to a list request."""

    blobs: Sequence[Blob] = ()
    root: str = ""
    text: bytes | None = None
    lists: int = 0

    def listing(self, prefix: str) -> bytes:
        self.lists += 1
        if self.text is not None:
            return self.text
        found = [
            blob
            for blob in sorted(self.blobs, key=lambda blob: blob.name)
            if (self.root + blob.name).startswith(prefix)
        ]
        return (
            f"<EnumerationResults><Blobs>{''.join(map(self._entry, found))}</Blobs><NextMarker /></EnumerationResults>"
        ).encode("utf-8", "surrogatepass")

    def _entry(self, blob: Blob) -> str:
        name = self.root + blob.name
        is_encoded = any((sign < " " and sign != "\t") or sign in "\ufffe\uffff" for sign in name)
        shown = f'<Name Encoded="true">{quote(name)}</Name>' if is_encoded else f"<Name>{escape(name)}</Name>"
        md5 = f"<Content-MD5>{md5_of(blob.content)}</Content-MD5>" if blob.has_md5 else ""
        size = len(blob.content) if blob.told is None else blob.told
        return (
            f"<Blob>{shown}<Properties><Content-Length>{size}</Content-Length><Etag>0x1</Etag>{md5}<BlobType>"
            "BlockBlob</BlobType></Properties></Blob>"
        )


@contextmanager
def serving(storage: Storage) -> Iterator[int | None]:
    """Serve *storage* within the context, and return the port."""
    with serving_files(None) as files:

        def prepare(asked: Asked) -> None:
            name = unquote(asked.path).partition("/")[2].partition("/")[2]
            blob = next((blob for blob in storage.blobs if storage.root + blob.name == name), None)
            if "comp=list" in asked.query:
                files.put(asked.path, storage.listing(parse_qs(asked.query).get("prefix", [""])[0]))
            elif blob is None:
                files.put(asked.path, b"", status=404, headers={"x-ms-error-code": "BlobNotFound"})
            else:
                first, _, last = (asked.range or f"bytes=0-{len(blob.content)}").removeprefix("bytes=").partition("-")
                md5 = md5_of(blob.content[int(first) : int(last) + 1])
                files.put(
                    asked.path, blob.content, etag='"0x1"', headers={"Content-MD5": md5, "x-ms-blob-type": "BlockBlob"}
                )

        files.before = prepare
        yield urlsplit(files.address).port


RUN, STORE, CONTAINER = "names_1_aa", "hostile", "azureml"
DEEP = "outputs/checkpoints/deep"


@dataclass(frozen=True)
class Command:
    """A command. `target` is the folder of its files, `state` the folder of himl's records about them, `below` the
    prefix of their names in the run.
    """

    arguments: Sequence[str]
    target: str
    state: str
    below: str = ""
    of_run: bool = True


COMMANDS = {
    "datastore": Command(("datastore", "download", "", "out", "--datastore", STORE), "out", "out", of_run=False),
    "download": Command(("download", RUN), f"outputs/{RUN}", "outputs"),
    "tb": Command(("tb", RUN, "--sync_only", "--run_logs_dir", "copies"), f"copies/{RUN}", "copies", "logs/"),
    "checkpoint": Command(
        ("checkpoint", "fetch", f"{RUN}:{DEEP}"), f"checkpoints/{RUN}/deep", f"checkpoints/{RUN}", f"{DEEP}/"
    ),
}


class HostileWorkspace:
    """A workspace with one run and the files of a case, from the storage account's list or from links of the
    artifact service.
    """

    def __init__(self, world: World) -> None:
        self.staged = world.stage.workspace()
        self.run = self.staged.add_run(RUN, "names")
        self.reader = self.staged.add_principal({Right.READ})

    @contextmanager
    def listing(self, command: Command, blobs: Sequence[Blob], text: bytes | None = None) -> Iterator[Storage]:
        storage = Storage(
            [replace(blob, name=command.below + blob.name) for blob in blobs],
            self.run.artifact_prefix if command.of_run else "",
            text,
        )
        datastores, name = self.staged.state.datastores, ARTIFACTS if command.of_run else STORE
        before = datastores.get(name)
        with serving(storage) as port:
            account = Account(STORE, KEY, f"http://127.0.0.1:{port}", suffix=f"blob.localhost:{port}", protocol="http")
            datastores[name] = Datastore(name, CONTAINER, account)
            try:
                yield storage
            finally:
                datastores.pop(name) if before is None else datastores.update({name: before})

    @contextmanager
    def linking(self, world: World, command: Command, blobs: Sequence[Blob]) -> Iterator[None]:
        """Make the artifact service return links to *blobs*, which are stored in Azurite with plain names."""
        account, folder = self.staged.state.storage, f"names/{uuid.uuid4().hex}"
        places = {f"{folder}/{number}": blob for number, blob in enumerate(blobs)}
        account.put_all(CONTAINER, {place: blob.content for place, blob in places.items()})
        links = {account.blob_link(CONTAINER, place): command.below + blob.name for place, blob in places.items()}
        items = [
            {"path": name, "container": self.run.data_container_id, "contentUri": link} for link, name in links.items()
        ]
        world.stage.faults.add(
            Page(json.dumps({"value": items}), content_type="application/json"), "/prefix/contentinfo/", times=None
        )
        try:
            yield
        finally:
            world.stage.faults.clear()
            container = account.client.get_container_client(CONTAINER)
            for place in places:
                container.delete_blob(place)


EVERYWHERE = ("datastore", "download", "tb", "checkpoint")
FILES = ("datastore", "download", "tb")
FOUND = ("download", "datastore")
AMBIGUOUS = frozenset(
    {0, 1, 5}
)  # names that Azure Storage would take for other ones cannot be asked for: the service has failed
Names = Callable[[random.Random], Sequence[str]]


@dataclass(frozen=True)
class Kind:
    """A kind of names. `names` are those of one case. `refused`: none of them may become a file at any path. Otherwise
    each is a file at its own path, or is reported. It applies to `commands`, which may end with one of `codes`."""

    name: str
    names: Names
    refused: bool = True
    commands: Sequence[str] = EVERYWHERE
    codes: frozenset[int] = frozenset({0, 1})


def _some(*names: str) -> Names:
    return lambda dice: dice.sample(names, dice.randint(1, min(3, len(names))))


def _framed(signs: Sequence[str], *frames: str) -> Names:
    return lambda dice: [
        frame.replace("@", dice.choice(signs)) for frame in dice.sample(frames, dice.randint(1, len(frames)))
    ]


def _long_part(dice: random.Random) -> Sequence[str]:
    sign = dice.choice("aä漢")
    return [sign * -(-dice.randint(256, 320) // len(sign.encode())) + dice.choice(["", "/in it"])]


def _long_name(dice: random.Random) -> Sequence[str]:
    part = dice.choice("aä") * dice.randint(1, 100)
    return [
        ("/".join([part] * 1024))[: length - 1] + "z" for length in (dice.randint(900, 924), dice.randint(5000, 9000))
    ]


def _case(dice: random.Random) -> Sequence[str]:
    name = dice.choice(["model", "straße", "σίσυφος", "Iı"])
    return sorted({name, name.upper(), name.capitalize(), f"{name}/in it".title() if dice.random() < 0.5 else name})


CONTROLS = ["\0", "\x01", "\t", "\n", "\r", "\r\n", "\x08", "\x1b", "\x7f", "\x85", "\x9b"]
SHOWN = [
    "\u202etxt.exe",
    "\u2066\u2069",
    "\u200b",
    "\u2028",
    "\ufeff",
    "\x1b[2J",
    "\x1b]0;t\x07",
    "\x9b31m",
    "\x1b]52;c;aGk=\x07",
    "\x07",
    "\u061c",
]
OWN = [
    *(f"{STATE_NAME}{end}" for end in (".db", ".db-wal", ".db-journal", ".lock")),
    STATE_NAME.upper(),
    f"{RANKS_NAME}/x",
    f".x{PART_SUFFIX}",
]
SPELT = ["%2e%2e/escaped", "..%2fescaped", "..;/escaped", ".. /escaped", ".../escaped", "\uff0e\uff0e/escaped"]
DOTS = ["..", ".", "../..", "../../..", "sub/../..", "./.."]

KINDS: Sequence[Kind] = (
    Kind("dots", _framed(DOTS, "@/escaped", "sub/@/escaped", "sub/@")),
    Kind("dots-spelt", _some(*SPELT), refused=False, codes=AMBIGUOUS),
    Kind(
        "absolute",
        _framed(
            ["/escaped", "//escaped", "/OUTSIDE/escaped", "/proc/self/cwd/escaped", "///", "/dev/shm/escaped"], "@"
        ),
    ),
    Kind("drive", _framed(["C:\\escaped", "C:/escaped", "c:\\..\\escaped", "Z:\\"], "@"), commands=("datastore", "tb")),
    Kind(
        "drive-like",
        _some("C:escaped", "sub/C:escaped", "a:b/c", "file:stream:$DATA", "sub/C:/escaped"),
        refused=False,
        commands=FOUND,
    ),
    Kind(
        "unc",
        _framed(
            [
                "\\\\host\\share\\escaped",
                "\\\\?\\C:\\escaped",
                "\\escaped",
                "\\\\.\\pipe\\escaped",
                "//host/share/escaped",
            ],
            "@",
        ),
    ),
    Kind("backslash-dots", _framed(["..\\escaped", "sub\\..\\..\\escaped", "..\\", ".\\escaped"], "@", "sub/@")),
    Kind("backslash", _some("sub\\file", "sub/one\\two", "file\\"), refused=False, commands=FOUND, codes=AMBIGUOUS),
    Kind("control", _framed(CONTROLS, "file@x", "@file", "sub@x/file", "file@")),
    Kind("long-part", _long_part),
    Kind("long-name", _long_name, refused=False, commands=FOUND, codes=AMBIGUOUS),
    Kind(
        "ends",
        _some("file.", "sub./file", "file ", "sub /file", " file", "file. .", "file..."),
        refused=False,
        codes=AMBIGUOUS,
    ),
    Kind(
        "devices",
        _some("CON", "sub/nul.txt", "COM1", "lpt9.ckpt", "aux/file", "CONIN$", "COM¹"),
        refused=False,
        commands=FOUND,
    ),
    Kind("case", _case, refused=False, commands=FILES),
    Kind(
        "forms",
        lambda dice: ["caf\u00e9", "cafe\u0301", "\u212bngstr\u00f6m", "\u00c5ngstr\u00f6m"][: dice.choice([2, 4])],
        refused=False,
        commands=FILES,
    ),
    Kind(
        "prefix",
        lambda dice: ["both", "both/in it", *dice.sample(["both/in it/deep", "both-", "both.x", "both/"], 2)],
        refused=False,
    ),
    Kind("own", _framed(OWN, "@", "sub/@")),
    Kind("shown", _framed(SHOWN, "file@x", "@", "sub/x@/file"), refused=False),
    Kind("empty", _some("", "sub//file", "/", "sub/", "//", "sub//"), refused=False, commands=FOUND),
    Kind(
        "options",
        _some(
            "-rf", "--overwrite", "sub/-x", "~/escaped", "$(escaped)", "`escaped`", "*", "?", "[a]", "'", '"; escaped'
        ),
        refused=False,
    ),
    Kind(
        "no-text",
        _framed(["\ufffd", "\ufffe", "\ue000", "\U0001f4a9", "\u0301", "\u200d"], "file@", "@"),
        refused=False,
        commands=FOUND,
    ),
)
VICTIM = "victim"
INSIDE = f"{VICTIM}/deep/file.bin"  # the file that comes where something is planted


@dataclass(frozen=True)
class Place:
    """The folders of one case. `root` contains the project, and `outside`, which no command may touch. Opening its
    pipe blocks forever.
    """

    root: Path

    @property
    def project(self) -> Path:
        return self.root / PROJECT

    @property
    def outside(self) -> Path:
        return self.root / "outside"

    def make(self) -> None:
        self.project.mkdir(parents=True)
        write_files(self.outside, {"secret.txt": b"somebody's own", "empty": b""})
        (self.outside / "deep").mkdir()
        os.mkfifo(self.outside / "pipe")

    def some(self, dice: random.Random) -> Path:
        return self.outside / dice.choice(["secret.txt", "empty", "new.txt", "pipe"])

    def seen(self) -> dict[str, str]:
        away = {str(path): "file" for path in ABOVE_ALL if path.exists()}
        return {**tree_of(self.root), **away}


Plant = Callable[[Path, str, Place, random.Random, bytes], None]
"""Is given the folder where himl keeps what it remembers, and for the file that comes its name below that and its
content.
"""


def _link(path: Path, to: Path, dice: random.Random) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(to if dice.random() < 0.5 else os.path.relpath(to, path.parent))


def _folder(root: Path, name: str, place: Place, dice: random.Random, content: bytes) -> None:
    above = [part for part in Path(name).parents if VICTIM in part.parts]
    _link(root / dice.choice(above), place.outside, dice)


def _file(root: Path, name: str, place: Place, dice: random.Random, content: bytes) -> None:
    if dice.random() < 0.25:
        (place.outside / "same.bin").write_bytes(content)
        _link(root / name, place.outside / "same.bin", dice)
    else:
        _link(root / name, place.some(dice), dice)


def _part(root: Path, name: str, place: Place, dice: random.Random, content: bytes) -> None:
    cache = place.root.parent / "home" / "xdg_cache_home" / "himl"
    mark = short_hash(f"\n{cache / 'transfers'}")[:MARK_SIGNS]
    path = root / name
    _link(path.with_name(part_name(path.name, mark)), place.some(dice), dice)


def _state(root: Path, name: str, place: Place, dice: random.Random, content: bytes) -> None:
    """Replace the database of earlier versions, or one of SQLite's files next to it, by a link."""
    _link(root / f"{STATE_NAME}.db{dice.choice(['', '', '-journal', '-wal', '-shm'])}", place.some(dice), dice)


WITH_STATE = ("datastore", "download", "checkpoint")
PLANTS: Sequence[tuple[str, Plant, Sequence[str]]] = (
    ("link-folder", _folder, EVERYWHERE),
    ("link-file", _file, EVERYWHERE),
    ("link-part", _part, WITH_STATE),
    ("link-state", _state, WITH_STATE),
    (
        "link-lock",
        lambda root, name, place, dice, content: _link(root / f"{STATE_NAME}.lock", place.some(dice), dice),
        WITH_STATE,
    ),
)
A_CELL = 4
MORE = re.compile(r" and (\d+) more\b")  # how many names there are beyond the first three
LIMIT = 120.0  # seconds after which a command hangs: what it does here takes two
BY_LINKS, IN_TERMINAL = (
    0.4,
    0.4,
)  # shares of the cases in which a run's files come by links, and in which the same is done in a terminal as well
SHARED = frozenset({"empty", "dots", "absolute", "size-lie"})
"""Kinds whose names no link can be asked for by, or that a link would mean something else by; no link tells a size."""
PROJECT = Path("above/higher/project")
GOOD = ("plain/one.bin", "plain/two.bin")
ABOVE_ALL = (Path("/escaped"), Path("/dev/shm/escaped"), Path("/himl-escaped"))
# of `himl tb` where files could not be read: it tells the first of them, or the run whose files are other ones each
# time
FAILED = 5
EARLIER_FILES = re.compile(r"\.himl-transfer\.(db(-wal|-shm|-journal)?|lock)|\.himl-ranks.*")
COPY_MARK = re.compile(r"\.himl-[0-9a-f]{6}")  # in the name of a copy where two would be one file
LEAST_SHOWN = 40  # so many signs of a name that is too long for a line are enough to know it by


@dataclass(frozen=True)
class Arranged:
    """Files, the names that must not exist, and the names that must."""

    blobs: Sequence[Blob]
    refused: frozenset[str]
    must: frozenset[str]


Arrange = Callable[[Place, Command, random.Random], Arranged]


def name_cases() -> list[Case]:
    met = [
        (kind.name, command, partial(_named, kind, command), kind.codes) for kind in KINDS for command in kind.commands
    ]
    met += [
        (name, command, partial(_planted, plant, command), frozenset({0, 1}))
        for name, plant, commands in PLANTS
        for command in commands
    ]
    met += [("size-lie", command, partial(_lying, command), frozenset({0, 1, 5, 6})) for command in EVERYWHERE]
    cells = {
        f"names/{command}/{name}": partial(_run, command, arrange, codes, name) for name, command, arrange, codes in met
    }
    return [Case(f"{cell}/{number:02d}", run) for cell, run in sorted(cells.items()) for number in range(A_CELL)]


def _blob(name: str, dice: random.Random) -> Blob:
    return Blob(name, dice.randbytes(dice.randint(1, 40_000)), has_md5=dice.random() < 0.7)


def _arranged(command: str, blobs: Sequence[Blob], dice: random.Random, refused: Sequence[str] = ()) -> Arranged:
    good = [_blob(_for(command, name), dice) for name in GOOD]
    return Arranged([*blobs, *good], frozenset(refused), frozenset(blob.name for blob in good))


def _for(command: str, name: str) -> str:
    """*name*, in a form that TensorBoard would read."""
    return name if command != "tb" or "tfevents" in name.rpartition("/")[2] else f"{name}/events.out.tfevents.1"


def _named(kind: Kind, command: str, place: Place, how: Command, dice: random.Random) -> Arranged:
    names = [_for(command, name.replace("/OUTSIDE", str(place.outside))) for name in kind.names(dice)]
    refused = [name for name in names if kind.refused and own_path(name) in ("", name)]
    return _arranged(command, [_blob(name, dice) for name in dict.fromkeys(names)], dice, refused)


def _planted(plant: Plant, command: str, place: Place, how: Command, dice: random.Random) -> Arranged:
    name, root = _for(command, INSIDE), place.project / how.state
    arranged = _arranged(command, [blob := _blob(name, dice)], dice)
    (place.project / how.target).mkdir(parents=True)
    plant(root, (place.project / how.target / name).relative_to(root).as_posix(), place, dice, blob.content)
    return arranged


def _lying(command: str, place: Place, how: Command, dice: random.Random) -> Arranged:
    content = dice.randbytes(dice.randint(100, 40_000))
    told = dice.choice([len(content) - 1, len(content) + 1, 1, 5 << 20, 40 << 20, 1 << 40])
    good = _arranged(command, [], dice)
    return replace(good, blobs=[Blob(_for(command, "liar.bin"), content, told, dice.random() < 0.7), *good.blobs])


def _run(name: str, arrange: Arrange, codes: frozenset[int], kind: str, world: World, dice: random.Random) -> Result:
    hostile, command, place = world.lasting("names", HostileWorkspace), COMMANDS[name], Place(world.folder / "case")
    place.make()
    hostile.staged.write_config(world.folder)
    arranged = arrange(place, command, dice)
    by_links = command.of_run and kind not in SHARED and dice.random() < BY_LINKS
    blobs, before = arranged.blobs, place.seen()
    served: AbstractContextManager[Storage | None] = (
        hostile.linking(world, command, blobs) if by_links else hostile.listing(command, blobs)
    )
    with served as storage:
        env = world.environment(hostile.staged) | (hostile.staged.environment(hostile.reader) if by_links else {})
        begun = time.monotonic()
        ended = world.call(command.arguments, place.project, env, LIMIT)
        seconds = time.monotonic() - begun
        hits = storage.lists if storage is not None else len(world.stage.log.find("/prefix/contentinfo/"))
        problems = _problems(place, command, before, arranged, ended)
        if dice.random() < IN_TERMINAL and ended is not None:
            problems += _in_terminal(command, place.project, env, blobs)
        again = world.call(command.arguments, place.project, env, LIMIT)
        problems += _problems(place, command, before, arranged, again)
        if again is not None and ended is not None and again.code != ended.code:
            problems.append(f"the next call: exit code {again.code}")
    there = places_of(place.seen(), f"{PROJECT}/{command.target}")
    verdict = judge(ended, codes, problems, prints=True)
    if verdict.outcome is Outcome.survived and len(there) != len(
        blobs
    ):  # left out and said so, with exit code 0 as well
        verdict = Verdict(Outcome.reported)
    return world.told(
        verdict, ended, seconds, hits, again, by="links" if by_links else "list", files=len(blobs), kept=len(there)
    )


def _problems(
    place: Place, command: Command, before: dict[str, str], arranged: Arranged, ended: Ended | None
) -> list[str]:
    after, target, state = place.seen(), f"{PROJECT}/{command.target}", f"{PROJECT}/{command.state}"
    said = f"{ended.stdout}\n{ended.stderr}" if ended else ""
    wrong = [
        f"outside of the target {one}" for one in changes(*(_outside(tree, target, state) for tree in (before, after)))
    ]
    links = {path for path, what in before.items() if what.startswith("link") and after.get(path) == what}
    places = {path: what for path, what in places_of(after, target).items() if f"{target}/{path}" not in links}
    more = sum(map(int, MORE.findall(said)))
    is_told = f"'{RUN}'" in said or any(is_named(blob.name, said) for blob in arranged.blobs)
    is_run_told = command.arguments[0] == "tb" and ended is not None and is_told and (ended.code == FAILED or more > 0)
    counted = len(arranged.blobs) if is_run_told else more
    must = arranged.must if ended is None or ended.code in (0, 1) else frozenset[str]()
    wrong += file_problems(arranged.blobs, places, said, refused=arranged.refused, must=must, counted=counted)
    raw = raw_signs(ended.stderr) + raw_signs(ended.stdout, but="\n\t") if ended else []
    return wrong + ([f"raw signs: {raw}"] if raw else [])


def _outside(tree: dict[str, str], target: str, state: str) -> dict[str, str]:
    """The entries of *tree* that are not below *target*, not its parents, and not files of an earlier version in
    *state*, which himl removes.
    """
    way = {target, *map(str, Path(target).parents)}
    own = {path for path in tree if path.startswith(f"{state}/") and EARLIER_FILES.fullmatch(path[len(state) + 1 :])}
    return {path: what for path, what in tree.items() if path not in way | own and not path.startswith(f"{target}/")}


def _in_terminal(command: Command, folder: Path, env: dict[str, str], blobs: Sequence[Blob]) -> list[str]:
    calls = [command.arguments]
    if command.arguments[0] == "datastore":
        calls += [
            ("datastore", "list", "--datastore", command.arguments[-1], *more) for more in ((), ("-q",), ("--json",))
        ]
    elif command.arguments[0] == "download":
        calls += [(*command.arguments, "--list", *more) for more in ((), ("-q",), ("--json",))]
    wrong = []
    for call in calls:
        terminal = Terminal([str(PROGRAM), *call], cwd=folder, env=env)
        try:
            terminal.finish(LIMIT)
        except subprocess.TimeoutExpired:
            return [f"in a terminal '{' '.join(call)}' hangs"]
        odd = [blob.name for blob in blobs if raw_signs(blob.name)]
        wrong += [
            f"a terminal gets {name!r} raw from '{' '.join(call)}'"
            for name in odd
            if name in terminal.screen.replace("\r\n", "\n")
        ]
    return wrong


def tree_of(root: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    waiting = [os.fsencode(root)]
    while waiting:
        for entry in os.scandir(waiting.pop()):
            found[os.fsdecode(os.path.relpath(entry.path, os.fsencode(root)))] = _what(entry.path)
            if entry.is_dir(follow_symlinks=False):
                waiting.append(entry.path)
    return found


def _what(path: bytes) -> str:
    status = os.lstat(path)
    if stat.S_ISLNK(status.st_mode):
        return f"link to {os.fsdecode(os.readlink(path))}"
    if stat.S_ISREG(status.st_mode):
        return f"file {digest(Path(os.fsdecode(path)).read_bytes())} of {status.st_mtime_ns}"
    return "folder" if stat.S_ISDIR(status.st_mode) else "pipe" if stat.S_ISFIFO(status.st_mode) else "device"


def changes(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    gone = [f"{path!r} is gone" for path in sorted(before.keys() - after.keys())]
    new = [f"{path!r} is new ({after[path].partition(' ')[0]})" for path in sorted(after.keys() - before.keys())]
    return (
        gone
        + new
        + [f"{path!r} was changed" for path in sorted(before.keys() & after.keys()) if before[path] != after[path]]
    )


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def is_named(name: str, said: str) -> bool:
    """Whether one line of *said* contains *name*, the start of a long name, or its form in Python."""
    forms = {" ".join(plain(text).split()) for text in (name, repr(name)[1:-1])}
    return any(form[:LEAST_SHOWN] in line for form in forms for line in said.splitlines())


def raw_signs(text: str, but: str = "\n") -> list[str]:
    """Control and bidirectional characters in *text* that affect a terminal, except those in *but*."""
    return sorted({repr(sign) for sign in text if sign not in but and not sign.isprintable()})


def places_of(tree: Mapping[str, str], target: str) -> dict[str, str]:
    return {
        path[len(target) + 1 :]: what
        for path, what in tree.items()
        if path.startswith(f"{target}/") and what != "folder"
    }


def own_path(name: str) -> str:
    """The path of a blob below the target. himl takes an absolute name for one that begins there."""
    return name.lstrip("/")


def file_problems(
    blobs: Sequence[Blob], places: Mapping[str, str], said: str, *, refused: Set[str], must: Set[str], counted: int = 0
) -> list[str]:
    """Problems of fetched files. Each of *blobs* must be exact at its own path (a copy may have a mark in its name), or
    missing and named in *said*. Names in *refused* must be missing, names in *must* must exist, and there must be no
    other files. *counted* is the number of files that may be reported by number only."""
    wrong: list[str] = []
    kept: set[str] = set()
    for blob in blobs:
        own, content = own_path(blob.name), f"file {digest(blob.content)}"
        found = [path for path, what in places.items() if COPY_MARK.sub("", path) == own and what.startswith(content)]
        kept.update(found)
        if found and blob.name in refused:
            wrong.append(f"{blob.name!r} is there")
        elif not found and blob.name in must:
            wrong.append(f"{blob.name!r} is lacking")
        elif not found and not is_named(blob.name, said):
            counted -= 1
            if counted < 0:
                wrong.append(f"{blob.name!r} is neither there nor named")
    return wrong + [
        f"{path!r} should not be there, or not so ({what.partition(' ')[0]})"
        for path, what in places.items()
        if path not in kept
    ]
