"""The NVIDIA GPUs of this machine, as its driver (NVML) reports them: those that a job may use, whether a program uses
them, and their metrics. NVIDIA's bindings are imported for the first question only."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from himl_cli.core.errors import BadUsage, NotFound
from himl_cli.core.jobs import JobSpec
from himl_cli.core.records import dataclass

VISIBLE = "CUDA_VISIBLE_DEVICES"
MOST_MEMORY_IN_USE = 0.05  # of a GPU that no program uses


@dataclass(frozen=True)
class Gpu:
    """A GPU, or of one that is divided (MIG) an instance. `number` is the GPU's, as nvidia-smi counts. `is_part`: it is
    an instance."""

    number: int
    uuid: str
    name: str
    is_part: bool = False

    @property
    def text(self) -> str:
        return f"{self.number} ({self.name}, {self.uuid})"


class Driver:
    """NVIDIA's driver. Raises NotFound if this machine has none."""

    def __init__(self) -> None:
        import pynvml

        self.nvml = pynvml
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as err:
            hint = "Check the driver with nvidia-smi, or omit --gpus."
            raise NotFound(f"This machine has no GPU that NVIDIA's driver reports ({err}).", hint=hint) from err
        self.count: int = pynvml.nvmlDeviceGetCount()

    def gpus(self) -> list[Gpu]:
        """The GPUs in the order of nvidia-smi, the divided ones as their instances, without those that fail."""
        found = []
        for number in range(self.count):
            with suppress(self.nvml.NVMLError):
                handle = self.nvml.nvmlDeviceGetHandleByIndex(number)
                parts = [*self._parts(handle)]
                for each in parts or [handle]:
                    name, uuid = self.nvml.nvmlDeviceGetName(each), self.nvml.nvmlDeviceGetUUID(each)
                    found.append(Gpu(number, uuid, name, bool(parts)))
        return found

    def _parts(self, handle: Any) -> Iterator[Any]:
        with suppress(self.nvml.NVMLError):  # it has none
            if self.nvml.nvmlDeviceGetMigMode(handle)[0]:
                for index in range(self.nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
                    with suppress(self.nvml.NVMLError):  # there are fewer instances at present
                        yield self.nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index)

    def handle(self, word: str) -> Any:
        """The device *word* of CUDA_VISIBLE_DEVICES: a number, or the start of an id. Raises NVMLError if there is
        none. CUDA ignores that entry and all after it."""
        if word.isdecimal():
            return self.nvml.nvmlDeviceGetHandleByIndex(int(word))
        for index in range(self.count if word.startswith("GPU-") else 0):
            handle = self.nvml.nvmlDeviceGetHandleByIndex(index)
            if self.nvml.nvmlDeviceGetUUID(handle).startswith(word):
                return handle
        return self.nvml.nvmlDeviceGetHandleByUUID(word)

    def use_of(self, uuid: str) -> str:
        """How programs use the GPU: they compute on it, or hold more than 5 % of its memory. '' if none does."""
        try:
            handle = self.nvml.nvmlDeviceGetHandleByUUID(uuid)
            memory = self.nvml.nvmlDeviceGetMemoryInfo(handle)
        except self.nvml.NVMLError as err:
            return f"its use is unknown: {err}"
        count = 0
        with suppress(self.nvml.NVMLError):  # the memory decides
            count = len(self.nvml.nvmlDeviceGetComputeRunningProcesses(handle))
        if memory.used > MOST_MEMORY_IN_USE * memory.total:
            return f"{memory.used / 1e9:.1f} of {memory.total / 1e9:.1f} GB in use"
        return f"{count} process{'es' * (count != 1)} on it" if count else ""


def allowed_gpus(driver: Driver, spec: JobSpec, env: Mapping[str, str]) -> list[Gpu]:
    """The GPUs that a job may get: those in CUDA_VISIBLE_DEVICES of the job, or of *env*, without it all. Raises
    BadUsage if they are too few for the job."""
    gpus = driver.gpus()
    visible = spec.env.get(VISIBLE, env.get(VISIBLE))
    among = "" if visible is None else f" that {VISIBLE}='{visible}' allows"
    if visible is not None:
        words = [word.strip() for word in visible.split(",") if word.strip()]
        wanted = [each for word in words for each in gpus if _is_meant(each, word)]
        gpus = [*dict.fromkeys(wanted)]
    need = spec.gpus or 0.0
    if need > len(gpus):
        count = f"{len(gpus)} GPU{'s' * (len(gpus) != 1)}"
        hint = f"Use --gpus {len(gpus)} or less." if gpus else "Omit --gpus."
        raise BadUsage(f"--gpus {need:g}: this machine has {count}{among}.", hint=hint)
    return gpus


