"""The environment variables of a job with the paths of its datasets."""

import os as _os

for _name in ("INPUT_images", "INPUT_INPUT_0", "OUTPUT_small"):
    _os.environ[f"AZURE_ML_{_name}"] = "data/mnist"
