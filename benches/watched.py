"""Runs a command and tells how long it took and how much memory it held."""

import subprocess
import sys

# A process counts the memory of the one that started it as its own: so a small one starts it.
LAUNCH = """
import os, sys, time
start = time.perf_counter()
null = os.open(os.devnull, os.O_RDWR)
streams = [(os.POSIX_SPAWN_DUP2, null, fd) for fd in (1, 2)]
pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=streams)
_, status, usage = os.wait4(pid, 0)
print(status, time.perf_counter() - start, usage.ru_maxrss * 1024)
"""


def run(command):
    """Whether it worked, wall seconds, peak resident bytes."""
    command = [sys.executable, "-I", "-S", "-c", LAUNCH, *command]
    status, seconds, peak = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return status == "0", float(seconds), int(peak)
