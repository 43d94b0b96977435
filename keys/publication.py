"""Versioned changes on their way from PostgreSQL to Redis, where workers compare versions at every call.

A writer calls `record(subject, id)` in the transaction of its change. That locks the row, gives it the next version and
writes the publication row; after the outermost commit, before the writer returns, the record is rendered from the row
and written to Redis unless a newer one stands there. What a crash or an absent Redis left, `apply_pending` applies.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any

import orjson
import redis
from django.core.exceptions import ObjectDoesNotExist
from django.db import DatabaseError, connection, transaction

from keys import records
from keys.caller import SHARDS
from keys.connections import redis_client
from keys.models import ApiKey, Brand, Organization

logger = logging.getLogger(__name__)

KEY, ORGANIZATION, BRAND = "key", "org", "brand"
BATCH = 200
"""Records per script call, rows per query: a script this long holds up Redis for about a millisecond."""
SWEEP_MAX = 500
_ROWS = {KEY: ApiKey, ORGANIZATION: Organization, BRAND: Brand}
_BRAND_LIST_LOCK = 0x6B657973  # "keys": the advisory lock under which the list of brands is read and numbered

Render = Callable[[int], tuple[int, bytes]]


class Version(int):
    """A recorded version. `applied` turns True when Redis holds it or a newer one; while it is False (Redis away, or a
    transaction still open around the writer) the change is pending and the sweeper applies it."""

    applied: bool = False


class RedisAhead(Exception):
    """Redis holds a version that this database never gave out, so nothing newer could replace it."""


_renderers: dict[str, Render] = {}
_last = threading.local()
"""What this thread applied last: `subject`, a pair, and `version`."""


def register(subject: str, render: Render) -> None:
    """How subject "brand" becomes bytes: `render(id)` gives the row's version and the data, both from one snapshot of
    the database (read the version first)."""
    _renderers[subject] = render


def next_version() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT nextval('keys_publication_version')")
        return int(cursor.fetchone()[0])


def record(subject: str, subject_id: int) -> Version:
    """Say, inside the transaction that changes it, that `subject` changed. Its row stays locked until commit, so the
    versions of one subject are in the order of its commits."""
    if not connection.in_atomic_block:
        raise transaction.TransactionManagementError("publication.record belongs into the change's own transaction")
    table = _ROWS[subject]._meta.db_table
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT id FROM {table} WHERE id = %s FOR NO KEY UPDATE", [subject_id])  # noqa: S608
        if cursor.fetchone() is None:
            raise ObjectDoesNotExist(f"{subject} {subject_id}")
        version = Version(next_version())
        cursor.execute(f"UPDATE {table} SET version = %s WHERE id = %s", [version, subject_id])  # noqa: S608
        cursor.execute(
            "INSERT INTO keys_publication (version, subject, subject_id) VALUES (%s, %s, %s)",
            [version, subject, subject_id],
        )
    transaction.on_commit(lambda: _apply_committed(version, subject, subject_id))
    return version


def again(subject: str, subject_id: int, version: int) -> Version:
    """A version recorded before, brought up after the commit once more: for a writer that finds its work done."""
    standing = Version(version)

    def once_more() -> None:
        standing.applied = apply(subject, subject_id)

    transaction.on_commit(once_more)
    return standing


def apply(subject: str, subject_id: int) -> bool:
    """Bring Redis up to the row as it is committed now. False when that failed (it is logged): the change stays pending
    and the sweeper tries again. Never raises: what the writer did is done."""
    try:
        version = _publish(subject, subject_id)
        _mark(subject, subject_id, version)
        _last.subject, _last.version = (subject, subject_id), version
    except (redis.RedisError, DatabaseError) as error:
        logger.warning("%s %s stays pending: %s", subject, subject_id, error)
        return False
    except Exception:
        logger.exception("%s %s cannot be published", subject, subject_id)
        return False
    return True


def apply_pending(limit: int = SWEEP_MAX) -> int:
    """Apply what crashes and absences left; returns how many publications are done. Any number of processes may sweep
    at once. One that cannot be rendered is logged and left; an absent Redis ends the sweep."""
    done = 0
    with transaction.atomic():
        for (subject, subject_id), versions in _claimed(limit).items():
            try:
                with transaction.atomic():
                    standing = _publish(subject, subject_id)
            except redis.RedisError as error:
                logger.warning("publications stay pending: %s", error)
                break
            except ObjectDoesNotExist:
                standing = 0  # the row is gone: nothing is left to publish
            except Exception:
                logger.exception("%s %s cannot be published", subject, subject_id)
                continue
            done += _mark(subject, subject_id, max(standing, *versions))
    return done


def apply_everything(shard: int) -> int:
    """Publish all that a shard's scripts and workers compare against; returns how many records. Rebuild calls it before
    the shard admits: a Redis that lost its last seconds may hold a record older than the row although the publication
    was applied."""
    count = 0
    for brand_id in Brand.objects.order_by("id").values_list("id", flat=True):
        version = _publish_snapshot(brand_id)
        _raise_versions([shard], brand_id, version)
        count += 1
    _publish_brand_list()
    for rows in _batches(_organizations_of_shard(), shard):
        _offer([(records.organization_name(row[0]), row[1], row[2]) for row in rows])
        count += len(rows)
    for rows in _batches(_keys_of_shard(), shard):
        _offer([(records.key_name(row[3], row[0]), row[1], row[2]) for row in rows])
        count += len(rows)
    return count


def forget_applied(before: datetime, limit: int = 10_000) -> int:
    """Delete publications applied before `before`; returns how many went. Nothing reads them any more."""
    with connection.cursor() as cursor:
        cursor.execute(
            "DELETE FROM keys_publication WHERE version IN "
            "(SELECT version FROM keys_publication WHERE applied_at < %s ORDER BY version LIMIT %s)",
            [before, limit],
        )
        return int(cursor.rowcount)


def _apply_committed(version: Version, subject: str, subject_id: int) -> None:
    """A transaction that recorded one subject many times (an import) brings it up once: the first of its turns after
    the commit finds the last version."""
    done = getattr(_last, "subject", None) == (subject, subject_id) and _last.version >= version
    version.applied = done or apply(subject, subject_id)


def _publish(subject: str, subject_id: int) -> int:
    """Write the subject's record as committed now; returns its version."""
    if subject == BRAND:
        version = _publish_snapshot(subject_id)
        _publish_brand_list()
        # Last: a worker that sees the new version on its shard must find the snapshot that carries it.
        _raise_versions(range(SHARDS), subject_id, version)
        return version
    if subject == ORGANIZATION:
        sql = f"SELECT {records.organization_columns()} FROM keys_organization o WHERE o.id = %s"  # noqa: S608
        _, version, data = _row(sql, subject_id)
        _offer([(records.organization_name(subject_id), version, data)])
        return int(version)
    sql = f"SELECT {records.key_columns()}, k.organization_id FROM keys_apikey k WHERE k.id = %s"  # noqa: S608
    _, version, data, organization_id = _row(sql, subject_id)
    _offer([(records.key_name(organization_id, subject_id), version, data)])
    return int(version)


