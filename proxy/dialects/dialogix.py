"""Dialogix: OpenAI's surface with a ladder in the catalogue and words of its own for a free tier that is used up."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from billing.snapshot import BrandRecord
from proxy.dialects.openai import OpenAI
from proxy.dialects.protocol import Listed
from proxy.refusals import Problem, Reason


class Dialogix(OpenAI):
    name = "dialogix"
    request_fields = frozenset({"session_id"})

    def worded(self, problem: Problem, brand: BrandRecord | None) -> Problem:
        problem = super().worded(problem, brand)
        upgrade = f" Upgrade your tier: {problem.portal}balance/" if problem.portal else " Upgrade your tier."
        if problem.reason is Reason.TIER_REQUIRED:
            tier = problem.facts.get("tier") or "a higher"
            return replace(problem, message=f"The model '{problem.facts.get('model')}' needs the {tier} tier.{upgrade}")
        if problem.reason is Reason.ENGINE_NOT_READY:
            return replace(problem, message="Engine not ready: GPU is loading model, retry in 30s.")
        quota = problem.quota
        if problem.reason is Reason.INSUFFICIENT_QUOTA and quota is not None and quota.window == "lifetime":
            amount = f"the {quota.limit:,} {quota.unit} of your tier"
            said = f"You have used up {amount}."
            if quota.used < quota.limit:
                said = f"You have used {quota.used:,} of {amount}; this request needs more than the rest."
            return replace(problem, message=said + upgrade, retryable=False)
        return problem

    def model(self, listed: Listed, brand: BrandRecord) -> dict[str, Any]:
        """`tier_required` as its page writes it: "Pro+" is the Pro tier and those above."""
        shown = super().model(listed, brand)
        shown["tier_required"] = f"{listed.tier_required}+" if listed.tier_required else ""
        return shown
