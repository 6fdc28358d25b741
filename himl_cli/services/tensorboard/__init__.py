"""Event files of runs: where they lie, copies that grow with them, and TensorBoard over all of them."""
