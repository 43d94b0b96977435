"""Every page's address. The proxy's paths never come here (see asgi.py)."""

from __future__ import annotations

from django.contrib import admin
from django.urls import URLPattern, URLResolver, include, path, re_path

from portal import webhooks
from portal.pages import SECTIONS, shortcut
from portal.views import (
    activity,
    balance,
    docs,
    home,
    invitation,
    keys,
    limits,
    management_keys,
    payments,
    people,
    plans,
    playground,
    requests,
    sessions,
    settings,
    statements,
    terms,
    usage,
)
from portal.views import webhooks as webhooks_out

admin.autodiscover()

account: list[URLPattern] = [
    path("", home.overview, name="overview"),
    path("first-steps/", home.checklist, name="checklist"),
    path("keys/", keys.keys, name="keys"),
    path("keys/new/", keys.key_new, name="key_new"),
    path("keys/revoke/", keys.keys_revoke, name="keys_revoke"),
    path("keys/<slug:key>/edit/", keys.key_edit, name="key_edit"),
    path("keys/<slug:key>/rotate/", keys.key_rotate, name="key_rotate"),
    path("keys/<slug:key>/revoke/", keys.key_revoke, name="key_revoke"),
    path("keys/management/", management_keys.management_keys, name="management_keys"),
    path("keys/management/new/", management_keys.management_key_new, name="management_key_new"),
    path("keys/management/<slug:key>/revoke/", management_keys.management_key_revoke, name="management_key_revoke"),
    path("playground/", playground.playground_page, name="playground"),
    path("playground/key/", playground.playground_key, name="playground_key"),
    path("playground/close/", playground.playground_close, name="playground_close"),
    path("playground/call/", playground.playground_call, name="playground_call"),
    path("usage/", usage.usage, name="usage"),
    path("limits/", limits.limits, name="limits"),
    path("limits/live/", limits.limits_live, name="limits_live"),
    path("balance/", balance.balance, name="balance"),
    path("balance/code/", balance.promo, name="promo"),
    path("balance/statements/", statements.statements_page, name="statements"),
    path("balance/add/", payments.top_up, name="top_up"),
    path("balance/payments/", payments.top_ups_page, name="top_ups"),
    path("balance/automatic/", payments.auto_top_up, name="auto_top_up"),
    path("balance/card/", payments.card, name="card"),
    path("balance/plan/", plans.plan, name="plan"),
    path("balance/stripe/", payments.billing_portal, name="billing_portal"),
    path("requests/", requests.requests, name="requests"),
    path("requests/live/", requests.requests_live, name="requests_live"),
    path("activity/", activity.activity, name="activity"),
    path("webhooks/", webhooks_out.webhooks, name="webhooks"),
    path("webhooks/new/", webhooks_out.webhook_new, name="webhook_new"),
    path("webhooks/<slug:endpoint>/", webhooks_out.webhook, name="webhook"),
    path("webhooks/<slug:endpoint>/rotate/", webhooks_out.webhook_rotate, name="webhook_rotate"),
    path("settings/", settings.settings, name="settings"),
    path("members/", people.members, name="members"),
    path("members/invite/", people.member_invite, name="member_invite"),
    path("members/role/", people.member_role, name="member_role"),
    path("members/remove/", people.member_remove, name="member_remove"),
    path("members/hand-over/", people.member_hand_over, name="member_hand_over"),
    path("members/service-accounts/new/", people.service_account_new, name="service_account_new"),
    path("members/service-accounts/role/", people.service_account_role, name="service_account_role"),
    path("members/service-accounts/disable/", people.service_account_disable, name="service_account_disable"),
    path("members/invitations/resend/", people.invitation_resend, name="invitation_resend"),
    path("members/invitations/revoke/", people.invitation_revoke, name="invitation_revoke"),
]
urlpatterns: list[URLPattern | URLResolver] = [
    path("", home.home, name="home"),
    path("open/", home.account_open, name="account_open"),
    path("open/another/", home.account_new, name="account_new"),
    *(path(f"{section}/", shortcut(section), name=f"my_{section}") for section in SECTIONS),
    re_path(r"^(?P<organization>org_[a-z0-9]{1,36})/", include(account)),
    path("invitations/accept/", invitation.invitation_accept, name="invitation_accept"),
    path("invitations/decline/", invitation.invitation_decline, name="invitation_decline"),
    path("invitations/<slug:token>/", invitation.invitation, name="invitation"),
    path("docs/", docs.docs, name="docs"),
    path("docs/<slug:name>/", docs.docs_page, name="docs_page"),
    re_path(r"^webhooks/stripe/(?P<account>[a-z0-9_]{1,40})/?$", webhooks.stripe, name="stripe_webhook"),
    path("colours.css", home.colours, name="colours"),
    path("mailbox/", home.mailbox, name="mailbox"),
    path("accounts/terms/", terms.terms, name="terms"),
    path("accounts/sessions/", sessions.sessions, name="sessions"),
    path("accounts/2fa/", include("allauth.mfa.urls")),
    path("accounts/", include("allauth.account.urls")),
    path("api/manage/v1/", include("portal.manage_api.urls")),
    path("admin/", admin.site.urls),
]
handler400 = "portal.views.errors.bad_request"
handler403 = "portal.views.errors.forbidden"
handler404 = "portal.views.errors.not_found"
handler500 = "portal.views.errors.failed"
