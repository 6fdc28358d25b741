"""Files: datastores, artifacts, blobs."""
