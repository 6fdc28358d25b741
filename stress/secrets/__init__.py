"""No secret is said, written or shown by a command, whatever it is given it by and however it fails; needs /proc (Linux)."""
