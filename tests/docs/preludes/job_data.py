"""What a job finds in its variables of the datasets that it was given."""

import os as _os

for _name in ("INPUT_images", "INPUT_INPUT_0", "OUTPUT_small"):
    _os.environ[f"AZURE_ML_{_name}"] = "data/mnist"
