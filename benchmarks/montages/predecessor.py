"""hi-ml-cpath's own montage, as its script `create_montage.py` makes it, in an environment that holds that package.

Arguments: the folder of slides, the glob, the width, the number of processes, the folder for the result. The script itself runs only in a checkout of its
repository; what it does after that check is called here.
"""

from __future__ import annotations

import sys
from pathlib import Path

from health_cpath.utils.montage import MontageCreation

if __name__ == "__main__":
    slides, pattern, width, processes, result = sys.argv[1:]
    montage = MontageCreation()
    montage.image_glob_pattern = pattern
    montage.level = 1
    montage.width = int(width)
    montage.parallel = int(processes)
    montage.backend = "openslide"
    montage.output_path = Path(result)
    montage.create_montage(Path(slides))
