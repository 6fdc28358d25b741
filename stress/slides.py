"""`himl tiles`, killed (for `kills`), and `himl tiles` and `himl montage` of slides of which one is damaged:
`names/<command>/<damage>/NN`.
"""

from __future__ import annotations

import csv
import io
import os
import random
import shutil
import struct
import sys
import threading
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from himl_cli.slides.output_folder import OVERVIEW_PAGE
from stress.killed import ALL, GROUP, HIML, Killed
from stress.records import Case, Outcome, Result
from stress.world import Ended, Measured, Verdict, World, differences, drawn_until_met, judge, judge_again, measured
from tests.support.folders import contents
from tests.support.running import PROGRAM
from tests.support.slides import KINDS, overwrite_tags, slide_picture, write_giant, write_kind, write_tiff

CUT = ("tiles", "slides", "--tile_size", "64", "--occupancy", "0", "--overview", "--workers", "2")
PICTURED = (
    "montage",
    "slides",
    "--level",
    "0",
    "--layout",
    "hi-ml",
    "--width",
    "1200",
    "--image_format",
    "png",
    "--workers",
    "2",
)
SLIDES = 6


class Tiles(Killed):
    """`himl tiles` of a few slides: a slide's folder is there as a whole or not at all, and the lists only when all
    is done.
    """

    arguments = CUT
    victims = (HIML, GROUP, ALL)

    def __init__(self, world: World, dice: random.Random) -> None:
        super().__init__(world, dice)
        self._wanted = world.lasting("tiles", self._made)
        self._complete: int | None = None  # slides after the call that was killed
        shutil.copytree(world.place / "slides", world.project / "slides")

    def _made(self, world: World) -> Mapping[str, bytes]:
        """The bytes of each file of a call that nobody killed."""
        for seed in range(SLIDES):
            (world.place / "slides").mkdir(exist_ok=True)
            write_tiff(world.place / "slides" / f"{seed}.tiff", slide_picture(seed, (800, 600)), levels=2)
        done = world.himl(*self.arguments, cwd=world.place, env=self.env)
        assert done.code == 0, done.stderr
        return contents(world.place / "outputs")

    def first(self, ended: Ended, beside: Ended | None = None) -> list[str]:
        return self._wrong(is_done=ended.code == 0)

    def then(self, ended: Ended) -> list[str]:
        return self._wrong(is_done=True) + [f"{path.name!r} is left" for path in self._parts()]

    def _wrong(self, *, is_done: bool) -> list[str]:
        outputs = self.world.project / "outputs"
        found = {name: content for name, content in contents(outputs).items() if "/." not in f"/{name}"}
        slides = {path.name for path in outputs.glob("[!.]*") if path.is_dir()} - {OVERVIEW_PAGE}
        self._complete = len(slides) if self._complete is None else self._complete
        # The overview page is made after the lists, file by file
        page = {name for name in found if name.startswith(f"{OVERVIEW_PAGE}/")}
        wanted = {
            name: content
            for name, content in self._wanted.items()
            if is_done or name.partition("/")[0] in slides or name in page
        }
        listed = {name.partition("/")[0] for name in self._wanted if "/" in name} - {OVERVIEW_PAGE}
        early = [] if is_done or slides >= listed else [name for name in found if "/" not in name]
        lists = {name: self._wanted[name] for name in found if "/" not in name and name in self._wanted}
        return differences({**wanted, **lists}, found, is_done=True) + [
            f"{name!r} lists slides that lack" for name in early
        ]

    def _parts(self) -> list[Path]:
        return list((self.world.project / "outputs").rglob(".*"))

    def leftovers(self) -> int:
        return len(self._parts())

    def facts(self) -> Mapping[str, Any]:
        return {"slides": self._complete}


SOUND = ("jpeg-pyramid", "deflate-pyramid", "subifd-pyramid", "bigtiff", "big-endian", "striped", "svs", "png", "jpeg")
TIFFS = SOUND[:6]
A_TILES_CELL, A_MONTAGE_CELL = 4, 2
MEMORY, MOST_MEMORY = (
    600,
    4 << 30,
)  # MiB that a command may use, and bytes of address space, which protects this machine
SECONDS, MOST_SECONDS = 20.0, 120.0  # of processor time, and of any
STRICT_FAILED = 1
FAR, HUGE = 1 << 31, 1_000_000
PR_CAPBSET_DROP, CAPABILITIES = 24, (1, 2)  # with which root reads files that have no permissions
_BOUNDED = f"""
import ctypes, os, resource, sys
resource.setrlimit(resource.RLIMIT_AS, ({MOST_MEMORY}, {MOST_MEMORY}))
for capability in {CAPABILITIES}:
    ctypes.CDLL(None).prctl({PR_CAPBSET_DROP}, capability)
os.execv(sys.argv[1], sys.argv[1:])
"""


