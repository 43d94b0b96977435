"""`input` or `messages` of POST /responses as chat's messages. Pure.

Items of function calls become the tool calls of one assistant message, their outputs tool messages; thought of earlier
answers is left out, as chat does with it.
"""

from __future__ import annotations

from typing import Any

from proxy.fields import invalid
from proxy.refusals import Reason, decline

ITEMS_MAX = 10_000
_TEXTS = frozenset({"input_text", "output_text", "text"})
_THOUGHTS = frozenset({"reasoning", "reasoning_text", "summary_text"})


def messages_of(body: dict[str, Any], instructions: str | None) -> tuple[Any, dict[str, str]]:
    """The messages, and what each is called in the body: `{"messages[1]": "input[0]"}`, for errors."""
    given, messages = body.get("input"), body.get("messages")
    if given is not None and messages is not None:
        raise invalid("input", "send either 'input' or 'messages', not both")
    if given is None and messages is None:
        raise decline(Reason.MISSING_FIELD, param="input")
    found: list[Any] = []
    names: list[str] = []
    if messages is not None:
        found = list(messages) if type(messages) is list else messages
        names = [f"messages[{index}]" for index in range(len(found))] if type(found) is list else []
    elif type(given) is str:
        if not given:
            raise invalid("input", "expected a text that is not empty, or a list of messages")
        found, names = [{"role": "user", "content": given}], ["input"]
    else:
        found, names = _from_items(given)
    if instructions is not None and type(found) is list:
        found, names = [{"role": "system", "content": instructions}, *found], ["instructions", *names]
    return found, {f"messages[{index}]": name for index, name in enumerate(names)} | {
        "messages": "input" if messages is None else "messages"
    }


def _from_items(items: Any) -> tuple[list[dict[str, Any]], list[str]]:
    if type(items) is not list or not items or len(items) > ITEMS_MAX:
        raise invalid("input", f"expected a text, or a list of 1 to {ITEMS_MAX} messages")
    found: list[dict[str, Any]] = []
    names: list[str] = []
    for index, item in enumerate(items):
        where = f"input[{index}]"
        if type(item) is not dict:
            raise invalid(where, "expected an object with role and content")
        kind = item.get("type") or "message"
        if kind == "function_call":
            _add_call(found, names, where, item)
        elif kind != "reasoning":
            found.append(_message(where, item) if kind == "message" else _output(where, kind, item))
            names.append(where)
    if not found:
        raise invalid("input", "expected at least one message")
    return found, names


def _message(where: str, item: dict[str, Any]) -> dict[str, Any]:
    content = item.get("content")
    if type(content) is list:
        parts = [_part(f"{where}.content[{index}]", part) for index, part in enumerate(content)]
        content = [part for part in parts if part is not None]
        if item.get("role") == "assistant":  # templates of many models take nothing but text there
            content = "".join([part.get("text") or "" for part in content])
    return {name: value for name, value in item.items() if name not in _OF_ITEMS} | {"content": content}


_OF_ITEMS = frozenset({"type", "id", "status", "phase", "content"})


def _part(where: str, part: Any) -> dict[str, Any] | None:
    """A content part as chat has it; None for thought."""
    if type(part) is not dict or type(part.get("type")) is not str:
        raise invalid(where, "expected an object with a type")
    kind = part["type"]
    if kind in _THOUGHTS:
        return None
    if kind in _TEXTS or kind == "refusal":
        said = part.get("refusal" if kind == "refusal" else "text")
        if type(said) is not str:
            raise invalid(f"{where}.text", "expected a string")
        return {"type": "text", "text": said}
    if kind == "input_image":
        return {"type": "image_url", "image_url": _kept(part, {"image_url": "url", "detail": "detail"})}
    if kind == "input_file":
        return {"type": "file", "file": _kept(part, {"file_data": "file_data", "filename": "filename"})}
    return part


def _kept(part: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    return {there: part[here] for here, there in names.items() if part.get(here) is not None}


def _add_call(found: list[dict[str, Any]], names: list[str], where: str, item: dict[str, Any]) -> None:
    """One call of an assistant's turn: calls that follow each other, or its message, are one turn."""
    for name in ("call_id", "name", "arguments"):
        if type(item.get(name)) is not str:
            raise invalid(f"{where}.{name}", "expected a string")
    if not found or found[-1].get("role") != "assistant":
        found.append({"role": "assistant", "content": None})
        names.append(where)
    function = {"name": item["name"], "arguments": item["arguments"]}
    found[-1].setdefault("tool_calls", []).append({"id": item["call_id"], "type": "function", "function": function})


def _output(where: str, kind: Any, item: dict[str, Any]) -> dict[str, Any]:
    if kind != "function_call_output":
        raise decline(
            Reason.UNSUPPORTED_PARAMETER,
            param=f"{where}.type",
            detail=f"Input items of type '{str(kind)[:40]}' are not supported.",
        )
    if type(item.get("call_id")) is not str:
        raise invalid(f"{where}.call_id", "expected a string")
    output = item.get("output")
    if type(output) is list:
        parts = [_part(f"{where}.output[{index}]", part) for index, part in enumerate(output)]
        output = [part for part in parts if part is not None]
    elif type(output) is not str:
        raise invalid(f"{where}.output", "expected a string or a list of parts")
    return {"role": "tool", "tool_call_id": item["call_id"], "content": output}
