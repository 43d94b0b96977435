"""Prices from the command line, per million tokens."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from billing import money, price_preview, prices
from billing.models import Model, Rate
from billing.price_preview import Preview
from keys.models import Brand
from portal.management.choosing import brand_named, complaint, model_named, moment_named, organization_named, prices_of
from portal.proposed_book import EXACT, Book, BookWrong, book_of, put

ACTOR = "manage.py price"


class Command(BaseCommand):
    help = "Set, preview or list the prices of models, per million tokens."

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
        previewing = acts.add_parser("preview", help="the last days charged again at other prices; nothing changes")
        add_preview_options(previewing)
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
        if act == "preview":
            self._preview(found, **options)
            return
        whose = options["organization"]
        try:
            rate = prices.set_price(
                model=model_named(options["model"], found),
                organization=organization_named(whose, found) if whose else None,
                effective_from=moment_named(options["since"], "--from"),
                actor=ACTOR,
                confirmed_reason=options["confirm"],
                **terms_of(options),
            )
        except prices.Unconfirmed as error:
            raise CommandError(f"{' '.join(error.messages)} If it is meant so, say why: --confirm REASON") from None
        except money.AmountInvalid as error:
            raise CommandError(str(error)) from None
        except ValidationError as error:
            raise complaint(error) from error
        self.stdout.write(f"{rate.model.slug}: {prices.described(rate)} from {rate.effective_from:%Y-%m-%d %H:%M:%S}Z")

    def _preview(self, brand: Brand, *, model: str | None, book: Path | None, days: int, **options: Any) -> None:
        now = timezone.now()
        if not 1 <= days <= price_preview.DAYS_MAX:
            raise CommandError(f"--days is from 1 to {price_preview.DAYS_MAX}.")
        if model and book:
            raise CommandError("Give a model and its prices, or a --book, not both.")
        if model:
            proposed = one_price(model_named(model, brand), options)
        elif book:
            proposed = book_in(book, brand)
        else:
            proposed = Book(price_preview.scheduled(brand, now))
        if not proposed.rates:
            raise CommandError("No price is to begin. Give a model and its prices, or a --book FILE.")
        for slip in proposed.slips:
            self.stderr.write(f"looks like a slip: {slip}")
        found = price_preview.preview(brand, proposed.rates, days=days, now=now)
        self._say(found, brand.currency)
        for slug in price_preview.models_without_use(brand, proposed.rates, found):
            self.stdout.write(f"Nobody called {slug} in these days: nothing can be said of it.")
        self.stdout.write(EXACT)

    def _say(self, found: Preview, currency: str) -> None:
        def shown(nanos: int) -> str:
            return money.display(nanos, currency)

        total = found.total
        self.stdout.write(
            f"{found.first} to {found.last}: {shown(total.before_nanos)} was paid, {shown(total.after_nanos)} would"
            f" have been (and up to {shown(total.rounding_nanos_max)} more by rounding)."
        )
        for nanos, what in ((total.shared_nanos, "the part that plans included"), (total.was_free_nanos, "free calls")):
            if nanos:
                self.stdout.write(f"{shown(nanos)} of it rests on {what}.")
        own = f"; {found.own} keep a price of their own" if found.own else ""
        self.stdout.write(f"{found.moved} of {found.customers} customers would have paid another sum{own}.")
        for organization, effect in found.most:
            before, after = shown(effect.before_nanos), shown(effect.after_nanos)
            self.stdout.write(f"  {organization.slug:24} {before} → {after} ({shown(effect.moved_nanos)})")


def add_preview_options(parser: ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", help="this model alone; with no model and no book, the prices to begin")
    parser.add_argument("--brand")
    parser.add_argument("--book", type=Path, metavar="FILE", help="TOML or JSON: a table of prices per model")
    parser.add_argument("--days", type=int, default=30, help=f"at most {price_preview.DAYS_MAX} (30)")
    add_price_options(parser, ("cache-read", "cache-write", "reasoning"))
    add_other_options(parser)


def one_price(model: Model, options: dict[str, Any]) -> Book:
    book = Book()
    try:
        put(book, model, terms_of(options))
    except money.AmountInvalid as error:
        raise CommandError(str(error)) from None
    except ValidationError as error:
        raise complaint(error) from error
    return book


def book_in(path: Path, brand: Brand) -> Book:
    """CommandError says what is wrong and where."""
    try:
        return book_of(path.read_text(), brand, is_json=path.suffix == ".json")
    except (OSError, UnicodeDecodeError, BookWrong) as error:
        raise CommandError(f"{path}: {error}") from error


def terms_of(options: dict[str, Any]) -> prices.Terms:
    """The price options as billing.prices takes them. Raises money.AmountInvalid."""
    return prices.Terms(
        is_free=options["free"],
        per_million=prices_of(options),
        request_nanos=money.nanos(options["request_price"]),
        image_nanos=money.nanos(options["image_price"]),
        credits_per_request=options["credits_per_request"],
        credits_per_1000_tokens=options["credits_per_1000_tokens"],
    )


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
