"""What other packages register and operators should not have."""

from __future__ import annotations

from allauth.mfa.models import Authenticator
from django.contrib import admin

# Its rows hold the secrets of second factors: nobody but their owner has business there.
admin.site.unregister(Authenticator)
