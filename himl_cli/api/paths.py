"""How scripts name files and folders."""

from __future__ import annotations

import os

PathLike = str | os.PathLike[str]
