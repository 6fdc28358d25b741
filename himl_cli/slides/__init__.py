"""Show slides in one image, or cut them into tiles. Slides are read and encoded in strips, so that memory use does not
grow with their number.

Modules that read, paint or encode pixels import numpy and Pillow, which the extra `montage` installs. Commands check
for it before they import these modules. `query`, `stored`, `cluster`, `files`, `layout` and `threads` import neither.
"""
