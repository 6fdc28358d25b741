"""The Python environment of a job on a cluster: which one is meant, and the text that describes it."""