def _publish_snapshot(brand_id: int) -> int:
    version, data = _renderers[BRAND](brand_id)
    _execute([(records.OFFER, records.brand_name(brand_id), (version, data), version)])
    return version


def _publish_brand_list() -> None:
    """The list of brands has no row of its own. Its version is taken and its rows are read under one lock, so a newer
    version never holds older rows."""
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_BRAND_LIST_LOCK])
        version = next_version()
        data = orjson.dumps([records.brand_values(brand) for brand in Brand.objects.order_by("id")])
    _execute([(records.OFFER, records.BRANDS, (version, data), version)])


def _offer(named: Sequence[tuple[str, int, str]]) -> None:
    """Records of one shard share a slot, so one script call takes a batch of them."""
    names = [name for name, _, _ in named]
    offers = [part for _, version, data in named for part in (version, data)]
    client: Any = redis_client()
    standing = client.eval(records.OFFER, len(names), *names, *offers)
    _check_not_ahead(zip((version for _, version, _ in named), standing[::2], strict=True))


def _raise_versions(shards: Iterable[int], brand_id: int, version: int) -> None:
    _execute([(records.RAISE_VERSION, records.policy_name(shard), (brand_id, version), version) for shard in shards])


def _execute(calls: Sequence[tuple[str, str, tuple[int | bytes, ...], int]]) -> None:
    """(script, key, arguments, version) each. EVAL, not EVALSHA: the texts are short, and a restarted Redis needs no
    second try."""
    pipeline: Any = redis_client().pipeline(transaction=False)
    for script, name, arguments, _ in calls:
        pipeline.execute_command("EVAL", script, 1, name, *arguments)
    replies = pipeline.execute()
    _check_not_ahead((version, reply[0]) for (*_, version), reply in zip(calls, replies, strict=True))


