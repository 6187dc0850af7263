"""What agents run still runs under the profile and a session's own filter: compilers, debuggers and the like.

The images have few of them. So a container is isolated as a sandbox is, with this machine's own programs
mounted in place of the image's; what the machine lacks is skipped.
"""

import shutil
from pathlib import Path

import docker
import pytest

import sandbox_images
from workers.sandbox.isolation import isolation
from workers.settings import SandboxSettings

pytestmark = pytest.mark.docker

_SESSION = """
import os, subprocess, sys
from sandbox_images.tool_host.session_filter import refuse_system_calls
from sandbox_images.tool_host.write_limits import keep_from_writing_to_proc
keep_from_writing_to_proc()
assert refuse_system_calls(may_trace=True)
os.chdir("/scratch")
os.environ.update(HOME="/scratch", TMPDIR="/scratch")
open("a.c", "w").write('#include <stdio.h>\\nint main(void) { puts("hello"); return 0; }\\n')
open("A.java", "w").write('class A { public static void main(String[] a) throws Exception {'
    ' var t = new Thread(() -> System.out.println("hello")); t.start(); t.join(); } }')
sys.exit(subprocess.run(sys.argv[1], shell=True).returncode)
"""
PROGRAMS = {
    "gcc": ("gcc -O2 -g -o a a.c && nm a | grep ' main'", "main"),
    "g++": ("g++ -x c++ -o a a.c && nm a | grep ' main'", "main"),
    "gdb": ("gdb -q -batch -ex 'break exit' -ex run -ex bt -ex kill --args /usr/bin/true 2>&1", "#0"),
    "strace": ("strace -f -e trace=execve sh -c 'true; /bin/echo hello' 2>&1", "execve"),
    "node": (
        "node -e \"const c=require('child_process');require('fs').readFile('/etc/passwd',()=>"
        "console.log(c.execSync('echo hello').toString()))\"",
        "hello",
    ),
    "java": ("java -Xmx256m A.java", "hello"),
    "rustc": (
        "printf 'fn main() { std::thread::spawn(|| println!(\"hello\")).join().unwrap(); }' > a.rs"
        " && rustc -o a a.rs && nm a | grep ' main'",
        "main",
    ),
    "perl": ("perl -e 'print `echo hello`'", "hello"),
    "git": (
        "git init -q r && cd r && git add . && git -c user.name=a -c user.email=b commit -q"
        " --allow-empty -m hello && git log --oneline",
        "hello",
    ),
    "make": ("printf 'a:\\n\\t@echo hello\\n' > Makefile && make -j4", "hello"),
    "script": ("script -qec 'echo hello' /dev/null", "hello"),
    "tar": ("mkdir d e && echo hello > d/f && tar -C d -c . | tar -C e -x && mv e/f g && cat g", "hello"),
}
PYTHON = {
    "a pool of processes": "from multiprocessing import Pool; p = Pool(2); print(p.map(len, ['hello', 'a']))",
    "threads": (
        "from concurrent.futures import ThreadPoolExecutor as T; print(list(T().map(len, ['hello'] * 9)))"
    ),
    "asyncio and a server on loopback": (
        "import asyncio\n"
        "async def main():\n"
        " async def answer(r, w): w.write(b'hello'); w.close()\n"
        " s = await asyncio.start_server(answer, '127.0.0.1', 0)\n"
        " r, w = await asyncio.open_connection(*s.sockets[0].getsockname()); print(await r.read())\n"
        "asyncio.run(main())"
    ),
    "sqlite": (
        "import sqlite3; c = sqlite3.connect('d'); c.execute('create table t(a)'); c.commit(); print('hello')"
    ),
    "shared memory": (
        "from multiprocessing.shared_memory import SharedMemory as S\nS(create=True, size=9).unlink()\n"
        "print('hello')"
    ),
    "a process's own limits": (
        "import resource as r; r.setrlimit(r.RLIMIT_CPU, (9, 9)); print(r.getrlimit(0))"
    ),
    "lower priority": "import os; print(os.nice(5))",
    "larger buffers of a socket": (
        "import socket as s; a = s.socket(); a.setsockopt(s.SOL_SOCKET, s.SO_SNDBUF, 1 << 20); "
        "a.setsockopt(s.SOL_SOCKET, s.SO_REUSEADDR, 1); print(a.getsockopt(s.SOL_SOCKET, s.SO_REUSEADDR))"
    ),
    "the sync of a disk": "import os; os.sync(); print('hello')",
    "a terminal": "import pty; print(pty.spawn(['true']))",
}


def run(engine: docker.DockerClient, image: str, command: str) -> str:
    settings = SandboxSettings(image=image, memory_mb=1024)
    api = engine.api
    limits = isolation(settings, session_users=False)
    limits["auto_remove"] = False
    limits["binds"] = [
        "/usr:/usr:ro",
        f"{Path(sandbox_images.__file__).parent}:/own/sandbox_images:ro",
        *(
            f"{folder}:{folder}:ro"
            for folder in ("/etc/alternatives", "/etc/java-17-openjdk")
            if Path(folder).exists()
        ),
    ]
    del limits["log_config"]
    created = api.create_container(
        image,
        entrypoint=["/usr/bin/python3", "-c", _SESSION, command],
        environment={"PYTHONPATH": "/own", "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
        user="65534:65534",
        host_config=api.create_host_config(**limits),
    )
    try:
        api.start(created)
        status = api.wait(created, timeout=600)["StatusCode"]
        said = api.logs(created).decode("utf-8", "replace")
        assert status == 0, said
        return said
    finally:
        api.remove_container(created, force=True)


@pytest.mark.parametrize("program", PROGRAMS)
def test_program_runs(engine: docker.DockerClient, dummy_image: str, program: str) -> None:
    if shutil.which(program, path="/usr/bin:/bin") is None:
        pytest.skip(f"this machine has no {program}")
    command, expected = PROGRAMS[program]
    said = run(engine, dummy_image, command)
    assert expected in said, said


@pytest.mark.parametrize("code", PYTHON.values(), ids=PYTHON)
def test_python_runs(engine: docker.DockerClient, dummy_image: str, code: str) -> None:
    said = run(engine, dummy_image, f"python3 - <<'END'\n{code}\nEND")
    assert said.strip(), said
