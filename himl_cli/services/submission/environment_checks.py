"""Checks of a job's environment before submission: missing or incompatible packages, and a Python version that differs
from the project's. All results are warnings, because the contents of an image are known only in the job."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from himl_cli.core.errors import HimlError
from himl_cli.core.installation import PACKAGE, environment_hint
from himl_cli.core.jobs import EnvironmentSpec
from himl_cli.services.submission.lock_files import job_markers, normal_name, parse_toml, without_hashes

if TYPE_CHECKING:
    from packaging.specifiers import SpecifierSet

MODULE = "himl_cli"
OLDEST_PYTHON = (3, 10)  # `requires-python` of himl-cli
# Images that include the requirements of Azure ML's services
OWN_IMAGES = "mcr.microsoft.com/azureml/"
# The newest MLflow for each version of azureml-mlflow, by its metadata. Versions up to 1.60.0 allow any MLflow, so
# their entry is the newest one with which log_artifact works.
NEWEST_MLFLOW = {
    "1.60.0": "3.1.1",
    "1.60.0.post1": "2.99",
    "1.61.0": "3.5.0",
    "1.61.0.post1": "3.5.0",
    "1.62.0": "3.9.0",
    "1.62.0.post1": "3.5.0",
    "1.62.0.post2": "3.9.0",
    "1.62.0.post3": "3.13.0",
    "1.62.0.post4": "3.9.0",
    "1.62.0.post5": "3.13.0",
    "1.62.0.post6": "3.15.0",
}
UNBOUNDED = "1.60.0"  # pip chooses it for an MLflow that the newer versions do not allow
GOOD_PAIR = ("3.15.0", "1.62.0.post6")
GOOD_FOR_MODELS = "2.22.5"  # Azure ML cannot store the models that log_model of MLflow 3 creates
_KERNELS = {"ipykernel", "jupyter", "jupyterlab", "notebook"}
_CONDA = re.compile(r"(?:\S+:)?(?P<name>[A-Za-z0-9_][\w.-]*)\s*(?P<spec>[=<>!~\d].*)?")
_CONDA_PIN = re.compile(r"=?\s*(\d+(?:\.\d+)*)(?:\.?\*)?(?:=[\w*.]+)?")  # the same as pip's ==1.2.*
_PYTHON_IN_NAME = re.compile(r"(?<![a-z])py(?:thon)?[:-]?3\.?(\d{1,2})(?!\d)")


def environment_remarks(
    spec: EnvironmentSpec, entry_file: Path | None, folders: Sequence[Path] = (), services: Collection[str] = ()
) -> list[str]:
    """Warnings, one sentence each, about requirements that the environment does not meet.

    *entry_file* is a Python file of the project, *folders* are its folders, innermost first, and *services* are the
    names of options such as `jupyter`. Packages are checked only if a conda file lists them, not for registered
    environments and plain images.
    """
    packages = _packages(spec)
    return [
        *_himl_remarks(spec, packages, entry_file),
        *_mlflow_remarks(packages, entry_file),
        *_python_remarks(spec, packages, folders),
        *_service_remarks(spec, packages, services),
    ]


def _packages(spec: EnvironmentSpec) -> dict[str, SpecifierSet | None]:
    """The packages of the conda file with their versions, or None for unknown versions."""
    from packaging.markers import UndefinedComparison, UndefinedEnvironmentName
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    if not spec.conda:
        return {}
    from himl_cli.services.yaml_files import parse_mapping

    found: dict[str, SpecifierSet | None] = {}
    entries = parse_mapping(spec.conda, Path("environment.yml")).get("dependencies") or []
    for entry in entries:
        if isinstance(entry, str) and (named := _CONDA.fullmatch(entry)):
            pinned = _CONDA_PIN.fullmatch(named["spec"] or "")
            with suppress(InvalidSpecifier):
                found[normal_name(named["name"])] = SpecifierSet(f"=={pinned[1]}.*" if pinned else named["spec"] or "")
    for line in (line for entry in entries if isinstance(entry, dict) for line in entry.get("pip") or ()):
        with suppress(InvalidRequirement, UndefinedComparison, UndefinedEnvironmentName):
            one = Requirement(without_hashes([line])[0])
            if one.marker is None or one.marker.evaluate(job_markers("3.11")):
                found[normal_name(one.name)] = None if one.url else one.specifier
    return found


def _himl_remarks(
    spec: EnvironmentSpec, packages: Mapping[str, SpecifierSet | None], entry_file: Path | None
) -> list[str]:
    if entry_file is None or not spec.conda:
        return []
    if not holds_package(spec):
        missing = f"imports {MODULE}, but its environment lacks {PACKAGE}: {environment_hint()}."
        return [f"warning: '{entry_file.name}' {missing}"] if imports_himl(entry_file) else []
    python = _pinned_python(packages)
    if python is None or python >= OLDEST_PYTHON:
        return []
    oldest, found = (".".join(map(str, each)) for each in (OLDEST_PYTHON, python))
    why = f"{PACKAGE} needs at least {oldest}. The image cannot be built."
    return [f"warning: the environment has Python {found}, but {why}"]


def _mlflow_remarks(packages: Mapping[str, SpecifierSet | None], entry_file: Path | None) -> list[str]:
    """A warning if pip would install an MLflow that does not work with its azureml-mlflow, if it would find none, or if
    the script logs models that Azure ML rejects."""
    from packaging.version import Version

    plugin = packages.get("azureml-mlflow")
    named = [name for name in ("mlflow", "mlflow-skinny") if name in packages]
    wanted = [versions for name in named if (versions := packages[name]) is not None]
    if plugin is None or len(wanted) < len(named):
        return []
    some = [GOOD_FOR_MODELS, *(f"3.{minor}" for minor in range(100)), *_versions_in(*wanted)]
    mlflows = [version for version in sorted(map(Version, some)) if all(each.contains(version) for each in wanted)]
    newest_for = {Version(text): Version(newest) for text, newest in NEWEST_MLFLOW.items()}
    plugins = [one for one in {*newest_for, *map(Version, _versions_in(plugin))} if plugin.contains(one)]
    if not mlflows or not plugins or max(plugins) > max(newest_for):
        return []
    unbounded = [version for version in plugins if version <= Version(UNBOUNDED)]
    newest = max(newest_for.get(version, newest_for[Version(UNBOUNDED)]) for version in plugins)
    logs_models = "log_model(" in _text(entry_file)
    remedy = f"Use mlflow=={GOOD_FOR_MODELS if logs_models else GOOD_PAIR[0]} and azureml-mlflow=={GOOD_PAIR[1]}."
    asked = " and ".join(f"{name}{packages[name]}" for name in (*named, "azureml-mlflow"))
    if named and mlflows[-1] > newest and unbounded:
        most = NEWEST_MLFLOW[UNBOUNDED]
        why = f"for {asked}, pip chooses azureml-mlflow {max(unbounded)}, which works up to MLflow {most}"
        return [f"warning: log_artifact will fail in the job: {why}. {remedy}"]
    if named and mlflows[0] > newest:
        return [f"warning: the image cannot be built: pip finds no versions for {asked}. {remedy}"]
    if logs_models and mlflows[-1].major >= 3:
        return [f"warning: log_model will fail in the job: Azure ML rejects models of MLflow 3 (404). {remedy}"]
    return []


def _versions_in(*specifiers: SpecifierSet) -> list[str]:
    return re.findall(r"\d+(?:\.\d+)*(?:(?:rc|\.post|\.dev)\d+)?", " ".join(map(str, specifiers)))


def _service_remarks(
    spec: EnvironmentSpec, packages: Mapping[str, SpecifierSet | None], services: Collection[str]
) -> list[str]:
    """Warnings about the requirements that Azure ML documents for services: ipykernel~=6.0 and openssh-server."""
    asked = [f"--{name}" for name in services]
    kernels = [option for option in asked if option != "--ssh_key"]
    remarks = []
    if spec.conda and kernels:
        kernel = re.fullmatch(r"==(\d+)\b.*", str(packages.get("ipykernel") or ""))
        if not _KERNELS.intersection(packages) or (kernel and kernel[1] != "6"):
            found = f"has {kernel[0][2:]}" if kernel else "has none"
            remarks.append(
                f"warning: a job with {' and '.join(kernels)} needs ipykernel~=6.0, but its environment {found}. It "
                "may not start. Add ipykernel to the job's packages."
            )
    if asked and spec.image and not spec.image.startswith(OWN_IMAGES):
        remarks.append(
            f"warning: a job with {' and '.join(asked)} needs openssh-server in its image. Without it in "
            f"'{spec.image}', you cannot connect. Add it to the image, or omit --docker_image to use Azure ML's image."
        )
    return remarks


def _pinned_python(packages: Mapping[str, SpecifierSet | None]) -> tuple[int, int] | None:
    found = re.match(r"==(\d+)\.(\d+)", str(packages.get("python") or ""))
    return (int(found[1]), int(found[2])) if found else None


def _python_remarks(
    spec: EnvironmentSpec, packages: Mapping[str, SpecifierSet | None], folders: Sequence[Path]
) -> list[str]:
    """A warning if the job's Python, according to the conda file or the name of the environment or image, is not one
    of the project's versions."""
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    pinned, where = _pinned_python(packages), ""
    hint = "Write python={0} into the conda file, or {0} into .python-version."
    if pinned is None and not spec.conda:
        found = _PYTHON_IN_NAME.search(spec.name or spec.image)
        pinned, where = (3, int(found[1])) if found else None, f" according to the name '{spec.name or spec.image}'"
        hint = "Use one with Python {0}, or a conda file: --conda_env FILE"
    if pinned is None:
        return []
    python = ".".join(map(str, pinned))
    for path in (folder / name for folder in folders for name in ("pyproject.toml", ".python-version")):
        with suppress(HimlError, AttributeError, InvalidSpecifier, OSError):
            if path.suffix:
                wanted = parse_toml(path).get("project", {}).get("requires-python")
            else:
                found = re.match(r"\s*(\d+\.\d+)", path.read_text(encoding="utf-8", errors="replace"))
                wanted = f"=={found[1]}.*" if found else ""
            versions = SpecifierSet(wanted or "")
            if not any(versions.contains(f"{python}.{patch}") for patch in range(100)):
                good = next((f"3.{minor}" for minor in range(8, 30) if versions.contains(f"3.{minor}.99")), "3.x")
                return [
                    f"warning: the job's Python is {python}{where}, but '{path.name}' requires {wanted}. The code may "
                    f"fail in the job. {hint.format(good)}"
                ]
    return []


def _text(path: Path | None) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace") if path else ""
    except OSError:
        return ""


def holds_package(spec: EnvironmentSpec) -> bool:
    """Whether the conda file or a private wheel includes himl-cli."""
    texts = [*spec.conda.splitlines(), *(wheel.name for wheel in spec.wheels)]
    return any(re.search(rf"\b{PACKAGE}\b", re.sub(r"[_.]", "-", text.lower())) for text in texts)


def imports_himl(path: Path) -> bool:
    """Whether the Python file imports himl_cli anywhere. False for a file that cannot be read or parsed, because the
    job reports that error."""
    try:
        content = path.read_bytes()
        if MODULE.encode() not in content or path.suffix != ".py":
            return False
        with warnings.catch_warnings():
            # Python repeats warnings about invalid escapes when it runs the script
            warnings.simplefilter("ignore")
            tree = ast.parse(content)
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    nodes = list(ast.walk(tree))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom) and node.level == 0]
    return any(name.split(".")[0] == MODULE for name in names)
