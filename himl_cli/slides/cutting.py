"""Cut slides into tiles: a folder of images per slide, a CSV of all tiles, and a CSV of all slides.

A level is read once, from the top, in bands with the height of a tile. Each slide is a task of the pool, as memory
allows. Its tiles are tasks too, for threads without a slide. A folder is moved into place when it is complete, with a
record of its settings, so that a later call can skip it.
"""

from __future__ import annotations

import csv
import heapq
import io
import json
import os
import re
import shutil
import tarfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from himl_cli.core.errors import BadUsage
from himl_cli.core.events import Counted, Counting, Notify
from himl_cli.core.files import flush
from himl_cli.core.json_text import NotJson, read_json
from himl_cli.core.records import dataclass
from himl_cli.core.signals import terminations
from himl_cli.services.transfer.digests import short_hash
from himl_cli.services.transfer.local_files import folded
from himl_cli.slides.encoding import encode_jpeg, encode_png
from himl_cli.slides.layout import fitted
from himl_cli.slides.output_folder import (
    HINT,
    OLD,
    OVERVIEW,
    OVERVIEW_PAGE,
    TILE_COLUMNS,
    TILED_COLUMNS,
    TILES_DATASET,
    TILES_RECORD,
    TILES_SLIDES,
    TILES_STAGING,
    TILES_TAR,
    disk_error,
    is_record,
    output_folder,
    plain,
    write_bytes,
    write_error,
)
from himl_cli.slides.pictures import check_backend, check_shape, level_for, open_slide
from himl_cli.slides.readers import MaskRule, Slide, factor_between
from himl_cli.slides.regions import RegionRaster
from himl_cli.slides.resampling import Resampler, averaged, quick, resized
from himl_cli.slides.scale import ONE_POWER, PixelGrid, csv_mpp, grid_at, scale_of
from himl_cli.slides.slide_records import (
    Box,
    Region,
    Size,
    SlideEntry,
    SlideFolder,
    SlideUnreadable,
    TiledSlide,
    TileFormat,
    TilesRequest,
    TilesResult,
    TileStore,
    none_read,
)
from himl_cli.slides.threads import Pool, map_in_order, read_ahead, reuse_freed_memory
from himl_cli.slides.tissue import QUALITY, WHITE, foreground_of, quality_of

HELD_BYTES = 512 << 20  # maximum memory of slides that are cut at the same time. A larger slide is cut alone.
STRIP_ROWS = 768  # approximate rows held beside a row of tiles: a strip, and the next one, which is read ahead
MASK_TILE = "mask.png"  # extension
OVERVIEW_SIDE, MARK = 2048, (0, 114, 178)
LONGEST_FOLDER = 150
VERSION = 5  # of the record
LEAST_KEPT = 0.5  # share of the foreground of a slide in its tiles, below which the slide is named
LEAST_INSIDE = 0.5  # share of a tile in the regions of its slide
LARGE_IN_TAR = "mask: the shares of labels above 255 are unknown, so a tar cannot have them; use --format files"
LABEL = "label_"  # of columns with the share of a label of the mask
SHARE = re.compile(rf"{LABEL}\d+")
MORE_COLUMNS = ("tar", "inside", "region", "mask", *QUALITY)  # additional columns, in this order
# Left, top, right and bottom in pixels of level 0, the share of foreground, and additional columns
Tile = tuple[int, int, int, int, float, dict[str, Any]]
NONE: NDArray[np.uint8] = np.empty((0, 0), np.uint8)  # labels of a slide without a mask
Files = tuple[Tile, Mapping[str, bytes]]  # a tile and its images, by extension


