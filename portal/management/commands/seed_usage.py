"""A busy account for tests of speed and for demonstrations: made-up calls, booked like real ones."""

from __future__ import annotations

from argparse import ArgumentParser
from time import monotonic
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from keys.models import Brand, Organization, User
from portal.demo import history
from portal.management.choosing import brand_named

BAR = 40


class Command(BaseCommand):
    help = "Book made-up calls on a new account, in the past days, to see everything under their weight."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--brand", help="the brand's slug")
        parser.add_argument("--events", type=int, default=1_000_000, help="calls to book (1,000,000)")
        parser.add_argument("--days", type=int, default=30, help=f"over how many days, at most {history.DAYS_MAX} (30)")
        parser.add_argument(
            "--owner", help="e-mail address of a user who shall own the account; else the brand's first"
        )
        parser.add_argument("--seed", type=int, default=0, help="the same seed draws the same calls")

    def handle(self, *, brand: str | None, events: int, days: int, owner: str | None, seed: int, **_: Any) -> None:
        if not settings.DEMO:
            raise CommandError(
                "These calls and this money are made up: books that are meant stay clear of them. DEMO=1."
            )
        if events < 1 or not 1 <= days <= history.DAYS_MAX:
            raise CommandError(f"--events is at least 1, --days from 1 to {history.DAYS_MAX}.")
        house = brand_named(brand)
        self._began = self._told = monotonic()
        try:
            organization = history.fill(
                house,
                calls=events,
                days=days,
                owner=self._owner(house, owner),
                now=timezone.now(),
                seed=seed,
                progress=lambda done: self._progress(done, events),
            )
        except history.NothingPriced as error:
            raise CommandError(str(error)) from None
        self._say(organization, events, days)

    def _owner(self, brand: Brand, email: str | None) -> User:
        people = User.objects.filter(memberships__organization__brand=brand).order_by("pk")
        found = User.objects.filter(email__iexact=email).first() if email else people.first()
        if found is None:
            raise CommandError(f"There is no user {email!r}." if email else "Say --owner: the brand has no member yet.")
        return found

    def _progress(self, done: int, total: int) -> None:
        if monotonic() < self._told + 1 and done < total:
            return
        self._told = monotonic()
        full = BAR * done // total
        left = (monotonic() - self._began) * (total - done) / done
        self.stderr.write(f"[{'#' * full}{'.' * (BAR - full)}] {done:,} of {total:,}, {left:.0f} s left  ", ending="\r")

    def _say(self, organization: Organization, events: int, days: int) -> None:
        took = monotonic() - self._began
        self.stderr.write("")
        owner = organization.memberships.get().user.email
        self.stdout.write(f"{events:,} calls over {days} days, booked in {took:.0f} s for {organization.slug}.")
        self.stdout.write(f"See them as {owner} at /{organization.public_id}/usage/.")
