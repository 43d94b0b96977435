"""Addresses of the management API, below /api/manage/v1/."""

from __future__ import annotations

from django.urls import URLPattern, path, re_path

from portal.manage_api import (
    account,
    activity,
    keys,
    limits,
    management_keys,
    payments,
    people,
    requests,
    schema,
    service_accounts,
    usage,
    wallet,
    webhooks,
)
from portal.manage_api.operation import nowhere

operations: list[URLPattern] = [
    path("account", account.Account.as_view()),
    path("management_key", management_keys.OwnKey.as_view()),
    path("management_keys", management_keys.ManagementKeys.as_view()),
    path("management_keys/<slug:management_key>/revoke", management_keys.ManagementKeyRevocation.as_view()),
    path("members", people.Members.as_view()),
    path("members/<str:member>", people.Member.as_view()),
    path("invitations", people.Invitations.as_view()),
    path("invitations/<str:email>", people.OneInvitation.as_view()),
    path("invitations/<str:email>/resend", people.InvitationAgain.as_view()),
    path("service_accounts", service_accounts.ServiceAccounts.as_view()),
    path("service_accounts/<slug:service_account>", service_accounts.OneServiceAccount.as_view()),
    path("service_accounts/<slug:service_account>/disable", service_accounts.ServiceAccountEnd.as_view()),
    path("keys", keys.Keys.as_view()),
    path("keys/revoke", keys.KeysRevocation.as_view()),
    path("keys/<slug:key>", keys.Key.as_view()),
    path("keys/<slug:key>/rotate", keys.KeyRotation.as_view()),
    path("keys/<slug:key>/revoke", keys.KeyRevocation.as_view()),
    path("usage", usage.Usage.as_view()),
    path("requests", requests.Requests.as_view()),
    path("requests/<uuid:request_id>", requests.OneRequest.as_view()),
    path("wallet", wallet.Wallet.as_view()),
    path("wallet/credits", wallet.Credits.as_view()),
    path("wallet/postings", wallet.Postings.as_view()),
    path("wallet/statements", wallet.Statements.as_view()),
    path("wallet/statements/<slug:month>", wallet.Statement.as_view()),
    path("wallet/statements/<slug:month>/lines", wallet.StatementLines.as_view()),
    path("wallet/codes", wallet.Codes.as_view()),
    path("top_ups", payments.TopUps.as_view()),
    path("top_ups/<slug:top_up>", payments.OneTopUp.as_view()),
    path("card", payments.Card.as_view()),
    path("card/setup", payments.CardSetup.as_view()),
    path("billing_portal", payments.BillingPortal.as_view()),
    path("automatic_top_ups", payments.AutomaticTopUps.as_view()),
    path("limits", limits.Limits.as_view()),
    path("ladder", limits.Ladder.as_view()),
    path("tier_changes", limits.TierChanges.as_view()),
    path("alerts", limits.Alerts.as_view()),
    path("webhooks", webhooks.Webhooks.as_view()),
    path("webhooks/<slug:endpoint>", webhooks.Webhook.as_view()),
    path("webhooks/<slug:endpoint>/rotate", webhooks.WebhookSecret.as_view()),
    path("webhooks/<slug:endpoint>/test", webhooks.WebhookTest.as_view()),
    path("webhooks/<slug:endpoint>/deliveries", webhooks.Deliveries.as_view()),
    path("webhooks/<slug:endpoint>/deliveries/<slug:event_id>/replay", webhooks.DeliveryReplay.as_view()),
    path("activity", activity.Activity.as_view()),
]
urlpatterns: list[URLPattern] = [
    *operations,
    path("openapi.json", schema.openapi, name="manage_api_openapi"),
    re_path(r"", nowhere, name="manage_api_nowhere"),
]
