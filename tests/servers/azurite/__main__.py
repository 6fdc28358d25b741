"""`python -m tests.servers.azurite`: install Azurite where it is not there yet, so that no test has to wait for it."""

import sys

from tests.servers.azurite import AzuriteFailed, installed

if __name__ == "__main__":
    try:
        installed()
    except AzuriteFailed as e:
        sys.exit(str(e))
