"""For operators: who would have moved when by other upgrade rules, and what refusals that had spared. Reads only."""

from __future__ import annotations

from typing import Any, cast

from django import forms
from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.http import require_http_methods

from billing.upgrade_rules import GRAMMAR, Rule, RuleInvalid
from billing.upgrade_simulation import DAYS_MAX
from keys import staff
from keys.models import Brand
from portal import tier_simulation
from portal.tier_simulation import RulesWrong

ORGANIZATIONS_MAX = 2_000
"""What a page may read while somebody waits; the command has no bound."""
SHOWN_MAX = 200
RULES_CHARS_MAX = 20_000


class SimulationForm(forms.Form):
    brand = forms.ModelChoiceField(Brand.objects.none(), to_field_name="slug", empty_label=None)
    days = forms.IntegerField(min_value=1, max_value=DAYS_MAX, initial=30, help_text=f"Nights back, at most {DAYS_MAX}")
    rules = forms.CharField(
        required=False,
        max_length=RULES_CHARS_MAX,
        widget=forms.Textarea(attrs={"rows": 16, "cols": 90, "spellcheck": "false"}),
        help_text=f'JSON: {{"tier-2": RULE, …}}, what it takes to enter each. Empty: the rules in force. {GRAMMAR}.',
    )

    def __init__(self, brands: QuerySet[Brand], *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        cast("forms.ModelChoiceField[Brand]", self.fields["brand"]).queryset = brands


@require_http_methods(["GET", "HEAD", "POST"])
def simulate_tiers(request: HttpRequest) -> HttpResponse:
    if not request.user.has_perm("billing.view_tier"):
        raise PermissionDenied
    known = staff.brands_of(request.user)
    context = {**admin.site.each_context(request), "title": "Simulate tiers", "brands": _brands_with_rules(known)}
    if request.method != "POST":
        return render(
            request, "admin/simulate_tiers.html", context | {"form": _offered(known, request.GET.get("brand"))}
        )
    form = SimulationForm(known, request.POST)
    if form.is_valid():
        context |= _result(form)
    return render(request, "admin/simulate_tiers.html", context | {"form": form})


def _brands_with_rules(known: QuerySet[Brand]) -> list[Brand]:
    return list(known.filter(tiers__upgrade_rule__isnull=False).distinct())


def _offered(known: QuerySet[Brand], slug: str | None) -> SimulationForm:
    """With the rules in force of the brand that was chosen, to begin from."""
    brand = known.filter(slug=slug or "").first()
    if brand is None:
        return SimulationForm(known)
    try:
        rules = tier_simulation.as_text(tier_simulation.rules_in_force(brand))
    except RuleInvalid as error:
        rules = str(error)
    return SimulationForm(known, initial={"brand": brand.slug, "rules": rules})


def _result(form: SimulationForm) -> dict[str, object]:
    given = form.cleaned_data
    try:
        rules = _rules(given["rules"].strip(), given["brand"])
        found = tier_simulation.run(
            given["brand"], rules, days=given["days"], now=timezone.now(), at_most=ORGANIZATIONS_MAX
        )
    except (RulesWrong, RuleInvalid) as error:
        form.add_error("rules", str(error))
        return {}
    shown = found.simulation.moves[:SHOWN_MAX]
    return {
        "found": found,
        "rules_said": tier_simulation.rules_said(found),
        "rows": [(move, tier_simulation.reasons_of(move)) for move in shown],
        "hidden": len(found.simulation.moves) - len(shown),
        "unjudged": found.organizations - found.simulation.judged,
    }


def _rules(text: str, brand: Brand) -> dict[str, Rule]:
    return tier_simulation.rules_of(text, brand, is_json=True) if text else tier_simulation.rules_in_force(brand)
