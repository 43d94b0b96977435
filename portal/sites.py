"""Where a brand's pages are, for mails that no request brings forth."""

from __future__ import annotations

from django.conf import settings
from django.urls import get_script_prefix, reverse

from keys.models import Brand


def address_of(brand: Brand, page: str, *args: str) -> str:
    """A page's whole address: on the brand's first host, in the demo below its slug; "" where neither is."""
    if settings.DEMO:
        site = f"http://localhost:{settings.PORT}/{brand.slug}"
    elif brand.hosts:
        site = f"https://{brand.hosts[0]}"
    else:
        return ""
    return f"{site}/{reverse(page, args=args).removeprefix(get_script_prefix())}"
