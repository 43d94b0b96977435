"""A call's part in a conversation (`session_id`): it waits for its turn, finds what was said before in its prompt, and
leaves what was said now. Calls without session_id take no step here.

The lease lies around everything else a call holds: nobody waits with a reservation or an engine's slot, and whoever
comes next finds the turn before it, because a turn is kept before the last bytes of its answer leave.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from billing.counters import StoreUnavailable
from keys.caller import Caller
from proxy import prompt_bound, turns
from proxy.bodies import ClientLeft
from proxy.call import Call
from proxy.conversation_rows import Overtaken, Part, digest_of
from proxy.endpoints import CHAT
from proxy.fields import invalid
from proxy.messages import MESSAGES_MAX
from proxy.meter import Measured
from proxy.refusals import Reason, decline
from proxy.reservation import ask_tokenizer
from proxy.turns import Conversation, Message
from proxy.worker import Worker

log = logging.getLogger(__name__)

FIELD = "session_id"
TEST = "\x1f"
"""Begins the names of test calls' sessions: not printable, so no other has it."""
SESSION_CHARS_MAX = 128
COUNTS_MAX = 4
"""How often the engine is asked what a prompt counts, before as much is forgotten as may be."""
ANSWERS_SHARE = 4
"""One part in so many of the context is kept free for an answer whose length nobody asked for."""
KEPT_ENDS = frozenset({"stop", "length", "tool_calls"})


def session_named(fields: dict[str, Any], call: Call) -> str:
    """Takes session_id out of a body; "" where there is none, or the brand keeps no conversations: then it is a field
    like any unknown one."""
    if not call.snapshot.brand.conversation_days or call.endpoint is not CHAT or FIELD not in fields:
        return ""
    value = fields.pop(FIELD)
    return "" if value is None else own(checked(value), call.caller)


def own(session_id: str, caller: Caller) -> str:
    """By what it is kept: what was said to test keys stays apart."""
    return TEST + session_id if caller.is_test else session_id


def checked(session_id: Any) -> str:
    if type(session_id) is not str or not 1 <= len(session_id) <= SESSION_CHARS_MAX or not session_id.isprintable():
        raise invalid(FIELD, f"expected 1 to {SESSION_CHARS_MAX} printable characters")
    return session_id


def lease_name(call: Call, session_id: str) -> str:
    caller = call.caller
    return f"{{s{caller.shard}}}:talk:{caller.organization.id}:{digest_of(caller.organization.id, session_id)}"


