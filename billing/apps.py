"""What billing adds to keys' records: the snapshot of a brand, and the tier an organization stands on."""

from __future__ import annotations

from django.apps import AppConfig


class BillingConfig(AppConfig):
    name = "billing"

    def ready(self) -> None:
        from billing import catalogue, ladder
        from keys import publication, records

        publication.register(publication.BRAND, catalogue.render)
        for name, sql in ladder.ORGANIZATION_FACTS.items():
            records.register_organization_fact(name, sql)
