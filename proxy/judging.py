"""May this caller use that model, now? Judged by records alone; pure. What it refuses is refused only after the
records were found to be current (pipeline.authenticate, billing.admission)."""

from __future__ import annotations

from billing.snapshot import ModelRecord, Snapshot
from billing.tiers import tier_of, unlocks
from keys.caller import Caller, check_static
from keys.directory import KeyRefused
from proxy.endpoints import Endpoint
from proxy.refusals import Reason, decline

GENERATIVE = frozenset({"chat", "completions", "embeddings"})


def judge_caller(caller: Caller, snapshot: Snapshot, endpoint: Endpoint, *, now_ms: int, address: str) -> None:
    """Raises Declined or KeyRefused: revoked, expired, suspended, address, scope, paused brand."""
    reason = check_static(caller, now_ms, address, scope=endpoint.scope or None)
    if reason is not None:
        raise KeyRefused(reason)
    if snapshot.brand.state != "active":
        raise decline(Reason.BRAND_PAUSED)


def judge_model(caller: Caller, snapshot: Snapshot, endpoint: Endpoint, name: str) -> ModelRecord:
    """The model of that name or alias; Declined where it is unknown, retired, resting, not for this key or tier, or
    has no such endpoint. TierUnknown: the snapshot is older than the organization's tier."""
    model = snapshot.models_by_name.get(name)
    if model is None or model.state == "retired":
        raise decline(Reason.MODEL_NOT_FOUND, param="model", model=name[:100])
    if not caller.allows_model(model.slug):
        raise decline(Reason.MODEL_NOT_ALLOWED, param="model", model=name)
    if not unlocks(tier_of(snapshot, caller.organization), model):
        raise decline(Reason.TIER_REQUIRED, param="model", model=name, tier=lowest_tier(model, snapshot))
    if model.state == "maintenance":
        detail = model.maintenance_message or f"The model '{name}' is in maintenance. Please try again later."
        raise decline(Reason.MODEL_MAINTENANCE, detail=detail, model=name)
    if not serves(model, endpoint.feature):
        detail = f"The model '{name}' does not support {endpoint.name}."
        raise decline(Reason.UNSUPPORTED_PARAMETER, param="model", detail=detail)
    return model


def lowest_tier(model: ModelRecord, snapshot: Snapshot) -> str:
    """The name of the first tier that customers are told of and that unlocks the model; "" where none does."""
    return next((tier.name for tier in snapshot.listed_tiers if unlocks(tier, model)), "")


def serves(model: ModelRecord, feature: str) -> bool:
    """A model that declares none of the endpoints generates text."""
    declared = GENERATIVE.intersection(model.features)
    return feature in declared if declared else feature != "embeddings"
