"""Random programs that do to a sandbox what none should: system calls, signals, limits, files, memory.

Each is a Python source that is made up from a seed. It goes through all of its actions, whatever comes of
each, and then ends, stays or lies in wait.
"""

from random import Random

_PRELUDE = """
import ctypes, fcntl, mmap, os, resource, signal, socket, stat, struct, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
me, parent = os.getpid(), os.getppid()
kept = []
def child(act, wait=False):
    pid = os.fork()
    if pid == 0:
        try:
            act()
        finally:
            os._exit(0)
    if wait:
        os.waitpid(pid, 0)
    return pid
def stay(seconds=3600):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(min(seconds, 60))
def until_refused(act, most=100_000, seconds=1.5):
    end = time.monotonic() + seconds
    for _ in range(most):
        kept.append(act())
        if time.monotonic() > end:
            break
"""

_SIGNALS = "signal.SIG{}"
_NAMES = ["KILL", "STOP", "TERM", "CONT", "HUP", "SEGV", "XCPU", "TRAP", "CHLD", "PIPE"]
_WHOM = ["parent", "1", "-1", "0", "me", "-me", "-parent", "2", "int(os.environ.get('SHELL_PID', 3))"]

ACTIONS: dict[str, list[str]] = {
    "system calls": [
        "libc.syscall({number}, {a}, {b}, {c}, {a}, {b}, {c})",
        "[libc.syscall(n, {a}, {b}, {c}, 0, 0, 0) for n in range({number}, {number} + 6)]",
        "libc.syscall(272, {flags})",
        "libc.syscall(56, {flags} | 17, 0, 0, 0, 0) or os._exit(0)",
        "libc.unshare({flags})",
        "libc.prctl({option}, {a}, {b}, 0, 0)",
        "libc.syscall(101, {request}, {whom}, 0, 0)",
        "libc.syscall(310, {whom}, 0, 0, 0, 0, 0)",
    ],
    "tracing": [
        "libc.ptrace(0, 0, 0, 0)",
        "child(lambda: (libc.ptrace(0, 0, 0, 0), os.kill(os.getpid(), signal.SIGSTOP)))",
        "child(lambda: (os.setsid(), libc.ptrace(0x4206, me, 0, 0), stay()))",
        "libc.ptrace(0x4206, parent, 0, 0)",
        "[threading.Thread(target=lambda: (libc.ptrace(0, 0, 0, 0), libc.syscall(200, libc.syscall(186), 5)),"
        " daemon=True).start() for _ in range(4)]",
    ],
    "signals": [
        "os.kill({whom}, {signal})",
        "os.kill({whom}, {signal})",
        "[os.kill(int(p), {signal}) for p in os.listdir('/proc') if p.isdigit() and int(p) != me]",
        "signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))",
        "[signal.signal(n, signal.SIG_IGN) for n in range(1, 32) if n not in (9, 19)]",
        "signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)",
        "libc.prctl(1, 9, 0, 0, 0)",
        "os.killpg({whom}, {signal})",
    ],
    "limits": [
        "resource.setrlimit({limit}, ({low}, {low}))",
        "resource.prlimit({whom}, {limit}, ({low}, {low}))",
        "[resource.setrlimit(n, (resource.getrlimit(n)[1],) * 2) for n in range(16)]",
        "os.sched_setscheduler({whom}, {policy}, os.sched_param({priority}))",
        "os.setpriority(os.PRIO_PROCESS, {whom}, {priority})",
        "os.sched_setaffinity({whom}, {{0}})",
        "open('/proc/%d/{file}' % {whom}, 'w').write('{value}')",
        "os.setpriority(os.PRIO_USER, 0, 19)",
    ],
    "files": [
        "os.rename(os.getcwd(), os.getcwd() + '{n}')",
        "os.symlink(os.getcwd(), 'loop{n}')",
        "os.mkfifo('fifo{n}')",
        "socket.socket(socket.AF_UNIX).bind('socket{n}')",
        "os.chmod({folder}, {mode})",
        "[os.chmod(each.path, {mode}) for each in os.scandir('.')]",
        "open(b'\\xff\\xfe\\n{n}', 'wb').write(b'\\x00\\xff')",
        "open('sparse{n}', 'wb').truncate({size} << 20)",
        "until_refused(lambda: open('full%d' % len(kept), 'wb').write(b'x' * (1 << 20)))",
        "until_refused(lambda: os.close(os.open('many%d' % len(kept), os.O_CREAT)))",
        "until_refused(lambda: open('/dev/shm/%d-%d' % (me, len(kept)), 'wb').write(b'x' * (1 << 20)), 200)",
        "[(os.mkdir('d' * 200), os.chdir('d' * 200)) for _ in range({size})]",
        "[os.unlink(each.path) for each in os.scandir('.') if each.is_file(follow_symlinks=False)]",
        "__import__('shutil').rmtree({folder}, ignore_errors=True)",
        "os.symlink('/proc/self/mem', 'pages{n}.py')",
        "(os.unlink('pages.py'), os.mkfifo('pages.py'))",
        "(os.unlink('pages.py'), os.symlink('/dev/zero', 'pages.py'))",
        "(os.mkdir('s{n}'), child(lambda: [(os.rename('s{n}', 't{n}'), os.rename('t{n}', 's{n}')) "
        "for _ in range(100_000)]))",
        "fcntl.fcntl(os.open('pages.py', os.O_RDONLY), 1024, 1)",
        "fcntl.flock(os.open('pages.py', os.O_RDONLY), fcntl.LOCK_EX)",
        "os.chroot({folder})",
    ],
    "memory": [
        "kept.append(b'\\1' * ({size} << 20))",
        "until_refused(lambda: b'\\1' * (1 << 20), {size} * 4)",
        "kept.append(mmap.mmap(-1, {size} << 20)) or kept[-1].write(b'\\1' * ({size} << 20))",
        "until_refused(lambda: libc.shmget(0, 1 << 20, 0o1600), 200)",
        "until_refused(lambda: libc.semget(0, 32000, 0o1600), 200)",
        "until_refused(lambda: libc.msgget(0, 0o1600), 200)",
        "until_refused(lambda: os.memfd_create('m{n}'), 200)",
        "until_refused(lambda: os.write(os.pipe()[1], b'x' * 65536), 200)",
        "until_refused(lambda: socket.socketpair()[0].send(b'x' * 65536), 200)",
        "libc.mlockall(3)",
        "[child(lambda: (kept.append(b'\\1' * ({size} << 20)), stay())) for _ in range(6)]",
    ],
    "processes": [
        "until_refused(lambda: child(stay), 400)",
        "until_refused(lambda: child(lambda: (os.setsid(), child(stay))), 400)",
        "until_refused(lambda: child(lambda: None), 400)",
        "until_refused(lambda: threading.Thread(target=stay, daemon=True).start(), 200)",
        "child(lambda: [child(lambda: (time.sleep(0.01), os.fork(), stay(1))) for _ in range(200)])",
        "[child(lambda: [None for _ in iter(int, 1)]) for _ in range({n} % 40)]",
        "child(lambda: (os.setsid(), [None for _ in iter(int, 1)]))",
        "child(lambda: (os.setsid(), [(time.sleep(0.005), os.kill(parent, 19)) for _ in range(500)]))",
        "(libc.prctl(36, 0, 0, 0, 0), child(lambda: (os.setsid(), child(stay))))",
    ],
    "descriptors": [
        "until_refused(lambda: os.open('/dev/null', os.O_RDONLY), 5000)",
        "until_refused(lambda: os.pipe(), 5000)",
        "os.closerange(0, 256)",
        "[os.write(n, b'\\0\\0\\0\\2{{}}' * 100) for n in range(1, 70)]",
        "[os.open('/proc/%d/fd/%d' % ({whom}, n), os.O_RDWR) for n in range(8)]",
        "[os.dup2(0, n) for n in range(64)]",
        "until_refused(lambda: libc.inotify_init(), 500)",
        "until_refused(lambda: os.posix_openpt(os.O_RDWR), 500)",
        "until_refused(lambda: libc.epoll_create(1), 500)",
    ],
    "output": [
        "[sys.stdout.write('x' * 65536) for _ in range({size} * 16)]",
        "os.write(1, bytes(range(256)) * 64)",
        "print('\\x00', flush=True)",
        "os.write(63, b'\\0' * 5_000_000)",
    ],
}
"""By what they are aimed at. Each is one expression or statement."""

