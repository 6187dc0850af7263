"""Where a session may write: nowhere below `/proc`, whose files change what the kernel thinks of a process.

The one that matters is `oom_score_adj`. A session begins with a high one, so that the kernel takes it before
the tool host when memory runs out; it may set its own back, and the tool host can't forbid that without a
capability that engines don't have to give. Landlock can, and needs none (Linux 5.19).
"""

import ctypes
import os
import stat
import struct
from contextlib import suppress

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
"""Numbers of Landlock's system calls, the same on all machines."""
_ASK_VERSION = 1
_FIRST_VERSION = 2
"""The version that can allow files to be moved from folder to folder."""
_PATH_BENEATH = 1
_WRITE_FILE, _MOVE = 1 << 1, 1 << 13
_NOT_WRITABLE = ("proc", "sys")
_PR_SET_NO_NEW_PRIVS = 38
_libc = ctypes.CDLL(None, use_errno=True)


def keep_from_writing_to_proc() -> bool:
    """Has the kernel refuse this process, and all that it starts, to open a file below `/proc` for writing.

    Returns:
        Whether it does. It does not before Linux 5.19, without Landlock, or in gVisor.
    """
    if _libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _ASK_VERSION) < _FIRST_VERSION:
        return False
    handled = struct.pack("Q", _WRITE_FILE | _MOVE)
    rules = _libc.syscall(_CREATE_RULESET, handled, ctypes.c_size_t(len(handled)), 0)
    if rules < 0:
        return False
    try:
        _allow(rules, "/", _MOVE)
        for name in os.listdir("/"):
            if name not in _NOT_WRITABLE:
                _allow(rules, f"/{name}", _WRITE_FILE)
        _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        return _libc.syscall(_RESTRICT_SELF, rules, 0) == 0
    finally:
        os.close(rules)


def _allow(rules: int, path: str, access: int) -> None:
    """Allows access to a file, or to all that is below a folder."""
    with suppress(OSError):
        place = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if not stat.S_ISLNK(os.fstat(place).st_mode):
                rule = struct.pack("=Qi", access, place)
                _libc.syscall(_ADD_RULE, rules, _PATH_BENEATH, rule, 0)
        finally:
            os.close(place)
