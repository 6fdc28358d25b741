"""The interface of slides, shared parts of readers (errors, samples as 8-bit RGB), and readers that use one library:
OpenSlide for formats of scanners, NVIDIA's cuCIM for TIFF and SVS (without a GPU), and Pillow for plain images (PNG,
JPEG, BMP, JPEG 2000, WebP ...).

OpenSlide and cuCIM are optional, and read rectangles of a level. OpenSlide takes positions in pixels of level 0, and
interpolates between two pixels of another level, so that levels of more than 8 million pixels may be off by a fraction
of a pixel at the start of a strip. Plain images have one level, are decoded whole, and are rotated as their EXIF data
says. In files with several images, the first one counts.
"""

from __future__ import annotations

import io
import os
import struct
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import field, replace
from itertools import pairwise
from math import ceil, log2
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageChops, ImageCms
from PIL.ImageFile import ImageFile
from tifffile import TiffFileError

from himl_cli.core.records import dataclass
from himl_cli.slides.slide_records import RANGE_REMARK, Box, Colour, Size, SlideUnreadable

# Errors of libraries for damaged files. SyntaxError comes from Pillow, for a damaged PNG. ImportError comes from
# imagecodecs, for a codec that it was built without.
LIBRARY_ERRORS = (
    *(TiffFileError, OSError, ImportError, ValueError, RuntimeError, LookupError, ArithmeticError, TypeError),
    *(AttributeError, AssertionError, EOFError, SyntaxError, struct.error),
)
LONGEST_MESSAGE = 200
REGION_PIXELS, REGION_COLUMNS = 8 << 20, 4096
TILE_ROWS, MOST_TILE_ROWS = 256, 4096
LARGEST = 400_000_000  # maximum number of pixels of an image that is decoded whole
LONGEST_SIDE = 600_000  # 75 mm at 0.125 µm per pixel. A small file can declare any size.
# Names of Pillow plugins. The others start programs (EPS), accept any file (TGA), or write to the terminal (TIFF).
FORMATS = ("PNG", "JPEG", "BMP", "JPEG2000", "WEBP", "GIF", "PPM", "AVIF")
JPEGS = ("JPEG", "MPO")
GENERIC_TIFF = "generic-tiff"  # OpenSlide's name for a TIFF that is not from a scanner
APERIO, HAMAMATSU, DICOM, MIRAX = "aperio", "hamamatsu", "dicom", "mirax"
STRIP_PIXELS = 4 << 20
TILES: Sequence[Size] = [(side, side) for side in (64, 128, 240, 256, 512, 1024, 2048)]  # usual sizes
MOST_PADDED = 4 / 3  # size of a padded level, compared with its pixels
HALF = 128  # of the range of 8 bits
# Meanings of the EXIF orientations. From 5 on, the image lies on its side.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Slide(Protocol):
    """An open slide. One thread at a time may use it.

    `backend` is its reader: `tifffile`, `openslide`, `cucim` or `pillow`. `levels` are the sizes of the levels in
    pixels, the finest first. Never empty. `mask_rule` converts the values of a mask, and may be adapted to them when
    they are read. None for an image. `remarks` say how an image is shown where the file leaves a choice, with details
    in brackets, complete after the first strip.
    """

    backend: str
    levels: Sequence[Size]
    mask_rule: MaskRule | None
    remarks: Sequence[str]

    def strips(self, level: int, background: Colour | None) -> Iterator[NDArray[np.uint8]]:
        """Yield the level from top to bottom, as arrays of shape (rows, width of the level, 3), RGB, C-contiguous,
        whose rows add up to its height.

        Other pixel formats are converted: wide samples are scaled, and grey and CMYK become RGB. Transparent and
        missing pixels show *background*. With None, transparency is dropped, as in hi-ml, and missing pixels are
        black. Raises SlideUnreadable, possibly in the middle.
        """

    def close(self) -> None:
        """Free its resources."""


