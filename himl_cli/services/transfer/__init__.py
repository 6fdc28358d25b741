"""Transfer files between a store and this machine, with paged plans, MD5 checks, resumption and atomic writes."""
