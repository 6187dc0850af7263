"""What a container may do: nothing that it does not need."""

from collections.abc import Iterable
from typing import Any

from docker.types import LogConfig, Mount, Ulimit

from workers.sandbox.seccomp import seccomp_option
from workers.settings import SandboxSettings

GVISOR = "runsc"
"""Its kernel lets a process of the tool host's own user kill it, though it is init, and open its pipe."""
SCRATCH = "/scratch"
UID = 65534
_KEPT_MEMORY = {
    "kernel.shmall": "4096",
    "kernel.shmmni": "64",
    "kernel.sem": "256 4096 64 64",
    "kernel.msgmni": "16",
    "kernel.msgmnb": "8192",
    "kernel.msgmax": "8192",
    "fs.mqueue.queues_max": "16",
    "net.ipv4.tcp_rmem": "4096 65536 262144",
    "net.ipv4.tcp_wmem": "4096 16384 262144",
}
"""Bounds of kernel memory that no process holds, so that no kill would set it free: System V shared memory
(16 MiB), semaphores (256 KiB) and messages (8 MiB with what the kernel adds to each), POSIX queues; and
buffers of TCP sockets, which count as no process's own."""
_FILES_PER_MB = 256
_SHM_MB = 64
"""Empty files take a kibibyte each of memory that no process holds, so they are bounded as bytes are."""
_TO_SWITCH_USERS = ["CHOWN", "KILL", "SETGID", "SETUID"]
_TO_BE_ROOT = ["CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "NET_BIND_SERVICE", "SETGID", "SETUID"]
"""What root may do to the container's own files, processes and users: none of it reaches out of it."""
_WRITTEN_TO = ("/tmp", "/var/tmp", "/run", "/root", "/home")
"""Folders that programs write to, where no more of a root file system can be bounded."""


def isolation(
    settings: SandboxSettings,
    session_users: bool,
    *,
    bounded_root: bool = True,
    volumes: Iterable[str] = (),
    mounts: Iterable[Mount] = (),
    writable_folders: Iterable[str] = (),
) -> dict[str, Any]:
    """What a container may do, as arguments of the SDK's `create_host_config`.

    Args:
        settings: What the config says.
        session_users: Whether sessions have users of their own.
        bounded_root: Whether the engine can bound a root file system that can be written to.
        volumes: Folders that the image declares as volumes.
        mounts: What the container gets besides.
        writable_folders: Folders of memory, where the root file system can't be written to.
    """
    is_root = settings.user == "root"
    host = 0 if session_users or is_root else UID
    mode = "0711" if session_users else "0700"
    tmpfs = {
        SCRATCH: f"size={settings.scratch_mb}m,mode={mode},uid={host},gid={host},nosuid,nodev"
        + _inodes(settings, settings.scratch_mb),
        "/dev/shm": f"size={_SHM_MB}m,mode=1777,nosuid,nodev,noexec" + _inodes(settings, _SHM_MB),
    }
    room = settings.root_mb or settings.scratch_mb
    is_read_only = settings.root_mb is None or not bounded_root
    folders = [*volumes, *(writable_folders if is_read_only else ())]
    if settings.root_mb is not None and not bounded_root:
        folders += _WRITTEN_TO
        room = max(1, settings.root_mb // len(_WRITTEN_TO))
    tmpfs |= dict.fromkeys(folders, f"size={room}m,mode=1777,nosuid,nodev{_inodes(settings, room)}")
    capabilities = _TO_BE_ROOT if is_root else _TO_SWITCH_USERS if session_users else None
    return {
        "network_mode": "none",
        "cap_drop": ["ALL"],
        "cap_add": capabilities,
        "security_opt": ["no-new-privileges", *seccomp_option(settings.seccomp)],
        "read_only": is_read_only,
        "storage_opt": {"size": f"{settings.root_mb}M"} if settings.root_mb and bounded_root else None,
        "tmpfs": tmpfs,
        "mounts": list(mounts) or None,
        "mem_limit": settings.memory_mb * 1024 * 1024,
        "memswap_limit": settings.memory_mb * 1024 * 1024,
        "nano_cpus": int(settings.cpus * 1e9),
        "pids_limit": settings.pids,
        "ulimits": [
            Ulimit(name="core", soft=0, hard=0),
            Ulimit(name="nofile", soft=4096, hard=4096),
            Ulimit(name="sigpending", soft=4096, hard=4096),
            Ulimit(name="msgqueue", soft=819_200, hard=819_200),
        ],
        "ipc_mode": "private",
        "sysctls": _KEPT_MEMORY,
        "auto_remove": True,
        "log_config": LogConfig(type=LogConfig.types.NONE),
        "runtime": settings.runtime,
    }


def _inodes(settings: SandboxSettings, size: int) -> str:
    """The option of a tmpfs that bounds its files; gVisor's memory is its own, and counts none."""
    return "" if settings.runtime == GVISOR else f",nr_inodes={size * _FILES_PER_MB}"