def _check_not_ahead(pairs: Iterable[tuple[int, bytes]]) -> None:
    """`pairs`: the version offered and the one that stands. A newer one is another writer's, unless the database never
    gave it out."""
    newer = [int(standing) for offered, standing in pairs if int(standing) > offered]
    if not newer:
        return
    with connection.cursor() as cursor:
        cursor.execute("SELECT last_value FROM keys_publication_version")
        last = int(cursor.fetchone()[0])
    if max(newer) > last:
        raise RedisAhead(
            f"Redis holds version {max(newer)} but the database gave out {last} at most: was the database restored "
            "from a backup? Empty Redis; it is rebuilt from the database."
        )


def _claimed(limit: int) -> dict[tuple[str, int], list[int]]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT subject, subject_id, version FROM keys_publication WHERE applied_at IS NULL "
            "ORDER BY version LIMIT %s FOR UPDATE SKIP LOCKED",
            [limit],
        )
        claimed: dict[tuple[str, int], list[int]] = {}
        for subject, subject_id, version in cursor.fetchall():
            claimed.setdefault((subject, subject_id), []).append(version)
    return claimed


def _mark(subject: str, subject_id: int, version: int) -> int:
    """Rows that a sweeper holds at this moment are skipped: it marks them itself."""
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE keys_publication SET applied_at = clock_timestamp() WHERE version IN (SELECT version "
            "FROM keys_publication WHERE subject = %s AND subject_id = %s AND version <= %s AND applied_at IS NULL "
            "FOR UPDATE SKIP LOCKED)",
            [subject, subject_id, version],
        )
        return int(cursor.rowcount)


def _row(sql: str, subject_id: int) -> tuple[Any, ...]:
    with connection.cursor() as cursor:
        cursor.execute(sql, [subject_id])
        row: tuple[Any, ...] | None = cursor.fetchone()
    if row is None:
        raise ObjectDoesNotExist(subject_id)
    return row


def _batches(sql: str, shard: int) -> Iterator[list[tuple[Any, ...]]]:
    last = 0
    while True:
        with connection.cursor() as cursor:
            cursor.execute(sql, [shard, last, BATCH])
            rows = cursor.fetchall()
        if not rows:
            return
        yield rows
        last = rows[-1][0]


def _organizations_of_shard() -> str:
    return f"""SELECT {records.organization_columns()} FROM keys_organization o
        WHERE o.id %% {SHARDS} = %s AND o.id > %s ORDER BY o.id LIMIT %s"""  # noqa: S608


def _keys_of_shard() -> str:
    return f"""SELECT {records.key_columns()}, k.organization_id FROM keys_apikey k
        WHERE k.organization_id %% {SHARDS} = %s AND k.id > %s ORDER BY k.id LIMIT %s"""  # noqa: S608
