"""Test the model in --input_data, and write the accuracy to outputs/results.json, a file of the run."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import joblib
import numpy as np


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--input_data", type=Path, required=True, help="added by the pipeline")
    args = parser.parse_args()

    model = joblib.load(args.input_data / "model.joblib")
    images = np.load(args.input_data / "test.npz")
    accuracy = float((model.predict(images["pixels"]) == images["digits"]).mean())
    results = Path("outputs", "results.json")
    results.parent.mkdir(exist_ok=True)
    results.write_text(json.dumps({"test_accuracy": round(accuracy, 4), "test_images": len(images["digits"])}) + "\n")
    print(f"accuracy {accuracy:.3f} on {len(images['digits'])} images")


if __name__ == "__main__":
    main()
