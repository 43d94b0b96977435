"""The engine that answers test keys in every installation: the demo's own, inside the proxy's workers."""

from __future__ import annotations

from billing.snapshot import ModelRecord
from portal.demo.engine import DemoEngine
from proxy.judging import serves

OBEYS = frozenset({"status", "error", "die", "nodone", "tokens", "tool"})
"""What a prompt may ask of it: what programs want to see once, and nothing that holds a slot."""
LOG_LENGTH = 100
CACHED_BLOCKS = 5_000


def engine() -> DemoEngine:
    return DemoEngine(log_length=LOG_LENGTH, cached_blocks=CACHED_BLOCKS, obeys=OBEYS)


def name_of(model: ModelRecord) -> str:
    """Of its models the one that does what a brand's model does."""
    if not serves(model, "chat") and not serves(model, "completions"):
        return "demo-embed"
    if model.images_per_call_max:
        return "demo-image"
    return "demo-reasoning" if model.is_reasoning else "demo-vast"
