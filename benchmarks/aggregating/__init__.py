"""What `benchmarks.aggregate` compares, each in a file of its own."""
