"""Moving files between a store and this machine: planned in pages, checked by MD5, resumed, never half-written."""
