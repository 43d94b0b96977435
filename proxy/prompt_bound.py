"""The most tokens a prompt can be, from its bytes: what a hold is taken for (design, invariant 1). Pure.

A byte-level tokenizer never makes more tokens than the bytes it sees. What it sees may be larger than what was sent:
it may normalise the text, templates write tools and tool calls again with indent 4, and put constants around every
message. So: bytes of the text in its largest normal form + bytes of the re-serialised structures + the model's
constants per message and call + its bound for every part that is not text.
"""

from __future__ import annotations

from typing import Any
from unicodedata import normalize

import orjson

from billing.snapshot import ModelRecord
from proxy.bodies import DEPTH_MAX, deeper_than
from proxy.refusals import Reason, decline

_STRUCTURES = ("tools", "functions", "response_format", "tool_choice", "function_call", "prediction")
_QUOTED_ROLES = ("tool", "function")


def of_chat(fields: dict[str, Any], model: ModelRecord) -> int:
    """`fields` as they go upstream, messages checked."""
    bound = model.tokens_per_call + of_messages(fields["messages"], model)
    for name in _STRUCTURES:
        value = fields.get(name)
        if type(value) in (dict, list):
            bound += structure_bytes(value)
    return bound


def of_messages(messages: list[dict[str, Any]], model: ModelRecord) -> int:
    """What messages add to a prompt, each on its own."""
    bound = model.tokens_per_message * len(messages)
    for message in messages:
        content = message.get("content")
        if type(content) is str:
            bound += quoted_bytes(content) if message["role"] in _QUOTED_ROLES else text_bytes(content)
        elif content is not None:
            bound += _parts(content, message["role"] in _QUOTED_ROLES, model)
        if len(message) > 2:
            bound += _extras(message)
    return bound


def of_completion(fields: dict[str, Any], model: ModelRecord) -> int:
    prompts = as_list(fields["prompt"])
    bound = (model.tokens_per_call + model.tokens_per_message) * len(prompts)
    bound += sum([text_bytes(prompt) if type(prompt) is str else len(prompt) for prompt in prompts])
    suffix = fields.get("suffix")
    return bound + text_bytes(suffix) * len(prompts) if suffix else bound


def of_embedding(fields: dict[str, Any], model: ModelRecord) -> int:
    texts = as_list(fields["input"])
    return sum([text_bytes(text) if type(text) is str else len(text) for text in texts]) + (
        model.tokens_per_message * len(texts) + model.tokens_per_call
    )


def of_extras(values: list[Any]) -> int:
    """Engine parameters that a template could write into the prompt (chat_template_kwargs and the like)."""
    return sum([structure_bytes(value) for value in values if type(value) in (dict, list, str)])


def as_list(prompt: Any) -> list[Any]:
    """A prompt or input as a list of texts or token lists."""
    if type(prompt) is str or (prompt and type(prompt[0]) is int):
        return [prompt]
    return list(prompt)


def text_bytes(text: str) -> int:
    """Bytes of `text` as it is, composed (NFC) or in compatibility form (NFKC), whichever is most."""
    if text.isascii():
        return len(text)
    return max(
        len(text.encode()),
        len(normalize("NFC", text).encode()),
        len(normalize("NFKC", text).encode()),
    )


def quoted_bytes(text: str) -> int:
    """Bytes of `text` written as a JSON string, which is how templates write the results of tools."""
    return text_bytes(orjson.dumps(text).decode())


def structure_bytes(value: Any) -> int:
    """No less than the bytes of `value` written as JSON with indent 4: blank space at the start of lines is twice that
    of indent 2, and all that indent 2 adds is at least that."""
    short = len(orjson.dumps(value))
    indented = orjson.dumps(value, option=orjson.OPT_INDENT_2)
    return text_bytes(indented.decode()) + len(indented) - short


def _parts(parts: list[dict[str, Any]], quoted: bool, model: ModelRecord) -> int:
    bound = 0
    for part in parts:
        kind = part["type"]
        if kind == "text":
            bound += quoted_bytes(part["text"]) if quoted else text_bytes(part["text"])
        else:
            bound += model.modalities[kind]
    return bound


def _extras(message: dict[str, Any]) -> int:
    bound = 0
    for name in ("name", "tool_call_id", "refusal", "reasoning", "reasoning_content"):
        value = message.get(name)
        if value:
            bound += text_bytes(value)
    for call in message.get("tool_calls") or ():
        function = call.get("function")
        bound += structure_bytes(call) + (_arguments(function) if type(function) is dict else 0)
    function_call = message.get("function_call")
    if function_call:
        bound += structure_bytes(function_call) + _arguments(function_call)
    return bound


def _arguments(function: dict[str, Any]) -> int:
    """Arguments are JSON in a string; templates may write them again as a structure."""
    arguments = function.get("arguments")
    if type(arguments) is not str:
        return 0
    if arguments.count("[") + arguments.count("{") > DEPTH_MAX and deeper_than(arguments.encode(), DEPTH_MAX):
        raise decline(Reason.TOO_DEEP, limit=DEPTH_MAX)
    try:
        return structure_bytes(orjson.loads(arguments))
    except orjson.JSONDecodeError:
        return text_bytes(arguments)