def cut_slides(
    request: TilesRequest, entries: Sequence[SlideEntry], folder: SlideFolder, notify: Notify
) -> TilesResult:
    """Cut *entries*, whose files are in *folder*, into tiles below `request.output`. Keep slides that an earlier call
    completed with the same options and files.

    A slide that is unreadable, or lacks the level or a mask, is named in the result. *notify* receives Counting and
    Counted. Raises BadUsage for a backend that is not installed, and if files of others would be replaced, DiskFailed,
    HimlError if another call writes to the folder, SlidesFailed if no slide is readable (earlier tiles and lists then
    stay), and what *folder* raises if it cannot provide files. Ctrl-C, SIGTERM
    and SIGHUP raise KeyboardInterrupt. After any error, complete slides stay.
    """
    began = time.monotonic()
    check_backend(request.backend)
    reuse_freed_memory()
    slides = [
        TiledSlide(entry.slide_id, entry.image, entry.label, entry.mask, entry.more, folder=name)
        for entry, name in zip(entries, folder_names(entries), strict=True)
    ]
    _check_output(request.output, slides)
    recipes = [_recipe(request, slide, folder) for slide in slides]
    with (
        terminations(and_hangups=True),
        output_folder(request.output, TILES_STAGING) as new,
        Pool(request.workers, folder.stop) as pool,
    ):

        def cut() -> None:
            notify(Counting("slides", len(slides)))
            todo = []
            for number, slide in enumerate(slides):
                record = _read_record(request.output / slide.folder)
                if record.get("recipe") == recipes[number]:
                    slides[number] = replace(_outcome(slide, record), is_resumed=True)
                    notify(Counted())
                else:
                    todo.append(number)
            images = [slides[number].image for number in todo]
            masks = [slides[number].mask for number in todo if request.masks]
            folder.expect([name for name in (*images, *masks) if name])
            cutter = _Cutter(request, folder, new, pool)
            for number, outcome in cutter.outcomes([(number, slides[number], recipes[number]) for number in todo]):
                slides[number] = outcome
                notify(Counted())
            failed = [slide for slide in slides if not slide.is_ok]
            if failed and len(failed) == len(slides):
                raise none_read(failed)
            for slide in failed:
                cutter.remove_earlier(slide)
            _write_table(new / TILES_SLIDES, TILED_COLUMNS, map(_slide_row, slides))
            found = {column for slide in slides for column in slide.columns}
            labels = sorted({*filter(SHARE.fullmatch, found)}, key=lambda column: (len(column), column))
            known = [*(column for column in MORE_COLUMNS if column in found), *labels]
            others = (name for slide in slides for name in _more(slide, request))
            columns = list(dict.fromkeys([*TILE_COLUMNS, *known, *others]))
            rows = ([row.get(column) for column in columns] for row in _tile_rows(request, slides))
            _write_table(new / TILES_DATASET, columns, rows)
            try:
                flush(new)
                for name in (TILES_SLIDES, TILES_DATASET):
                    os.replace(new / name, request.output / name)
                flush(request.output, [])
            except OSError as err:
                raise disk_error(err, f"Cannot move the lists of tiles to '{request.output}'") from err

        pool.run(cut)
    files = {"dataset": request.output / TILES_DATASET, "record": request.output / TILES_SLIDES}
    return TilesResult(**files, slides=slides, seconds=time.monotonic() - began)


def folder_names(entries: Sequence[SlideEntry]) -> list[str]:
    """A folder name per slide that is valid in every file system: its id, with `_` for characters other than letters,
    digits and `.+=@-`, and a number if other slides have the same name."""
    taken = {TILES_DATASET, TILES_SLIDES, OVERVIEW_PAGE}
    numbers: Counter[str] = Counter()
    names = []
    for entry in entries:
        base = re.sub(r"[^\w.+=@-]+", "_", entry.slide_id).strip(".") or "slide"
        if len(base.encode()) > LONGEST_FOLDER:
            base = f"{base.encode()[:LONGEST_FOLDER].decode(errors='ignore')}.{short_hash(entry.slide_id)}"
        name = base
        while folded(name) in taken:
            numbers[folded(base)] += 1
            name = f"{base}_{numbers[folded(base)] + 1}"
        taken.add(folded(name))
        names.append(name)
    return names


