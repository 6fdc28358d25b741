"""Many runs on this machine: trials of a sweep, steps of a pipeline."""
