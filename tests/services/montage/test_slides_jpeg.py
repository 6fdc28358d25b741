"""JPEG and WebP pictures and tiles that are sound, however odd their bytes look."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from himl_cli.services.montage.tiff import stored_size
from tests.services.montage.test_slides_kinds import difference, read
from tests.support.slides import slide_picture, write_tiff

WAYS: Mapping[str, Mapping[str, Any]] = {
    "baseline": {},
    "optimised": {"optimize": True},
    "progressive": {"progressive": True},
    "restart": {"restart_marker_blocks": 7},
    "restart-progressive": {"restart_marker_rows": 1, "progressive": True},
    "4:4:4": {"subsampling": 0, "optimize": True},
    "4:2:2": {"subsampling": 1, "progressive": True},
    "grey": {"grey": True, "optimize": True},
    "grey-progressive": {"grey": True, "progressive": True},
    "cmyk": {"cmyk": True, "optimize": True},
}
SIZE = (520, 392)


def jpeg_of(picture: NDArray[np.uint8], *, grey: bool = False, cmyk: bool = False, **options: Any) -> bytes:
    image = Image.fromarray(picture)
    image = image.convert("L") if grey else image.convert("CMYK") if cmyk else image
    made = io.BytesIO()
    image.save(made, "JPEG", **options)
    return made.getvalue()


@pytest.mark.parametrize("way", WAYS)
def test_the_size_of_a_jpeg_is_read_from_its_header(way: str) -> None:
    assert stored_size(jpeg_of(slide_picture(0, SIZE), **WAYS[way])) == SIZE


def test_jpeg_with_profile_and_trailing_zeros_is_read(tmp_path: Path) -> None:
    """Cameras put films there; profiles have zeros."""
    path = tmp_path / "slide.jpg"
    Image.fromarray(slide_picture(0)).save(path, quality=95, icc_profile=bytes(5000))
    path.write_bytes(path.read_bytes() + bytes(200_000))
    assert difference(read(path), slide_picture(0)) < 3


@pytest.mark.parametrize("compression", ["jpeg", "jpegxr"])
def test_flat_parts_of_a_tile_without_loss_are_no_damage(tmp_path: Path, compression: str) -> None:
    """A lossless JPEG takes a bit for a pixel that is as its neighbour."""
    picture: NDArray[np.uint16] = np.full((512, 512), 65535, np.uint16)
    picture[:8, :8] = slide_picture(0, (8, 8))[..., 0]
    path = tmp_path / "slide.tiff"
    told: dict[str, Any] = {"compressionargs": {"lossless": True}} if compression == "jpeg" else {}
    write_tiff(path, picture, compression=compression, tile=512, **told)
    assert read(path)[100:, 100:].min() == 255


def test_lossless_webp_may_have_zeros(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    picture = random.integers(100, 140, (512, 512, 3), dtype=np.uint8)
    picture[200:210] = 120
    path = tmp_path / "slide.tiff"
    write_tiff(path, picture, compression="webp", tile=512, compressionargs={"lossless": True, "method": 0, "level": 1})
    assert difference(read(path), picture) == 0
