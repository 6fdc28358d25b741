"""Fixtures for all tests: a clean environment, the installed program, a project folder, and special file systems."""

from __future__ import annotations

import compileall
import gc
import os
import shutil
import signal
import subprocess
import sys
import uuid
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from himl_cli.core.ranks import RANK_NAMES
from tests.support import fork_server
from tests.support.folders import (
    SharedDisk,
    SmallDisk,
    built_shared_disk,
    made_read_only,
    mounted_small_disk,
    unmount_leftovers,
)
from tests.support.processes import MARK, processes_marked, stop
from tests.support.running import PROGRAM, Himl
from tests.support.selection import SMALL, is_left_out, mark
from tests.support.spreading import group_of, spread
from tests.support.users import shared_folder

if TYPE_CHECKING:
    from tests.azureml_double.seeding import StagedWorkspace
    from tests.azureml_double.stage import Stage
    from tests.support.dsa import Archive
    from tests.support.slurm import Slurm
    from tests.support.ssh import SshServer
    from tests.support.web import FileServer

# A slow moment on a shared machine is no failure.
settings.register_profile("himl", deadline=None)
settings.load_profile("himl")

NEEDS = "NEEDS "
FOREIGN_PREFIXES = (
    "HIML_",
    "AZURE",
    "AZUREML_",
    "MLFLOW_",
    "SLURM_",
    "OMPI_",
    "PMI",
    "TORCHELASTIC_",
    "TORCH_",
    "DATABRICKS_",
    "DSA_",
)
FOREIGN_NAMES = RANK_NAMES | {
    "PYTHONPATH",
    "FORCE_COLOR",
    "CLICOLOR_FORCE",
    "TERM",
    "VIRTUAL_ENV",
    "CONDA_PREFIX",
    "SSH_CONNECTION",
}


@pytest.fixture(scope="session", autouse=True)
def no_process_is_left() -> Iterator[None]:
    """Check that no process of the tests is still running at the end (requires /proc)."""
    mark = uuid.uuid4().hex
    os.environ[MARK] = mark
    yield
    fork_server.close()
    left = processes_marked(mark, patience=60.0)
    stop(left)
    assert not left, f"processes that the tests left behind: {left}"


@pytest.fixture(autouse=True)
def clean_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Isolate tests from the settings of this machine: a separate home and caches, 80 columns, no colour, and no
    `__pycache__` in their folders.
    """
    for name in os.environ:
        if name in FOREIGN_NAMES or (name.startswith(FOREIGN_PREFIXES) and not name.startswith("HIML_TEST_")):
            monkeypatch.delenv(name)
    home = tmp_path / "home"
    home.mkdir()
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(home))
    for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "APPDATA", "LOCALAPPDATA"):
        monkeypatch.setenv(name, str(home / name.lower()))
    for name, value in {
        "COLUMNS": "80",
        "LINES": "24",
        "NO_COLOR": "1",
        "TZ": "UTC",
        "GIT_CONFIG_NOSYSTEM": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HIML_CLAIMS", str(tmp_path / "claims"))
    # Without this, jobs on a slow machine have more metrics.
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "3600")


@pytest.fixture
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep coverage, which imports modules of its own, out of the processes that the test starts."""
    monkeypatch.delenv("COVERAGE_PROCESS_START", raising=False)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """An empty project folder. `himl` runs in it by default."""
    folder = tmp_path / "project"
    folder.mkdir()
    return folder


@pytest.fixture
def himl(project: Path) -> Himl:
    """The app as users see it, in this process (HIML_TEST_START=1: the installed program, with a new process per
    call).
    """
    return Himl(PROGRAM, project, in_process=True)


@pytest.fixture
def started_himl(project: Path) -> Himl:
    """The installed `himl` program, with a new process per call, for tests of its start."""
    return Himl(PROGRAM, project)


def lacking(what: str) -> None:
    """Skip this test with a reason, or fail it if HIML_TEST_REQUIRE_ALL forbids missing requirements."""
    if os.environ.get("HIML_TEST_REQUIRE_ALL") == "1":
        pytest.fail(f"{NEEDS}{what}, and HIML_TEST_REQUIRE_ALL=1")
    pytest.skip(f"{NEEDS}{what}")


@pytest.fixture
def known_disk(tmp_path: Path) -> None:
    """Skip this test where the file system of the temporary folder is unknown: himl takes it for one of a network."""
    from himl_cli.core.mounts import shares_locks

    if not shares_locks(tmp_path):
        lacking("a table of mounts with the file system of the temporary folder, which a chroot lacks")


