"""A new API key for an organization, from the command line. The key is printed once and kept nowhere."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError

from keys import issuing
from keys.models import ApiKey, Organization
from portal.checks import OF_SETTINGS
from portal.management.choosing import brand_named, organization_named


class Command(BaseCommand):
    help = "Issue an API key and print it."
    requires_system_checks = OF_SETTINGS

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--brand", required=True, help="the brand's slug")
        parser.add_argument("--organization", required=True, help="the organization's slug or its id (org_…)")
        parser.add_argument("--name", default="Command line", help="what the key is called on pages")
        parser.add_argument("--test", action="store_true", help="a test key: it calls no model and costs nothing")
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *, brand: str, organization: str, name: str, test: bool, json: bool, **_: Any) -> None:
        owner = organization_named(organization, brand_named(brand))
        try:
            mode = ApiKey.Mode.TEST if test else ApiKey.Mode.LIVE
            issued = issuing.issue(organization=owner, name=name, mode=mode, actor="manage.py issue_key")
        except ValidationError as error:
            raise CommandError("; ".join(error.messages)) from None
        self.stdout.write(_as_json(issued, owner) if json else issued.secret)
        if not issued.published:
            self.stderr.write("Redis is away: the key calls as soon as Redis is back.")


def _as_json(issued: issuing.Issued, organization: Organization) -> str:
    return json.dumps(
        {
            "api_key": issued.secret,
            "key_id": issued.key.public_id,
            "key_hint": issued.key.hint,
            "name": issued.key.name,
            "mode": issued.key.mode,
            "brand": organization.brand.slug,
            "organization": organization.slug,
            "organization_id": organization.public_id,
            "published": issued.published,
        },
        ensure_ascii=False,
    )
