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

LOWER_OOM_SCORE = """
import subprocess
ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)
seen = []
for target in ("/proc/self/oom_score_adj", "/proc/thread-self/oom_score_adj", "/proc/self/oom_adj"):
    for score in ("0", "-1000"):
        try:
            open(target, "w").write(score)
            seen.append(open("/proc/self/oom_score_adj").read().strip())
        except OSError as error:
            seen.append(error.strerror)
lower = "echo 0 > /proc/self/oom_score_adj || echo Permission denied; cat /proc/self/oom_score_adj"
ran = subprocess.run(["sh", "-c", lower], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
seen += ran.stdout.split("\\n")[:-1]
seen = json.dumps(seen)
"""

FILL_SEMAPHORES = """
libc = ctypes.CDLL(None, use_errno=True)
made = 0
for size in (32000, 4096, 256, 32, 1):
    while libc.semget(0, size, 0o600) >= 0:
        made += size
seen = made
"""
FILL_MESSAGES = """
libc = ctypes.CDLL(None, use_errno=True)
message = ctypes.create_string_buffer(8 + 16)
message[0] = 1
sent = 0
while (queue := libc.msgget(0, 0o600)) >= 0:
    while libc.msgsnd(queue, message, 0, 0o4000) == 0:
        sent += 1
seen = sent
"""
LEAVE_THINGS_BEHIND = """
libc = ctypes.CDLL(None, use_errno=True)
got = [
    libc.shmget(0x77, 4096, 0o1600),
    libc.msgget(0x77, 0o1600),
    libc.semget(0x77, 3, 0o1600),
]
os.close(os.open("/dev/mqueue/left", os.O_CREAT | os.O_RDWR, 0o600))
os.makedirs("/dev/shm/left/below")
open("/dev/shm/left/below/file", "w").write("left")
open("/dev/shm/left-file", "w").write("left")
seen = "left" if min(got) >= 0 else got
"""
LOOK_FOR_THINGS = """
seen = [
    f"{kind} {line.split()[1]}"
    for kind in ("shm", "msg", "sem")
    for line in open(f"/proc/sysvipc/{kind}").read().splitlines()[1:]
    if int(line.split()[0]) == 0x77
]
listed = os.listdir("/dev/shm") + os.listdir("/dev/mqueue")
seen += [name for name in listed if name.startswith("left")]
"""

FILL_SOCKETS = """
import time
made = 0
for _ in range(24):
    if os.fork() == 0:
        kept = []
        try:
            while True:
                pair = socket.socketpair()
                kept.append(pair)
                for end in pair:
                    end.setblocking(False)
                    try:
                        while True:
                            end.send(b"x" * 4096)
                    except BlockingIOError:
                        pass
        except OSError:
            time.sleep(3600)
    made += 1
time.sleep(20)
seen = made
"""
TAKE_TERMINALS = """
import time
kept = []
try:
    for _ in range(120):
        kept.append(os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY))
except OSError as error:
    pass
time.sleep(5)
seen = len(kept)
"""
