"""Programs that are timed in separate processes, with the Python of an environment that has the packages.

Call them as `programs.py NAME ARGUMENTS...`, with a name from `PROGRAMS`. Programs that time themselves print the time
as the last line, so that imports do not count. Each imports its packages itself, and nothing from the benchmarks."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CONNECTIONS, THREADS, BATCH = 8, 32, 100
CONTAINER = "bench"


@contextmanager
def timed() -> Iterator[None]:
    start, cpu = time.perf_counter(), time.process_time()
    yield
    print(json.dumps({"wall": time.perf_counter() - start, "cpu": time.process_time() - cpu}), flush=True)


def engine(direction: str, url: str, sas: str, part: str, folder: str) -> None:
    """Run himl's transfer engine on the container at *url*, without the command."""
    # Loaded before the clock starts, like the libraries of the other clients.
    import pycurl  # noqa: F401

    from himl_cli.services.transfer.download import download
    from himl_cli.services.transfer.plan import DownloadRequest, Filters, UploadRequest
    from himl_cli.services.transfer.upload import upload
    from himl_cli.workspaces.azure.storage.container import AzureBlobs
    from himl_cli.workspaces.azure.storage.signing import SasSigner

    store, place = AzureBlobs(url, SasSigner(sas)), Path(folder)
    with timed():
        is_down = direction == "down"
        result = (
            download(store, DownloadRequest(place, Filters(prefix=f"{part}/")))
            if is_down
            else upload(store, UploadRequest(place / part, part))
        )
        if (problem := result.problem()) is not None or result.unverified:
            sys.exit(f"{problem} {result.unverified} unverified")


def md5(folder: str) -> None:
    """Compute the MD5 of the files in *folder* on one thread, a lower bound for checked downloads."""
    from himl_cli.services.transfer.digests import md5_of

    with timed():
        for path in Path(folder).iterdir():
            md5_of(path)


def storage_blob(direction: str, url: str, key: str, part: str, folder: str, how: str) -> None:
    """Run azure-storage-blob with one thread per file, and several connections for the large one. `checked` requests
    an MD5 with each request.
    """
    from azure.storage.blob import BlobServiceClient

    options: dict[str, Any] = {"max_concurrency": CONNECTIONS, "validate_content": how == "checked"}

    def move(name: str) -> None:
        with open(Path(folder) / name, "wb" if direction == "down" else "rb") as file:
            if direction == "down":
                container.download_blob(name, **options).readinto(file)
            else:
                container.upload_blob(name, file, overwrite=True, **options)

    with (
        BlobServiceClient(url, credential=key, max_block_size=8 << 20, max_chunk_get_size=8 << 20) as client,
        timed(),
        ThreadPoolExecutor(THREADS) as pool,
    ):
        container = client.get_container_client(CONTAINER)
        list(pool.map(move, names_to_move(container, direction, part, Path(folder))))


def names_to_move(container: Any, direction: str, part: str, folder: Path) -> list[str]:
    (folder / part).mkdir(parents=True, exist_ok=True)
    if direction == "up":
        return sorted(f"{part}/{path.name}" for path in (folder / part).iterdir())
    return [blob.name for blob in container.list_blobs(name_starts_with=f"{part}/")]


def one_by_one(direction: str, url: str, sas: str, part: str, folder: str, how: str) -> None:
    """Transfer small files in the ways of azureml-core.

    `loop`: one file after the other with one client of azure-storage-blob, like `Run.download_file` in a loop. `pool`:
    like `Run.download_files` and `upload_files` of azureml-core 1.61, which use batches of 100 in a thread pool of the
    default size, a new client and connection for each file, and the whole content in memory. Uploads send an MD5 with
    each request, and request the size afterwards. The functions of azureml-core require https at
    `blob.core.windows.net`, so they cannot use a server on this machine."""
    from azure.storage.blob import BlobServiceClient

    def move(client: Any, name: str) -> None:
        container = client.get_container_client(CONTAINER)
        with open(Path(folder) / name, "wb" if direction == "down" else "rb") as file:
            if direction == "down":
                file.write(container.download_blob(name, max_concurrency=CONNECTIONS).readall())
                return
            container.upload_blob(name, file, validate_content=True)
        container.get_blob_client(name).get_blob_properties()

    def by_own_client(name: str) -> None:
        with BlobServiceClient(url, credential=sas) as own:
            move(own, name)

    with timed(), BlobServiceClient(url, credential=sas) as client, ThreadPoolExecutor() as pool:
        names = names_to_move(client.get_container_client(CONTAINER), direction, part, Path(folder))
        for start in range(0, len(names), BATCH):
            if how == "loop":
                for name in names[start : start + BATCH]:
                    move(client, name)
            else:
                list(pool.map(by_own_client, names[start : start + BATCH]))