@dataclass(frozen=True)
class Damage:
    """What `do` does to a slide. `kinds` are those that it can do that to.

    `is_seen`: himl must not accept the slide. `is_late`: it happens while the command runs.
    """

    do: Callable[[Path, random.Random], object]
    kinds: Sequence[str] = SOUND
    is_seen: bool = True
    is_late: bool = False


def _truncate(path: Path, dice: random.Random) -> None:
    os.truncate(path, dice.randrange(1, path.stat().st_size))


def _flip(path: Path, dice: random.Random) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(dice.randint(1, 50)):
        content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
    path.write_bytes(content)


def _flip_tags(path: Path, dice: random.Random) -> None:
    """Change some bytes of the first directory of a TIFF."""
    start, end, _ = _directory(path)
    content = bytearray(path.read_bytes())
    for _ in range(dice.randint(1, 6)):
        content[dice.randrange(start, end)] = dice.randrange(256)
    path.write_bytes(content)


def _head(path: Path, dice: random.Random) -> None:
    heads = [
        b"II*\0",
        b"MM\0*",
        b"II+\0\x08\0\0\0",
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff\xe0",
        b"SIMPLE  =",
        b"PK\3\4",
        dice.randbytes(4),
    ]
    content = path.read_bytes()
    head = dice.choice([head for head in heads if not content.startswith(head)]) + dice.randbytes(dice.choice([4, 60]))
    path.write_bytes(head + content[len(head) :])


def _directory(path: Path) -> tuple[int, int, Callable[[int], bytes]]:
    """The position of the first directory, that of the offset of the next one, and how offsets are stored."""
    with tifffile.TiffFile(path) as file:
        page, is_big = file.pages[0], file.is_bigtiff
        assert isinstance(page, tifffile.TiffPage)
        end = page.offset + (8 + 20 * len(page.tags) if is_big else 2 + 12 * len(page.tags))
        return page.offset, end, partial(struct.pack, f"{file.byteorder}{'Q' if is_big else 'I'}")


def _write_at(path: Path, place: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        file.write(content)


def _outside(path: Path, dice: random.Random) -> None:
    """Let the directory, or the tiles that it lists, be after the end of the file."""
    size = path.stat().st_size + dice.choice([0, 1, 5000, FAR])
    _, _, packed = _directory(path)
    if dice.random() < 0.5:
        _write_at(path, 8 if len(packed(0)) == 8 else 4, packed(size))
    else:
        _overwrite_segments(path, "Offsets", lambda values: [min(value + size, 2 * FAR - 1) for value in values])


def _overwrite_segments(path: Path, what: str, change: Callable[[Sequence[int]], Sequence[int]]) -> None:
    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        assert isinstance(page, tifffile.TiffPage)
        name = {"Offsets": "TileOffsets", "ByteCounts": "TileByteCounts"}[what] if page.is_tiled else f"Strip{what}"
        values = page.dataoffsets if what == "Offsets" else page.databytecounts
    with tifffile.TiffFile(path, mode="r+") as file:
        tags = file.pages[0].tags
        tags[name].overwrite(tuple(change(values)), dtype="Q" if file.is_bigtiff else "I")


def _loop(path: Path, dice: random.Random) -> None:
    """Let the next directory be the first one, or something in the file that is none."""
    start, end, packed = _directory(path)
    _write_at(path, end, packed(dice.choice([start, start, end, dice.randrange(8, path.stat().st_size)])))


def _lengths(path: Path, dice: random.Random) -> None:
    """Let tiles be longer than the file."""
    _overwrite_segments(
        path,
        "ByteCounts",
        lambda values: [dice.choice([value, FAR - 1, 2 * FAR - 1]) for value in values[1:]] + [FAR - 1],
    )


def _sizes(path: Path, dice: random.Random) -> None:
    """Declare absurd sizes: more pixels than tiles, or one tile with all of them."""
    many = dice.choice(
        [{"ImageWidth": HUGE, "ImageLength": HUGE}, {"ImageWidth": 2 * FAR - 1, "ImageLength": 2 * FAR - 1}]
    )
    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        assert isinstance(page, tifffile.TiffPage)
        names = ("TileWidth", "TileLength") if page.is_tiled else ("RowsPerStrip",) * 2
    overwrite_tags(path, many | (dict.fromkeys(names, 62_500 * 16) if dice.random() < 0.5 else {}))


def _picture_bomb(path: Path, dice: random.Random) -> None:
    """A PNG, in a small file, with far more pixels than fit in memory."""
    side = dice.choice([20_001, 100_000, HUGE, FAR - 1])
    rows = zlib.compress(bytes(10 << 20), 9)
    chunks = {b"IHDR": struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0), b"IDAT": rows * 5, b"IEND": b""}
    packed = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks.items()
    ]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(packed))


