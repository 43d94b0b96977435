"""What is known of each kind of engine beforehand, because asking cannot show it. Tables; pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_SAMPLING = ("top_k", "min_p", "repetition_penalty")


@dataclass(frozen=True, slots=True)
class Kind:
    """`stops_on_close`: a whole answer is given up when its client hangs up. `extra_fields`: parameters beyond OpenAI's
    that may be let through."""

    stops_on_close: bool = False
    extra_fields: tuple[str, ...] = ()


KINDS = {
    "vllm": Kind(
        stops_on_close=True,
        extra_fields=(
            *_SAMPLING,
            *("length_penalty", "min_tokens", "stop_token_ids", "include_stop_str_in_output", "skip_special_tokens"),
            *("chat_template_kwargs", "structured_outputs", "thinking_token_budget"),
        ),
    ),
    "sglang": Kind(
        stops_on_close=True,
        extra_fields=(
            *_SAMPLING,
            *("min_tokens", "stop_token_ids", "stop_regex", "regex", "ebnf", "skip_special_tokens"),
            *("chat_template_kwargs", "separate_reasoning"),
        ),
    ),
    "llamacpp": Kind(
        extra_fields=(
            *("top_k", "min_p", "repeat_penalty", "typical_p", "mirostat", "mirostat_tau", "mirostat_eta"),
            *("grammar", "json_schema", "dry_multiplier", "xtc_probability", "chat_template_kwargs"),
        ),
    ),
    "tgi": Kind(stops_on_close=True),
    "transformers": Kind(),
    "openai": Kind(),
}


def kind_of(owned_by: str, server: str, doors: Mapping[str, Any]) -> str:
    """The kind of an engine by what it lets show: `owned_by` of its first model, its Server header, and what GET said
    at its doors (path → JSON, None where there is no such door). "" when nothing gives it away."""
    if server == "llama.cpp" or owned_by == "llamacpp":
        return "llamacpp"
    info = doors.get("/info")
    if isinstance(info, dict) and "model_id" in info and "max_concurrent_requests" in info:
        return "tgi"
    if owned_by == "sglang" or isinstance(doors.get("/get_model_info"), dict):
        return "sglang"
    version = doors.get("/version")
    if owned_by == "vllm" or (isinstance(version, dict) and "version" in version):
        return "vllm"
    return ""
