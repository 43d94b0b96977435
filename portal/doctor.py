"""What is wrong with a set-up, and how to mend it. Looks only; changes nothing.

Each examination yields findings and is run by itself: one that cannot look (a store is away) says so and the others go
on.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from pathlib import Path

import redis
from django.conf import settings
from django.core import checks
from django.db import DatabaseError, connection
from django.db.migrations.executor import MigrationExecutor
from django.utils import timezone
from psycopg import sql

from billing import journal, rebuild, worker_leases
from billing.models import CounterChange, DeadLetter, Model, Rate, WorkerLease
from keys.connections import redis_client
from keys.models import Publication

POSTGRESQL_MAJOR_MIN = 15  # unique constraints that hold for NULL
REDIS_MAINTAINED_MIN = (7, 2)
REDIS_MIN = (6, 2)
FREE_BYTES_MIN = 1 << 30
PENDING_SECONDS_MAX = 60
VOLATILE = frozenset({"tmpfs", "ramfs", "overlay"})


class Level(Enum):
    WARNING = "warning"  # works, but not as production should
    PROBLEM = "problem"  # loses money, data or calls


@dataclass(frozen=True, slots=True)
class Finding:
    level: Level
    says: str
    mend: str


Findings = Iterator[Finding]


def problem(says: str, mend: str) -> Finding:
    return Finding(Level.PROBLEM, says, mend)


def warning(says: str, mend: str) -> Finding:
    return Finding(Level.WARNING, says, mend)


def settings_hold() -> Findings:
    for message in checks.run_checks(include_deployment_checks=not settings.PRIVATE_STORES):
        if not message.is_silenced():
            make = problem if message.level >= checks.ERROR else warning
            yield make(f"{message.msg} ({message.id})", message.hint or "See Django's documentation of this check.")


def secrets_are_closed() -> Findings:
    for path in (settings.PLACE.secrets_file, settings.VAR_DIR / "demo.json"):
        if path.exists() and stat.S_IMODE(path.stat().st_mode) & 0o077:
            yield problem(f"{path} can be read by other users.", f"chmod 600 {path}")


def postgresql_is_durable() -> Findings:
    with connection.cursor() as cursor:
        cursor.execute("SELECT name, setting FROM pg_settings WHERE name = ANY(%s)", [list(POSTGRESQL_SETTINGS)])
        found = dict(cursor.fetchall())
        cursor.execute("SHOW server_version_num")
        major = int(cursor.fetchone()[0]) // 10000
    if major < POSTGRESQL_MAJOR_MIN:
        yield problem(f"PostgreSQL is version {major}.", f"Use {POSTGRESQL_MAJOR_MIN} or later.")
    for name, why in POSTGRESQL_SETTINGS.items():
        if found.get(name) == "off":
            yield problem(f"PostgreSQL runs with {name} = off: {why}.", f"ALTER SYSTEM SET {name} = on; and reload it.")


POSTGRESQL_SETTINGS = {
    "fsync": "a crash of the machine may destroy the database",
    "full_page_writes": "a crash of the machine may destroy the database",
    "synchronous_commit": "a crash may lose postings that were reported as committed",
}


def migrations_are_applied() -> Findings:
    executor = MigrationExecutor(connection)
    if executor.migration_plan(executor.loader.graph.leaf_nodes()):
        yield problem("The database lacks migrations of this release.", "manage.py migrate")


def events_lie_in_their_partitions() -> Findings:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT c.relname FROM pg_class c WHERE c.relispartition AND c.relkind = 'r'"
            " AND pg_get_expr(c.relpartbound, c.oid) = 'DEFAULT' ORDER BY 1"
        )
        for (table,) in cursor.fetchall():
            cursor.execute(sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(table)))
            count = cursor.fetchone()[0]
            if count:
                yield warning(
                    f"{table} holds {count} rows that belong in partitions of their own.",
                    "See that the journal (manage.py journal) runs: it makes partitions ahead and moves such rows.",
                )


def redis_is_fit_for_money() -> Findings:
    client = redis_client()
    version = str(_first(client.info("server"))["redis_version"])
    numbers = tuple(int(part) for part in version.split(".")[:2])
    if numbers < REDIS_MIN:
        yield problem(f"Redis is version {version}.", "Use 7.2 or later, or Valkey.")
    elif numbers < REDIS_MAINTAINED_MIN:
        own = "the one from a package, good for trying out" if settings.PRIVATE_STORES else "no longer maintained"
        yield warning(
            f"Redis is version {version}: {own}.", "Production needs a maintained Redis (7.2 or later, or Valkey)."
        )
    yield from _redis_settings(client)


def _redis_settings(client: redis.Redis) -> Findings:
    wanted = {
        "maxmemory-policy": ("noeviction", "a full Redis would forget balances and holds"),
        "appendonly": (
            "yes",
            "a restart of Redis would forget its last minutes, to be rebuilt from PostgreSQL and logs",
        ),
    }
    for name, (value, otherwise) in wanted.items():
        try:
            found = _first(client.config_get(name)).get(name)
        except redis.ResponseError:
            yield warning(f"Redis does not tell its {name}.", f"See in your provider's console that it is {value}.")
            continue
        if found != value:
            yield problem(f"Redis has {name} {found}: {otherwise}.", f"CONFIG SET {name} {value}, and in redis.conf.")
    memory = _first(client.info("memory"))
    used, most = int(memory["used_memory"]), int(memory.get("maxmemory", "0"))
    if most and used > 0.8 * most:
        yield problem(
            f"Redis uses {used * 100 // most} % of its maxmemory; when full it refuses every call.", "Give it more."
        )


def _first(reply: object) -> dict[str, str]:
    """One node's answer: a cluster client answers {node: reply}. Text is decoded."""
    assert isinstance(reply, dict)
    for value in reply.values():
        if isinstance(value, dict):
            return _first(value)
    return {_text(name): _text(value) for name, value in reply.items()}


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def logs_have_room() -> Findings:
    folder = settings.WAL_DIR
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        yield problem(
            f"{there} cannot be written, where write-ahead logs belong; without a log no call is taken.",
            f"Make {folder} a folder that this user may write; workers find out by themselves.",
        )
    free = shutil.disk_usage(there).free
    if free < FREE_BYTES_MIN:
        yield problem(f"{folder} has {free >> 20} MiB left; without a log no call is taken.", "Make room.")
    kind = filesystem_of(there, Path("/proc/self/mounts").read_text())
    if kind in VOLATILE and not settings.PRIVATE_STORES:
        yield warning(
            f"{folder} lies on {kind}: a new container or a reboot loses charges that Redis does not have yet.",
            "Put WAL_DIR on a local disk or a volume.",
        )


