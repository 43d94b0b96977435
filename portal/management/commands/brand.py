"""Brands from the command line: a new one with its first organization, import, export, pause, resume, list."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError
from django.db import transaction

from billing import ledger, money
from billing.models import Grant
from keys import brands, organizations
from keys.models import Brand, Organization, Scheme
from portal.brandfile.exporting import as_text, brand_file
from portal.brandfile.importing import import_brand
from portal.brandfile.reading import read
from portal.brandfile.structure import BrandFileWrong
from portal.management.choosing import brand_named, complaint

ACTOR = "manage.py brand"
BASE_PATHS = ["/v1", "/api/v1"]
CREDIT = "10.00"


class Command(BaseCommand):
    help = "Make, import, export, pause, resume or list brands."

    def add_arguments(self, parser: ArgumentParser) -> None:
        acts = parser.add_subparsers(dest="act", required=True)
        new = acts.add_parser("new", help="a new brand, with an organization of the same name to try it")
        new.add_argument("slug", help="lower-case letters, digits and -; the first segment of its addresses")
        new.add_argument("--name", help="as customers read it")
        new.add_argument("--key-prefix", help="what its API keys begin with; SLUG- when not given")
        new.add_argument("--currency", default="USD")
        new.add_argument("--credit", default=CREDIT, help=f"given to its first organization to try with ({CREDIT})")
        importing = acts.add_parser("import", help="make a brand what a file says: all of it, or nothing")
        importing.add_argument("file", metavar="FILE.toml", type=Path)
        importing.add_argument(
            "--confirm", metavar="REASON", default="", help="why prices that look like slips are meant"
        )
        exporting = acts.add_parser("export", help="print a brand as a file that import takes")
        exporting.add_argument("slug")
        for act, what in (("pause", "refuse every call to a brand"), ("resume", "let calls through again")):
            acts.add_parser(act, help=what).add_argument("slug")
        acts.add_parser("list", help="all brands")

    def handle(self, *, act: str, **options: Any) -> None:
        try:
            if act == "new":
                self._new(**options)
            elif act == "list":
                self._list()
            elif act == "import":
                self._import(options["file"], options["confirm"])
            elif act == "export":
                self.stdout.write(as_text(brand_file(brand_named(options["slug"]))), ending="")
            else:
                self._switch(act, brand_named(options["slug"]))
        except ValidationError as error:
            raise complaint(error) from error

    def _new(
        self, *, slug: str, name: str | None, key_prefix: str | None, currency: str, credit: str, **_: Any
    ) -> None:
        if Brand.objects.filter(slug=slug).exists():
            raise CommandError(f"There is a brand {slug!r} already.")
        try:
            credit_nanos = money.nanos(credit)
        except money.AmountInvalid as error:
            raise CommandError(f"--credit: {error}") from error
        with transaction.atomic():
            brand = brands.create(
                slug=slug,
                name=name or slug.capitalize(),
                key_prefix=key_prefix or f"{slug}-",
                base_paths=BASE_PATHS,
                schemes=[scheme.value for scheme in Scheme],
                currency=currency,
                actor=ACTOR,
            )
            house = organizations.create(brand=brand, name=brand.name, slug=slug, actor=ACTOR)
            if credit_nanos:
                _give(house, credit_nanos)
        self.stdout.write(f"Brand {slug}: keys begin with {brand.key_prefix}, calls go to /{slug}/v1.")
        self.stdout.write(f"Organization {slug}: {money.display(credit_nanos, currency)} to try with.")
        self.stdout.write(f"Next: manage.py engine add URL --brand {slug}")
        self.stdout.write(f"then: manage.py issue_key --brand {slug} --organization {slug}")

    def _import(self, file: Path, confirmed: str) -> None:
        try:
            changes = import_brand(read(file.read_bytes()), actor=ACTOR, confirmed=confirmed)
        except OSError as error:
            raise CommandError(f"{file}: {error.strerror}") from error
        except BrandFileWrong as error:
            lines = [f"{file}: {problem}" for problem in error.problems]
            raise CommandError("\n".join([*lines, "Nothing was changed."])) from error
        for change in changes or ["nothing: it was so already"]:
            self.stdout.write(change)

    def _switch(self, act: str, brand: Brand) -> None:
        version = (brands.pause if act == "pause" else brands.resume)(brand=brand, actor=ACTOR)
        self.stdout.write(f"Brand {brand.slug} is {brand.state}.")
        if version is not None and not version.applied:
            self.stderr.write("Redis is away: it holds as soon as Redis is back.")

    def _list(self) -> None:
        for brand in Brand.objects.order_by("slug"):
            self.stdout.write(f"{brand.slug:20} {brand.state:8} {brand.name}")


def _give(organization: Organization, amount_nanos: int) -> None:
    ledger.grant(
        organization=organization,
        amount_nanos=amount_nanos,
        kind=Grant.Kind.PROMOTIONAL,
        reason="To try the brand with",
        reference=f"brand-new:{organization.public_id}",
        actor=ACTOR,
    )
