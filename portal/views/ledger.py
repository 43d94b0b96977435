"""For operators: the books, transaction by transaction. Read-only; what is wrong is put right by another posting."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Any
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from django import forms
from django.contrib import admin
from django.core import signing
from django.core.exceptions import PermissionDenied
from django.db.models import Model, Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.http import require_safe

from billing import transactions
from billing.models import Posting
from billing.transactions import Place, Selection, Transaction
from keys import staff
from keys.models import Brand, Organization

SALT = "ledger"
PER_PAGE = 50
ACCOUNTS = {
    "wallet": "Customers' wallets",
    "revenue": "Revenue",
    "cash": "Received from customers",
    "promotion": "Given away",
    "adjustment": "Adjustments",
}


@dataclass(frozen=True, slots=True)
class Row:
    found: Transaction
    cause: str
    url: str


class LedgerForm(forms.Form):
    """A GET form: whatever is empty leaves everything in."""

    brand = forms.ModelChoiceField(Brand.objects.none(), to_field_name="slug", empty_label=None)
    organization = forms.CharField(required=False, max_length=120, label="Organization")
    account = forms.ChoiceField(required=False, choices=[("", "All accounts"), *ACCOUNTS.items()])
    kind = forms.ChoiceField(required=False, choices=[("", "All kinds"), *Posting.Kind.choices])
    since = forms.DateField(required=False, label="From")
    until = forms.DateField(required=False, label="To")
    reference = forms.CharField(required=False, max_length=120, label="Reference begins with")
    call = forms.UUIDField(required=False, label="Call id")

    def __init__(self, brands: QuerySet[Brand], data: Any) -> None:
        super().__init__(data)
        field = self.fields["brand"]
        assert isinstance(field, forms.ModelChoiceField)
        field.queryset = brands
        for name in ("since", "until"):
            self.fields[name].widget = forms.DateInput(attrs={"type": "date"}, format="%Y-%m-%d")
        self.fields["organization"].widget.attrs["placeholder"] = "org_…, slug or name"
        for name in ("reference", "call", "organization"):
            self.fields[name].widget.attrs["spellcheck"] = "false"

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        name, brand = cleaned.get("organization"), cleaned.get("brand")
        if name and brand:
            known = Q(public_id=name) | Q(slug=name) | Q(name__iexact=name)
            cleaned["organization"] = Organization.objects.filter(known, brand=brand).order_by("pk").first()
            if cleaned["organization"] is None:
                self.add_error("organization", f"{brand.name} has no organization of that id, slug or name.")
        since, until = cleaned.get("since"), cleaned.get("until")
        if since and until and until < since:
            self.add_error("until", "Before it begins.")
        return cleaned

    def selection(self) -> Selection:
        given = self.cleaned_data
        brand: Brand = given["brand"]
        until = given["until"]
        return Selection(
            brand=brand,
            organization=given["organization"] or None,
            account=given["account"],
            kind=given["kind"],
            since=_begin(given["since"], brand) if given["since"] else None,
            until=_begin(until + timedelta(days=1), brand) if until else None,
            reference=given["reference"],
            call_id=given["call"],
        )


def _begin(day: date, brand: Brand) -> datetime:
    return datetime.combine(day, time.min, ZoneInfo(brand.timezone))


@require_safe
def ledger(request: HttpRequest) -> HttpResponse:
    brands = staff.brands_of(request.user)
    if not request.user.has_perm("billing.view_posting") or not brands.exists():
        raise PermissionDenied
    given = request.GET.dict()
    after = _place(given.pop("after", ""))
    if not brands.filter(slug=given.get("brand", "")).exists():
        given["brand"] = brands[0].slug
    form = LedgerForm(brands, given)
    context: dict[str, Any] = {**admin.site.each_context(request), "title": "Ledger", "form": form}
    if form.is_valid():
        context |= _found(form.selection(), after, {name: value for name, value in given.items() if value})
    return render(request, "admin/ledger.html", context)


def _found(asked: Selection, after: Place | None, given: dict[str, str]) -> dict[str, Any]:
    page = transactions.listed(asked, after=after, limit=PER_PAGE)
    narrowed = asked.organization or asked.since or asked.until or asked.kind or asked.reference or asked.call_id
    older = None
    if page.after is not None:
        place = page.after
        older = signing.dumps([place.posted_at.isoformat(), place.id, place.balance_nanos], salt=SALT)
    return {
        "asked": asked,
        "currency": asked.brand.currency,
        "page": page,
        "rows": [_row(found) for found in page.rows],
        "older": urlencode({**given, "after": older}) if older else "",
        "newest": urlencode(given) if after else "",
        "books": _named(transactions.books(asked.brand)),
        "totals": _named(transactions.totals(asked)) if narrowed and after is None else None,
        "summed_max": transactions.SUMMED_MAX,
        "zone": asked.brand.timezone,
        "followed": page.followed,
    }


def _named(found: transactions.Totals) -> dict[str, Any]:
    by_kind = [(ACCOUNTS[kind], nanos) for kind, nanos in found.by_kind.items()]
    return {"rows": by_kind, "sum_nanos": found.sum_nanos, "postings": found.postings}


def _row(found: Transaction) -> Row:
    if found.call_id is not None:
        return Row(found, "calls", f"{reverse('admin:support')}?id={found.call_id}")
    if found.cause is not None:
        return Row(found, _word(found.cause), _page_of(found.cause))
    return Row(found, "", "")


def _word(row: Model) -> str:
    return "payment" if row._meta.model_name == "topup" else str(row._meta.verbose_name)


def _page_of(row: Model) -> str:
    return reverse(f"admin:{row._meta.app_label}_{row._meta.model_name}_change", args=[row.pk])


def _place(text: str) -> Place | None:
    """Signed: it carries a balance. What was not made here is the first page."""
    try:
        at, id, balance = signing.loads(text, salt=SALT)
    except signing.BadSignature:
        return None
    return Place(datetime.fromisoformat(at), id, balance)


def link_of(organization: Organization) -> str:
    asked = {"brand": organization.brand.slug, "organization": organization.public_id}
    return f"{reverse('admin:ledger')}?{urlencode(asked)}"
