"""Montages larger than a JPEG can be: what is written, and what is said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from himl_cli.core.montage import ImageFormat, Layout, LayoutStyle, Size
from himl_cli.services.montage.compose import SINKS, layout_remarks
from himl_cli.services.montage.encoding import JpegFile
from himl_cli.services.montage.threads import Pool


def test_only_the_jpeg_of_a_wide_montage_is_scaled(tmp_path: Path) -> None:
    size = (70_000, 40)
    with Pool(2) as pool:
        for kind, name in SINKS.values():
            sink = kind(tmp_path / name, size, pool)
            for _ in range(2):
                sink.write(np.full((20, size[0], 3), 200, np.uint8))
            sink.finish()
    for name, expected in {"montage.png": size, "montage.jpg": (65_500, 37)}.items():
        with Image.open(tmp_path / name) as image:
            assert image.size == expected
            assert (np.asarray(image) == 200).all()
    assert 'Width="70000" Height="40"' in (tmp_path / "montage.dzi").read_text()


@pytest.mark.parametrize(
    ("size", "formats", "said"),
    [
        ((200_000, 50_000), tuple(ImageFormat), ["montage.jpg is scaled to 65,500 x 16,375 pixels: a JPEG cannot have the montage's 200,000 x 50,000."]),
        ((65_500, 40_000), tuple(ImageFormat), []),
        ((200_000, 50_000), (ImageFormat.png, ImageFormat.dzi), []),
    ],
)
def test_it_is_said_where_the_jpeg_is_smaller(size: Size, formats: tuple[ImageFormat, ...], said: list[str]) -> None:
    layout = Layout(LayoutStyle.fit, size, 1, 1, (255, 255, 255), ())
    jpg_size = JpegFile.size_for(size) if ImageFormat.jpg in formats else None
    assert list(layout_remarks(layout, [], jpg_size)) == said
