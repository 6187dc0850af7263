"""The shell that lasts for a session: what it keeps, what ends it, and what is left of it then."""

import asyncio
import os
import re
from pathlib import Path

import pytest

from tests.helpers.sandboxes import eventually, is_alive, process_sandbox, process_settings
from tests.helpers.shell import output, ran, shell_session, shell_toolset
from workers.errors import SessionSetupError
from workers.sandbox.base import Session
from workers.sandbox.process import ProcessSandbox

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow]

STATE = "mkdir -p sub && cd sub; export A=1; b='x  y'; list=(1 '2 3'); f() { echo \"$b\"; }; readonly R=7"
ASK = "basename $PWD; env | grep ^A=; f; echo ${list[1]} $R"
TOLD = "sub\nA=1\nx  y\n2 3 7"


def peak_memory(pid: int) -> int:
    """Most bytes that a process has held so far."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


async def test_folder_variables_and_functions_stay(session: Session) -> None:
    await ran(session, STATE)
    assert await output(session, ASK) == TOLD


async def test_sessions_do_not_share_a_shell(shells: ProcessSandbox, session: Session) -> None:
    other = await shell_session(shells)
    await ran(session, "a=1; touch here")
    assert await output(other, 'echo "a=$a"; ls') == "a="


async def test_output_and_exit_code_are_told(session: Session) -> None:
    assert await ran(session, "echo hi; exit_code() { return 7; }; exit_code") == "hi\n[exit code 7]"
    assert await ran(session, "printf 'no newline'") == "no newline\n[exit code 0]"
    assert await ran(session, "true") == "[exit code 0]"
    assert (await ran(session, "sh -c 'kill -KILL $$'")).endswith("[exit code 137]")


async def test_stdout_and_stderr_come_in_order(session: Session) -> None:
    assert await output(session, "echo 1; echo 2 >&2; ls /dev/null; echo 4 >&2") == "1\n2\n/dev/null\n4"


async def test_stdin_is_empty(session: Session) -> None:
    assert await output(session, "cat; read line || echo nothing; echo after") == "nothing\nafter"


async def test_syntax_error_is_told_and_harms_nothing(session: Session) -> None:
    await ran(session, "a=1")
    assert "syntax error" in await ran(session, "if then")
    assert "unexpected EOF" in await ran(session, "echo 'unclosed")
    assert await output(session, "echo $a") == "1"


async def test_lines_of_errors_are_the_commands_own(session: Session) -> None:
    assert "bash: line 2: nonsense: command not found" in await ran(session, "true\nnonsense")


async def test_bytes_that_are_no_text_are_replaced(session: Session) -> None:
    assert await output(session, r"printf '\xff\x00ok\xe2\x82'") == "\ufffd\0ok\ufffd"


async def test_redirection_by_exec_lasts_for_its_command_only(session: Session) -> None:
    assert await output(session, "exec >log 2>&1; echo hidden") == ""
    assert await output(session, "cat log; echo seen") == "hidden\nseen"


@pytest.mark.parametrize(
    "command", ["exit 3", "set -e; false; true", "kill -9 $$", "exec true", "set -u; $none"]
)
async def test_ended_shell_is_told_and_replaced(session: Session, command: str) -> None:
    await ran(session, "cd /; a=1")
    assert "the shell has ended, the next command gets a fresh one]" in await ran(session, command)
    assert await output(session, 'basename "$PWD"; echo "a=$a"') == "workspace\na="


async def test_shell_that_ends_while_its_children_go_on_printing_is_noticed(session: Session) -> None:
    assert "[exit code 4; the shell has ended" in await ran(session, "yes & exit 4", timeout=60)


async def test_state_of_an_ended_shell_is_not_restored_later(session: Session) -> None:
    await ran(session, "a=1")
    await ran(session, "exit")
    await ran(session, "sleep 3600", timeout=0.2)
    assert await output(session, 'echo "a=$a"') == "a="


async def test_shell_that_ended_between_two_commands_is_told(session: Session) -> None:
    await ran(session, "shell=$$; (sleep 0.05; kill -9 $shell; touch done) & true")
    while (await session.call("read_file", {"path": "done"})).error is not None:
        await asyncio.sleep(0.02)
    told = await ran(session, "echo hi")
    assert told == "[the shell has ended since the last command; this is a fresh one]\nhi\n[exit code 0]"


async def test_shell_that_can_not_be_restored_is_told(session: Session) -> None:
    await ran(session, "trap '[ -e hang ] && sleep 3600' DEBUG")
    told = await ran(session, "touch hang", timeout=0.3)
    assert "the shell could not be restored, the next command gets a fresh one]" in told
    assert await output(session, "echo fine; trap -p DEBUG") == "fine"


async def test_exit_code_of_an_ended_shell_is_told(session: Session) -> None:
    assert "[exit code 3; the shell has ended" in await ran(session, "echo bye; exit 3")


@pytest.mark.parametrize(
    "command",
    [
        "sleep 3600",
        "while :; do :; done",
        "(setsid sleep 3600 &); sleep 3600",
        "trap '' INT TERM; sleep 3600",
        "python3 -c 'while True: pass'",
        "cat <(sleep 3600)",
        "yes",
        "set -n",
        "exec sleep 3600",
        "kill -STOP $$",
    ],
)
async def test_command_over_its_limit_is_killed_and_the_shell_lives_on(
    session: Session, command: str
) -> None:
    await ran(session, STATE)
    told = await ran(session, command, timeout=0.3)
    assert told.endswith("[killed with all that it started: it did not end within 0.3 s]")
    assert await output(session, ASK) == TOLD


async def test_nothing_that_an_overdue_command_started_lives_on(session: Session) -> None:
    started = "sleep 3600 & echo $!; setsid sleep 3600 & echo $!; (nohup sleep 3600 >/dev/null & echo $!)"
    told = await ran(session, f"{started}; sleep 3600", timeout=2)
    pids = [int(pid) for pid in re.findall(r"^\d+$", told, re.MULTILINE)]
    assert len(pids) == 3
    await eventually(lambda: not any(map(is_alive, pids)))


async def test_background_of_earlier_commands_outlives_an_overdue_one(session: Session) -> None:
    pid = await output(session, "sleep 3600 & echo $!")
    await ran(session, "sleep 3600", timeout=0.2)
    assert is_alive(int(pid))
    assert await output(session, f"kill {pid} && echo killed") == "killed"


async def test_folder_that_an_overdue_command_went_to_is_kept(session: Session) -> None:
    await ran(session, "mkdir deep; cd deep; sleep 3600", timeout=1)
    assert await output(session, 'basename "$PWD"') == "deep"


async def test_output_of_an_overdue_command_is_given(session: Session) -> None:
    assert (await ran(session, "echo so far; sleep 3600", timeout=1)).startswith("so far\n[killed")


async def test_background_output_comes_with_the_next_command(session: Session) -> None:
    await output(session, "(echo late; touch done) & until [ -e done ]; do sleep 0.01; done")
    await output(session, "(sleep 0.05; echo later; touch done2) &")
    assert "later\n" in await output(session, "until [ -e done2 ]; do sleep 0.01; done; echo now")


async def test_deleted_folder_is_survived(session: Session) -> None:
    await ran(session, "mkdir gone; cd gone; rmdir ../gone")
    await ran(session, "sleep 3600", timeout=0.2)
    assert await output(session, 'basename "$PWD"') == "workspace"


async def test_close_ends_background_processes(shells: ProcessSandbox) -> None:
    session = await shell_session(shells)
    pid = int(await output(session, "setsid sleep 3600 & echo $!"))
    await session.close()
    await eventually(lambda: not is_alive(pid))


async def test_output_over_the_cap_has_its_middle_named(session: Session) -> None:
    printed = await output(session, "seq 100000")
    assert len(printed.encode()) < 17_000
    assert printed.startswith("1\n2\n3\n") and printed.endswith("99999\n100000")
    assert "\n[… 572,511 bytes left out …]\n" in printed


async def test_gibibyte_of_output_takes_little_memory(session: Session) -> None:
    host = int(await output(session, "echo $PPID"))
    told = await ran(session, f"head -c {1 << 30} /dev/zero", timeout=110)
    assert f"[… {(1 << 30) - 16384:,} bytes left out …]" in told
    assert len(told) < 20_000
    assert peak_memory(host) < 100 << 20


async def test_endless_background_output_does_not_stop_a_command(session: Session) -> None:
    await ran(session, "yes &")
    assert "[exit code 0]" in await ran(session, "echo hi")
    await ran(session, "kill %1; wait")
    assert await output(session, "echo clean") == "clean"


async def test_huge_variable_does_not_break_the_shell(session: Session) -> None:
    await ran(session, "a=1; x=$(head -c 9000000 /dev/zero | tr '\\0' x)")
    assert await output(session, "echo $a ${#x}") == "1 9000000"
    await ran(session, "sleep 3600", timeout=0.2)
    assert await output(session, 'echo "still here"') == "still here"


async def test_commands_do_not_have_the_shells_own_descriptors(session: Session) -> None:
    code = "import os; print([fd for fd in range(256) if os.path.exists(f'/proc/self/fd/{fd}')])"
    assert await output(session, f'python3 -c "{code}"') == "[0, 1, 2]"
    assert "Bad file descriptor" in await ran(session, "echo x >&63")


async def test_forged_report_fools_nobody_but_its_author(session: Session) -> None:
    await ran(session, "printf '\\0%s 99\\0' 0123456789abcdef0123456789abcdef >/proc/$$/fd/63 || true")
    assert await ran(session, "echo fine") == "fine\n[exit code 0]"


async def test_environment_has_nothing_of_the_hosts(shells: ProcessSandbox, session: Session) -> None:
    names = {line.partition("=")[0] for line in (await output(session, "env")).splitlines()}
    assert names == {
        *("PATH", "HOME", "TMPDIR", "LANG", "TERM", "PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED"),
        *("PWD", "SHLVL", "_"),
    }
    assert set(os.environ) - names


async def test_temporary_files_have_a_place_outside_the_workspace(session: Session) -> None:
    path = await output(session, "mktemp")
    assert path.endswith(f"{session.name}/tmp/{Path(path).name}")
    assert await output(session, "ls -A") == ""


async def test_python_runs_in_the_shells_folder_and_environment(session: Session) -> None:
    await ran(session, "mkdir here; cd here; export COLOUR=red; echo 'WORD = 5' >module.py")
    code = "import os, sys, module\nprint(os.getcwd()[-5:], os.environ['COLOUR'], module.WORD)\nsys.exit(4)"
    assert await ran(session, code, tool="python") == "/here red 5\n[exit code 4]"


async def test_python_prints_in_order_and_has_no_input(session: Session) -> None:
    code = "import sys\nprint('1')\nprint('2', file=sys.stderr)\nprint('it\\'s \"$HOME\"')\ninput()"
    told = await ran(session, code, tool="python")
    assert told.startswith('1\n2\nit\'s "$HOME"\nTraceback') and "EOFError" in told


async def test_python_over_its_limit_is_killed(session: Session) -> None:
    assert "within 0.3 s]" in await ran(session, "while True: pass", timeout=0.3, tool="python")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({}, "bash needs the argument command"),
        ({"command": 5}, "command must be of type string, got int"),
        ({"command": "true", "cwd": "/"}, "bash has no argument 'cwd'; it has command, timeout"),
        ({"command": "true", "timeout": "9"}, "timeout must be of type number, got str"),
        ({"command": "true", "timeout": True}, "timeout must be of type number, got bool"),
        ({"command": "true", "timeout": 0}, "timeout must be more than 0 seconds, got 0"),
        ({"command": "true", "timeout": float("nan")}, "timeout must be more than 0 seconds, got nan"),
        ({"command": "a\0b"}, "command must not have NUL characters in it"),
        ({"command": "echo \ud800"}, "command is not valid Unicode text"),
        ({"command": "#" * 100_001}, "100,001 bytes are too many for one call"),
    ],
)
async def test_wrong_arguments_are_told(
    session: Session, arguments: dict[str, object], complaint: str
) -> None:
    result = await session.call("bash", arguments)
    assert result.error is not None and complaint in result.error


async def test_longest_command_runs(session: Session) -> None:
    quotes = "'" * 99_000
    assert (await ran(session, f"print(len({quotes!r}))", tool="python")).startswith("99000\n")
    assert await output(session, f'echo "{"é" * 40_000}" | wc -c') == "80001"


async def test_null_stands_for_an_argument_that_is_not_given(session: Session) -> None:
    assert (
        await session.call("bash", {"command": "echo hi", "timeout": None})
    ).content == "hi\n[exit code 0]"


async def test_unknown_tool_is_told(session: Session) -> None:
    result = await session.call("fly", {})
    assert result.error is not None and "there is no tool 'fly'; there are bash, python" in result.error


async def test_limits_are_the_toolsets() -> None:
    config = shell_toolset(output_cap=300, command_timeout=1.5, max_command_timeout=2)
    async with process_sandbox(config, process_settings(unsafe=True)) as sandbox:
        session = await shell_session(sandbox)
        assert len((await output(session, "seq 1000")).encode()) < 400
        assert "within 1.5 s]" in await ran(session, "sleep 3600")
        assert "within 2 s]" in await ran(session, "sleep 3600", timeout=3600)


async def test_too_few_descriptors_are_told_at_once() -> None:
    settings = process_settings(unsafe=True, session_limits={"open_files": 32})
    async with process_sandbox(shell_toolset(), settings) as sandbox:
        with pytest.raises(SessionSetupError, match=r"session_limits\.open_files: a shell needs 64, got 32"):
            await shell_session(sandbox)
