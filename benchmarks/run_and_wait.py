"""Run a command and print its figures. This is a separate process, because the peak memory of a child includes that of
the process that starts it.

`python -S benchmarks/run_and_wait.py COMMAND...` prints a line of figures, then the output of the command. It imports
little to keep its memory small."""

import os
import sys
import time

reading, writing = os.pipe()
start = time.perf_counter()
null = os.open(os.devnull, os.O_RDONLY)
streams = [
    (os.POSIX_SPAWN_DUP2, null, 0),
    (os.POSIX_SPAWN_DUP2, writing, 1),
    (os.POSIX_SPAWN_DUP2, writing, 2),
    (os.POSIX_SPAWN_CLOSE, reading),
]
pid = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ, file_actions=streams)
os.close(writing)
with open(reading, "rb", buffering=0) as pipe:
    said = pipe.readall()
_, status, usage = os.wait4(pid, 0)
figures = (
    time.perf_counter() - start,
    usage.ru_utime + usage.ru_stime,
    usage.ru_maxrss,
    os.waitstatus_to_exitcode(status),
)
sys.stdout.write(" ".join(map(repr, figures)) + "\n")
sys.stdout.flush()
sys.stdout.buffer.write(said or b"")
