"""A small replacement for Lightning: the names that the block imports, and a model and data to train."""

import sys as _sys
import types as _types


class _Trainer:
    def __init__(self, max_epochs: int, callbacks: list[object]) -> None:
        self.max_epochs, self.callbacks = max_epochs, callbacks

    def fit(self, model: object, data: object, ckpt_path: str | None = None) -> None:
        _sys.stdout.write(f"fit {model} {data} {ckpt_path}\n")


class _ModelCheckpoint:
    def __init__(self, dirpath: str, filename: str, every_n_epochs: int) -> None:
        self.path = f"{dirpath}/{filename}"


for _name in ("lightning", "lightning.pytorch", "lightning.pytorch.callbacks"):
    _sys.modules[_name] = _types.ModuleType(_name)
_sys.modules["lightning.pytorch"].Trainer = _Trainer  # type: ignore[attr-defined]
_sys.modules["lightning.pytorch.callbacks"].ModelCheckpoint = _ModelCheckpoint  # type: ignore[attr-defined]
model, data = "model", "data"
