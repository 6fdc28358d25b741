"""A training for tests of pre-emption: it goes on from its recovery checkpoint, and its curve is the same however often it is interrupted."""

from __future__ import annotations

EPOCHS = 10

# Notes each epoch in ../notes/epochs; does not end while ../notes/hold is there. A checkpoint is written in halves, so that a kill may tear it.
TRAIN = """
import io, json, os, time, zipfile
from pathlib import Path
from himl_cli import RUN_CONTEXT
from himl_cli.job import recovery_checkpoint

notes, folder = Path(os.environ["NOTES"]), Path("outputs/checkpoints")
folder.mkdir(parents=True, exist_ok=True)
found = recovery_checkpoint()
state = {"epoch": -1, "weight": 4.0}
if found is not None:
    with zipfile.ZipFile(found) as archive:
        state = json.loads(archive.read("state.json"))
with (notes / "tries").open("a") as stream:
    stream.write(f"{os.getpid()} {state['epoch']}\\n")
for epoch in range(state["epoch"] + 1, 10):
    while epoch == 9 and (notes / "hold").exists():
        time.sleep(0.01)
    state = {"epoch": epoch, "weight": state["weight"] * (0.7 + epoch / 40)}
    RUN_CONTEXT.log("loss", state["weight"], step=epoch)
    RUN_CONTEXT.flush()  # what the checkpoint stands for is on record before there is one
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("state.json", json.dumps(state))
    data = content.getvalue()
    with (folder / f"recovery_epoch={epoch}.ckpt").open("wb") as stream:
        for piece in (data[: len(data) // 2], data[len(data) // 2 :]):
            stream.write(piece)
            stream.flush()
            time.sleep(0.01)
    with (notes / "epochs").open("a") as stream:
        stream.write(f"{os.getpid()} {epoch}\\n")
"""


def undisturbed() -> dict[int, float]:
    """The loss by epoch of a training that nothing interrupts."""
    weight, curve = 4.0, {}
    for epoch in range(EPOCHS):
        weight *= 0.7 + epoch / 40
        curve[epoch] = weight
    return curve
