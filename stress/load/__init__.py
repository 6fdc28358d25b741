"""Many: blobs, runs, writers at once, and looks."""
