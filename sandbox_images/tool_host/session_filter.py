"""What a session's process is not allowed to ask of the kernel, beside what the engine's profile refuses.

The engine's profile holds for the tool host too, which needs some of it, and an engine may have none. What
is here depends on arguments, or holds for sessions only. A filter can't be taken off again, and whatever the
session starts has it as well.
"""

import ctypes
import errno
import os
import struct

_libc = ctypes.CDLL(None, use_errno=True)
_PR_SET_NO_NEW_PRIVS = 38
_PR_SET_SECCOMP = 22
_SECCOMP_MODE_FILTER = 2
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
"""Offsets in `struct seccomp_data`; arguments take 8 bytes each, the lower half first."""
_LOAD, _IF_EQUAL, _IF_AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_X32 = 0x40000000

_MACHINES: dict[str, tuple[int, dict[str, int]]] = {
    "x86_64": (0xC000003E, {"ptrace": 101, "prctl": 157, "setsockopt": 54}),
    "aarch64": (0xC00000B7, {"ptrace": 117, "prctl": 167, "setsockopt": 208}),
}
_PR_SET_CHILD_SUBREAPER = 36
_SOL_SOCKET, _SO_SNDBUF, _SO_RCVBUF = 1, 7, 8


def refuse_system_calls(may_trace: bool) -> bool:
    """Puts the filter on this process, for good.

    - System calls of another architecture, whose numbers would mean others, do not exist.
    - A session can't stop adopting its orphans.
    - Sizes of socket buffers stay as they are: to set one is answered with success and does nothing. They are
      memory that counts as no process's own, and a program may ask for 8 MiB a socket.
    - `ptrace` is refused where nothing that the session starts has a use for it.

    Args:
        may_trace: Whether what the session starts may debug its own children.

    Returns:
        Whether it is on. It is not on a machine or a kernel that has no such filters.
    """
    known = _MACHINES.get(os.uname().machine)
    if known is None:
        return False
    architecture, numbers = known
    program = _program(architecture, numbers, may_trace)
    buffer = ctypes.create_string_buffer(program)
    header = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(buffer))
    _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    return _libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, header, 0, 0) == 0


def _program(architecture: int, numbers: dict[str, int], may_trace: bool) -> bytes:
    """The filter as classic BPF: 8 bytes an instruction, jumps counted from the next one."""
    missing, refused, nothing = _ERRNO | errno.ENOSYS, _ERRNO | errno.EPERM, _ERRNO
    code = [
        _instruction(_LOAD, _ARCHITECTURE),
        _instruction(_IF_EQUAL, architecture, 1, 0),
        _instruction(_RETURN, missing),
        _instruction(_LOAD, _NUMBER),
        _instruction(_IF_AT_LEAST, _X32, 0, 1),
        _instruction(_RETURN, missing),
    ]
    if not may_trace:
        code += [_instruction(_IF_EQUAL, numbers["ptrace"], 0, 1), _instruction(_RETURN, refused)]
    code += [
        _instruction(_IF_EQUAL, numbers["prctl"], 0, 6),
        _instruction(_LOAD, _ARGUMENTS),
        _instruction(_IF_EQUAL, _PR_SET_CHILD_SUBREAPER, 0, 3),
        _instruction(_LOAD, _ARGUMENTS + 8),
        _instruction(_IF_EQUAL, 0, 0, 1),
        _instruction(_RETURN, refused),
        _instruction(_RETURN, _ALLOW),
        _instruction(_IF_EQUAL, numbers["setsockopt"], 0, 6),
        _instruction(_LOAD, _ARGUMENTS + 8),
        _instruction(_IF_EQUAL, _SOL_SOCKET, 0, 4),
        _instruction(_LOAD, _ARGUMENTS + 16),
        _instruction(_IF_EQUAL, _SO_SNDBUF, 1, 0),
        _instruction(_IF_EQUAL, _SO_RCVBUF, 0, 1),
        _instruction(_RETURN, nothing),
        _instruction(_RETURN, _ALLOW),
    ]
    return b"".join(code)


def _instruction(operation: int, operand: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("HBBI", operation, if_true, if_false, operand)