@pytest.fixture
def require_program() -> Callable[[str], str]:
    """Call it with a program's name to get its path, or to skip the test with a reason if it is not installed."""

    def find(name: str) -> str:
        found = shutil.which(name)
        if found is None:
            lacking(f"the program '{name}'")
        return str(found)

    return find


@pytest.fixture
def shared_disk(tmp_path: Path, require_program: Callable[[str], str]) -> SharedDisk:
    """A disk of several machines."""
    for name in ("gcc", "pkg-config", "unshare"):
        require_program(name)
    disk = built_shared_disk(tmp_path)
    if disk is None:
        lacking("a FUSE file system: /dev/fuse, libfuse3-dev, and the right to mount")
    assert disk is not None
    return disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """A disk of 4 MiB. Run commands that use it with its `prefix`."""
    with mounted_small_disk(tmp_path / "small_disk", kib=4096) as disk:
        if disk is None:
            lacking("a small disk (tmpfs mounted as root, or by `unshare -rm`)")
        else:
            yield disk


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder of root that all users can read, for tests with other users."""
    with shared_folder() as folder:
        if folder is None:
            lacking("root, for files of other users")
        else:
            yield folder


@pytest.fixture
def read_only() -> Iterator[Callable[[Path], Path]]:
    """Call it with a folder to make it read-only until the test ends."""
    with ExitStack() as stack:

        def protect(folder: Path) -> Path:
            if not stack.enter_context(made_read_only(folder)):
                lacking("a folder that cannot be written (by permission, or by a read-only mount as root)")
            return folder

        yield protect


@pytest.fixture(scope="session")
def shared_stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """The double of this test process. Tests use `stage`."""
    # The import takes half a second, so it is not at the top.
    from tests.azureml_double.stage import running_stage

    with running_stage(tmp_path_factory.mktemp("stage")) as stage:
        yield stage


@pytest.fixture
def stage(shared_stage: Stage) -> Iterator[Stage]:
    """The double, without faults, requests and workspaces of other tests. An unsupported request fails the test."""
    shared_stage.clear()
    with shared_stage.own_workspaces():
        yield shared_stage
    unknown = shared_stage.log.unknown()
    shared_stage.clear()
    assert not unknown, f"requests that the double does not play: {unknown}"


@pytest.fixture
def recipes_python() -> Path:
    """The Python of an environment with the packages of the recipes."""
    from tests.support.clients import RECIPES, client_python

    try:
        return client_python(RECIPES)
    # Few registries have this build. CI must work without it.
    except subprocess.CalledProcessError:
        pytest.skip(f"{NEEDS}PyTorch's CPU build (torch==2.13.0+cpu), which pip does not find")


@pytest.fixture
def lightning_packages(monkeypatch: pytest.MonkeyPatch) -> str:
    """A PYTHONPATH with PyTorch Lightning and PyTorch, compiled once and not per process."""
    from tests.support.clients import LIGHTNING, packages_of

    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE")
    try:
        return packages_of(LIGHTNING)
    # Few registries have this build. CI must work without it.
    except subprocess.CalledProcessError:
        pytest.skip(f"{NEEDS}PyTorch's CPU build (torch==2.13.0+cpu), which pip does not find")


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    """The Slurm of this test process. Tests use `slurm`."""
    from tests.support.slurm import running_cluster

    with ExitStack() as stack:
        try:
            made = stack.enter_context(running_cluster(tmp_path_factory.mktemp("slurm")))
        except FileNotFoundError as err:
            lacking(str(err))
        yield made


@pytest.fixture
def slurm(cluster: Slurm, monkeypatch: pytest.MonkeyPatch) -> Slurm:
    """The cluster, with its programs on PATH."""
    monkeypatch.setenv("PATH", f"{cluster.programs}{os.pathsep}{os.environ['PATH']}")
    cluster.calls.write_text("")
    return cluster


@pytest.fixture(scope="session")
def shared_box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    """The SSH server of this test process. Tests use `box`."""
    from tests.support.ssh import running_ssh

    with ExitStack() as stack:
        try:
            made = stack.enter_context(running_ssh(tmp_path_factory.mktemp("ssh")))
        except FileNotFoundError as err:
            lacking(str(err))
        yield made


@pytest.fixture
def box(shared_box: SshServer, project: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SshServer]:
    """The server, with its `ssh` on PATH, an empty home, and settings of *project* that name it."""
    with shared_box.used(project, monkeypatch):
        yield shared_box


@pytest.fixture
def azure(stage: Stage) -> StagedWorkspace:
    """An empty workspace. No variable refers to it yet."""
    return stage.workspace()


@pytest.fixture
def azure_environment(azure: StagedWorkspace, monkeypatch: pytest.MonkeyPatch) -> StagedWorkspace:
    """The workspace `azure`, with variables that connect clients in this process and its children to it."""
    for name, value in azure.environment().items():
        monkeypatch.setenv(name, value)
    return azure


@pytest.fixture(scope="session")
def shared_web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FileServer, Path]]:
    """The server of this test process, and the file with its authority. Tests use `web`."""
    from tests.support.web import serving_files

    bundle = tmp_path_factory.mktemp("web") / "authority.pem"
    with serving_files(bundle) as server:
        yield server, bundle


@pytest.fixture
def web(shared_web: tuple[FileServer, Path], monkeypatch: pytest.MonkeyPatch) -> FileServer:
    """The server, without files."""
    server, bundle = shared_web
    server.clear()
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(bundle))
    return server


@pytest.fixture
def archive(monkeypatch: pytest.MonkeyPatch) -> Iterator[Archive]:
    """An empty Digital Slide Archive, with variables that refer to it."""
    from tests.support.dsa import KEY, running_archive

    with running_archive() as found:
        monkeypatch.setenv("DSA_URL", f"{found.address}/#collections")
        monkeypatch.setenv("DSA_API_KEY", KEY)
        yield found


@pytest.fixture
def git(require_program: Callable[[str], str]) -> Callable[..., str]:
    """Run git in a folder with a fixed author, and return its output."""
    program = require_program("git")

    def run(folder: Path, *arguments: str) -> str:
        author = (
            "-c",
            "user.name=Ada",
            "-c",
            "user.email=ada@example.org",
            "-c",
            "init.defaultBranch=main",
            "-c",
            "commit.gpgsign=false",
        )
        return subprocess.run(
            [program, *author, *arguments], cwd=folder, check=True, capture_output=True, text=True
        ).stdout

    return run


def pytest_configure(config: pytest.Config) -> None:
    """Select the small set if neither tests nor markers were named. Compile himl, since tests start thousands of
    processes that write no bytecode. Restore the handling of signals that tests send, which `nohup` and background
    scripts ignore."""
    is_named = config.args_source is not pytest.Config.ArgsSource.TESTPATHS
    if not (is_named or config.option.everything or config.option.markexpr):
        config.option.markexpr = SMALL
    if not hasattr(config, "workerinput"):
        unmount_leftovers()
        compileall.compile_dir(config.rootpath / "himl_cli", quiet=2)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if sys.platform != "win32" and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """For `-n auto`: more than the number of cores, since tests wait for processes and answers, in the large set most
    of the time."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return cores + (4 if config.option.everything else 2)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--all",
        action="store_true",
        dest="everything",
        help="run the tests marked large too (default: only if files or tests are named)",
    )


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Ignore files of which the small set has no test, since their imports take long."""
    return True if is_left_out(collection_path, config) else None


def pytest_itemcollected(item: pytest.Item) -> None:
    mark(item)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Start the slow tests first on each xdist process, so that none runs alone at the end."""
    processes = getattr(config, "workerinput", {}).get("workercount", 1)
    if processes > 1:
        # Mix files that wait with files that compute.
        items.sort(key=lambda item: zlib.crc32(item.path.name.encode()))
        items[:] = spread(items, [group_of(item) for item in items], processes)


