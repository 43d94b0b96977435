"""What to ask an engine for, so that its answer can be metered. Pure."""

from __future__ import annotations

from typing import Any

from billing.snapshot import Capabilities


def reporting_fields(capabilities: Capabilities, *, choices: int) -> dict[str, Any]:
    """What to ask a stream for, so that it can be metered to its last token and, where the engine can, at every one.

    llama.cpp's usage counts only the first choice; without it each choice's finish carries that choice's own timings,
    end token included."""
    if capabilities.running_usage == "timings_per_token":
        return {
            "timings_per_token": True,
            "stream_options": {"include_usage": choices == 1 or capabilities.counts_every_choice},
        }
    options = {"include_usage": True}
    if capabilities.running_usage == "continuous_usage_stats":
        options["continuous_usage_stats"] = True
    return {"stream_options": options}


def can_count_choices(capabilities: Capabilities, *, stream: bool) -> bool:
    """May a request ask this engine for several choices? Where its usage counts only the first, the meter adds up the
    running counts of each choice, which only streams have."""
    return capabilities.counts_every_choice or (stream and bool(capabilities.running_usage))
