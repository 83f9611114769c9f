"""Owners in containers that map only some users (user_namespaces(7)): all others are shown as one, the overflow uid.

So are root's files in an unprivileged Apptainer or Podman, and those of any other user as well.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

# Folders that are everybody's, and that only root makes (hier(7)).
COMMON_FOLDERS = (Path("/tmp"), Path("/var/tmp"), Path("/dev/shm"))
# Where only root makes files. Whoever starts a container chooses its image, and with it these.
SYSTEM_FOLDERS = (Path("/etc"), Path("/usr"))


def is_hidden(uid: int) -> bool:
    """Whether nobody can tell whose the uid is: root's, or that of anybody else whom this container does not map.

    False where root is mapped, as it is outside of containers: the number is then that of the user nobody.
    """
    return uid == _hidden_uid()


@cache
def _hidden_uid() -> int | None:
    try:
        mapped = [line.split() for line in Path("/proc/self/uid_map").read_text().splitlines()]
        if any(outside == "0" for _, outside, _ in mapped):
            return None
        return int(Path("/proc/sys/kernel/overflowuid").read_text())
    except (OSError, ValueError):  # a kernel without user namespaces, or no /proc
        return None
