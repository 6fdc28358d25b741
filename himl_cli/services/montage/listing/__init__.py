"""Which slides a montage shows: files of a folder, or lines of a CSV, less those that were left out."""
