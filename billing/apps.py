"""What billing adds to keys' records: a brand's snapshot, the tier an organization stands on, and its exceptions.
And it hears of revoked keys."""

from __future__ import annotations

from django.apps import AppConfig


class BillingConfig(AppConfig):
    name = "billing"

    def ready(self) -> None:
        from billing import catalogue, ladder, overrides, webhook_deliveries
        from keys import issuing, organizations, publication, records

        publication.register(publication.BRAND, catalogue.render)
        for name, sql in (ladder.ORGANIZATION_FACTS | overrides.ORGANIZATION_FACTS).items():
            records.register_organization_fact(name, sql)
        issuing.when_revoked(webhook_deliveries.key_revoked)
        organizations.register_owned(ladder.owned)