def _check_output(output: Path, slides: Sequence[TiledSlide]) -> None:
    """Raise BadUsage if anything but himl's tiles and lists would be replaced, DiskFailed if that cannot be checked."""
    for name, columns in ((TILES_DATASET, TILE_COLUMNS), (TILES_SLIDES, TILED_COLUMNS)):
        if os.path.lexists(output / name) and not is_record(output / name, columns):
            raise BadUsage(f"'{output / name}' is not a list of tiles, and would be replaced.", hint=HINT)
    for path in (output / slide.folder for slide in slides):
        try:
            is_free = not os.path.lexists(path) or (path / TILES_RECORD).exists()
            if not is_free and (path.is_symlink() or not path.is_dir() or any(path.iterdir())):
                raise BadUsage(f"'{path}' is not a folder of tiles, and would be replaced.", hint=HINT)
        except OSError as err:
            raise disk_error(err, f"Cannot read '{path}'") from err


def _recipe(request: TilesRequest, slide: TiledSlide, folder: SlideFolder) -> Mapping[str, Any]:
    """Everything that determines the tiles of *slide*."""
    files = [slide.image, *([slide.mask] if request.masks and slide.mask else [])]
    return {
        "version": VERSION,
        "files": [[name, folder.version(name)] for name in files],
        "tile_size": request.tile_size,
        "overlap": request.overlap,
        "level": request.level,
        "mpp": request.mpp,
        "magnification": request.magnification,
        "assume_mpp": request.assume_mpp,
        "csv_mpp": csv_mpp(slide.more),
        "occupancy": request.occupancy,
        "foreground": request.foreground,
        "mask_threshold": request.mask_threshold,
        "mask_tiles": request.mask_tiles,
        "quality": request.quality,
        "regions": short_hash(repr(request.regions[slide.slide_id])) if request.regions is not None else None,
        "max_tiles": request.max_tiles,
        "seed": request.seed,
        "format": request.format.value,
        # A tar contains the line of the CSV
        "tar": [slide.slide_id, slide.label, slide.more] if request.store is TileStore.tar else None,
        "overview": request.overview,
        "backend": request.backend.value,
    }


def _read_record(folder: Path) -> Mapping[str, Any]:
    """Settings of the tiles in *folder*. Empty if they are incomplete or missing."""
    try:
        record = read_json((folder / TILES_RECORD).read_bytes())
    except (OSError, NotJson):
        return {}
    return record if isinstance(record, dict) else {}


def _outcome(slide: TiledSlide, record: Mapping[str, Any]) -> TiledSlide:
    level, size, backend = record["level"], tuple(record["size"]), record["backend"]
    threshold, reason = record["mask_threshold"], record["reason"]
    known = replace(slide, level=level, size=size, backend=backend, mask_threshold=threshold, reason=reason)
    known = replace(known, bytes=record["bytes"], mpp=record["mpp"], scale_source=record["scale_source"])
    known = replace(known, columns=tuple(record["columns"]), has_large_labels=record["has_large_labels"])
    return replace(known, tiles=len(record["tiles"]), remark=record["remark"])


def _place(tile: Sequence[Any]) -> str:
    """Name of a tile within its slide."""
    return f"{tile[0]:05d}x_{tile[1]:05d}y"


def _more(slide: TiledSlide, request: TilesRequest) -> Mapping[str, str]:
    """Other columns of the slide's row in the CSV, renamed if tiles may have a column of that name."""
    taken = {*TILE_COLUMNS, *MORE_COLUMNS} - {*(() if request.quality else QUALITY)}

    def is_taken(name: str) -> bool:
        return name in taken or (request.masks and SHARE.fullmatch(name) is not None)

    named = ((name, name.casefold(), value) for name, value in slide.more.items())
    return {f"slide_{name}" if is_taken(plain_name) else name: value for name, plain_name, value in named}


def _tile_row(request: TilesRequest, slide: TiledSlide, tile: Sequence[Any]) -> Mapping[str, Any]:
    """The line of *tile* in the list of all tiles, by column."""
    place = _place(tile)
    image = f"{slide.folder}/{place}.{request.format.value}"
    values = slide.slide_id, f"{slide.folder}.{place}", image, *tile[:4], slide.label, tile[4]
    row = {**dict(zip(TILE_COLUMNS, values, strict=True)), **_more(slide, request), **tile[5]}
    row |= {"mask": f"{slide.folder}/{place}.{MASK_TILE}"} if request.mask_tiles else {}
    return row | {"tar": f"{slide.folder}/{TILES_TAR}"} if request.store is TileStore.tar else row


