"""A dataset folder whose slides are listed, and what is said of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from himl_cli.core.errors import BadUsage, HimlError
from himl_cli.core.events import Event, Notice
from himl_cli.core.montage import SlideEntry
from himl_cli.services.montage.query import LocalFolder, SlideQuery, list_slides


@dataclass
class Folder:
    """A dataset folder, and what was said while its slides were listed."""

    root: Path
    said: list[str] = field(default_factory=list)

    def lay(self, *names: str) -> Folder:
        for name in names:
            self.write(name, b"x")
        return self

    def write(self, name: str, content: bytes | str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def slides(self, *, glob: str | None = None, csv: str | None = None, include: Path | None = None, exclude: Path | None = None) -> list[SlideEntry]:
        def note(event: Event) -> None:
            assert isinstance(event, Notice)
            self.said.append(event.text)

        return list_slides(LocalFolder(self.root), SlideQuery(glob, csv, include, exclude), note)

    def ids(self, **query: str | Path | None) -> list[str]:
        return [slide.slide_id for slide in self.slides(**query)]  # type: ignore[arg-type]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    root = tmp_path / "slides"
    root.mkdir()
    return Folder(root)


def refused(folder: Folder, kind: type[HimlError] = BadUsage, **query: str | Path | None) -> HimlError:
    with pytest.raises(kind) as caught:
        folder.slides(**query)  # type: ignore[arg-type]
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)
    assert caught.value.hint
    return caught.value