def matching_blobs(url: str, key: str, part: str, pattern: str, folder: str) -> None:
    """Download the blobs of *part* whose names match a glob."""
    from fnmatch import fnmatch

    from azure.storage.blob import BlobServiceClient

    with BlobServiceClient(url, credential=key) as client:
        container = client.get_container_client(CONTAINER)
        for blob in container.list_blobs(name_starts_with=f"{part}/"):
            name = blob.name.removeprefix(f"{part}/")
            if fnmatch(name, pattern):
                Path(folder, name).write_bytes(container.download_blob(blob.name).readall())


def search_runs(store: str, most: str, order: str = "attributes.start_time DESC") -> None:
    """List the first runs of an experiment in an *order* with MLflow, *most* or `all`, with the fields of `himl runs
    list`.
    """
    from mlflow import MlflowClient

    client, token, left = MlflowClient(store), None, sys.maxsize if most == "all" else int(most)
    while left:
        page = client.search_runs(["0"], max_results=min(left, 1000), order_by=[order], page_token=token)
        for run in page:
            print(json.dumps(run.to_dictionary()))
        left, token = left - len(page), page.token
        if not token:
            return


def submit(job: str) -> None:
    """Submit the YAML of a job with azure-ai-ml, like `az ml job create`, without telemetry."""
    from azure.ai.ml import MLClient, load_job
    from azure.identity import EnvironmentCredential

    logging.disable(logging.CRITICAL)
    place = [os.environ[f"HIML_{name}"] for name in ("SUBSCRIPTION_ID", "RESOURCE_GROUP", "WORKSPACE_NAME")]
    client = MLClient(EnvironmentCredential(), *place, enable_telemetry=False)
    print(client.jobs.create_or_update(load_job(job)).name)


def runs_of(*names: str) -> list[Any]:
    from azureml.core import Workspace
    from azureml.core.authentication import ServicePrincipalAuthentication
    from azureml.core.run import Run

    auth = ServicePrincipalAuthentication(
        *(os.environ[f"AZURE_{name}"] for name in ("TENANT_ID", "CLIENT_ID", "CLIENT_SECRET"))
    )
    ids = {"subscription_id": os.environ["HIML_SUBSCRIPTION_ID"], "resource_group": os.environ["HIML_RESOURCE_GROUP"]}
    workspace = Workspace.get(os.environ["HIML_WORKSPACE_NAME"], auth=auth, **ids)
    return [Run.get(workspace, name) for name in names]


def child_by_child(sweep: str) -> None:
    """Request the metrics of each child of a sweep separately, like users of azureml-core."""
    print(sum(len(child.get_metrics()) for run in runs_of(sweep) for child in run.get_children()))


def serve(port: str, *names: str) -> None:
    """Run azureml-tensorboard as its users do, until standard input closes."""
    from azureml.tensorboard import Tensorboard

    board = Tensorboard(runs_of(*names), port=int(port))
    board.start()
    sys.stdin.read()
    board.stop()


def for_each_line(refresh: Callable[[], object]) -> None:
    print("ready", flush=True)
    for _ in sys.stdin:
        refresh()
        print("done", flush=True)


def watch(folder: str, *names: str) -> None:
    """Run one pulse of the watchers and synchronizers of azureml-tensorboard for each line on standard input.

    The objects and their code are unchanged. Only the waits between pulses, and the threads, are omitted.
    """
    from azureml._run_impl.run_watcher import RunWatcher
    from azureml.tensorboard import Tensorboard
    from requests import Session

    class Instead:
        """Replaces the event that ends the loops, so that each ends after one pulse, and the thread pool, whose work
        the pulse does.
        """

        def wait(self, timeout: float | None = None) -> bool:
            return True

        def is_set(self) -> bool:
            return False

        def submit(self, call: Callable[..., Any], *arguments: Any) -> None:
            pass

    session, prefix, instead = Session(), Tensorboard.LOGS_ARTIFACT_PREFIX, Instead()
    going_on = [
        RunWatcher(run, os.path.join(folder, run.id), prefix, instead, instead, session) for run in runs_of(*names)
    ]

    def refresh() -> None:
        for watcher in going_on[:]:
            if watcher.refresh_log_artifacts():
                # The synchronizers of the watcher still get their last pulse.
                going_on.remove(watcher)
            for synchronizer in watcher._dir_syncs.values():
                synchronizer.state_0()

    for_each_line(refresh)


