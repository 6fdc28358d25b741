"""Print the size of the packages installed for the Python that runs this, as a JSON document: `installed_size.py
[EXTRA]`. Needs only the standard library.
"""

from __future__ import annotations

import json
import platform
import sys
import sysconfig
from pathlib import Path


def main() -> None:
    site = Path(sysconfig.get_path("purelib"))
    files = [
        path
        for path in site.rglob("*")
        if path.is_file() and path.relative_to(site).parts[0].partition("-")[0] != "pip"
    ]
    measured = {
        "extra": sys.argv[1] if len(sys.argv) > 1 else "",
        "bytes": sum(path.stat().st_size for path in files),
        "files": len(files),
        "packages": sum(
            path.name.endswith(".dist-info") and not path.name.startswith("pip-") for path in site.iterdir()
        ),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
    }
    sys.stdout.write(f"{json.dumps(measured)}\n")


if __name__ == "__main__":
    main()