def _tile_bomb(path: Path, dice: random.Random) -> None:
    """A TIFF of some MB that lists one tile again and again, with up to 10^12 pixels."""
    write_giant(path, dice.choice([(HUGE, HUGE), (HUGE, 300), (300, HUGE)]), tile=1024)


def _zeros(path: Path, dice: random.Random) -> None:
    """Zeros of the same length, or nothing at all, as after a crash of the machine."""
    path.write_bytes(bytes(dice.choice([0, path.stat().st_size])))


def _special(path: Path, dice: random.Random) -> None:
    path.unlink()
    makes: list[Callable[[], None]] = [
        partial(os.mkfifo, path),
        partial(path.symlink_to, path.name),
        partial(path.symlink_to, "nowhere"),
    ]
    dice.choice(makes)()


def _folder(path: Path, dice: random.Random) -> None:
    path.unlink()
    path.mkdir()


def _vanish(path: Path, dice: random.Random) -> None:
    path.unlink()


DAMAGES = {
    "truncated": Damage(_truncate, is_seen=False),
    "flipped": Damage(_flip, is_seen=False),
    "flipped-tags": Damage(_flip_tags, TIFFS, is_seen=False),
    "header": Damage(_head),
    "outside": Damage(_outside, TIFFS),
    "loop": Damage(_loop, TIFFS, is_seen=False),
    "lengths": Damage(_lengths, TIFFS),
    "sizes": Damage(_sizes, TIFFS),
    "picture-bomb": Damage(_picture_bomb, ("png",)),
    "tile-bomb": Damage(_tile_bomb, TIFFS[:1]),
    "zeros": Damage(_zeros),
    "special-file": Damage(_special),
    "folder": Damage(_folder, is_seen=False),
    "permission": Damage(lambda path, dice: path.chmod(0)),
    "vanishes": Damage(_vanish, is_seen=False, is_late=True),
    "shrinks": Damage(_truncate, is_seen=False, is_late=True),
}


def slide_cases() -> list[Case]:
    counts = {"tiles": A_TILES_CELL, "montage": A_MONTAGE_CELL}
    cells = [
        (command, name, number) for command, count in counts.items() for name in DAMAGES for number in range(count)
    ]
    return [
        Case(f"names/{command}/{name}/{number:02d}", partial(_run, command, name)) for command, name, number in cells
    ]


class Undisturbed:
    """Sound slides, and what each command makes of them."""

    def __init__(self, world: World) -> None:
        self.folder = world.place / "sound slides"
        (self.folder / "slides").mkdir(parents=True)
        for seed, kind in enumerate(SOUND):
            write_kind(kind, self.folder / "slides", seed=seed)
        self.made: dict[str, Mapping[str, bytes]] = {}
        self.seconds: dict[str, float] = {}
        for command, arguments in (("tiles", CUT), ("montage", PICTURED)):
            begun = time.monotonic()
            done = world.himl(*arguments, cwd=self.folder, env=world.environment())
            assert done.code == 0, done.stderr
            assert "not read" not in done.stderr, done.stderr
            self.seconds[command] = time.monotonic() - begun
            self.made[command] = contents(self.folder / "outputs")
            shutil.rmtree(self.folder / "outputs")


def _run(command: str, name: str, world: World, dice: random.Random) -> Result:
    return drawn_until_met(lambda seconds: _tried(command, name, world, dice))


def _tried(command: str, name: str, world: World, dice: random.Random) -> Result:
    sound, damage = world.lasting("sound slides", Undisturbed), DAMAGES[name]
    shutil.rmtree(world.project, ignore_errors=True)
    shutil.copytree(sound.folder / "slides", world.project / "slides")
    kind = dice.choice(damage.kinds)
    victim = world.project / "slides" / f"{kind}{KINDS[kind].suffix}"
    strict = dice.random() < 0.5
    arguments = [*(CUT if command == "tiles" else PICTURED), *(["--strict"] if strict else [])]
    late = threading.Timer(dice.random() * sound.seconds[command], damage.do, (victim, dice))
    if damage.is_late:
        late.start()
    else:
        damage.do(victim, dice)
    done = _called(world, arguments)
    is_met = not (damage.is_late and late.is_alive())
    late.cancel()
    failed, problems = state_after(command, world.project / "outputs", victim, sound.made[command])
    if damage.is_seen and not failed:
        problems.append(f"'{victim.name}' is accepted")
    verdict = judge(
        done.ended,
        frozenset({STRICT_FAILED if strict and failed else 0}),
        problems + _wrong_call(done, victim.name, failed),
        prints=True,
    )
    if verdict.outcome is Outcome.survived and failed:
        verdict = Verdict(Outcome.reported)
    again = None
    if not verdict.is_lost:
        _repair(victim, sound.folder / "slides" / victim.name)
        again = _called(world, arguments).ended
        verdict = judge_again(
            verdict, again, differences(sound.made[command], contents(world.project / "outputs"), is_done=True)
        )
    facts = {"slide": victim.name, "reason": world.tidy(failed), "cpu": round(done.cpu, 1), "memory": round(done.peak)}
    return world.told(verdict, done.ended, done.wall, int(is_met), again, **facts)


