"""Where conversations are kept: one sealed row each in PostgreSQL, of which nothing can be read without SEALING_KEYS.
The only writer of its table.

No transaction outlives a statement. A row is written only over what was read from it: where two had the same
conversation after all, the second one's turn is lost, never mixed in.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from datetime import datetime
from typing import Any

import msgspec
import psycopg
from django.db import connection
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from billing.counters import StoreUnavailable
from keys.sealing import SealBroken, open_text, seal_text
from proxy.refusals import Reason, decline
from proxy.turns import EMPTY, Conversation, Message

log = logging.getLogger(__name__)

SECONDS_MAX = 2.0
IN_A_THREAD_BYTES = 64 * 1024
"""Sealing and opening more than this takes long enough to keep other calls waiting."""
PURGED_AT_ONCE_MAX = 1_000

_LOAD = """SELECT id, version, sealed, created_at, expires_at FROM proxy_conversation
    WHERE organization_id = %s AND digest = %s AND expires_at > now()"""
_INSERT = """INSERT INTO proxy_conversation (organization_id, digest, sealed, version, created_at, expires_at)
    VALUES (%s, %s, %s, 1, now(), now() + make_interval(days => %s))
    ON CONFLICT (organization_id, digest) DO UPDATE SET sealed = EXCLUDED.sealed,
    version = proxy_conversation.version + 1, created_at = EXCLUDED.created_at, expires_at = EXCLUDED.expires_at
    WHERE proxy_conversation.expires_at <= now() RETURNING id"""
_UPDATE = """UPDATE proxy_conversation SET sealed = %s, version = version + 1,
    expires_at = now() + make_interval(days => %s) WHERE id = %s AND version = %s RETURNING id"""
_DELETE = "DELETE FROM proxy_conversation WHERE organization_id = %s AND digest = %s"
_PURGE = """DELETE FROM proxy_conversation WHERE id IN
    (SELECT id FROM proxy_conversation WHERE expires_at <= %s ORDER BY expires_at LIMIT %s FOR UPDATE SKIP LOCKED)"""


class Overtaken(Exception):
    """Somebody else has written or deleted the row since it was read."""


class Row(msgspec.Struct, frozen=True):
    """What is kept under a session's name; `id` 0: nothing, or nothing that has not expired."""

    organization_id: int
    session_id: str
    conversation: Conversation = EMPTY
    id: int = 0
    version: int = 0
    created_at: datetime | None = None
    expires_at: datetime | None = None


class Part:
    """One call's part in a conversation. `name` is that of its lease, `conversation` what its prompt was made of, `new`
    what the request added; `is_over` once another call may have the conversation."""

    __slots__ = ("conversation", "is_over", "mark", "name", "new", "row", "session_id")
    row: Row

    def __init__(self, session_id: str, name: str, mark: str) -> None:
        self.session_id = session_id
        self.name = name
        self.mark = mark
        self.conversation = EMPTY
        self.is_over = False
        self.new: list[Message] = []


class _Sealed(msgspec.Struct):
    """Names its owner: a blob that was moved to another row does not open there."""

    organization_id: int
    session_id: str
    conversation: Conversation


def digest_of(organization_id: int, session_id: str) -> str:
    """What stands for a session's name where anybody may read it."""
    return hashlib.sha256(b"%d:%b" % (organization_id, session_id.encode())).hexdigest()


class Rows:
    """Raises StoreUnavailable where PostgreSQL does not answer, Declined where the seal does not open: a key of
    SEALING_KEYS was taken away, or somebody moved what it sealed."""

    def __init__(self, postgresql: AsyncConnectionPool[Any]) -> None:
        self._postgresql = postgresql

    async def load(self, organization_id: int, session_id: str) -> Row:
        found = await self._run(_LOAD, organization_id, digest_of(organization_id, session_id))
        if found is None:
            return Row(organization_id, session_id)
        row_id, version, sealed, created_at, expires_at = found
        try:
            content = await _perhaps_in_a_thread(len(sealed), _open, sealed)
        except (SealBroken, msgspec.DecodeError) as error:
            log.error("conversation %d cannot be read: %s", row_id, error)
            raise decline(Reason.SESSION_UNREADABLE) from error
        if (content.organization_id, content.session_id) != (organization_id, session_id):
            log.error("conversation %d lies in a row that is not its own", row_id)
            raise decline(Reason.SESSION_UNREADABLE)
        return Row(organization_id, session_id, content.conversation, row_id, version, created_at, expires_at)

    async def save(self, row: Row, conversation: Conversation, *, days: int) -> None:
        """Overtaken where the row is not as it was read."""
        plain = msgspec.json.encode(_Sealed(row.organization_id, row.session_id, conversation))
        sealed = await _perhaps_in_a_thread(len(plain), _seal, plain)
        if row.id:
            written = await self._run(_UPDATE, sealed, days, row.id, row.version)
        else:
            digest = digest_of(row.organization_id, row.session_id)
            written = await self._run(_INSERT, row.organization_id, digest, sealed, days)
        if written is None:
            raise Overtaken

    async def delete(self, organization_id: int, session_id: str) -> None:
        await self._run(_DELETE, organization_id, digest_of(organization_id, session_id))

    async def _run(self, statement: str, *values: Any) -> tuple[Any, ...] | None:
        """One statement, committed when it returns; its first row."""
        try:
            async with asyncio.timeout(SECONDS_MAX), self._postgresql.connection() as lent:
                cursor = await lent.execute(statement, values, prepare=False)
                return await cursor.fetchone() if cursor.description else None
        except (psycopg.Error, PoolTimeout, OSError, TimeoutError) as error:
            raise StoreUnavailable(str(error) or "PostgreSQL does not answer") from error


def purge(now: datetime) -> int:
    """Deletes what expired before `now`; how many that were. Blocking, for a job; safe to run twice at once."""
    purged = 0
    while True:
        with connection.cursor() as cursor:
            cursor.execute(_PURGE, [now, PURGED_AT_ONCE_MAX])
            count: int = cursor.rowcount
        purged += count
        if count < PURGED_AT_ONCE_MAX:
            return purged


async def _perhaps_in_a_thread(size: int, work: Any, value: Any) -> Any:
    return work(value) if size < IN_A_THREAD_BYTES else await asyncio.to_thread(work, value)


def _seal(plain: bytes) -> str:
    return seal_text(plain.decode())


def _open(sealed: str) -> _Sealed:
    return msgspec.json.decode(open_text(sealed), type=_Sealed)
