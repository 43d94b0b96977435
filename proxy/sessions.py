"""What a customer may do with a conversation besides going on with it: look at it, and delete it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import orjson

from billing.snapshot import BrandRecord
from proxy import conversations, turns
from proxy.answers import Send, send_body, send_empty
from proxy.call import Call
from proxy.conversation_rows import Row
from proxy.endpoints import SESSION_PREFIX
from proxy.headers import common_headers
from proxy.refusals import Reason, decline
from proxy.worker import Worker


async def answer(call: Call, worker: Worker, send: Send) -> None:
    """Any key of the organization that may chat. Another organization's session is none."""
    if is_chat_only(call.snapshot.brand):
        raise decline(Reason.CHAT_ONLY, detail=f"; there is no {call.method} {call.path[:200]}")
    if not call.snapshot.brand.conversation_days:
        raise decline(Reason.UNKNOWN_PATH, method=call.method, path=call.path[:200])
    asked = conversations.checked(call.place.rest[len(SESSION_PREFIX) :])
    session_id = conversations.own(asked, call.caller)
    if call.method == "DELETE":
        await _delete(call, worker, session_id)
        await send_empty(send, 204, common_headers(call))
        return
    row = await worker.conversation_rows.load(call.caller.organization.id, session_id)
    if not row.id:
        raise decline(Reason.SESSION_NOT_FOUND)
    await send_body(send, 200, common_headers(call), orjson.dumps(_shown(row)), head_only=call.method == "HEAD")


def is_chat_only(brand: BrandRecord) -> bool:
    """Whether the brand's keys know one path, and no conversations behind it."""
    return brand.is_plain_chat and not brand.conversation_days


async def _delete(call: Call, worker: Worker, session_id: str) -> None:
    """After the calls that were there before it. Done, too, where there is nothing to delete."""
    name = conversations.lease_name(call, session_id)
    await conversations.enter(call, worker, name)
    try:
        await worker.conversation_rows.delete(call.caller.organization.id, session_id)
    finally:
        await worker.conversation_leases.leave(name, call.id)


def _shown(row: Row) -> dict[str, Any]:
    return {
        "id": row.session_id.removeprefix(conversations.TEST),
        "object": "session",
        "created": _seconds(row.created_at),
        "expires": _seconds(row.expires_at),
        "turns": [turn.number for turn in row.conversation.turns],
        "messages": turns.prompt(row.conversation, []),
    }


def _seconds(at: datetime | None) -> int | None:
    return None if at is None else int(at.timestamp())