def whole_files(address: str, folder: str, *prefixes: str) -> None:
    """Fetch the event files below *prefixes* whole with azure-storage-blob, for each line on standard input."""
    from azure.storage.blob import ContainerClient

    def fetch(prefix: str) -> None:
        for name in container.list_blob_names(name_starts_with=f"{prefix}logs/"):
            path = Path(folder) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(container.download_blob(name).readall())

    with ContainerClient.from_container_url(address) as container, ThreadPoolExecutor(8) as pool:
        for_each_line(lambda: list(pool.map(fetch, prefixes)))


def montage(slides: str, pattern: str, width: str, processes: str, result: str) -> None:
    """Make a montage like hi-ml-cpath's script `create_montage.py`, which itself runs only in a checkout of its
    repository.
    """
    from health_cpath.utils.montage import MontageCreation

    made = MontageCreation()
    made.image_glob_pattern, made.level, made.width, made.parallel, made.backend = (
        pattern,
        1,
        int(width),
        int(processes),
        "openslide",
    )
    made.output_path = Path(result)
    made.create_montage(Path(slides))


def tiles(slides: str, tile_size: str, result: str) -> None:
    """Make tiles of level 0 with the `main` of hi-ml-cpath and its defaults, but with OpenSlide, because cuCIM needs
    a GPU.
    """
    from types import SimpleNamespace

    from health_cpath.preprocessing import create_tiles_dataset as own

    own.WSIBackend = SimpleNamespace(CUCIM="OpenSlide")
    samples = [
        {"image": str(path), "slide_id": path.name, "label": 0, "metadata": {}}
        for path in sorted(Path(slides).iterdir())
    ]
    with timed():
        own.main(samples, result, 0, int(tile_size), 0, None, 0.05)


def regions(slides: str, tile_size: str, result: str) -> None:
    """Make tiles with a plain loop: read a region per tile, and save it if enough of it is darker than Otsu's
    threshold of the coarsest level.
    """
    import numpy as np
    from openslide import OpenSlide
    from skimage.filters import threshold_otsu

    side = int(tile_size)
    with timed():
        for path in sorted(Path(slides).iterdir()):
            folder = Path(result, path.name)
            folder.mkdir(parents=True)
            with OpenSlide(str(path)) as slide:
                coarse = slide.read_region((0, 0), slide.level_count - 1, slide.level_dimensions[-1]).convert("RGB")
                threshold = threshold_otsu(np.asarray(coarse).mean(axis=-1))
                for top in range(0, slide.dimensions[1], side):
                    for left in range(0, slide.dimensions[0], side):
                        tile = slide.read_region((left, top), 0, (side, side)).convert("RGB")
                        if (np.asarray(tile).mean(axis=-1) < threshold).mean() >= 0.05:
                            tile.save(folder / f"{left}x_{top}y.png")


def submitit(folder: str, count: str, how: str) -> None:
    """Submit calls of a function to Slurm, several as an array: `held` for an hour, or `wait` for their results."""
    from submitit import AutoExecutor

    executor = AutoExecutor(folder=folder, cluster="slurm")
    more = {"additional_parameters": {"begin": "now+1hour"}} if how == "held" else {}
    executor.update_parameters(
        timeout_min=60,
        slurm_partition="gpu",
        slurm_array_parallelism=8,
        **{f"slurm_{name}": value for name, value in more.items()},
    )
    jobs = [executor.submit(print, 0)] if count == "1" else executor.map_array(print, range(int(count)))
    for job in jobs if how == "wait" else []:
        job.result()


def slurm_jobs(count: str, held: str) -> None:
    """Submit `job.py` with himl, in one process."""
    from himl_cli.submission import submit

    for _ in range(int(count)):
        submit("job.py", cluster="slurm:gpu", sbatch=held, quiet=True)


def hydra(*_: str) -> None:
    """Run a Hydra app that prints `x`. Hydra reads its arguments from the command line."""
    import hydra

    del sys.argv[1]
    hydra.main(version_base=None)(lambda config: print(config.x))()


PROGRAMS = (
    engine,
    md5,
    storage_blob,
    one_by_one,
    matching_blobs,
    search_runs,
    submit,
    child_by_child,
    serve,
    watch,
    whole_files,
    montage,
    tiles,
    regions,
    submitit,
    slurm_jobs,
    hydra,
)

if __name__ == "__main__":
    # Other libraries must not import the modules of the benchmarks.
    del sys.path[0]
    {program.__name__: program for program in PROGRAMS}[sys.argv[1]](*sys.argv[2:])
