"""Code that a hostile session runs, for the dummy toolset's `attempt`."""

TRACED_BY_ITS_PARENT = """
import time
libc = ctypes.CDLL(None, use_errno=True)
if libc.ptrace(0, 0, 0, 0) != 0:
    seen = os.strerror(ctypes.get_errno())
else:
    os.kill(os.getpid(), signal.SIGTRAP)
    time.sleep(3600)
"""
"""The kernel tells the tool host of a stop as it does of a death."""

TRACED_BY_ITS_CHILD = """
import time
libc = ctypes.CDLL(None, use_errno=True)
libc.prctl(4, 1, 0, 0, 0)
libc.prctl(0x59616D61, ctypes.c_long(-1), 0, 0, 0)
me, (reader, writer) = os.getpid(), os.pipe()
if os.fork() == 0:
    os.setsid()
    traced = libc.ptrace(0x4206, me, 0, 0)
    os.write(writer, os.strerror(ctypes.get_errno()).encode() if traced else b"traced")
    time.sleep(3600)
seen = os.read(reader, 100).decode()
"""
"""The tracer leaves its group and never looks at the dead, so that the kernel does not give them up."""

TRACED_AND_FULL_OF_THREADS = """
import threading, time
libc = ctypes.CDLL(None, use_errno=True)
stopped = []
def stop():
    if libc.ptrace(0, 0, 0, 0) == 0:
        libc.syscall(200, libc.syscall(186), 5)
    stopped.append(1)
for _ in range(4):
    threading.Thread(target=stop, daemon=True).start()
time.sleep(0.5)
seen = "through"
"""
"""Threads that stop, of which the kernel tells by numbers that are no process's."""

STOP_CONTINUE_AND_EXIT_WITH_EVERYTHING = """
for number in (signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN):
    pid = os.fork()
    if pid == 0:
        os.setsid()
        if os.fork() == 0:
            os.kill(os.getpid(), number)
            os._exit(0)
        os._exit(0)
    os.waitpid(pid, 0)
seen = "left"
"""
