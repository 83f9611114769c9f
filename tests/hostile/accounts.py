"""Two Unix users for the tests: a victim who uses vllm-hpc, and an attacker who wants to reach what is the victim's.

Their ids belong to nobody on this machine, so that nothing is left of them but the folder that the test removes.
"""

from __future__ import annotations

import os
import pwd
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import psutil

# Of users that no distribution makes by itself (Debian: adduser.conf, LAST_UID 59999), up to 64799.
_FIRST_UID = 61_000
VLLM_HPC = (str(Path(sys.executable).parent / "vllm-hpc"),)
# A rehearsed job is submitted, run and waited for within this; a machine under load takes several times what it needs.
_LIMIT_S = 300


class Account(NamedTuple):
    """A Unix user without an entry in /etc/passwd, whose home is in a folder that others can traverse."""

    name: str
    uid: int
    home: Path
    # Both users' common group, as of a project.
    group: int

    def run(
        self, argv: Sequence[str | Path], cwd: Path, text: str | None = None, umask: int = 0o022, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as this user, with an environment of its own and ``text`` on its stdin."""
        return subprocess.run(
            self._words(argv), cwd=cwd, env=self._environment() | variables,
            input=text or "", text=True, capture_output=True, timeout=_LIMIT_S, umask=umask, start_new_session=True,
        )  # fmt: skip

    def start(self, argv: Sequence[str | Path], cwd: Path) -> subprocess.Popen[str]:
        """Start a command as this user, which is spoken to over its stdin and stdout."""
        pipe = subprocess.PIPE
        return subprocess.Popen(
            self._words(argv), cwd=cwd, env=self._environment(), text=True, stdin=pipe, stdout=pipe, stderr=pipe,
            start_new_session=True,
        )  # fmt: skip

    def _words(self, argv: Sequence[str | Path]) -> list[str]:
        become = ["setpriv", f"--reuid={self.uid}", f"--regid={self.uid}", f"--groups={self.uid},{self.group}", "--"]
        return [*opened_way(self.home.parent), *become, *map(str, argv)]

    def vllm_hpc(
        self, *words: str | Path, cwd: Path | None = None, umask: int = 0o022, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Run ``vllm-hpc`` as this user."""
        return self.run([*VLLM_HPC, *words], cwd or self.home, umask=umask, **variables)

    def plant(self, path: Path, text: str, mode: int = 0o666) -> None:
        """Write a file as this user, in place of one of that name. Raises where the user may not."""
        script = 'rm -f -- "$1" && cat > "$1" && chmod "$2" "$1"'
        done = self.run(["sh", "-c", script, "sh", path, f"{mode:o}"], Path("/"), text)
        if done.returncode:
            raise PermissionError(done.stderr)

    def processes(self) -> list[psutil.Process]:
        """The user's processes that still run."""
        return [one for one in psutil.process_iter(["uids"]) if one.info["uids"].real == self.uid]

    def _environment(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "LANG", "LC_ALL") if name in os.environ}
        return {**kept, "HOME": str(self.home), "USER": self.name, "LOGNAME": self.name, "TMPDIR": str(self.home)}


def make_account(name: str, number: int, common: Path, group: int) -> Account:
    """A fresh user with a home of their own in ``common``; ``number`` tells users of one test run apart."""
    uid = _FIRST_UID + number
    while _is_taken(uid):
        uid += 1000
    home = common / name
    home.mkdir(mode=0o755)
    os.chown(home, uid, uid)
    return Account(name, uid, home, group)


def _is_taken(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


def opened_way(common: Path) -> list[str]:
    """The words before a command that let other users reach Python and this tree, where a folder above is closed.

    The command then sees an own copy of that folder, with nothing in it but what it needs (mount_namespaces(7)).
    """
    lines = ["set -e"]
    for place, (closed, wanted) in enumerate(sorted(_closed_ways().items())):
        stage = common / f"stage-{place}"
        stage.mkdir(exist_ok=True)
        lines += [f"mount --bind {shlex.quote(str(closed))} {stage}", f"mount -t tmpfs -o mode=755 none {closed}"]
        for one in sorted(wanted):
            lines += [f"mkdir -p {one}", f"mount --bind {stage}/{one.relative_to(closed)} {one}"]
        lines.append(f"umount {stage}")
    return ["unshare", "--mount", "sh", "-c", "\n".join([*lines, 'exec "$@"']), "sh"] if lines[1:] else []


def _closed_ways() -> dict[Path, set[Path]]:
    """The topmost folders that others cannot traverse, and what is needed below each."""
    found: dict[Path, set[Path]] = {}
    for wanted in (Path(__file__).parents[2], Path(sys.prefix), Path(sys.base_prefix)):
        closed = [one for one in (wanted, *wanted.parents) if not one.stat().st_mode & 0o1]
        if closed:
            found.setdefault(closed[-1], set()).add(wanted)
    return found


def why_not(common: Path) -> str | None:
    """Why a second user cannot be had here, None where one can."""
    if os.geteuid() != 0:
        return "a second Unix user needs root"
    tried = subprocess.run([*opened_way(common), "true"], capture_output=True, text=True)
    return f"other users cannot reach this Python: {tried.stderr.strip()}" if tried.returncode else None
