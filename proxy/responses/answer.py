"""A response object and what is in it, as the openai SDKs' types and the brands' pages have them. Pure.

Thought is the first content part of the message: `{"type": "reasoning", "text": …}`.
"""

from __future__ import annotations

from typing import Any

from billing.usage import Usage
from proxy.dialects.protocol import Stamp
from proxy.meter import Measured
from proxy.responses.request import Echo
from proxy.splitting import Split, message_split

Object = dict[str, Any]
CALL_ID_CHARS = 36
"""A UUID as text."""
_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
"""End reason of a call → why its response is incomplete."""


def whole(answer: Object, stamp: Stamp, echo: Echo, asked: Split | None, measured: Measured) -> Object:
    """A whole response from an engine's chat completion."""
    choice = next(iter(answer.get("choices") or ()), None)
    message = choice.get("message") if type(choice) is dict else None
    found: Object = message if type(message) is dict else {}
    thought, text = "", text_in(found)
    if asked is not None and type(choice) is dict and type(found.get("content")) is not list:
        thought, text = message_split(choice, asked)
    status = status_of(measured)
    images = images_in(found)
    calls = [call for call in found.get("tool_calls") or () if type(call) is dict]
    output: list[Object] = []
    is_last = not calls and not images
    if text or thought or is_last:
        output.append(message_item(message_id(stamp), parts_of(thought, text, is_last=is_last), status))
    output += [image_item(stamp, number, image) for number, image in enumerate(images)]
    for index, call in enumerate(calls):
        function = call.get("function")
        function = function if type(function) is dict else {}
        output.append(
            call_item(
                stamp,
                index,
                call_id=str(call.get("id") or ""),
                name=str(function.get("name") or ""),
                arguments=str(function.get("arguments") or ""),
                status=status,
            )
        )
    return response(stamp, echo, status=status, output=output, measured=measured)


def response(
    stamp: Stamp,
    echo: Echo,
    *,
    status: str,
    output: list[Object],
    measured: Measured | None = None,
    error: Object | None = None,
) -> Object:
    why = None if measured is None else _INCOMPLETE.get(measured.end_reason)
    return {
        "id": stamp.id,
        "object": "response",
        "created_at": stamp.created,
        "status": status,
        "background": False,
        "error": error,
        "incomplete_details": None if why is None else {"reason": why},
        "instructions": echo.instructions,
        "max_output_tokens": echo.max_output_tokens,
        "model": stamp.model,
        "output": output,
        "parallel_tool_calls": echo.parallel_tool_calls,
        "previous_response_id": None,
        "reasoning": echo.reasoning,
        "service_tier": "default",
        "store": False,
        "temperature": echo.temperature,
        "text": echo.text,
        "tool_choice": echo.tool_choice,
        "tools": echo.tools,
        "top_p": echo.top_p,
        "truncation": "disabled",
        "usage": None if measured is None else usage(measured.usage),
        "user": echo.user,
        "metadata": echo.metadata,
    }


def usage(used: Usage) -> Object:
    return {
        "input_tokens": used.prompt_tokens,
        "input_tokens_details": {
            "cached_tokens": used.cache_read or 0,
            "cache_write_tokens": used.cache_write or 0,
        },
        "output_tokens": used.output,
        "output_tokens_details": {"reasoning_tokens": used.reasoning or 0},
        "total_tokens": used.total_tokens,
    }


def status_of(measured: Measured) -> str:
    return "incomplete" if measured.end_reason in _INCOMPLETE else "completed"


# items and parts ------------------------------------------------------------------------------------------------------


def own_id(stamp: Stamp) -> str:
    """The call's id without the brand's prefix."""
    return stamp.id[-CALL_ID_CHARS:]


def message_id(stamp: Stamp) -> str:
    return f"msg_{own_id(stamp)}"


def message_item(item_id: str, parts: list[Object], status: str) -> Object:
    return {"id": item_id, "type": "message", "status": status, "role": "assistant", "content": parts}


def call_item(stamp: Stamp, index: int, *, call_id: str, name: str, arguments: str, status: str) -> Object:
    return {
        "id": f"fc_{own_id(stamp)}_{index}",
        "type": "function_call",
        "status": status,
        "call_id": call_id or f"call_{own_id(stamp)}_{index}",
        "name": name,
        "arguments": arguments,
    }


def parts_of(thought: str, text: str, *, is_last: bool) -> list[Object]:
    """`is_last`: no calls or images follow, so that the message has a text, be it empty."""
    parts = [thought_part(thought)] if thought else []
    return [*parts, text_part(text)] if text or is_last else parts


def thought_part(text: str) -> Object:
    return {"type": "reasoning", "text": text}


def text_part(text: str) -> Object:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


# what an engine's message holds ---------------------------------------------------------------------------------------


def text_in(message: Object) -> str:
    """The text of a message or delta, be it in parts."""
    content = message.get("content")
    if type(content) is list:
        texts = [part.get("text") for part in content if type(part) is dict]
        return "".join([text for text in texts if type(text) is str])
    return content if type(content) is str else ""


def images_in(message: Object) -> list[str]:
    """Images of a message or delta as their data or addresses, wherever engines put them."""
    content, images = message.get("content"), message.get("images")
    parts = [*(images if type(images) is list else ()), *(content if type(content) is list else ())]
    return [url for part in parts if (url := _url_in(part))]


def _url_in(part: Any) -> str:
    for name in ("image_url", "image", "url"):
        if type(part) is dict:
            part = part.get(name, part)
    return part if type(part) is str else ""


def image_item(stamp: Stamp, number: int, image: str) -> Object:
    """As the SDKs know pictures: their data without the address around it."""
    data = image.partition(";base64,")[2] if image.startswith("data:") else image
    return {
        "id": f"ig_{own_id(stamp)}_{number}",
        "type": "image_generation_call",
        "status": "completed",
        "result": data,
    }
