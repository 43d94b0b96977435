"""Which request fields exist, what they may hold, and which never reach an engine. Tables; pure.

A field is *sent* (to the engine), *kept* (the gateway acts on it) or *idle*: part of the public schema, accepted, but
without effect here, so it is dropped and named in x-dropped-fields unless it asks for what happens anyway.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any, NamedTuple

from proxy.refusals import Reason, decline

METADATA_PAIRS_MAX = 16
METADATA_NAME_CHARS_MAX = 64
METADATA_VALUE_CHARS_MAX = 512
STOP_SEQUENCES_MAX = 16
STOP_CHARS_MAX = 256
TOOLS_MAX = 256
CHOICES_MAX = 128
LOGIT_BIAS_MAX = 1024
INT64_MAX = 2**63 - 1

Check = Callable[[str, Any], None]


class Fate(Enum):
    SEND = "send"
    KEEP = "keep"
    IDLE = "idle"


class Rule(NamedTuple):
    check: Check
    fate: Fate = Fate.SEND
    default: Any = None
    """What an idle field may ask for without being named as dropped."""


def invalid(param: str, detail: str) -> Exception:
    return decline(Reason.INVALID_VALUE, param=param, detail=f"Invalid value for '{param}': {detail}.")


def number(low: float, high: float) -> Check:
    def check(param: str, value: Any) -> None:
        if type(value) not in (int, float):
            raise invalid(param, f"expected a number from {low:g} to {high:g}")
        if not low <= value <= high:
            raise invalid(param, f"{value:g} is not from {low:g} to {high:g}")

    return check


def integer(low: int, high: int) -> Check:
    def check(param: str, value: Any) -> None:
        if type(value) is not int:
            raise invalid(param, f"expected an integer from {low} to {high}")
        if not low <= value <= high:
            raise invalid(param, f"{value} is not from {low} to {high}")

    return check


def boolean(param: str, value: Any) -> None:
    if type(value) is not bool:
        raise invalid(param, "expected true or false")


def text(chars_max: int) -> Check:
    def check(param: str, value: Any) -> None:
        if type(value) is not str:
            raise invalid(param, "expected a string")
        if len(value) > chars_max:
            raise invalid(param, f"longer than {chars_max} characters")

    return check


def one_of(*values: str) -> Check:
    def check(param: str, value: Any) -> None:
        if value not in values:
            raise invalid(param, "expected one of " + ", ".join(values))

    return check


def mapping(param: str, value: Any) -> None:
    if type(value) is not dict:
        raise invalid(param, "expected an object")


def anything(param: str, value: Any) -> None:
    return None


def stop(param: str, value: Any) -> None:
    sequences = [value] if type(value) is str else value
    if type(sequences) is not list or len(sequences) > STOP_SEQUENCES_MAX:
        raise invalid(param, f"expected a string or a list of at most {STOP_SEQUENCES_MAX} strings")
    for sequence in sequences:
        if type(sequence) is not str or not sequence or len(sequence) > STOP_CHARS_MAX:
            raise invalid(param, f"each stop sequence is a string of 1 to {STOP_CHARS_MAX} characters")


def logit_bias(param: str, value: Any) -> None:
    if type(value) is not dict or len(value) > LOGIT_BIAS_MAX:
        raise invalid(param, f"expected an object of at most {LOGIT_BIAS_MAX} entries")
    for token, bias in value.items():
        if not (token.isascii() and token.isdigit()) or type(bias) not in (int, float) or not -100 <= bias <= 100:
            raise invalid(param, "expected token ids with numbers from -100 to 100")


def tools(param: str, value: Any) -> None:
    if type(value) is not list or len(value) > TOOLS_MAX:
        raise invalid(param, f"expected a list of at most {TOOLS_MAX} tools")
    for tool in value:
        if type(tool) is not dict or type(tool.get("type")) is not str:
            raise invalid(param, "each tool is an object with a type")
        if tool["type"] == "function":
            function = tool.get("function")
            if type(function) is not dict or type(function.get("name")) is not str or not function["name"]:
                raise invalid(param, "a function tool has a function with a name")


def functions(param: str, value: Any) -> None:
    if type(value) is not list or len(value) > TOOLS_MAX:
        raise invalid(param, f"expected a list of at most {TOOLS_MAX} functions")
    for function in value:
        if type(function) is not dict or type(function.get("name")) is not str:
            raise invalid(param, "each function is an object with a name")


def string_or_object(param: str, value: Any) -> None:
    if type(value) not in (str, dict):
        raise invalid(param, "expected a string or an object")


def response_format(param: str, value: Any) -> None:
    if type(value) is not dict or value.get("type") not in ("text", "json_object", "json_schema"):
        raise invalid(param, "expected an object whose type is text, json_object or json_schema")
    if value["type"] == "json_schema" and type(value.get("json_schema")) is not dict:
        raise invalid(param, "json_schema is missing")


def stream_options(param: str, value: Any) -> None:
    if type(value) is not dict:
        raise invalid(param, "expected an object")
    if type(value.get("include_usage")) not in (bool, type(None)):
        raise invalid("stream_options.include_usage", "expected true or false")


def metadata(param: str, value: Any) -> None:
    if type(value) is not dict or len(value) > METADATA_PAIRS_MAX:
        raise invalid(param, f"expected an object of at most {METADATA_PAIRS_MAX} pairs")
    for name, content in value.items():
        if len(name) > METADATA_NAME_CHARS_MAX:
            raise invalid(param, f"a name is longer than {METADATA_NAME_CHARS_MAX} characters")
        if type(content) is not str or len(content) > METADATA_VALUE_CHARS_MAX:
            raise invalid(param, f"each value is a string of at most {METADATA_VALUE_CHARS_MAX} characters")


def modalities(param: str, value: Any) -> None:
    if value != ["text"]:
        raise decline(Reason.UNSUPPORTED_PARAMETER, param=param, detail="Only the output modality 'text' is supported.")


_TOKENS = integer(1, 2**31 - 1)
_PENALTY = number(-2, 2)

_SAMPLING = {
    "frequency_penalty": Rule(_PENALTY),
    "logit_bias": Rule(logit_bias),
    "presence_penalty": Rule(_PENALTY),
    "seed": Rule(integer(-INT64_MAX - 1, INT64_MAX)),
    "stop": Rule(stop),
    "temperature": Rule(number(0, 2)),
    "top_p": Rule(number(0, 1)),
    "max_tokens": Rule(_TOKENS, Fate.KEEP),
    "n": Rule(integer(1, CHOICES_MAX), Fate.KEEP),
    "stream": Rule(boolean, Fate.KEEP),
    "stream_options": Rule(stream_options, Fate.KEEP),
    "model": Rule(anything, Fate.KEEP),
    "user": Rule(text(512), Fate.KEEP),
}

CHAT: dict[str, Rule] = _SAMPLING | {
    "messages": Rule(anything),  # messages.py
    "max_completion_tokens": Rule(_TOKENS, Fate.KEEP),
    "metadata": Rule(metadata, Fate.KEEP),
    "safety_identifier": Rule(text(512), Fate.KEEP),
    "function_call": Rule(string_or_object),
    "functions": Rule(functions),
    "logprobs": Rule(boolean),
    "top_logprobs": Rule(integer(0, 20)),
    "parallel_tool_calls": Rule(boolean),
    "prediction": Rule(mapping),
    "reasoning_effort": Rule(text(20)),
    "response_format": Rule(response_format),
    "tool_choice": Rule(string_or_object),
    "tools": Rule(tools),
    "verbosity": Rule(one_of("low", "medium", "high")),
    "modalities": Rule(modalities, Fate.IDLE, ["text"]),
    "store": Rule(boolean, Fate.IDLE, False),
    "service_tier": Rule(text(20), Fate.IDLE, "auto"),
    "audio": Rule(mapping, Fate.IDLE),
    "moderation": Rule(mapping, Fate.IDLE),
    "prompt_cache_key": Rule(text(512), Fate.IDLE),
    "prompt_cache_options": Rule(mapping, Fate.IDLE),
    "prompt_cache_retention": Rule(text(20), Fate.IDLE),
    "web_search_options": Rule(mapping, Fate.IDLE),
}

TOOL_FIELDS = frozenset({"tools", "tool_choice", "parallel_tool_calls", "functions", "function_call"})

COMPLETIONS: dict[str, Rule] = _SAMPLING | {
    "prompt": Rule(anything),  # requests.py
    "best_of": Rule(integer(1, CHOICES_MAX), Fate.KEEP),
    "echo": Rule(boolean),
    "logprobs": Rule(integer(0, 20)),
    "suffix": Rule(text(2**20)),
}

EMBEDDINGS: dict[str, Rule] = {
    "input": Rule(anything),  # requests.py
    "model": Rule(anything, Fate.KEEP),
    "dimensions": Rule(integer(1, 65_536)),
    "encoding_format": Rule(one_of("float", "base64"), Fate.SEND),
    "user": Rule(text(512), Fate.KEEP),
}

NEVER = frozenset(
    {
        # whose call it is and how it is scheduled: ours to say
        *("priority", "cache_salt", "request_id", "rid", "extra_key", "routing_key", "data_parallel_rank"),
        *("prompt_cache_isolation_key", "cached_tokens", "usage"),
        # the insides of engines
        *("kv_transfer_params", "bootstrap_host", "bootstrap_port", "bootstrap_room", "bootstrap_pair_key"),
        *("lora_path", "lora", "lora_request", "custom_logit_processor", "custom_params", "logits_processors"),
        *("return_hidden_states", "return_token_ids", "return_tokens_as_token_ids", "prompt_logprobs", "vllm_xargs"),
        *("return_routed_experts", "session_params", "id_slot", "cache_prompt", "samplers", "n_keep", "n_discard"),
        *("mm_processor_kwargs", "media_io_kwargs", "response_fields", "post_sampling_probs", "return_progress"),
        # what the meter and the prompt bound rely on
        *("n_predict", "n_cmpl", "best_of", "use_beam_search", "beam_width", "timings_per_token", "truncate"),
        *("chat_template", "add_generation_prompt", "continue_final_message", "add_special_tokens", "documents"),
        *("truncate_prompt_tokens", "t_max_predict_ms", "t_max_prompt_ms", "prompt_embeds", "input_ids"),
        # where a call goes
        *("api_base", "api_key", "base_url", "extra_body", "extra_headers", "extra_query", "headers", "timeout"),
    }
)
"""Never sent for a client, whatever a model or an engine declares."""
