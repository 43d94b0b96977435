"""Rules of a brand's ladder: which tier an organization stands on, which models it unlocks. Pure."""

from __future__ import annotations

import msgspec

from billing.limits import PREPAID_WITHOUT_LIMITS
from billing.snapshot import ModelRecord, Snapshot, TierRecord
from keys.caller import OrganizationRecord

PREPAID = PREPAID_WITHOUT_LIMITS.payer


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


def as_paid(tier: TierRecord, organization: OrganizationRecord) -> TierRecord:
    """The tier as this organization pays for it: what a tier includes without a price is for first accounts only, and a
    further one pays it from its balance."""
    if tier.payer == PREPAID or tier.is_sold or not organization.is_further:
        return tier
    return msgspec.structs.replace(tier, payer=PREPAID)


def unlocks(tier: TierRecord, model: ModelRecord) -> bool:
    return tier.models is None or model.slug in tier.models
