"""Browsers show the pictures that encoders write, pixel by pixel."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from himl_cli.core.montage import Size
from himl_cli.services.montage.encoding import JpegFile, PngFile
from himl_cli.services.montage.threads import Pool
from tests.services.montage.banded import put, shades
from tests.support.browser import browser as browser
from tests.support.browser import page as page

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from playwright.sync_api import Page

SHOWN = """async ([url, left, width]) => {
    const image = new Image();
    image.src = url;
    await image.decode();
    const canvas = document.createElement("canvas");
    canvas.width = width;
    canvas.height = image.naturalHeight;
    const drawing = canvas.getContext("2d");
    drawing.drawImage(image, left, 0, width, canvas.height, 0, 0, width, canvas.height);
    const pixels = drawing.getImageData(0, 0, width, canvas.height).data;
    let text = "";
    for (let at = 0; at < pixels.length; at += 8192) text += String.fromCharCode(...pixels.subarray(at, at + 8192));
    return [image.naturalWidth, image.naturalHeight, btoa(text)];
}"""
"""An image's size, and a part of it as RGBA. A data URL may be read back from a canvas; a file may not."""


def shown(page: Page, content: bytes, kind: str, left: int, width: int) -> tuple[Size, NDArray[np.uint8]]:
    page.set_content("<p>A picture</p>")
    url = f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
    across, down, pixels = page.evaluate(SHOWN, [url, left, width])
    return (across, down), np.frombuffer(base64.b64decode(pixels), np.uint8).reshape(down, width, 4)[..., :3]


@pytest.mark.parametrize("size", [(300, 200), (40_000, 90)], ids=str)
def test_a_png(size: Size, tmp_path: Path, page: Page) -> None:
    pixels, path = shades(size), tmp_path / "x.png"
    with Pool(2) as pool:
        put(PngFile(path, size, pool), pixels, (33,))
    for left in (0, size[0] - 250):
        natural, part = shown(page, path.read_bytes(), "png", left, 250)
        assert natural == size
        assert np.array_equal(part, pixels[:, left : left + 250])


@pytest.mark.parametrize("size", [(300, 200), (40_000, 90)], ids=str)
def test_a_jpeg(size: Size, tmp_path: Path, page: Page) -> None:
    pixels, path = shades(size), tmp_path / "x.jpg"
    with Pool(2) as pool:
        put(JpegFile(path, size, pool), pixels, (33,))
    with Image.open(io.BytesIO(path.read_bytes())) as image:
        expected = np.asarray(image).astype(int)
    for left in (0, size[0] - 256):
        natural, part = shown(page, path.read_bytes(), "jpeg", left, 256)
        assert natural == size
        assert np.abs(part - expected[:, left : left + 256]).max() <= 2  # browsers may round colours otherwise


def test_broken_pictures_are_noticed_here(tmp_path: Path, page: Page) -> None:
    """These tests would see it: half a picture does not decode, or has other pixels."""
    pixels, path = shades((300, 200)), tmp_path / "x.png"
    with Pool(2) as pool:
        put(PngFile(path, (300, 200), pool), pixels, (33,))
    content = path.read_bytes()
    _, part = shown(page, content[: len(content) // 2], "png", 0, 250)
    assert not np.array_equal(part, pixels[:, :250])