async def enter(call: Call, worker: Worker, name: str) -> None:
    """The conversation is this call's when this returns."""
    leaving: asyncio.Task[Any] | None = None

    async def pause(freed: asyncio.Event, seconds: float) -> None:
        nonlocal leaving
        if worker.draining:
            raise decline(Reason.DRAINING)
        if leaving is None or leaving.done():
            if leaving is not None and leaving.result()["type"] == "http.disconnect":
                call.gone = True
                raise ClientLeft
            leaving = asyncio.ensure_future(call.receive())
        waking = asyncio.ensure_future(freed.wait())
        await asyncio.wait({leaving, waking}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        waking.cancel()

    try:
        await worker.conversation_leases.enter(name, call.id, pause)
    finally:
        if leaving is not None:
            leaving.cancel()


async def take_part(call: Call, worker: Worker) -> None:
    """After what is asked is known, before anything is reserved."""
    if not call.session_id:
        return
    if call.asked.choices > 1:
        detail = "A conversation goes on with one answer: n is only supported as 1 together with session_id."
        raise decline(Reason.UNSUPPORTED_PARAMETER, param="n", detail=detail)
    # The record's name ends with a digest of key and body: the same request again takes the place of its own turn.
    mark = (call.idempotency or "").rpartition(":")[2]
    part = Part(call.session_id, lease_name(call, call.session_id), mark)
    await enter(call, worker, part.name)
    call.part = part
    part.row = await worker.conversation_rows.load(call.caller.organization.id, part.session_id)
    await _remember(call, worker, part)


def leave(call: Call, worker: Worker) -> None:
    """However the call ended; nothing where its turn was kept, or it had no part."""
    part = call.part
    if part is not None and not part.is_over:
        part.is_over = True
        worker.conversation_leases.leave_soon(part.name, call.id)


async def keep(call: Call, worker: Worker, measured: Measured, answer: Message | None) -> None:
    """After the call was settled (under an Idempotency-Key: before), before its last bytes leave. The answer stands,
    whatever becomes of its turn; what is begun here is brought to its end though the request be cancelled."""
    part = call.part
    if part is not None and not part.is_over:
        part.is_over = True
        has_ended_well = measured.end_reason in KEPT_ENDS and not call.gone
        await asyncio.shield(worker.own(_keep(call, worker, part, answer if has_ended_well else None)))


async def _keep(call: Call, worker: Worker, part: Part, answer: Message | None) -> None:
    brand = call.snapshot.brand
    outcome = "unfinished"
    try:
        if answer is not None:
            longer = turns.kept(part.conversation, part.new, answer, part.mark, brand.conversation_bytes_max)
            await worker.conversation_rows.save(part.row, longer, days=brand.conversation_days)
            outcome = "kept"
    except (StoreUnavailable, Overtaken) as error:
        outcome = "lost"
        log.warning("the turn of call %s is lost: %s", call.id, str(error) or "another call overtook it")
    finally:
        worker.metrics.turn_ended(outcome)
        await worker.conversation_leases.leave(part.name, call.id)


# the prompt -----------------------------------------------------------------------------------------------------------


async def _remember(call: Call, worker: Worker, part: Part) -> None:
    """Puts what was said before in front of the request's messages, without the oldest turns where all together are
    more than the model can read."""
    system, part.new = turns.parted(call.asked.fields["messages"])
    limit = call.snapshot.brand.conversation_bytes_max
    if turns.size(system) > limit:
        raise invalid("messages", f"the system message of a conversation is at most {limit} bytes")
    conversation = turns.addressed(part.row.conversation, system, part.mark)
    _check_modalities(call, conversation)
    grown = sum([turns.size(turn.messages) for turn in conversation.turns])
    worker.room.grow(grown)
    call.body_bytes += grown
    part.conversation = await _that_fits(call, worker, part, conversation)


def _check_modalities(call: Call, conversation: Conversation) -> None:
    """What another model was shown before, this one may not be able to see."""
    parts = [part for turn in conversation.turns for message in turn.messages for part in _parts(message)]
    foreign = {part["type"] for part in parts if part["type"] != "text"} - call.model.modalities.keys()
    if foreign:
        detail = f"This conversation holds content parts of type '{min(foreign)}', which this model does not take."
        raise decline(Reason.UNSUPPORTED_PARAMETER, param=FIELD, detail=detail)


def _parts(message: Message) -> list[dict[str, Any]]:
    content = message.get("content")
    return content if type(content) is list else []


async def _that_fits(call: Call, worker: Worker, part: Part, conversation: Conversation) -> Conversation:
    """The conversation without the turns for which there is no room; `call.asked` asks for what is left of it."""
    for _ in range(COUNTS_MAX):
        _say(call, conversation, part.new)
        forgotten = await _to_forget(call, worker, part, conversation)
        if not forgotten:
            return conversation
        conversation = turns.without_oldest(conversation, forgotten)
    conversation = turns.without_oldest(conversation, turns.forgettable(conversation, part.new))
    _say(call, conversation, part.new)
    return conversation


async def _to_forget(call: Call, worker: Worker, part: Part, conversation: Conversation) -> int:
    """How many groups of turns have to go. Tokens are to bytes as in the whole; where that is not enough, the next
    count shows it."""
    groups = turns.groups(conversation)[: turns.forgettable(conversation, part.new)]
    if not groups:
        return 0
    messages = [[message for turn in group for message in turn.messages] for group in groups]
    forgotten = 0
    too_many = len(call.asked.fields["messages"]) - MESSAGES_MAX
    if too_many > 0:
        forgotten = turns.enough([len(group) for group in messages], too_many)
    room = _room_for_the_prompt(call)
    tokens = await _tokens(call, worker, room)
    if tokens > room:
        too_large = -(-(tokens - room) * call.asked.prompt_tokens_max // tokens)
        forgotten = max(forgotten, turns.enough([_bound(call, group) for group in messages], too_large))
    return forgotten


def _say(call: Call, conversation: Conversation, new: list[Message]) -> None:
    asked = call.asked
    before = _bound(call, asked.fields["messages"])
    asked.fields["messages"] = messages = turns.prompt(conversation, new)
    asked.prompt_tokens_max += _bound(call, messages) - before
    asked.has_developer = any(message["role"] == "developer" for message in messages)
    call.prompt_tokens = None


def _bound(call: Call, messages: list[Message]) -> int:
    return prompt_bound.of_messages(messages, call.model)


def _room_for_the_prompt(call: Call) -> int:
    """Tokens: the context, less what the answer may take."""
    asked, context = call.asked, call.model.context_length
    if asked.length_field:
        return context - asked.output_wanted
    return context - min(asked.output_wanted, context // ANSWERS_SHARE)


async def _tokens(call: Call, worker: Worker, room: int) -> int:
    """What the prompt takes: its bound while that fits, else as the engine counts it, else two bytes a token, which
    stays on the safe side of every usual text."""
    bound = call.asked.prompt_tokens_max
    if bound <= room:
        return bound
    counted = await ask_tokenizer(call, worker)
    return bound // 2 if counted is None else counted
