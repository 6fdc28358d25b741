"""TensorBoard for the event files of runs, and incremental copies of these files."""
