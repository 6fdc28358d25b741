"""The making of a montage: slides are read, painted into bands of rows, and the bands are handed to the files, from the
top down."""
