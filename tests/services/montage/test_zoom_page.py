"""What is in the page of a montage, before a browser reads it."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from himl_cli.core.errors import DiskFailed
from himl_cli.core.montage import Box, CellOutcome
from himl_cli.services.montage.pyramid import Tiling, asset, write_page

HOSTILE = ["</script><script>alert(1)</script>", "<!--<script>", "\u2028\u2029", "a\"b'c&amp;", "{{data}}", "]]>", "bad\udcffname", "\ud83d", "🔬", "שקופית"]


class Reader(HTMLParser):
    """What a parser of HTML makes of a page: its title, its scripts, and every address that it names."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: dict[str, list[str]] = {"script": [], "title": [], "h1": []}
        self.addresses: list[str] = []
        self._inside = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside = tag
        if tag in self.texts:
            self.texts[tag].append("")
        self.addresses += [value or "" for name, value in attrs if name in {"src", "href", "data", "action"}]

    def handle_data(self, data: str) -> None:
        if self._inside in self.texts:
            self.texts[self._inside][-1] += data

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""


def outcome(slide_id: str, label: str | None = None) -> CellOutcome:
    box = Box(0, 0, 300, 200)
    image, said = f"{slide_id}.tiff", slide_id
    return CellOutcome(slide_id, image, label, column=0, row=0, box=box, picture=None, level=None, backend="openslide", is_ok=False, reason=said, remark=said)


def read(path: Path) -> Reader:
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    return reader


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_no_id_label_or_title_becomes_markup(tmp_path: Path, text: str) -> None:
    write_page(tmp_path / "index.html", Tiling((900, 600)), [outcome(text, text)], text)
    write_page(tmp_path / "plain.html", Tiling((900, 600)), [outcome("id", "label")], "title")
    page, plain = read(tmp_path / "index.html"), read(tmp_path / "plain.html")
    expected = {"bad\udcffname": "bad\\xffname", "\ud83d": "\\ud83d"}.get(text, text)
    assert page.texts["title"] == page.texts["h1"] == [expected]
    assert page.texts["script"][1:] == plain.texts["script"][1:]
    data = json.loads(page.texts["script"][0])
    assert data["title"] == expected
    assert data["cells"] == [[expected, expected, 0, 0, 300, 200, None, 0, f"{expected}.tiff", "openslide", expected, expected]]


def test_nothing_is_asked_for_from_elsewhere(tmp_path: Path) -> None:
    write_page(tmp_path / "index.html", Tiling((900, 600)), [outcome("one")], "Montage")
    assert read(tmp_path / "index.html").addresses == ["data:,"]
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "sourceMappingURL" not in text
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    assert policy is not None
    assert policy[1].startswith("default-src &#x27;none&#x27;; script-src &#x27;sha256-")


def test_the_viewers_licence_is_in_the_page(tmp_path: Path) -> None:
    write_page(tmp_path / "index.html", Tiling((900, 600)), [], "Montage")
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    licence = asset("openseadragon-LICENSE.txt")
    assert licence.startswith("Copyright (C) 2009 CodePlex Foundation")
    assert licence in text


def test_the_viewer_may_stand_in_a_page() -> None:
    library = asset("openseadragon.min.js")
    assert "//! openseadragon 6.1.1" in library
    assert not re.search("</script|<!--", library, re.IGNORECASE)


def test_a_page_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(DiskFailed, match=r"Cannot write '.*index\.html'"):
        write_page(tmp_path / "nowhere" / "index.html", Tiling((900, 600)), [], "Montage")