@contextmanager
def library_errors(what: str, path: Path | None = None, *kinds: type[Exception]) -> Iterator[None]:
    """Context that raises SlideUnreadable, beginning with *what*, for errors of a library, including *kinds*. *path* is
    removed from the message."""
    try:
        yield
    except SlideUnreadable:
        raise
    except MemoryError as err:
        raise SlideUnreadable(f"{what}: it does not fit in memory") from err
    except LIBRARY_ERRORS + kinds as err:
        words = message_of(err)
        if path is not None:
            words = words.replace(f"{path}: ", "").replace(str(path), "the file")
        raise SlideUnreadable(f"{what}: {words}" if words else what) from err


def message_of(error: BaseException) -> str:
    """Message of a library's error in one line of limited length."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    words = " ".join(str(error).split())
    return words if len(words) <= LONGEST_MESSAGE else f"{words[: LONGEST_MESSAGE - 3]}..."


def check_sides(size: Size) -> None:
    """Raise SlideUnreadable if a side of *size*, that of level 0, is too long."""
    if max(size) > LONGEST_SIDE:
        raise SlideUnreadable(f"it has {size[0]} x {size[1]} pixels, and the maximum is {LONGEST_SIDE:,} on a side")


def factor_between(finest: Size, coarse: Size, tiles: Sequence[Size] = TILES) -> float | None:
    """Pixels of level 0, of size *finest*, per pixel of a level of size *coarse*. None if it has another shape.

    Factors of pyramids are powers of two or other integers, and sides are rounded. Levels of some pyramids, as in
    CAMELYON16, extend to whole tiles of one of the sizes *tiles*. Their factors are powers of two.
    """
    if min(*finest, *coarse) < 1:
        return None
    sides = [*zip(finest, coarse, strict=True)]
    ratios = [whole / part for whole, part in sides]
    mean = sum(ratios) / 2
    for factor in (2 ** round(log2(mean)), round(mean)):
        if all(abs(part - whole / max(1, factor)) < 1 for whole, part in sides):
            return float(max(1, factor))
    for factor in (1 << power for power in range(1, int(max(ratios)).bit_length() + 1)):
        for tile in tiles:
            if all(part == ceil(whole / factor / side) * side for (whole, part), side in zip(sides, tile, strict=True)):
                return float(factor)
    low, high = max(whole / (part + 1) for whole, part in sides), min(whole / (part - 0.9) for whole, part in sides)
    return mean if low < high else None


def levels_among(sizes: Sequence[Size], tiles: Sequence[Sequence[Size]] = ()) -> list[int]:
    """Numbers of the *sizes*, the finest first, that have the shape of the first: all but those of labels and the like.

    *tiles* are the possible sizes of tiles for each. As padding fits many shapes, more than a third is accepted only if
    a finer level is padded, and the factors continue.
    """
    found, factors, is_padded = [0], [1.0], False
    for number, size in enumerate(sizes[1:], 1):
        factor = factor_between(sizes[0], size, tiles[number] if tiles else TILES)
        if factor is not None:
            parts = [(part, whole / factor) for part, whole in zip(size, sizes[0], strict=True)]
            is_whole = all(part - exact < 1 for part, exact in parts)
            is_next = is_padded and factor * factors[-2] <= factors[-1] ** 2
            if is_whole or is_next or all(part <= exact * MOST_PADDED for part, exact in parts):
                found.append(number)
                factors.append(factor)
                is_padded |= not is_whole
    return found


def eight_bits(samples: NDArray[np.generic], lowest: float, highest: float) -> NDArray[np.uint8]:
    """Scale and round *samples* so that *lowest* becomes 0 and *highest* 255. Values beyond are clipped, and NaN
    becomes 0. Same shape."""
    if samples.dtype == np.uint8 and (lowest, highest) == (0, 255):
        return samples
    has_few = samples.dtype in (np.uint8, np.uint16)  # few enough values for a table
    numbers = np.arange(1 << (8 * samples.dtype.itemsize)) if has_few else samples
    shares = (np.nan_to_num(numbers.astype(np.float64), nan=lowest) - lowest) / (highest - lowest)
    scaled = np.rint(np.clip(shares, 0, 1) * 255).astype(np.uint8)
    return scaled[samples] if has_few else scaled


def own_range(values: NDArray[np.generic], highest: float) -> tuple[float, float] | None:
    """Range of the *values* of an image if they use less than half of 0 to *highest*, or do not fit in it. Without the
    thousandth part at each end. None if they use it, or are all 0."""
    finite = values[np.isfinite(values)]
    low, high = np.percentile(finite, (0.1, 99.9)).tolist() if finite.size else (0.0, 0.0)
    is_fitting = high >= highest / 2 and -highest / 100 <= low and high <= highest * 1.01
    return None if is_fitting or low == high == 0 else (min(low, 0.0), high)


def range_remark(low: float, high: float) -> str:
    return f"{RANGE_REMARK} ({low:g} to {high:g})"


def profile_remarks(profile: Callable[[], ImageCms.ImageCmsProfile | None] | bytes | None) -> list[str]:
    """Remark on the ICC *profile* of an image (its bytes, or a function that parses it), unless it is sRGB."""
    if not profile:
        return []
    try:
        parsed = ImageCms.ImageCmsProfile(io.BytesIO(profile)) if isinstance(profile, bytes) else profile()
        name = ImageCms.getProfileDescription(parsed).strip() if parsed is not None else "sRGB"
    except (ImportError, OSError, ImageCms.PyCMSError):  # Pillow may be built without the library
        name = "unnamed"
    return [] if "srgb" in name.lower() else [f"its colour profile is not applied ({name})"]


@dataclass(frozen=True)
class MaskRule:
    """Values of a mask as labels: up to `threshold` they are background, 0. None means 0, and for a JPEG half of the
    range. Other values are multiplied by `scale`: shares become 1 to 255, and the values of a JPEG 1. `large` gets an
    entry when a label is above 255."""

    threshold: float | None = None
    scale: float = 1.0
    large: list[bool] = field(default_factory=list, compare=False)

    @property
    def is_area(self) -> bool:
        """Whether the values are shares or those of a JPEG, and no labels."""
        return self.scale != 1

    def labels(self, samples: NDArray[np.generic]) -> NDArray[np.uint8]:
        """Labels from 0 to 255, where greater ones start again at 1. Same shape."""
        samples = samples.astype(np.uint8) if samples.dtype == np.bool_ else samples
        if samples.dtype == np.uint8 and not self.threshold and self.scale == 1:
            return samples
        values = np.nan_to_num(samples) if samples.dtype.kind == "f" else samples
        if values.max(initial=0) > 255:
            self.large.append(True)
        if samples.dtype.kind == "f" or self.scale != 1:
            made = (np.maximum(np.rint(values * self.scale), 1) - 1) % 255 + 1
        else:
            made = (values.astype(np.int64) - 1) % 255 + 1
        return np.where(values > (self.threshold or 0), made, 0).astype(np.uint8)

    def rgb(self, samples: NDArray[np.generic], alpha: int | None) -> NDArray[np.uint8]:
        """Labels of *samples*, shape (rows, columns, samples per pixel), as RGB. Labels in one channel
        stay there. Pixels whose sample *alpha* is 0 are background."""
        made = self.labels(samples[..., : 3 if samples.shape[2] > 2 else 1])
        if alpha is not None:
            made = made * (samples[..., alpha, None] != 0)
        return np.ascontiguousarray(np.broadcast_to(made, (*made.shape[:2], 3)))

    def of_file(self, values: NDArray[np.generic], *, is_jpeg: bool) -> MaskRule:
        """The rule for a mask with these *values*.

        JPEG surrounds an area with a halo, so that a mask that uses the range of its 8 bits has one label. The halo is
        background, unless a threshold was requested. Floats up to 1 that are not integers are shares.
        """
        values = np.nan_to_num(values)
        top = float(values.max(initial=0))
        if is_jpeg and top >= HALF:
            return replace(self, threshold=HALF - 1 if self.threshold is None else self.threshold, scale=1 / 255)
        is_share = top <= 1 and bool((values % 1 != 0).any())
        return replace(self, scale=255.0) if is_share else self


def grey_to_rgb(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Convert grey, shape (rows, columns), to RGB."""
    return np.ascontiguousarray(np.broadcast_to(grey[..., None], (*grey.shape, 3)))


