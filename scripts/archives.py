"""Check that a wheel and a source archive contain all required files and no others.

`python -m scripts.archives FOLDER` checks the two archives in FOLDER, and exits with 1 if it finds a problem.
"""

from __future__ import annotations

import sys
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from himl_cli import __version__
from tests.support.folders import files_below

PROJECT = Path(__file__).parents[1]
LARGEST_WHEEL = 2_000_000
LARGEST_SOURCES = 8_000_000
LICENSES = ("LICENSE", "himl_cli/slides/fonts/LICENSE", "himl_cli/slides/assets/openseadragon-LICENSE.txt")
METADATA = {"METADATA", "WHEEL", "RECORD", "entry_points.txt", *(f"licenses/{name}" for name in LICENSES)}
NEEDED = (
    "PKG-INFO pyproject.toml README.md CHANGELOG.md LICENSE requirements-dev.lock requirements-oldest.lock "
    "docs/design.md tests/conftest.py"
)
IN_SOURCES = (*NEEDED.split(), "scripts/test", ".ci/run")
LEFT_OUT = (".cache", ".git", ".venv", "__pycache__", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".hypothesis")


def main() -> int:
    (wheel,), (sources,) = [[*Path(sys.argv[1]).glob(pattern)] for pattern in ("*.whl", "*.tar.gz")]
    problems = [f"{wheel.name}: {problem}" for problem in wheel_problems(wheel, PROJECT)]
    problems += [f"{sources.name}: {problem}" for problem in source_problems(sources, PROJECT)]
    sizes = "; ".join(f"{path.name}: {path.stat().st_size / 1e6:.2f} MB" for path in (wheel, sources))
    print("\n".join(problems) or f"{sizes}. The contents are complete.")
    return bool(problems)


def wheel_problems(wheel: Path, project: Path) -> Iterator[str]:
    """Yield the differences between the wheel and the files of the package in *project*, and missing metadata and
    licences.
    """
    if not wheel.name.startswith(f"himl_cli-{__version__}-py3-none-any"):
        yield f"its name must contain {__version__} and be for every platform"
    if wheel.stat().st_size > LARGEST_WHEEL:
        yield f"larger than {LARGEST_WHEEL:,} bytes"
    about = f"himl_cli-{__version__}.dist-info/"
    with zipfile.ZipFile(wheel) as archive:
        held = {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}
    yield from _differing(
        "metadata", dict.fromkeys(METADATA), {name.removeprefix(about): None for name in held if name.startswith(about)}
    )
    yield from _differing(
        "package",
        package_files(project),
        {name: content for name, content in held.items() if not name.startswith(about)},
    )


def source_problems(sources: Path, project: Path) -> Iterator[str]:
    """Yield missing files of the package, the tests and the documentation, and temporary files that the source
    archive should not contain.
    """
    if sources.name != f"himl_cli-{__version__}.tar.gz":
        yield f"its name must contain {__version__}"
    if sources.stat().st_size > LARGEST_SOURCES:
        yield f"larger than {LARGEST_SOURCES:,} bytes"
    top = f"himl_cli-{__version__}/"
    with tarfile.open(sources) as archive:
        names = archive.getnames()
    if strange := [name for name in names if not name.startswith(top) or ".." in name.split("/")]:
        yield f"outside {top}: {', '.join(strange[:5])}"
    held = {name.removeprefix(top) for name in names}
    if missing := sorted({*IN_SOURCES, *package_files(project)} - held):
        yield f"does not contain {', '.join(missing[:5])}"
    if traces := [name for name in sorted(held) if set(name.split("/")) & set(LEFT_OUT) or name.endswith(".pyc")]:
        yield f"contains {', '.join(traces[:5])}"


def package_files(project: Path) -> Mapping[str, bytes | None]:
    """Return the files of the package, by their names in a wheel."""
    paths = [path for path in files_below(project / "himl_cli") if not {*LEFT_OUT, "ruff.toml"} & set(path.parts)]
    return {path.relative_to(project).as_posix(): path.read_bytes() for path in paths}


def _differing(what: str, wanted: Mapping[str, bytes | None], held: Mapping[str, bytes | None]) -> Iterator[str]:
    if missing := sorted(set(wanted) - set(held)):
        yield f"{what}: does not contain {', '.join(missing[:5])}"
    if strange := sorted(set(held) - set(wanted)):
        yield f"{what}: contains {', '.join(strange[:5])}"
    if other := sorted(name for name in set(wanted) & set(held) if wanted[name] != held[name]):
        yield f"{what}: different bytes in {', '.join(other[:5])}"


if __name__ == "__main__":
    sys.exit(main())
