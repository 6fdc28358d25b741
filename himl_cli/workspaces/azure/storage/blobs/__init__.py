"""Blobs of Azure Storage as himl's `BlobStore`: listed and described by its REST interface, moved by libcurl."""