def laid_over(
    rgb: NDArray[np.uint8], alpha: NDArray[np.uint8], background: Colour | None, *, premultiplied: bool = False
) -> NDArray[np.uint8]:
    """Blend *rgb*, shape (rows, columns, 3), with *background* by *alpha*, shape (rows, columns). With None, ignore
    alpha."""
    if background is None or bool((alpha == 255).all()):
        return rgb
    share = alpha[..., None].astype(np.uint16)
    rest = np.array(background, np.uint16) * (255 - share)
    if premultiplied:
        return np.minimum(rgb + (rest + 127) // 255, 255).astype(np.uint8)
    return ((rgb * share + rest + 127) // 255).astype(np.uint8)


def vendor_of(path: Path) -> str | None:
    """Format that OpenSlide detects: `aperio`, `generic-tiff` ... None for an unknown one, or if OpenSlide does not
    load."""
    try:
        import openslide
    except (ImportError, OSError):
        return None
    try:
        return openslide.OpenSlide.detect_format(path)
    except openslide.OpenSlideError:
        return None


class VendorSlide:
    """A Slide that OpenSlide reads, without the interpreter lock. Raises SlideUnreadable if OpenSlide rejects it."""

    backend = "openslide"
    mask_rule: MaskRule | None = None

    def __init__(self, path: Path) -> None:
        import openslide

        self._path, self._error = path, openslide.OpenSlideError
        with library_errors("OpenSlide", path, self._error):
            try:
                self._slide = openslide.OpenSlide(path)
            except openslide.OpenSlideUnsupportedFormatError as err:
                raise SlideUnreadable("OpenSlide does not support its format, or the file is damaged") from err
        self._slide.set_cache(openslide.OpenSlideCache(8 << 20))
        sizes = self._slide.level_dimensions
        is_tiff = self._slide.properties[openslide.PROPERTY_NAME_VENDOR] in (GENERIC_TIFF, APERIO)
        # OpenSlide counts every tiled page that is marked as a reduction, among them labels.
        self._numbers = levels_among(sizes) if is_tiff else [*range(len(sizes))]
        self.levels: Sequence[Size] = [sizes[number] for number in self._numbers]
        self.remarks: Sequence[str] = profile_remarks(lambda: self._slide.color_profile)
        check_sides(self.levels[0])

    def strips(self, level: int, background: Colour | None) -> Iterator[NDArray[np.uint8]]:
        level, size = self._numbers[level], self.levels[level]
        text = self._slide.properties.get(f"openslide.level[{level}].tile-height", "")
        tile_rows = int(text) if text.isdecimal() and 0 < int(text) <= MOST_TILE_ROWS else TILE_ROWS
        return _strips(size, tile_rows, lambda box: self._rgb(level, box, background))

    def close(self) -> None:
        self._slide.close()

    def _rgb(self, level: int, box: Box, background: Colour | None) -> NDArray[np.uint8]:
        downsample = self._slide.level_downsamples[level]
        with library_errors("OpenSlide", self._path, self._error):
            region = self._slide.read_region((int(box.x * downsample), int(box.y * downsample)), level, box.size)
        if background is None or region.getchannel("A").getextrema() == (255, 255):
            return np.asarray(region.convert("RGB"))
        return _pasted(region, background)


class CuSlide:
    """A Slide that cuCIM reads. *check* raises SlideUnreadable for damage of a level, which cuCIM does not report.
    Raises SlideUnreadable if cuCIM rejects it."""

    backend = "cucim"
    mask_rule: MaskRule | None = None
    remarks: Sequence[str] = ()

    def __init__(self, path: Path, check: Callable[[int], None]) -> None:
        from cucim import CuImage

        self._path, self._check = path, check
        with library_errors("cuCIM cannot open it", path):
            self._image = CuImage(str(path))
            found = self._image.resolutions
            self.levels: Sequence[Size] = [(int(width), int(height)) for width, height in found["level_dimensions"]]
            self._downsamples = [float(value) for value in found["level_downsamples"]]

    def strips(self, level: int, background: Colour | None) -> Iterator[NDArray[np.uint8]]:
        self._check(level)
        yield from _strips(self.levels[level], TILE_ROWS, lambda box: self._rgb(level, box, background))

    def close(self) -> None:
        self._image.close()

    def _rgb(self, level: int, box: Box, background: Colour | None) -> NDArray[np.uint8]:
        """Read a rectangle. cuCIM takes positions in pixels of level 0 and rounds down to a pixel of the level, so use
        the first position inside that pixel."""
        downsample = self._downsamples[level]
        with library_errors("cuCIM cannot read it", self._path):
            place = ceil(box.x * downsample), ceil(box.y * downsample)
            samples = np.asarray(self._image.read_region(place, box.size, level))
        if samples.dtype != np.uint8 or samples.shape[:2] != (box.height, box.width):
            raise SlideUnreadable(f"cuCIM returns unsupported {samples.dtype} pixels of shape {samples.shape}")
        if samples.shape[2] == 1:
            return grey_to_rgb(samples[..., 0])
        return laid_over(samples[..., :3], samples[..., 3], background) if samples.shape[2] == 4 else samples


def _pasted(image: Image.Image, background: Colour) -> NDArray[np.uint8]:
    below = Image.new("RGB", image.size, background)
    below.paste(image, mask=image)
    return np.asarray(below)


def _strips(size: Size, tile_rows: int, read: Callable[[Box], NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8]]:
    """Strips of a level of *size*, *read* as rectangles of whole rows of tiles, with at most 8 megapixels each, unless
    one row of tiles has more.

    OpenSlide reads pieces of 4,096 columns, and rounds at the start of each. These rectangles match its pieces.
    """
    width, height = size
    most = max(1, REGION_PIXELS // (width * tile_rows)) * tile_rows
    for top, bottom in pairwise([*range(0, height, most), height]):
        rows = bottom - top
        columns = max(1, REGION_PIXELS // (rows * REGION_COLUMNS)) * REGION_COLUMNS
        strip: NDArray[np.uint8] = np.empty((rows, width, 3), np.uint8)
        for left in range(0, width, columns):
            box = Box(left, top, min(columns, width - left), rows)
            strip[:, box.x : box.x + box.width] = read(box)
        yield strip
        del strip  # free it before the next one is created


class PictureSlide:
    """A Slide whose decoding frees the interpreter lock. Raises SlideUnreadable for a format that Pillow does not
    support, or an image that is too large."""

    backend = "pillow"

    def __init__(self, path: Path, *, mask: MaskRule | None = None) -> None:
        self.mask_rule, self._path = mask, path
        with library_errors("it is not an image of a known format"):
            self._image = _opened(path)
        width, height = self._image.size
        if width * height > LARGEST:
            self._image.close()
            raise SlideUnreadable(
                f"it is an untiled image of {width} x {height} pixels, and more than {LARGEST // 1_000_000} million "
                "need a tiled TIFF"
            )
        self.remarks: Sequence[str] = [] if mask is not None else profile_remarks(self._image.info.get("icc_profile"))
        self._span: tuple[float, float] | None = None  # values of black and white
        self._orientation = 1
        # For a PNG without EXIF, Pillow would decode the whole image to search for it.
        if self._image.format != "PNG" or "exif" in self._image.info:
            with suppress(*LIBRARY_ERRORS):
                self._orientation = int(self._image.getexif().get(ExifTags.Base.Orientation, 1))
        self.levels: Sequence[Size] = [(height, width) if self._orientation in (5, 6, 7, 8) else (width, height)]

    def strips(self, level: int, background: Colour | None) -> Iterator[NDArray[np.uint8]]:
        with library_errors("it is damaged"):
            if self._is_wide_png():
                yield from self._of_wide_png(background)
                return
            self._image.load()
            turn = TURNS.get(self._orientation)
            image = self._image if turn is None else self._image.transpose(turn)
            width, height = image.size
            if self.mask_rule is not None and (image.mode == "F" or self._image.format in JPEGS):
                is_jpeg = self._image.format in JPEGS
                self.mask_rule = self.mask_rule.of_file(np.asarray(image), is_jpeg=is_jpeg)
            elif self.mask_rule is None and _is_wide(image):
                self._find_span(np.asarray(image), 1.0 if image.mode == "F" else 65535.0)
            rows = max(1, STRIP_PIXELS // width)
            for top in range(0, height, rows):
                part = image.crop((0, top, width, min(height, top + rows)))
                yield np.ascontiguousarray(self._rgb(part, background))

    def close(self) -> None:
        self._image.close()

    def _find_span(self, values: NDArray[np.generic], highest: float) -> None:
        """Choose the values of black and white, once."""
        if self._span is None:
            own = own_range(values, highest)
            self.remarks = [*self.remarks, *([range_remark(*own)] if own is not None else [])]
            self._span = own or (0.0, highest)

    def _is_wide_png(self) -> bool:
        """Whether it has several samples of 16 bits, of which Pillow reads 8."""
        with self._path.open("rb") as file:
            header = file.read(26)
        return header.startswith(b"\x89PNG") and header[24] == 16 and header[25] in (2, 4, 6) and self._orientation == 1

    def _of_wide_png(self, background: Colour | None) -> Iterator[NDArray[np.uint8]]:
        from imagecodecs import png_decode

        samples: NDArray[np.uint16] = png_decode(self._path.read_bytes())
        alpha = -1 if samples.shape[2] in (2, 4) else None
        colours = samples[..., :3] if samples.shape[2] > 2 else samples[..., :1]
        if self.mask_rule is None:
            self._find_span(colours, 65535.0)
        rows = max(1, STRIP_PIXELS // samples.shape[1])
        for top in range(0, len(samples), rows):
            part = samples[top : top + rows]
            if self.mask_rule is not None:
                yield self.mask_rule.rgb(part, alpha)
                continue
            shown = eight_bits(colours[top : top + rows], *(self._span or (0.0, 65535.0)))
            rgb = np.ascontiguousarray(np.broadcast_to(shown, (*shown.shape[:2], 3)))
            yield rgb if alpha is None else laid_over(rgb, eight_bits(part[..., alpha], 0, 65535), background)

    def _rgb(self, part: Image.Image, background: Colour | None) -> NDArray[np.uint8]:
        if self.mask_rule is not None and part.mode not in ("CMYK", "YCbCr"):
            samples = np.atleast_3d(np.asarray(part))  # numbers of colours in a palette
            has_alpha = samples.shape[2] in (2, 4)
            if not has_alpha and part.has_transparency_data:  # one value, or colours of a palette
                samples, has_alpha = np.dstack([samples, part.convert("RGBA").getchannel("A")]), True
            return self.mask_rule.rgb(samples, -1 if has_alpha else None)
        if self._span is not None:
            return grey_to_rgb(eight_bits(np.asarray(part), *self._span))
        if part.mode == "CMYK" and self._image.format in JPEGS and "adobe" not in self._image.info:
            part = ImageChops.invert(part)  # Pillow inverts all CMYK, even without Adobe's marker
        if background is None or not part.has_transparency_data:
            return np.asarray(part.convert("RGB"))
        return _pasted(part.convert("RGBA"), background)


def _is_wide(image: Image.Image) -> bool:
    """Whether its samples have more than 8 bits."""
    return image.mode in {"I", "F"} or image.mode.startswith("I;16")


def _opened(path: Path) -> ImageFile:
    """Open an image like `Image.open`, without the size limit, which applies to the whole process. Raises what Pillow
    raises, and SlideUnreadable."""
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")  # about odd metadata
    Image.init()
    with path.open("rb") as file:
        prefix = file.read(16)
    for name in FORMATS:
        if name in Image.OPEN:
            factory, accept = Image.OPEN[name]
            verdict = accept is None or accept(prefix)
            if verdict and not isinstance(verdict, str):  # a text names a missing package
                try:
                    return factory(os.fspath(path), os.fspath(path))  # type: ignore[arg-type]
                except Image.DecompressionBombError as err:
                    raise SlideUnreadable(f"it has too many pixels for its format: {message_of(err)}") from err
    raise SlideUnreadable("it is not an image of a known format")
