"""hi-ml's additions to PyTorch Lightning, with the names and defaults of `health_ml.utils`: a logger for the run, a
progress bar for log files, times of data loading, and short forms of `LightningModule.log`.

    from himl_cli.lightning import AzureMLLogger, AzureMLProgressBar

    trainer = Trainer(logger=[AzureMLLogger()], callbacks=[AzureMLProgressBar()])

The classes share no code. They stay together because scripts import them from one module, as from hi-ml's.

It uses the script's Lightning, `lightning` or `pytorch_lightning`: the imported one, or else the installed one.
Importing this module raises ModuleNotFoundError without either.
"""

from __future__ import annotations

import logging
import math
import os
import sys
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from importlib import import_module
from typing import TYPE_CHECKING, Any

from himl_cli.api.context import create_aml_run_object
from himl_cli.api.workspace import Run, current_run
from himl_cli.render.output import Output

LIGHTNING = ("lightning.pytorch", "pytorch_lightning")
DEFAULT_EXPERIMENT = "azureml_logger"


def _import_lightning() -> Any:
    for name in sorted(LIGHTNING, key=lambda name: name not in sys.modules):
        try:
            return import_module(name)
        except ModuleNotFoundError as err:
            if not name.startswith(str(err.name)):
                raise
    raise ModuleNotFoundError(
        "himl_cli.lightning needs PyTorch Lightning, which is not installed: pip install lightning", name="lightning"
    )


_lightning = _import_lightning()
if TYPE_CHECKING:

    class Callback: ...

    class Logger: ...

    class ProgressBar: ...

else:
    Callback, ProgressBar = _lightning.Callback, _lightning.callbacks.ProgressBar
    Logger = _lightning.loggers.logger.Logger


