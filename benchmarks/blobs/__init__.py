"""Places that keep blobs for measurements: nginx to download from, Azurite to upload to."""
