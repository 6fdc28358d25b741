"""One file at an https address, read as the files of a workspace are."""