def _called(world: World, arguments: Sequence[str]) -> Measured:
    command = [sys.executable, "-c", _BOUNDED, str(PROGRAM), *arguments]
    return measured(command, world.folder / "stdout", world.project, os.environ | world.environment(), MOST_SECONDS)


def _repair(victim: Path, sound: Path) -> None:
    if victim.is_dir() and not victim.is_symlink():
        victim.rmdir()
    else:
        victim.unlink(missing_ok=True)
    shutil.copy2(sound, victim)


def _wrong_call(done: Measured, victim: str, failed: str) -> list[str]:
    wrong = [f"it took {done.cpu:.1f} s"] if done.cpu > SECONDS else []
    wrong += [f"it took {done.peak:.0f} MiB"] if done.peak > MEMORY else []
    lines = [line for line in done.ended.stderr.splitlines() if line.startswith("not read: ")] if done.ended else []
    if failed and (len(lines) != 1 or victim not in lines[0]):
        wrong.append(f"stderr has {len(lines)} lines about '{victim}'")
    return wrong


def state_after(command: str, outputs: Path, victim: Path, wanted: Mapping[str, bytes]) -> tuple[str, list[str]]:
    """The reason for which *victim* failed (empty: it did not), and problems of the other slides and of its own
    files.
    """
    found = contents(outputs)
    record = "slides.csv" if command == "tiles" else "montage.csv"
    if record not in found:
        return "", [f"{record!r} is lacking"]
    slides = {row["slide_id"]: row for row in _rows(found[record])}
    failed = {slide: row["reason"] for slide, row in slides.items() if row["status"] != "ok"}
    wrong = [f"'{slide}' failed: {reason}" for slide, reason in failed.items() if slide != victim.name]
    is_absent = victim.name not in slides and not victim.is_file()  # before himl listed the folder
    wrong += [] if len(slides) == len(SOUND) - is_absent else [f"{len(slides)} slides of {len(SOUND)} are listed"]
    if command == "tiles":
        wrong += _wrong_tiles(found, victim.name, wanted, is_failed=victim.name in failed or is_absent)
    elif not is_absent:  # otherwise, the cells are in other places
        wrong += _wrong_montage(found, victim.name, wanted)
    return failed.get(victim.name, ""), wrong


def _rows(content: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(content.decode().splitlines()))


def _wrong_tiles(found: Mapping[str, bytes], victim: str, wanted: Mapping[str, bytes], *, is_failed: bool) -> list[str]:
    def others(files: Mapping[str, bytes]) -> dict[str, bytes]:
        own = (f"{victim}/", f"{OVERVIEW_PAGE}/")  # the overview page shows why the victim failed
        return {name: content for name, content in files.items() if "/" in name and not name.startswith(own)}

    rows, own = ([row for row in _rows(files["dataset.csv"]) if row["slide_id"] != victim] for files in (found, wanted))
    wrong = [] if f"{OVERVIEW_PAGE}/index.html" in found else ["the overview page is lacking"]
    wrong += differences(others(wanted), others(found), is_done=True) + (
        [] if rows == own else ["'dataset.csv' has other lines of the other slides"]
    )
    listed = {row["image"] for row in _rows(found["dataset.csv"]) if row["slide_id"] == victim}
    there = {name for name in found if name.startswith(f"{victim}/")}
    complete = set() if is_failed else listed | {f"{victim}/overview.jpg", f"{victim}/himl_tiles.json"}
    return wrong + (
        []
        if there == complete and bool(listed) != is_failed
        else [f"'{victim}' has {len(there)} files of {len(complete)}"]
    )


def _wrong_montage(found: Mapping[str, bytes], victim: str, wanted: Mapping[str, bytes]) -> list[str]:
    (box,) = (
        tuple(int(row[side]) for side in ("x", "y", "width", "height"))
        for row in _rows(found["montage.csv"])
        if row["slide_id"] == victim
    )
    pictures = [_without(files["montage.png"], box) for files in (found, wanted)]
    wrong = [] if np.array_equal(*pictures) else ["the other cells differ"]
    return wrong + [f"{name!r} is left" for name in found.keys() - wanted.keys()]


def _without(png: bytes, box: Sequence[int]) -> NDArray[np.uint8]:
    """The pixels of a montage, with zeros in *box*."""
    pixels = np.array(Image.open(io.BytesIO(png)).convert("RGB"))
    x, y, width, height = box
    pixels[y : y + height, x : x + width] = 0
    return pixels
