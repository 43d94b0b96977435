"""Every page's address. The proxy's paths never come here (see asgi.py)."""

from __future__ import annotations

from django.contrib import admin
from django.urls import include, path

from portal.views import home

urlpatterns = [
    path("", home.home, name="home"),
    path("colours.css", home.colours, name="colours"),
    path("mailbox/", home.mailbox, name="mailbox"),
    path("accounts/", include("allauth.account.urls")),
    path("admin/", admin.site.urls),
]
handler400 = "portal.views.errors.bad_request"
handler403 = "portal.views.errors.forbidden"
handler404 = "portal.views.errors.not_found"
handler500 = "portal.views.errors.failed"
