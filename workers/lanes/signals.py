"""What a worker and the processes of its lanes agree on."""

import signal
import struct

INTERRUPT = signal.SIGRTMIN + 7
"""Breaks off the code that holds a lane's loop up."""
STACKS = signal.SIGRTMIN + 8
"""Has a lane write what it is running to the file of stacks, even where that code never comes back."""
PID = struct.Struct(">q")
"""How the process that forks lanes says which one it has forked."""
