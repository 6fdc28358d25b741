"""Measure `himl tiles`, next to hi-ml-cpath 0.5.2 with MONAI, and a loop over OpenSlide's regions, both in one process,
their default.

12 seeded slides (4000 x 3000 pixels at level 0, those of the montages) become PNG tiles of 224 pixels with at least 5 %
of tissue, by their default rules. The figure of himl is for the whole command, those of the others without imports. If
Python 3.9 or its environment is not available, hi-ml-cpath is omitted."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from benchmarks.measure import HIML, PROGRAMS, clean_environment, new_parser, peer_python, recording, spend, turns
from benchmarks.montage import make_slides
from tests.support.clients import HI_ML_CPATH, IMAGES

OURS, REGIONS, THEIRS = "himl tiles", "OpenSlide, region by region", "hi-ml-cpath 0.5.2"
SCENARIO = "12 slides"
SLIDES, TILE = 12, 224

if __name__ == "__main__":
    args = new_parser(__doc__, 3).parse_args()
    with tempfile.TemporaryDirectory() as name, recording("tiles", args.raw) as record:
        peers = {
            REGIONS: ("regions", peer_python(record, IMAGES, REGIONS, "openslide-python", "pillow")),
            THEIRS: ("tiles", peer_python(record, HI_ML_CPATH, THEIRS, "hi-ml-cpath", "monai-weekly")),
        }
        slides, result = Path(name, "slides"), Path(name, "result")
        make_slides(slides, SLIDES)
        commands = {OURS: [HIML, "tiles", str(slides), "--tile_size", str(TILE), "--output_path", str(result), "-q"]}
        commands |= {
            peer: [python, PROGRAMS, program, str(slides), str(TILE), str(result)]
            for peer, (program, python) in peers.items()
            if python
        }
        for number, candidate in turns(commands, args.rounds):
            spent = spend(commands[candidate], {**clean_environment(), "TMPDIR": name})
            tiles = [path.stat().st_size for path in result.rglob("*.png")]
            record.add(SCENARIO, candidate, number, **spent, bytes=sum(tiles))
            shutil.rmtree(result)
            os.sync()
