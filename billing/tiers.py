"""Rules of a brand's ladder: which tier an organization stands on, who pays there, which models it unlocks. Pure."""

from __future__ import annotations

from billing.limits import PREPAID_WITHOUT_LIMITS
from billing.snapshot import ModelRecord, Snapshot, TierRecord
from keys.caller import OrganizationRecord

INCLUDED = "included"
PREPAID = "prepaid"
INCLUDED_THEN_PREPAID = "included_then_prepaid"


class TierUnknown(Exception):
    """The snapshot is older than the organization's tier: reload it."""


def tier_of(snapshot: Snapshot, organization: OrganizationRecord) -> TierRecord:
    """The organization's own tier, else the brand's default, else prepaid without limits. Raises TierUnknown."""
    if organization.tier_id is None:
        return snapshot.default_tier or PREPAID_WITHOUT_LIMITS
    tier = snapshot.tiers_by_id.get(organization.tier_id)
    if tier is None:
        raise TierUnknown(f"tier {organization.tier_id} is not in version {snapshot.version} of {snapshot.brand.slug}")
    return tier


def unlocks(tier: TierRecord, model: ModelRecord) -> bool:
    return tier.models is None or model.slug in tier.models


def models_of(snapshot: Snapshot, tier: TierRecord) -> tuple[ModelRecord, ...]:
    """What the tier may call, in the brand's order; retired models are gone for everybody."""
    return tuple(model for model in snapshot.models if unlocks(tier, model) and model.state != "retired")


def asks_balance(tier: TierRecord) -> bool:
    return tier.payer != INCLUDED
