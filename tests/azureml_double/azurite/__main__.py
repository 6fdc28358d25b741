"""`python -m tests.azureml_double.azurite`: install Azurite if it is missing, so that no test has to wait for it."""

import sys

from tests.azureml_double.azurite import AzuriteFailed, installed

if __name__ == "__main__":
    try:
        installed()
    except AzuriteFailed as e:
        sys.exit(str(e))
