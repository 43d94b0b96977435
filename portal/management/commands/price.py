"""Prices from the command line, per million tokens."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from billing import money, prices
from billing.models import Rate
from portal.management.choosing import brand_named, complaint, model_named, moment_named, organization_named, prices_of

ACTOR = "manage.py price"


class Command(BaseCommand):
    help = "Set or list the prices of models, per million tokens."

    def add_arguments(self, parser: ArgumentParser) -> None:
        acts = parser.add_subparsers(dest="act", required=True)
        setting = acts.add_parser("set", help="a price from now on, or from a later moment")
        setting.add_argument("model")
        setting.add_argument("--brand")
        setting.add_argument("--organization", help="for this customer only")
        add_price_options(setting, ("cache-read", "cache-write", "reasoning"))
        add_other_options(setting)
        setting.add_argument("--confirm", metavar="REASON", default="", help="why what looks like a slip is meant so")
        setting.add_argument("--from", dest="since", help="ISO 8601; now when not given")
        listing = acts.add_parser("list", help="prices that hold or will")
        listing.add_argument("--brand")

    def handle(self, *, act: str, brand: str | None, **options: Any) -> None:
        found = brand_named(brand)
        if act == "list":
            now = timezone.now()
            rates = Rate.objects.filter(model__brand=found).exclude(effective_until__lte=now)
            for rate in rates.select_related("model", "organization").order_by("model__slug", "effective_from"):
                whose = f" for {rate.organization.slug}" if rate.organization else ""
                since = f" from {rate.effective_from:%Y-%m-%d %H:%M}Z" if rate.effective_from > now else ""
                self.stdout.write(f"{rate.model.slug}: {prices.described(rate)}{whose}{since}")
            return
        whose = options["organization"]
        try:
            rate = prices.set_price(
                model=model_named(options["model"], found),
                organization=organization_named(whose, found) if whose else None,
                effective_from=moment_named(options["since"], "--from"),
                is_free=options["free"],
                actor=ACTOR,
                per_million=prices_of(options),
                request_nanos=money.nanos(options["request_price"]),
                image_nanos=money.nanos(options["image_price"]),
                credits_per_request=options["credits_per_request"],
                credits_per_1000_tokens=options["credits_per_1000_tokens"],
                confirmed_reason=options["confirm"],
            )
        except prices.Unconfirmed as error:
            raise CommandError(f"{' '.join(error.messages)} If it is meant so, say why: --confirm REASON") from None
        except money.AmountInvalid as error:
            raise CommandError(str(error)) from None
        except ValidationError as error:
            raise complaint(error) from error
        self.stdout.write(f"{rate.model.slug}: {prices.described(rate)} from {rate.effective_from:%Y-%m-%d %H:%M:%S}Z")


def add_price_options(parser: ArgumentParser, more: tuple[str, ...] = ()) -> None:
    for name in ("input", "output", *more):
        text = f"of {name.replace('-', ' ')} tokens, per million"
        parser.add_argument(f"--{name}-price", f"--{name}", metavar="PRICE", help=text)
    parser.add_argument("--free", action="store_true", help="costs nothing")


def add_other_options(parser: ArgumentParser) -> None:
    for name, what in (("request", "call"), ("image", "image")):
        parser.add_argument(f"--{name}-price", metavar="PRICE", default="0", help=f"of each {what}, in currency units")
    for name, what in (("request", "call"), ("1000-tokens", "1,000 tokens")):
        parser.add_argument(f"--credits-per-{name}", metavar="N", type=int, default=0, help=f"taken for each {what}")