def _is_meant(gpu: Gpu, word: str) -> bool:
    """Whether *word* of CUDA_VISIBLE_DEVICES names the GPU."""
    if word.isdecimal():
        return gpu.number == int(word) and not gpu.is_part
    return gpu.uuid.startswith(word)


def check_gpus(specs: Sequence[JobSpec]) -> None:
    """Raise BadUsage or NotFound if this machine has too few GPUs for one of the jobs."""
    needing = [spec for spec in specs if spec.gpus and spec.engine is None]
    if needing:
        driver = Driver()
        for spec in needing:
            allowed_gpus(driver, spec, os.environ)


def jobs_at_once(specs: Sequence[JobSpec]) -> int:
    """The number of jobs like the largest of *specs* that the GPUs of this machine allow at the same time. Raises
    NotFound, BadUsage."""
    spec = max(specs, key=lambda each: each.gpus or 0.0)
    need, count = spec.gpus or 0.0, len(allowed_gpus(Driver(), spec, os.environ))
    return count * int(1 / need + 1e-6) if need < 1 else int(count / need)


def variables_of(gpus: Sequence[Gpu]) -> dict[str, str]:
    """The variables with which a job sees these GPUs only. Many programs read numbers, which CUDA by default counts in
    another order than nvidia-smi. Instances only have ids."""
    uuids = ",".join(gpu.uuid for gpu in gpus)
    seen = uuids if any(gpu.is_part for gpu in gpus) else ",".join(str(gpu.number) for gpu in gpus)
    return {VISIBLE: seen, "NVIDIA_VISIBLE_DEVICES": uuids, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


def driver_facts(visible: str | None) -> dict[str, str]:
    """The GPUs of this machine and the version of their driver, by name, and *visible*, the value of
    CUDA_VISIBLE_DEVICES of a job. Empty without a driver, which is not asked then."""
    import ctypes

    try:
        ctypes.CDLL("nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1")
        driver = Driver()
    except (OSError, NotFound):
        return {}
    counts = Counter(gpu.name for gpu in driver.gpus())
    found = {"gpus": ", ".join(f"{number} x {name}" for name, number in counts.items())}
    with suppress(driver.nvml.NVMLError):
        found["driver"] = driver.nvml.nvmlSystemGetDriverVersion()
    return found | ({} if visible is None else {"visible_gpus": visible})


class VisibleGpus:
    """Metrics of the GPUs in *visible*, the value of CUDA_VISIBLE_DEVICES, in its order (None: all). None without a
    driver."""

    def __init__(self, visible: str | None) -> None:
        self._handles: list[Any] = []
        with suppress(NotFound):
            driver = Driver()
            self._nvml = driver.nvml
            with suppress(driver.nvml.NVMLError):
                for word in map(str, range(driver.count)) if visible is None else visible.split(","):
                    self._handles.append(driver.handle(word.strip()))

    def sample(self) -> dict[str, float]:
        """The available values of each GPU. A MIG instance only has its memory."""
        found: dict[str, float] = {}
        for number, handle in enumerate(self._handles):
            name = f"gpu_{number}_"
            unknown = (self._nvml.NVMLError, ZeroDivisionError)
            with suppress(*unknown):
                found[name + "utilization_percentage"] = self._nvml.nvmlDeviceGetUtilizationRates(handle).gpu
            with suppress(*unknown):
                memory = self._nvml.nvmlDeviceGetMemoryInfo(handle)
                found[name + "memory_usage_megabytes"] = memory.used / 1e6
                found[name + "memory_usage_percentage"] = 100 * memory.used / memory.total
            with suppress(*unknown):
                power = self._nvml.nvmlDeviceGetPowerUsage(handle)
                found[name + "power_usage_watts"] = power / 1000
                found[name + "power_usage_percentage"] = (
                    100 * power / self._nvml.nvmlDeviceGetEnforcedPowerLimit(handle)
                )
        return found
