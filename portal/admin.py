"""What other packages register and operators should not have."""

from __future__ import annotations

from allauth.mfa.models import Authenticator
from allauth.usersessions.models import UserSession
from django.contrib import admin

# Their rows hold the secrets of second factors and of sessions: nobody but their owner has business there.
admin.site.unregister(Authenticator)
admin.site.unregister(UserSession)
