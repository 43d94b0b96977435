"""What this room says on a customer's page: its money, and where each sum is broken down."""

from __future__ import annotations

from django.contrib import admin
from django.urls import reverse
from django.utils.html import format_html_join

from billing import balances, money
from keys.admin import OrganizationAdmin
from keys.models import Organization


@admin.display(description="Balance")
def balance_of(organization: Organization) -> str:
    found, currency = balances.of(organization), organization.brand.currency
    available, posted, held = (
        money.display(nanos, currency) for nanos in (found.available_nanos, found.posted_nanos, found.held_nanos)
    )
    known = f"{posted} posted, {held} held by running calls" if found.is_live else "by the books; Redis cannot be asked"
    return f"{available} available ({known})"


@admin.display(description="Money")
def books_of(organization: Organization) -> str:
    """Where the balance comes from, and what may be done about it."""
    links = (
        ("ledger", f"{reverse('admin:billing_posting_changelist')}?q={organization.public_id}"),
        ("grants", f"{reverse('admin:billing_grant_changelist')}?q={organization.public_id}"),
        ("payments", f"{reverse('admin:billing_topup_changelist')}?q={organization.public_id}"),
        ("calls", f"{reverse('admin:billing_usageevent_changelist')}?q={organization.public_id}"),
        ("keys", f"{reverse('admin:keys_apikey_changelist')}?q={organization.public_id}"),
        ("trail", f"{reverse('admin:keys_auditevent_changelist')}?q={organization.public_id}"),
        ("give credit", f"{reverse('admin:billing_grant_add')}?organization={organization.pk}"),
        ("adjust or refund", f"{reverse('admin:billing_posting_add')}?organization={organization.pk}"),
    )
    return format_html_join(" · ", '<a href="{1}">{0}</a>', links)


OrganizationAdmin.more_about = (balance_of, books_of, *OrganizationAdmin.more_about)
