"""The functions and objects that scripts import from `himl_cli`: hi-ml's names, the same services behind as the
commands have.

`himl_cli/__init__.py` hands them out by name, each imported when it is first asked for.
"""
