"""Eight ranks of a node that make the same call: by a real launcher in all that may come between, and in each order in which they can be started. Linux."""
