"""What `benchmarks.montage` reads and compares."""