def pytest_collection_finish() -> None:
    """Exclude the objects of the imported test modules from garbage collection, since they stay until the end, and
    collect less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say if this was the small set, and list the requirements that were missing, so that a green result does not hide
    tests that were left out.
    """
    if config.option.markexpr == SMALL:
        terminalreporter.write_line("The small set, without the tests that are marked large. With --all, they run too.")
    counts: dict[str, int] = {}
    for report in terminalreporter.stats.get("skipped", []):
        reason = str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else str(report.longrepr)
        _, needs, what = reason.partition(NEEDS)
        if needs:
            counts[what] = counts.get(what, 0) + 1
    for what, count in sorted(counts.items()):
        terminalreporter.write_line(f"NOT TESTED HERE: {count} test(s) need {what}", red=True, bold=True)


@pytest.fixture
def nvml(tmp_path: Path, require_program: Callable[[str], str]) -> dict[str, str]:
    """The variables with which programs find an NVIDIA driver."""
    if sys.platform != "linux":
        pytest.skip("NEEDS Linux, where LD_LIBRARY_PATH says where libraries are")
    source, library = Path(__file__).parent / "support" / "nvml.c", tmp_path / "driver" / "libnvidia-ml.so.1"
    library.parent.mkdir()
    subprocess.run([require_program("cc"), "-shared", "-fPIC", "-o", library, source], check=True)
    return {"LD_LIBRARY_PATH": str(library.parent)}