class AzureMLLogger(Logger):
    """Logs metrics and hyperparameters to the job's run, local or on Azure ML.

    Outside of a job, it logs nothing. With *enable_logging_outside_azure_ml*, it starts a run like
    `create_aml_run_object`, in the experiment *experiment_name*, with the display name *run_name* and the files of
    *snapshot_directory*, in the workspace that `get_workspace` finds for *workspace* or *workspace_config_path*. That
    run ends with the training. If you also pass a *run* (himl's or azureml-core's), it logs to that, and does not
    end it. Only rank 0 logs. `run` is the run, or None on other ranks and if it logs nothing.
    """

    HYPERPARAMS_NAME = "hyperparams"
    """The name of the table of hyperparameters."""

    def __init__(
        self,
        enable_logging_outside_azure_ml: bool | None = False,
        experiment_name: str = DEFAULT_EXPERIMENT,
        run: Any = None,
        run_name: str | None = None,
        workspace: object | None = None,
        workspace_config_path: str | os.PathLike[str] | None = None,
        snapshot_directory: str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__()
        self.run: Any = None
        self._is_own = False
        if _lightning.utilities.rank_zero_only.rank != 0:
            return
        current = current_run()
        if isinstance(current, Run):
            self.run = current
        elif not enable_logging_outside_azure_ml:
            _say("AzureMLLogger logs nothing outside of a job, unless enable_logging_outside_azure_ml is True.")
        elif run is not None:
            self.run = run
        else:
            self.run = create_aml_run_object(
                experiment_name, run_name, workspace, workspace_config_path, snapshot_directory
            )
            self._is_own = True
            _say(f"Writing metrics to run {self.run.id} in experiment {self.run.experiment.name}.")
            url = self.run.get_portal_url()
            _say(
                f"To check progress, visit this URL: {url}" if url else f"To show the run: himl runs show {self.run.id}"
            )

    @property
    def name(self) -> str:
        return getattr(getattr(self.run, "experiment", None), "name", DEFAULT_EXPERIMENT)

    @property
    def version(self) -> str:
        return self.run.id if self.run is not None else ""

    @property
    def experiment(self) -> Run | None:
        """The run, for `log_image`, `log_text` and the like. None on other ranks, and if the logger logs nothing."""
        found: Run | None = self.run
        return found

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log each metric at Lightning's *step*."""
        for name, value in metrics.items() if self.run is not None else ():
            self.run.log(name, value, step=step)

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Log *params*, a mapping or a namespace, as text: as parameters of the run, and as the table `hyperparams`
        with the columns `name` and `value`. Nested names contain `/`. A parameter from an earlier attempt does not
        change."""
        found = {name: str(value) for name, value in _flat(params or {}).items()} if self.run is not None else {}
        if isinstance(self.run, Run):
            self.run.log_parameters(found)
        if found:
            self.run.log_table(self.HYPERPARAMS_NAME, {"name": [*found], "value": [*found.values()]})

    def log_image(self, name: str, path: str | os.PathLike[str] | None = None, plot: Any = None) -> None:
        """Log an image: a file, or a matplotlib figure."""
        if self.run is not None:
            self.run.log_image(name, path=path, plot=plot)

    def save(self) -> None:
        """Wait until the workspace has stored the logged values."""
        if self.run is not None:
            self.run.flush()

    def finalize(self, status: str) -> None:
        """Send logged values. If the logger started the run, end it, as failed if the training failed."""
        if self.run is None:
            return
        if not self._is_own:
            self.run.flush()
        elif status == "success":
            self.run.complete()
        elif status in ("failed", "aborted"):
            self.run.fail(f"the training {status}")


def _say(text: str) -> None:
    """Print a line to the log of the training, on stdout."""
    Output().lines([text])


def _flat(params: Any, prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in (params if isinstance(params, Mapping) else vars(params)).items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{key}/")
        else:
            found[f"{prefix}{key}"] = value
    return found


class AzureMLProgressBar(ProgressBar):
    """Prints a line every *refresh_rate* batches and at the end of an epoch, in place of an animated bar, for log
    files. With *print_timestamp*, the line begins with the time in UTC. With *write_to_logging_info*, it goes to
    Python's logging (INFO) and not to stdout."""

    def __init__(
        self, refresh_rate: int = 50, print_timestamp: bool = True, write_to_logging_info: bool = False
    ) -> None:
        super().__init__()
        self.write_to_logging_info = write_to_logging_info
        self.refresh_rate = refresh_rate
        self.print_timestamp = print_timestamp
        self._is_enabled = True
        self._started = {"Training": 0.0}

    def disable(self) -> None:
        self._is_enabled = False

    def enable(self) -> None:
        self._is_enabled = True

    def on_train_epoch_start(self, trainer: Any, *_: Any) -> None:
        self._started["Training"] = time.monotonic()

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int, *_: Any) -> None:
        self._show(trainer, "Training", batch_idx + 1, trainer.num_training_batches)

    def on_validation_start(self, trainer: Any, module: Any) -> None:
        self._started["Validation"] = time.monotonic()

    def on_validation_batch_end(
        self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        counts = trainer.num_sanity_val_batches if trainer.sanity_checking else trainer.num_val_batches
        self._show(trainer, "Validation", *_position(counts, batch_idx, dataloader_idx))

    def on_test_start(self, trainer: Any, module: Any) -> None:
        self._started["Testing"] = time.monotonic()

    def on_test_batch_end(
        self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._show(trainer, "Testing", *_position(trainer.num_test_batches, batch_idx, dataloader_idx))

    def on_predict_start(self, trainer: Any, module: Any) -> None:
        self._started["Prediction"] = time.monotonic()

    def on_predict_batch_end(
        self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._show(trainer, "Prediction", *_position(trainer.num_predict_batches, batch_idx, dataloader_idx))

    def _show(self, trainer: Any, stage: str, done: int, total: float) -> None:
        """Print a line after *done* of *total* batches. *total* is infinite if unknown."""
        if not self._is_enabled or not self.refresh_rate or (done % self.refresh_rate and done != total):
            return
        elapsed = time.monotonic() - self._started[stage]
        where = {
            "Training": f"Training epoch {trainer.current_epoch} (step {trainer.global_step})",
            "Validation": f"Validation epoch {trainer.current_epoch}",
        }.get(stage, stage)
        if stage == "Validation" and trainer.sanity_checking:
            where = "Validation sanity check"
        text = f"{where}: {done:4} batches completed. {_clock(elapsed)} elapsed"
        if total and not math.isinf(total):
            text = f"{where}: {done:4}/{total:.0f} ({done / total:4.0%}) completed. {_clock(elapsed)} elapsed"
            text += f", total epoch time ~ {_clock(elapsed * total / done)}"
        if self.print_timestamp:
            text = f"{datetime.now(timezone.utc):%Y-%m-%dT%H:%M:%SZ} {text}"
        if self.write_to_logging_info:
            logging.info("%s", text)
        else:
            _say(text)


def _position(counts: list[float], batch_idx: int, dataloader_idx: int) -> tuple[int, float]:
    """The number of completed batches of all loaders, and the total number."""
    return int(sum(counts[:dataloader_idx])) + batch_idx + 1, sum(counts)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes:02}:{rest:02}"


class BatchTimeCallback(Callback):
    """Measures the duration of batches and epochs, and the wait for the next batch: from the end of a batch to the
    start of the next one. Only rank 0 does.

    It prints an alert for a wait of more than *max_batch_load_time_seconds*, at most *max_load_time_warnings* times per
    epoch and in *max_load_time_epochs* epochs. The first batch, for which loaders have to start, does not count. For
    each epoch and stage (`train`, `val`) it logs `timing/STAGE/batch_time [sec] avg` and `… max`,
    `timing/STAGE/batch_loading_over_threshold [sec]` (the sum of all waits above the threshold) and
    `timing/STAGE/epoch_time [sec]`.
    """

    def __init__(
        self, max_batch_load_time_seconds: float = 0.5, max_load_time_warnings: int = 3, max_load_time_epochs: int = 5
    ) -> None:
        self.max_batch_load_time_seconds = max_batch_load_time_seconds
        self.max_load_time_warnings = max_load_time_warnings
        self.max_load_time_epochs = max_load_time_epochs
        self._timers = {"train": _Timer("training"), "val": _Timer("validation")}
        self._epochs_with_alerts: set[tuple[str, int]] = set()

    def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
        self._timers["train"].begin_epoch()

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        self._begin_batch(trainer, "train")

    def on_train_batch_end(self, *_: Any) -> None:
        self._timers["train"].end_batch()

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        self._end_epoch(trainer, module, "train")

    def on_validation_epoch_start(self, trainer: Any, module: Any) -> None:
        self._timers["val"].begin_epoch()

    def on_validation_batch_start(self, trainer: Any, *_: Any) -> None:
        self._begin_batch(trainer, "val")

    def on_validation_batch_end(self, *_: Any) -> None:
        self._timers["val"].end_batch()

    def on_validation_epoch_end(self, trainer: Any, module: Any) -> None:
        if not trainer.sanity_checking:
            self._end_epoch(trainer, module, "val")
        self._timers["train"].skip()  # validation within an epoch is not a wait for data

    def _begin_batch(self, trainer: Any, stage: str) -> None:
        timer = self._timers[stage]
        waited, is_first = timer.begin_batch(self.max_batch_load_time_seconds)
        if not trainer.is_global_zero or trainer.sanity_checking:
            return
        epoch = f"Epoch {trainer.current_epoch} {timer.title}"
        if is_first:
            _say(f"{epoch}: Loaded the first minibatch of data in {waited:.2f} sec.")
            return
        known = {key for key in self._epochs_with_alerts if key[0] == stage}
        key = (stage, trainer.current_epoch)
        is_allowed = key in known or len(known) < self.max_load_time_epochs
        if waited > self.max_batch_load_time_seconds and timer.alerts < self.max_load_time_warnings and is_allowed:
            timer.alerts += 1
            self._epochs_with_alerts.add(key)
            limit = f"more than {self.max_batch_load_time_seconds:g} sec"
            _say(f"{epoch}: Loading minibatch {timer.count} took {waited:.2f} sec, {limit}. Data loading is too slow.")

    def _end_epoch(self, trainer: Any, module: Any, stage: str) -> None:
        timer = self._timers[stage]
        if not trainer.is_global_zero or not timer.times:
            return
        seconds = time.monotonic() - timer.begun
        waits = f"of which waiting for data took {timer.waited:.2f} sec total"
        _say(f"Epoch {trainer.current_epoch} {timer.title} took {seconds:.2f}sec, {waits}.")
        found = {
            "batch_time [sec] avg": sum(timer.times) / len(timer.times),
            "batch_time [sec] max": max(timer.times),
            "batch_loading_over_threshold [sec]": timer.over_threshold,
            "epoch_time [sec]": seconds,
        }
        for name, value in found.items():
            module.log(f"timing/{stage}/{name}", value, on_step=False, on_epoch=True, rank_zero_only=True)


class _Timer:
    """The times of one epoch of a stage. `times` are the seconds of each batch."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.begin_epoch()

    def begin_epoch(self) -> None:
        self.begun = self._last_end = time.monotonic()
        self._batch_begun = 0.0
        self.times: list[float] = []
        self.waited = self.over_threshold = 0.0
        self.count = self.alerts = 0

    def begin_batch(self, threshold: float) -> tuple[float, bool]:
        """The seconds of waiting for this batch, and whether it is the first."""
        self._batch_begun = time.monotonic()
        waited = self._batch_begun - self._last_end
        self.waited += waited
        self.over_threshold += waited if waited > threshold else 0.0
        self.count += 1
        return waited, self.count == 1

    def end_batch(self) -> None:
        self._last_end = time.monotonic()
        self.times.append(self._last_end - self._batch_begun)

    def skip(self) -> None:
        self._last_end = time.monotonic()


def log_on_epoch(
    module: Any,
    name: str | None = None,
    value: Any = None,
    metrics: Mapping[str, Any] | None = None,
    reduce_fx: Any = "mean",
    sync_dist: bool | None = None,
    **options: Any,
) -> None:
    """Log *value* as *name*, and all *metrics*, of a LightningModule at the end of the epoch, as the mean of all ranks.

    With *sync_dist* None, it synchronizes if there are several ranks. *reduce_fx* combines the values of the epoch's
    steps. *options* are those of `LightningModule.log`. Raises ValueError for a name without a value and the reverse,
    and without both and metrics.
    """
    if (name is None) != (value is None) or (name is None and metrics is None):
        raise ValueError("log_on_epoch needs a name and its value, or metrics, or both.")
    is_synchronised = module.trainer.world_size > 1 if sync_dist is None else sync_dist
    found = {**(metrics or {}), **({} if name is None else {name: value})}
    defaults = {"on_step": False, "on_epoch": True, "sync_dist": is_synchronised, "reduce_fx": reduce_fx}
    module.log_dict(found, **{**defaults, **options})


def log_learning_rate(module: Any, name: str = "learning_rate") -> None:
    """Log the learning rates of a LightningModule's schedulers at the end of the epoch: as *name* if there is one, or
    else as `NAME/SCHEDULER/INDEX`, from 0. Without a scheduler, it logs nothing."""
    schedulers = module.lr_schedulers()
    if schedulers is None:
        return
    rates = [each.get_last_lr() for each in (schedulers if isinstance(schedulers, (list, tuple)) else [schedulers])]
    is_single = len(rates) == 1 and len(rates[0]) == 1
    numbered = {f"{name}/{i}/{j}": rate for i, several in enumerate(rates) for j, rate in enumerate(several)}
    log_on_epoch(module, metrics={name: rates[0][0]} if is_single else numbered, sync_dist=False)
