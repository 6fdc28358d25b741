"""The local workspace: a `.himl` folder, its database, and jobs on this machine."""

SUPERVISOR = f"{__name__}.supervisor"  # the module of the process that supervises a local job
POINTERS = "pointers"  # the folder of the pointers to runs on other machines
