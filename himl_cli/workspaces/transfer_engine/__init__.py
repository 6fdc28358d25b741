"""Many HTTP requests at once through libcurl, retried: for blobs of Azure Storage and files at web addresses."""
