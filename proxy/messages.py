"""Chat messages: which shapes are let through. Pure.

Text everywhere; other content parts only where the model declares their modality with a token bound, and only as data:
URLs, so that no engine fetches anything for a stranger. Unknown keys of a message or part are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from proxy.fields import TOOL_FIELDS, invalid
from proxy.refusals import Reason, decline

MESSAGES_MAX = 10_000
PARTS_MAX = 1_000
NAME_CHARS_MAX = 256

ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})
KEYS = frozenset(
    {
        *("role", "content", "name", "tool_calls", "tool_call_id", "function_call", "refusal"),
        *("reasoning", "reasoning_content"),
    }
)
_PLAIN_PART = frozenset({"type", "text"})
_DATA_KEYS = {
    "image_url": ("url", frozenset({"url", "detail"})),
    "video_url": ("url", frozenset({"url"})),
    "audio_url": ("url", frozenset({"url"})),
    "input_audio": ("data", frozenset({"data", "format"})),
    "file": ("file_data", frozenset({"file_data", "filename"})),
}
"""Content part type → where its data is, and the keys let through. Parts that hold an address need a data: URL."""


def check_plain(body: Mapping[str, Any]) -> None:
    """For brands whose keys are for plain text chat: Declined (403) where a body asks for tools, or has messages of
    tools or parts that are not text. What is no message at all is `checked`'s to refuse."""
    for name in body.keys() & TOOL_FIELDS:
        if body[name]:
            raise decline(Reason.CHAT_ONLY, param=name, detail=f", without '{name}'")
    messages = body.get("messages")
    for index, message in enumerate(messages if type(messages) is list else ()):
        if type(message) is not dict:
            continue
        where = f"messages[{index}]"
        if message.get("role") in ("tool", "function") or message.get("tool_calls") or message.get("function_call"):
            raise decline(Reason.CHAT_ONLY, param=where, detail=f", without calls of tools ({where})")
        content = message.get("content")
        for part in content if type(content) is list else ():
            if type(part) is dict and part.get("type") not in ("text", None):
                kind = str(part["type"])[:40]
                raise decline(Reason.CHAT_ONLY, param=f"{where}.content", detail=f", without parts of type '{kind}'")


def checked(messages: Any, modalities: Mapping[str, int]) -> tuple[list[dict[str, Any]], set[str]]:
    """The messages as they may go upstream, and the names of keys left out ("messages.cache_control")."""
    if type(messages) is not list or not messages:
        raise invalid("messages", "expected a list with at least one message")
    if len(messages) > MESSAGES_MAX:
        raise invalid("messages", f"more than {MESSAGES_MAX} messages")
    left_out: set[str] = set()
    for index, message in enumerate(messages):
        if type(message) is not dict:
            raise invalid(f"messages[{index}]", "expected an object with role and content")
        if message.get("role") not in ROLES:
            raise invalid(f"messages[{index}].role", "expected one of " + ", ".join(sorted(ROLES)))
        if not message.keys() <= KEYS:
            for name in message.keys() - KEYS:
                left_out.add("messages." + name)
                del message[name]
        if type(message.get("content")) is not str:
            _check_content(index, message, modalities, left_out)
        if len(message) > 2:
            _check_extras(index, message)
    return messages, left_out


def _check_content(index: int, message: dict[str, Any], modalities: Mapping[str, int], left_out: set[str]) -> None:
    content = message.get("content")
    where = f"messages[{index}].content"
    if content is None:
        if message["role"] == "assistant" and (message.get("tool_calls") or message.get("function_call")):
            return
        raise invalid(where, "expected text (null is only for an assistant message with tool_calls)")
    if type(content) is not list or not content or len(content) > PARTS_MAX:
        raise invalid(where, f"expected a string or a list of 1 to {PARTS_MAX} content parts")
    message["content"] = [
        _part(f"{where}[{position}]", part, modalities, left_out) for position, part in enumerate(content)
    ]


def _part(where: str, part: Any, modalities: Mapping[str, int], left_out: set[str]) -> dict[str, Any]:
    if type(part) is not dict or type(part.get("type")) is not str:
        raise invalid(where, "expected an object with a type")
    kind = part["type"]
    if kind in ("text", "refusal"):
        if type(part.get(kind)) is not str:
            raise invalid(f"{where}.{kind}", "expected a string")
        kept = {"type": "text", "text": part[kind]}
        left_out.update("messages.content." + name for name in part.keys() - {"type", kind})
        return part if part.keys() == _PLAIN_PART else kept
    if kind not in modalities or kind not in _DATA_KEYS:
        raise decline(
            Reason.UNSUPPORTED_PARAMETER,
            param=f"{where}.type",
            detail=f"This model does not take content parts of type '{kind[:40]}'.",
        )
    return _data_part(where, kind, part, left_out)


def _data_part(where: str, kind: str, part: dict[str, Any], left_out: set[str]) -> dict[str, Any]:
    place, keys = _DATA_KEYS[kind]
    inner = part.get(kind)
    data = inner.get(place) if type(inner) is dict else None
    if type(data) is not str:
        raise invalid(f"{where}.{kind}.{place}", "expected a string")
    if place == "url" and not data.startswith("data:"):
        raise invalid(f"{where}.{kind}.url", "only data: URLs are accepted; nothing is fetched")
    assert type(inner) is dict
    if any(type(value) is not str for name, value in inner.items() if name in keys):
        raise invalid(f"{where}.{kind}", "expected strings")
    left_out.update(f"messages.content.{name}" for name in part.keys() - {"type", kind})
    left_out.update(f"messages.content.{kind}.{name}" for name in inner.keys() - keys)
    return {"type": kind, kind: {name: value for name, value in inner.items() if name in keys}}


def _check_extras(index: int, message: dict[str, Any]) -> None:
    for name in ("name", "tool_call_id", "refusal", "reasoning", "reasoning_content"):
        value = message.get(name)
        if value is not None and type(value) is not str:
            raise invalid(f"messages[{index}].{name}", "expected a string")
    if len(message.get("name") or "") > NAME_CHARS_MAX:
        raise invalid(f"messages[{index}].name", f"longer than {NAME_CHARS_MAX} characters")
    calls = message.get("tool_calls")
    if calls is not None and (type(calls) is not list or any(type(call) is not dict for call in calls)):
        raise invalid(f"messages[{index}].tool_calls", "expected a list of tool calls")
    function_call = message.get("function_call")
    if function_call is not None and type(function_call) is not dict:
        raise invalid(f"messages[{index}].function_call", "expected an object")
