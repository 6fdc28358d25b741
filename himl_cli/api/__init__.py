"""The functions and objects that scripts import from `himl_cli`: hi-ml's names, with the same services as the commands.

`himl_cli/__init__.py` exports them by name, and imports each at its first use.
"""