ENDS = [
    "",
    "",
    "",
    "os._exit(0)",
    "os._exit(255)",
    "os.kill(me, 9)",
    "os.abort()",
    "stay()",
    "os.kill(me, 19)",
]


QUICK_ENDS = [*ENDS[:7]] * 3 + ENDS[7:]


def hostile_program(seed: object, ends: list[str] = ENDS) -> str:
    """A program, the same for the same seed."""
    random = Random(f"{seed}")
    aims = random.sample(sorted(ACTIONS), random.randint(1, 3))
    actions = [random.choice(ACTIONS[random.choice(aims)]) for _ in range(random.randint(1, 6))]
    tried = "\n".join(
        f"try:\n    {_filled(action, random)}\nexcept BaseException: pass" for action in actions
    )
    return f"{_PRELUDE}\n{tried}\n{random.choice(ends)}\n"


def hostile_submission(seed: object) -> str:
    """A module that is hostile to what examines it."""
    return (
        f"{hostile_program(seed, QUICK_ENDS)}\ndef page_count(total, size):\n    return -(-total // size)\n"
    )


def _filled(action: str, random: Random) -> str:
    return action.format(
        number=random.randrange(462),
        a=random.choice([0, 1, -1, 4096, 2**31, "me", "parent", "ctypes.c_long(2**63 - 1)"]),
        b=random.choice([0, 1, -1, 64, 2**20, "ctypes.create_string_buffer(4096)"]),
        c=random.choice([0, 1, -1, 7, 2**16, "ctypes.create_string_buffer(b'.')"]),
        flags=hex(random.choice([0x10000000, 0x20000, 0x40000000, 0x20000000, 0x8000000, 0x7E020000])),
        option=random.randrange(1, 70),
        request=random.choice([0, 7, 8, 16, 17, 24, 0x4206, 0x4207]),
        whom=random.choice(_WHOM),
        signal=_SIGNALS.format(random.choice(_NAMES)),
        limit=random.randrange(16),
        low=random.choice([0, 1, 8, 4096]),
        policy=random.choice([0, 3, 5]),
        priority=random.choice([0, 19, -20, 1]),
        file=random.choice(["oom_score_adj", "oom_adj", "mem", "comm", "coredump_filter", "timerslack_ns"]),
        value=random.choice(["-1000", "0", "1000", "x"]),
        folder=random.choice(["'.'", "'..'", "'../tmp'", "'/scratch'"]),
        mode=random.choice(["0", "0o777", "0o100", "0o4755"]),
        size=random.choice([1, 8, 32, 64]),
        n=random.randrange(100),
    )
