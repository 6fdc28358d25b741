"""What DATASET means on this machine: a folder, or a CSV in one."""

from __future__ import annotations

from glob import escape
from pathlib import Path

from himl_cli.core.errors import BadUsage, NotFound
from himl_cli.services.montage.listing.folder import may_be_slide
from himl_cli.services.montage.local_place import LocalPlace


def local_dataset(dataset: Path) -> tuple[LocalPlace, str | None]:
    """The folder whose slides are meant, and the name of the CSV in it, if that was named.

    Raises NotFound where there is neither folder nor file, BadUsage for a slide.
    """
    if dataset.is_dir():
        return LocalPlace(dataset), None
    if not dataset.exists():
        raise NotFound(
            f"There is no folder or CSV '{dataset}'.", hint="Check the path; it is relative to the current folder."
        )
    if may_be_slide(dataset.name):
        hint = f"To show one slide: himl montage '{dataset.parent}' --image_glob '{escape(dataset.name)}'"
        raise BadUsage(f"'{dataset}' is neither a folder nor a CSV.", hint=hint)
    return LocalPlace(dataset.parent), dataset.name
