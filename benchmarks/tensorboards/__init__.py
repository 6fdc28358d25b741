"""What `benchmarks.tb` compares, each in a file of its own."""