def _tile_rows(request: TilesRequest, slides: Sequence[TiledSlide]) -> Iterator[Mapping[str, Any]]:
    every = {column for slide in slides for column in slide.columns if SHARE.fullmatch(column)}
    for slide in slides:
        record = _read_record(request.output / slide.folder) if slide.is_ok else {"tiles": ()}
        for tile in record["tiles"]:
            labels = every if record["has_labels"] else every.intersection(slide.columns)
            yield {**dict.fromkeys(labels, 0), **_tile_row(request, slide, tile)}


def _slide_row(slide: TiledSlide) -> Sequence[object]:
    texts = (slide.slide_id, slide.label, slide.image, slide.mask, slide.folder, slide.level)
    status = "failed" if not slide.is_ok else "ok" if slide.tiles else "empty"
    mpp = None if slide.mpp is None else f"{slide.mpp:.6g}"
    sides = slide.size or (None, None)
    return *texts, *sides, slide.backend, slide.tiles, status, slide.reason, mpp, slide.scale_source


def _write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV like `write_record`. Raises DiskFailed."""
    try:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(columns)
            writer.writerows(["" if each is None else plain(str(each)) for each in row] for row in rows)
    except OSError as err:
        raise write_error(err, path) from err


class _Cutter:
    """Cuts slides of *folder* in the threads of *pool*. Each is staged in *new*."""

    def __init__(self, request: TilesRequest, folder: SlideFolder, new: Path, pool: Pool) -> None:
        self._request, self._folder, self._new, self._pool = request, folder, new, pool
        self._step = request.tile_size - request.overlap
        (new.parent / OLD).mkdir(exist_ok=True)

    def outcomes(self, slides: Sequence[tuple[int, TiledSlide, Mapping[str, Any]]]) -> Iterator[tuple[int, TiledSlide]]:
        """Yield the result of each slide, with its number, in the order of completion.

        This thread opens one slide ahead of those that are being cut.
        """
        active: dict[Future[TiledSlide], tuple[int, int]] = {}

        def complete(most: int, most_held: int) -> Iterator[tuple[int, TiledSlide]]:
            while active and (len(active) > most or sum(size for _, size in active.values()) > most_held):
                for future in wait(active, return_when=FIRST_COMPLETED).done:
                    number, _ = active.pop(future)
                    yield number, future.result()

        for number, slide, recipe in slides:
            opened = ExitStack()
            try:
                source = self._open(slide, opened)
            except SlideUnreadable as err:
                opened.close()
                yield number, replace(slide, reason=str(err))
                continue
            yield from complete(self._pool.workers - 1, HELD_BYTES - source.bytes)
            future = self._pool.submit(self._cut, slide, recipe, source, opened)
            active[future] = number, source.bytes
        yield from complete(0, 0)

    def _open(self, slide: TiledSlide, opened: ExitStack) -> _Source:
        """Open the slide and its mask, which *opened* closes. Raises SlideUnreadable, and HimlError if no more files
        can be provided."""
        request = self._request
        path = opened.enter_context(self._folder.local_path(slide.image))
        image = opened.enter_context(closing(open_slide(path, request.backend)))
        grid = _grid(image.levels, request, path, slide.more)
        regions = request.regions[slide.slide_id] if request.regions is not None else None
        if regions == []:
            raise SlideUnreadable("it has no regions")
        if not request.masks:
            return _Source(image, None, grid, request.tile_size, regions)
        if slide.mask is None:
            raise SlideUnreadable("it has no mask")
        with _naming_mask():
            path = opened.enter_context(self._folder.local_path(slide.mask))
            rule = MaskRule(request.mask_threshold)
            mask = opened.enter_context(closing(open_slide(path, request.backend, mask=rule)))
            check_shape(mask.levels[0], image.levels[0])
        return _Source(image, mask, grid, request.tile_size, regions)

    def _cut(self, slide: TiledSlide, recipe: Mapping[str, Any], source: _Source, opened: ExitStack) -> TiledSlide:
        staged = self._new / slide.folder
        try:
            with opened:
                staged.mkdir()
                tissue: list[float] = []
                with closing(_TileFiles(self._request, slide, staged)) as files:
                    found = list(self._tiles(source, files, tissue))
                    tiles = files.complete(found)
                if source.mask is not None and source.mask.mask_rule is not None and source.mask.mask_rule.large:
                    if self._request.store is TileStore.tar:
                        raise SlideUnreadable(LARGE_IN_TAR)
                    tiles = [(*tile[:5], _without_labels(tile[5])) for tile in tiles]
                if self._request.overview and not self._request.is_dry_run:
                    write_bytes(staged / OVERVIEW, encode_jpeg([_overview(source.image, tiles)]))
            grid = source.grid
            record = {"recipe": recipe, "level": grid.level, "size": grid.size, "backend": source.image.backend}
            record["mpp"], record["scale_source"] = grid.mpp, grid.scale_source
            record["bytes"] = files.bytes(tiles)
            record["tiles"], record["reason"] = tiles, _lack(found, tissue, self._request)
            rule = source.mask.mask_rule if source.mask is not None else None
            record["mask_threshold"] = None if rule is None else rule.threshold or 0.0
            record["remark"] = "; ".join(source.image.remarks)
            record["has_large_labels"] = rule is not None and bool(rule.large)
            record["has_labels"] = rule is not None and not rule.is_area and not rule.large
            more = dict.fromkeys(name for tile in tiles for name in tile[5])
            is_tar = self._request.store is TileStore.tar
            record["columns"] = [*more, *["mask"] * self._request.mask_tiles, *["tar"] * is_tar]
            write_bytes(staged / TILES_RECORD, json.dumps(record).encode())
            flush(staged)
            self._publish(slide.folder, staged)
        except (SlideUnreadable, MemoryError) as err:
            shutil.rmtree(staged, ignore_errors=True)
            reason = str(err) if isinstance(err, SlideUnreadable) else "it does not fit in memory"
            return replace(slide, reason=reason)
        except OSError as err:
            raise disk_error(err, f"Cannot write to '{self._request.output / slide.folder}'") from err
        return _outcome(slide, record)

    def _tiles(self, source: _Source, target: _TileFiles, tissue: list[float]) -> Iterator[Tile]:
        """Add the tiles with enough foreground to *target*, row by row. Add the foreground of each tile in the regions
        to *tissue*."""
        request, image, pool = self._request, source.image, self._pool
        tile, step, grid = request.tile_size, self._step, source.grid
        size, (across, down) = grid.size, grid.downsample
        encode = encode_png if request.format is TileFormat.png else _encode_jpeg
        foreground = None if request.foreground == "mask" else foreground_of(image, request.foreground)
        if foreground is not None and foreground.remark:
            image.remarks = [*image.remarks, foreground.remark]
        lefts: NDArray[np.int64] = np.arange(_count(size[0], tile, step)) * step
        facts = _Facts(source, request, lefts)

        def write(place: tuple[int, Tile]) -> Files:
            pool.check()
            left, found = place
            images = {request.format.value: encode(band[:, left : left + tile])}
            if request.quality:
                found[5].update(quality_of(band[:, left : left + tile]))
            if request.mask_tiles:
                images[MASK_TILE] = _encode_grey(labels[:, left : left + tile])
            return target.write(found, images)

        with closing(read_ahead(image.strips(grid.level, WHITE), pool)) as strips:
            bands = _bands(
                strips if grid.step == (1.0, 1.0) else averaged(strips, grid.step, size), size, tile, step, 255
            )
            masks = iter(()) if source.mask is None else _bands(_nearest(source.mask, size), size, tile, step, 0)
            for row, band in enumerate(bands):
                pool.check()
                labels = next(masks, NONE)
                columns = np.count_nonzero(labels, axis=0) if foreground is None else foreground.columns(band)
                shares, more = facts.share(columns), facts.of_row(row * step, labels)
                inside = [facts.regions is None or each["inside"] >= LEAST_INSIDE for each in more]
                tissue += [share for share, is_inside in zip(shares, inside, strict=True) if is_inside]
                top, bottom = (round(edge * down) for edge in (row * step, row * step + tile))
                kept: list[tuple[int, Tile]] = [
                    (left, (round(left * across), top, round((left + tile) * across), bottom, round(share, 6), each))
                    for left, share, each, is_inside in zip(lefts.tolist(), shares, more, inside, strict=True)
                    if share >= request.occupancy and is_inside
                ]
                chosen = {tile[:2] for tile in target.choose(found for _, found in kept)}
                for files in map_in_order(pool, write, [each for each in kept if each[1][:2] in chosen]):
                    target.add(files)
                yield from (found for _, found in kept)

    def remove_earlier(self, slide: TiledSlide) -> None:
        """Remove earlier tiles of a *slide* that has failed, which have other options or another file, so that no
        folder of a slide has tiles that the list lacks. Raises DiskFailed."""
        path = self._request.output / slide.folder
        try:
            if (path / TILES_RECORD).exists():
                self._publish(slide.folder)
        except OSError as err:
            raise disk_error(err, f"Cannot remove earlier tiles from '{path}'") from err

    def _publish(self, folder: str, staged: Path | None = None) -> None:
        """Move *staged* into place as *folder*, or remove that folder. Remove the list of all tiles, which describes
        the previous ones."""
        final, old = self._request.output / folder, self._new.parent / OLD / folder
        (self._request.output / TILES_DATASET).unlink(missing_ok=True)
        if final.exists():
            os.rename(final, old)
        if staged is not None:
            os.rename(staged, final)
        shutil.rmtree(old, ignore_errors=True)


class _Facts:
    """Additional columns of the tiles of a row, whose left columns in the level are *lefts*: `inside`, the share of a
    tile in the regions, `region`, the label of most of it, and the share of each label of the mask."""

    def __init__(self, source: _Source, request: TilesRequest, lefts: NDArray[np.int64]) -> None:
        self._source, self._request, self._lefts, self._tile = source, request, lefts, request.tile_size
        width = int(lefts[-1]) + request.tile_size
        self.regions = None if source.regions is None else RegionRaster(source.regions, width, source.grid.downsample)

    def share(self, columns: NDArray[np.int64]) -> list[float]:
        """The share of each tile that *columns*, the counts of pixels per column, are."""
        sums = np.concatenate(([0], np.cumsum(columns)))
        shares: list[float] = ((sums[self._lefts + self._tile] - sums[self._lefts]) / self._tile**2).tolist()
        return shares

    def of_row(self, top: int, labels: NDArray[np.uint8]) -> list[dict[str, Any]]:
        """The columns of each tile of the row from *top*, with *labels* of the mask."""
        rows: list[dict[str, Any]] = [{} for _ in self._lefts]
        covered = self.regions.columns(top, self._tile) if self.regions is not None else {}
        parts = {label: self.share(columns) for label, columns in covered.items()}
        for number, row in enumerate(rows if parts else ()):
            best = max(self.regions.labels if self.regions else (), key=lambda each: parts[each][number], default="")
            row |= {"inside": round(parts[""][number], 6), "region": best if parts.get(best, parts[""])[number] else ""}
        rule = self._source.mask.mask_rule if self._source.mask is not None else None
        if rule is None or rule.large:
            return rows
        for label in [1] if rule.is_area else np.flatnonzero(np.bincount(labels.ravel(), minlength=256)).tolist():
            found = labels != 0 if rule.is_area else labels == label
            for row, share in zip(rows, self.share(found.sum(axis=0, dtype=np.int64)), strict=True):
                if label and share:
                    row[f"{LABEL}{label}"] = round(share, 6)
        return rows


class _TileFiles:
    """The files of a slide's tiles in the folder *staged*: beside each other, or in one tar.

    With `max_tiles`, each tile gets a random number, and those with the least numbers are kept. They are packed at the
    end, because a tar cannot lose a member.
    """

    def __init__(self, request: TilesRequest, slide: TiledSlide, staged: Path) -> None:
        self._request, self._slide, self._staged = request, slide, staged
        self._random = Random(f"{request.seed} {slide.folder}")  # noqa: S311  # no secret
        self._kept: list[tuple[float, Tile]] = []  # a heap, with negative numbers
        self._bytes: dict[tuple[int, int], int] = {}
        is_tar = request.store is TileStore.tar
        self._tar = tarfile.open(staged / TILES_TAR, "w") if is_tar else None  # noqa: SIM115  # closed by `close`

    def close(self) -> None:
        if self._tar is not None:
            self._tar.close()

    def choose(self, tiles: Iterable[Tile]) -> Sequence[Tile]:
        """The tiles to write of the next *tiles*. Removes files of earlier ones that they replace."""
        if self._request.max_tiles is None:
            return [*tiles]
        new = []
        for tile in tiles:
            new.append(tile)
            heapq.heappush(self._kept, (-self._random.random(), tile))
            if len(self._kept) > self._request.max_tiles:
                _, dropped = heapq.heappop(self._kept)
                if dropped in new:
                    new.remove(dropped)
                else:
                    for path in self._staged.glob(f"{_place(dropped)}.*"):
                        path.unlink()
        return new

    def write(self, tile: Tile, images: Mapping[str, bytes]) -> Files:
        """Write the *images* of the tile, by extension, from any thread. Returns those for `add`."""
        self._bytes[tile[:2]] = sum(map(len, images.values()))
        if self._request.is_dry_run:
            return tile, {}
        if self._tar is not None and self._request.max_tiles is None:
            return tile, images
        for extension, data in images.items():
            write_bytes(self._staged / f"{_place(tile)}.{extension}", data)
        return tile, {}

    def add(self, files: Files) -> None:
        """Add the files that `write` returned, in the order of the tiles, to the tar, if there is one."""
        tile, images = files
        if self._tar is None or not images:
            return
        row = json.dumps(_tile_row(self._request, self._slide, tile)).encode()
        for extension, data in {**images, "json": row}.items():
            member = tarfile.TarInfo(f"{self._slide.folder}/{_place(tile)}.{extension}")
            member.size = len(data)
            self._tar.addfile(member, io.BytesIO(data))

    def bytes(self, tiles: Sequence[Tile]) -> int:
        """Size of the images of *tiles*."""
        return sum(self._bytes[tile[:2]] for tile in tiles)

    def complete(self, tiles: Sequence[Tile]) -> Sequence[Tile]:
        """Those of all *tiles* that are kept, with all of their files written."""
        if self._request.max_tiles is None:
            return tiles
        kept = {tile[:2] for _, tile in self._kept}
        tiles = [tile for tile in tiles if tile[:2] in kept]
        for tile in tiles if self._tar is not None and not self._request.is_dry_run else ():
            paths = sorted(self._staged.glob(f"{_place(tile)}.*"))
            self.add((tile, {path.name.partition(".")[2]: path.read_bytes() for path in paths}))
            for path in paths:
                path.unlink()
        return tiles


@dataclass(frozen=True)
class _Source:
    """A slide to cut, its mask, and the pixels to cut."""

    image: Slide
    mask: Slide | None
    grid: PixelGrid
    tile_size: int
    regions: Sequence[Region] | None

    @property
    def bytes(self) -> int:
        """Approximate memory for its pixels. Pillow decodes a whole image."""
        width, height = self.image.levels[self.grid.level]
        return 3 * width * (self.tile_size + (height if self.image.backend == "pillow" else STRIP_ROWS))


def _without_labels(columns: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in columns.items() if not name.startswith(LABEL)}


def _lack(tiles: Sequence[Tile], shares: Sequence[float], request: TilesRequest) -> str:
    """Why there are few *tiles* or none, for *shares*, the foreground of each tile in the regions, kept or not. Empty
    if there are enough."""
    tissue = sum(shares)
    if not shares:
        return f"no tile has {LEAST_INSIDE:.0%} of its area in a region"
    if not tiles:
        return f"no tile reaches --occupancy {request.occupancy:g}" if tissue else "it has no foreground"
    kept = sum(tile[4] for tile in tiles) / (tissue or 1)
    return f"the tiles have {kept:.0%} of its foreground" if tissue and kept < LEAST_KEPT else ""


def _grid(levels: Sequence[Size], request: TilesRequest, path: Path, row: Mapping[str, str]) -> PixelGrid:
    """Pixels to cut of the slide at *path*. Raises SlideUnreadable if the slide does not have the level or the
    scale."""
    power = request.magnification
    mpp = request.mpp if power is None else ONE_POWER / power
    factors = [_downsample(levels, level) for level in range(len(levels))]
    if mpp is None:
        level = request.level
        if level >= len(levels):
            raise SlideUnreadable(level_for(levels, level, levels[0])[1].partition(", and ")[0])
        return PixelGrid(level, levels[level], (1.0, 1.0), (factors[level], factors[level]))
    scale = scale_of(path, levels[0], row, request.assume_mpp, by_objective=power is not None)
    return grid_at(levels, factors, scale, mpp, is_power=power is not None)


def _downsample(levels: Sequence[Size], level: int) -> float:
    """Pixels of level 0 per pixel of *level*, as the mean of both directions if they differ."""
    mean = float(np.mean([finest / coarse for finest, coarse in zip(levels[0], levels[level], strict=True)]))
    return factor_between(levels[0], levels[level]) or mean


def _count(side: int, tile: int, step: int) -> int:
    """Number of tiles that cover *side* pixels."""
    return 1 + max(0, -(-(side - tile) // step))


def _bands(strips: Iterator[NDArray[Any]], size: Size, tile: int, step: int, fill: int) -> Iterator[NDArray[Any]]:
    """Yield the rows of *strips* in bands of *tile* rows, one every *step* rows, as wide as the tiles. *fill* extends
    the image at its edges. An array is valid until the next one is requested."""
    width, height = size
    padded = (_count(width, tile, step) - 1) * step + tile
    band: NDArray[Any] | None = None
    filled = rows = 0
    for strip in strips:
        if band is None:
            band = np.full((tile, padded, *strip.shape[2:]), fill, strip.dtype)
        while len(strip):
            taken = strip[: tile - filled]
            band[filled : filled + len(taken), :width] = taken
            filled, rows, strip = filled + len(taken), rows + len(taken), strip[len(taken) :]
            if filled == tile or rows == height:
                band[filled:] = fill
                yield band
                band[: tile - step] = band[step:].copy()
                filled = tile - step
        del strip


def _nearest(mask: Slide, size: Size) -> Iterator[NDArray[np.uint8]]:
    """Yield the labels of *mask*, scaled to *size*."""
    level, _ = level_for(mask.levels, None, size)
    resampler = Resampler(mask.levels[level], size, None)
    with _naming_mask():
        for strip in mask.strips(level, None):
            for rows in resampler.stream(strip):
                yield np.maximum(np.maximum(rows[..., 0], rows[..., 1]), rows[..., 2])


@contextmanager
def _naming_mask() -> Iterator[None]:
    try:
        yield
    except SlideUnreadable as err:
        raise SlideUnreadable(f"mask: {err}") from err


def _encode_jpeg(pixels: NDArray[np.uint8]) -> bytes:
    return encode_jpeg([pixels])


def _encode_grey(labels: NDArray[np.uint8]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(labels).save(stream, "PNG")
    return stream.getvalue()


def _overview(slide: Slide, tiles: Sequence[Tile]) -> NDArray[np.uint8]:
    """The slide, at most OVERVIEW_SIDE pixels wide and high, with the outlines of *tiles*."""
    width, height = slide.levels[0]
    size = fitted(Box(0, 0, min(OVERVIEW_SIDE, width), min(OVERVIEW_SIDE, height)), (width, height)).size
    level, _ = level_for(slide.levels, None, size)
    pixels: NDArray[np.uint8] = np.empty((size[1], size[0], 3), np.uint8)
    resized(slide.strips(level, WHITE), slide.levels[level], size, quick()).fill(pixels)
    picture = Image.fromarray(pixels)
    draw = ImageDraw.Draw(picture)
    across, down = size[0] / width, size[1] / height
    for left, top, right, bottom, *_ in tiles:
        x, y = left * across, top * down
        draw.rectangle((x, y, max(x, right * across - 1), max(y, bottom * down - 1)), outline=MARK)
    return np.asarray(picture)