def filesystem_of(folder: Path, mounts: str) -> str:
    """The type of the file system that holds `folder`, by the longest mount point above it."""
    best, kind = "", ""
    for line in mounts.splitlines():
        _, point, name, *_ = line.split()
        if folder.resolve().is_relative_to(point) and len(point) >= len(best):
            best, kind = point, name
    return kind


def nothing_waits_too_long() -> Findings:
    since = timezone.now() - timedelta(seconds=PENDING_SECONDS_MAX)
    changes = Publication.objects.filter(applied_at=None, created_at__lt=since).count()
    if changes:
        yield problem(f"{changes} changes of keys, organizations or brands have not reached Redis.", JOURNAL)
    credits = CounterChange.objects.filter(applied_at=None, created_at__lt=since).count()
    if credits:
        yield problem(f"{credits} credits or corrections have not reached Redis.", JOURNAL)
    dead = DeadLetter.objects.filter(resolved_at=None).count()
    if dead:
        yield problem(f"{dead} settled calls could not be written down.", "Retry them in the admin site, Dead letters.")


def calls_reach_the_books() -> Findings:
    """Metered calls wait in Redis for the journal; closed shards refuse every call."""
    waiting = journal.lag(redis_client())
    if waiting.oldest_ms is not None:
        seconds = int(timezone.now().timestamp()) - waiting.oldest_ms // 1000
        if seconds > PENDING_SECONDS_MAX:
            yield problem(f"{waiting.entries} settled calls wait for the books, the oldest for {seconds} s.", JOURNAL)


def no_rebuild_waits() -> Findings:
    """While Redis is rebuilt every call is refused, and each living worker has to bring in what it holds."""
    for lease in WorkerLease.objects.filter(name__in=rebuild.awaited(redis_client())).order_by("name"):
        yield problem(
            f"Calls are refused while the rebuild of Redis waits for worker {lease.name} on host {lease.host}, until"
            f" {lease.expires_at:%H:%M:%S %Z} unless it renews its lease.",
            f"See that worker's log, and that {lease.folder} on {lease.host} can be read; or end the worker.",
        )
    process = rebuild.hindered_by(redis_client())
    if process:
        yield problem(
            f"Calls are refused while process {process} is at the files of dead workers in {settings.WAL_DIR}: no shard"
            " of Redis opens before what they charged is brought in.",
            "If it takes longer than some seconds, that process is stopped: let it go on (kill -CONT), or end it.",
        )


def workers_left_nothing_behind() -> Findings:
    """A rebuild does not wait for a worker whose lease ran out: what it held is unknown until its WAL is replayed."""
    for lease in worker_leases.silent():
        yield warning(
            f"Worker {lease.name} on host {lease.host} has been silent since {lease.expires_at:%Y-%m-%d %H:%M:%S %Z};"
            f" it ran {lease.running} calls holding {lease.held_nanos} nanos.",
            f"Start a worker or the journal on {lease.host}: it replays the files in {lease.folder}.",
        )


def models_have_prices() -> Findings:
    now = timezone.now()
    current = Rate.objects.filter(organization=None, effective_from__lte=now).exclude(effective_until__lte=now)
    for model in Model.objects.filter(state=Model.State.LIVE).exclude(rates__in=current).select_related("brand"):
        yield warning(
            f"Model {model.slug} of {model.brand.slug} has no price: its calls are refused.",
            f"manage.py price set {model.slug} --brand {model.brand.slug} --input … --output … (or --free)",
        )


JOURNAL = "See that the journal (manage.py journal) runs and what its log says."

EXAMINATIONS: tuple[Callable[[], Findings], ...] = (
    settings_hold,
    secrets_are_closed,
    postgresql_is_durable,
    migrations_are_applied,
    events_lie_in_their_partitions,
    redis_is_fit_for_money,
    logs_have_room,
    nothing_waits_too_long,
    calls_reach_the_books,
    no_rebuild_waits,
    workers_left_nothing_behind,
    models_have_prices,
)


def examine() -> list[Finding]:
    found: list[Finding] = []
    for look in EXAMINATIONS:
        try:
            found += look()
        except (DatabaseError, redis.RedisError, OSError) as error:
            subject = look.__name__.replace("_", " ")
            found.append(problem(f"Could not see whether {subject}: {error}".strip(), "See that the stores answer."))
    return found
