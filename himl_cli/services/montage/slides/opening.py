"""Opening a slide with what reads its format."""

from __future__ import annotations

from pathlib import Path

from himl_cli.core.errors import BadUsage
from himl_cli.core.montage import Backend, SlideUnreadable
from himl_cli.services.montage.slides.base import GENERIC_TIFF, Slide
from himl_cli.services.montage.slides.by_pillow import PictureSlide
from himl_cli.services.montage.slides.by_tifffile import TiffSlide
from himl_cli.services.montage.slides.damage import UnknownKind, check_path, words_of

_TIFF_BEGINNINGS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_APERIO = "aperio"


def check_backend(backend: Backend) -> None:
    """Raises BadUsage where the package that it needs is not there, or does not load."""
    try:
        if backend is Backend.cucim:
            from himl_cli.services.montage.slides import by_cucim  # noqa: F401
        elif backend is Backend.openslide:
            from himl_cli.services.montage.slides import by_openslide  # noqa: F401
    except (ImportError, OSError) as err:
        package = "cucim-cu12" if backend is Backend.cucim else "openslide-bin openslide-python"
        what = f"Backend '{backend.value}' needs a package that cannot be loaded here: {words_of(err)}."
        raise BadUsage(what, hint=f"Run 'pip install {package}' (cuCIM: Linux only), or leave out --backend.") from err


def open_slide(path: Path, backend: Backend, *, as_labels: bool = False) -> Slide:
    """The slide, opened; the caller closes it.

    With *as_labels*, for masks, grey values are kept as they are (cut at 255), not scaled by the range of their bits.
    `auto` takes OpenSlide for formats of scanners, tifffile for other TIFFs (OpenSlide, for a compression that tifffile
    has no decoder of) and Pillow for the rest; other backends stand alone.
    Raises SlideUnreadable with the reason; BadUsage for a backend that is not installed.
    """
    check_path(path)
    if backend is Backend.auto:
        return _open_any(path, as_labels=as_labels)
    check_backend(backend)
    if backend is Backend.openslide:
        return _by_openslide(path)
    if backend is Backend.tifffile:
        return _by_tifffile(path, as_labels=as_labels)
    from himl_cli.services.montage.slides.by_cucim import CuSlide

    return CuSlide(path)


def _open_any(path: Path, *, as_labels: bool) -> Slide:
    vendor = _vendor_of(path)
    if vendor not in {None, GENERIC_TIFF, _APERIO}:
        return _by_openslide(path)
    if vendor == _APERIO:
        try:
            return _by_openslide(path)
        except SlideUnreadable:  # a compression that OpenSlide lacks, say
            return TiffSlide(path, as_labels=as_labels)
    return (
        _open_tiff(path, vendor, as_labels=as_labels)
        if _begins_as_tiff(path)
        else PictureSlide(path, as_labels=as_labels)
    )


def _open_tiff(path: Path, vendor: str | None, *, as_labels: bool) -> Slide:
    try:
        return TiffSlide(path, as_labels=as_labels)
    except UnknownKind as reason:
        if vendor is None:
            raise
        try:
            return _by_openslide(path)
        except SlideUnreadable:
            raise reason from None


def _by_tifffile(path: Path, *, as_labels: bool) -> Slide:
    if not _begins_as_tiff(path):
        raise SlideUnreadable("it is no TIFF")
    vendor = _vendor_of(path)
    if vendor not in {None, GENERIC_TIFF, _APERIO}:
        raise SlideUnreadable(f"it is a slide of the format '{vendor}', which the backend tifffile does not read")
    return TiffSlide(path, as_labels=as_labels)


def _by_openslide(path: Path) -> Slide:
    from himl_cli.services.montage.slides.by_openslide import VendorSlide

    return VendorSlide(path)


def _vendor_of(path: Path) -> str | None:
    """None also where OpenSlide does not load here."""
    try:
        from himl_cli.services.montage.slides.by_openslide import vendor_of
    except (ImportError, OSError):
        return None
    return vendor_of(path)


def _begins_as_tiff(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(4) in _TIFF_BEGINNINGS
    except OSError as err:
        raise SlideUnreadable(f"it cannot be read: {words_of(err)}") from err
