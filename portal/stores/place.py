"""Where an installation keeps its files: one folder, `VAR_DIR`, and the short paths of its sockets."""

from __future__ import annotations

import os
import secrets
import stat
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

SOCKET_PATH_BYTES_MAX = 100  # the kernel's bound is 107; PostgreSQL adds names of its own
LONGEST_SOCKET_NAME = "postgresql/.s.PGSQL.5432.lock"
PROJECT_DIR = Path(__file__).resolve().parent.parent.parent


@dataclass(frozen=True)
class Place:
    """`var` is absolute. Nothing is made until it is asked for, and nothing above `var` is ever changed."""

    var: Path

    @classmethod
    def from_environment(cls) -> Place:
        given = os.environ.get("VAR_DIR", "").strip()
        return cls(Path(given).expanduser().absolute() if given else PROJECT_DIR / "var")

    def made(self) -> Place:
        self.var.mkdir(parents=True, exist_ok=True)
        return self

    @property
    def secrets_file(self) -> Path:
        return self.var / "secrets.json"

    @property
    def owner_file(self) -> Path:
        """Locked and written by the process that started the stores."""
        return self.var / "stores.json"

    @property
    def users_file(self) -> Path:
        """Shared lock of every command that uses the stores, so that a command that started them ends last."""
        return self.var / "stores.users"

    @property
    def processes_file(self) -> Path:
        """What `up` keeps alive; written by it, read through portal.roster."""
        return self.var / "processes.json"

    @property
    def logs(self) -> Path:
        return self.var / "log"

    @property
    def redis_data(self) -> Path:
        return self.var / "redis"

    @cached_property
    def run(self) -> Path:
        """The folder of sockets: `var/run`, or where that path is too long a private temporary folder that
        `var/run.path` remembers."""
        self.made()
        near = self.var / "run"
        if len(os.fsencode(near / LONGEST_SOCKET_NAME)) <= SOCKET_PATH_BYTES_MAX:
            near.mkdir(exist_ok=True, mode=0o711)
            return near
        return self._short_run()

    def _short_run(self) -> Path:
        record = self.var / "run.path"
        if record.exists():
            known = Path(record.read_text().strip())
            if _is_ours(known):
                return known
        made = Path(tempfile.mkdtemp(prefix="gw-"))
        if os.geteuid() == 0:
            made.chmod(0o711)  # the unprivileged PostgreSQL must pass through to its own folder
        draft = record.with_suffix(f".{secrets.token_hex(4)}")
        draft.write_text(f"{made}\n")
        try:
            os.link(draft, record)  # only one of two processes that start at once may decide
        except FileExistsError:
            known = Path(record.read_text().strip())
            if _is_ours(known):
                made.rmdir()
                made = known
            else:
                draft.replace(record)
        draft.unlink(missing_ok=True)
        return made

    @property
    def postgresql_sockets(self) -> Path:
        return self.run / "postgresql"

    @property
    def redis_socket(self) -> Path:
        return self.run / "redis.sock"

    @property
    def gunicorn_control(self) -> Path:
        return self.run / "gunicorn.ctl"

    def database_url(self) -> str:
        return f"postgresql:///{DATABASE}?host={self.postgresql_sockets}&user={ROLE}"

    def redis_url(self, database: int = 0) -> str:
        return f"unix://{self.redis_socket}?db={database}"


DATABASE = "gateway"
ROLE = "gateway"


def _is_ours(folder: Path) -> bool:
    """A folder in a shared temporary place is trusted only when we own it and nobody else may write there."""
    try:
        facts = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(facts.st_mode) and facts.st_uid == os.geteuid() and not facts.st_mode & 0o022
