"""An environment of Debian's own Python, made in a second: the packages are those of the Python that runs the tests.

Debian 12's is 3.11.2, which lacks what later releases of 3.11 brought. Packages of one minor version run under all of
them, so nothing is installed; another minor version has none, and its tests are skipped.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

PYTHON = Path("/usr/bin/python3")
ROOT = Path(__file__).parents[1]
_MINOR = "import sys; print(*sys.version_info[:2])"


def why_not() -> str | None:
    """Why there can be no such environment here, None if there can."""
    if not PYTHON.exists():
        return f"there is no {PYTHON}"
    minor = subprocess.run([PYTHON, "-c", _MINOR], capture_output=True, text=True).stdout.split()
    ours = [str(number) for number in sys.version_info[:2]]
    return None if minor == ours else f"{PYTHON} is {'.'.join(minor)}, and these packages are of {'.'.join(ours)}"


def make(folder: Path) -> Path:
    """Make the environment in a folder that does not exist, and return its Python."""
    subprocess.run([PYTHON, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = Path(subprocess.run([python, "-c", where], capture_output=True, text=True, check=True).stdout.strip())
    (packages / "of_the_tests.pth").write_text(f"{ROOT}\n{sysconfig.get_path('purelib')}\n")
    torchrun = folder / "bin" / "torchrun"
    torchrun.write_text(f"#!{python}\nfrom torch.distributed.run import main\n\nmain()\n")
    torchrun.chmod(0o755)
    return python


if __name__ == "__main__":  # for make: the folder, which may be there from before
    place = Path(sys.argv[1]).absolute()
    if reason := why_not():
        sys.exit(f"make: {reason}")
    print(place / "bin" / "python" if place.exists() else make(place))
