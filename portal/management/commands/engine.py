"""Inference engines from the command line: add one by asking it what it is and serves, list, drain, resume, cost."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from billing import engines, money, prices
from billing.models import Engine, Model, Rate
from keys.models import Brand
from portal import engine_intake
from portal.management.choosing import brand_named, complaint, moment_named, prices_of
from portal.management.commands.price import add_price_options
from proxy.probe import FoundModel, ProbeFailed

ACTOR = "manage.py engine"


class Command(BaseCommand):
    help = "Add, list, drain or resume inference engines, and say what they cost."

    def add_arguments(self, parser: ArgumentParser) -> None:
        acts = parser.add_subparsers(dest="act", required=True)
        add = acts.add_parser("add", help="ask an engine what it serves and can do, and draft its models")
        add.add_argument("url", help="as an OpenAI SDK would take it, e.g. http://gpu-1:8000/v1")
        add.add_argument("--brand", help="who sells its models; without it every brand may use the engine")
        add.add_argument("--key", default="", help="the engine's own API key")
        add.add_argument("--name", help="what to call it here; made from its address when not given")
        add.add_argument("--kind", default="", choices=["", *Engine.Kind.values], help="when it cannot be told")
        add.add_argument("--model", action="append", default=[], help="only this one of its models (repeatable)")
        add.add_argument("--context", type=int, help="context length, where the engine does not say")
        add.add_argument("--max-in-flight", type=int, default=256, help="calls at once")
        add.add_argument("--shared", action="store_true", help="others use it, too: it may count more than we meter")
        add.add_argument("--insecure", action="store_true", help="take any TLS certificate")
        add_price_options(add)
        for act, what in (("drain", "let running calls end, send no new ones"), ("resume", "send calls again")):
            acts.add_parser(act, help=what).add_argument("name")
        cost = acts.add_parser("cost", help="what it costs per hour, which reports on its margin need")
        cost.add_argument("name")
        cost.add_argument("amount", help='currency units per hour, e.g. "2.49"; 0 ends it')
        cost.add_argument("--currency", default="", help="EUR, …; else that of its brand, or of all brands")
        cost.add_argument("--since", help="ISO 8601, a moment that has been; now when not given")
        acts.add_parser("list", help="all engines")

    def handle(self, *, act: str, **options: Any) -> None:
        try:
            if act == "add":
                self._add(options)
            elif act == "list":
                self._list()
            elif act == "cost":
                self._cost(options["name"], options["amount"], options["since"], options["currency"])
            else:
                self._switch(act, options["name"])
        except ValidationError as error:
            raise complaint(error) from error

    def _add(self, options: dict[str, Any]) -> None:
        brand = brand_named(options["brand"])
        try:
            found = engine_intake.asked(
                options["url"],
                api_key=options["key"],
                verify_tls=not options["insecure"],
                kind=options["kind"],
                only=options["model"],
            )
        except ProbeFailed as error:
            raise CommandError(str(error)) from error
        engine = engine_intake.kept(
            found,
            brand=brand if options["brand"] else None,
            name=options["name"],
            api_key=options["key"],
            verify_tls=not options["insecure"],
            max_in_flight=options["max_in_flight"],
            is_shared=options["shared"],
            actor=ACTOR,
        )
        said = ", ".join(text for _, text in engine_intake.abilities(found.capabilities))
        self.stdout.write(f"Engine {engine.name} ({found.kind}) at {found.base_url}: {said}.")
        for model in found.models:
            if model.trouble:
                self.stderr.write(
                    f"{model.name_there}: left out, it answered {model.trouble}. Add it again when it works."
                )
            else:
                self._draft(brand, engine, model, options)

    def _draft(self, brand: Brand, engine: Engine, found: FoundModel, options: dict[str, Any]) -> None:
        model, is_new = engine_intake.drafted(
            engine, found, brand=brand, context_length=options["context"] or 0, actor=ACTOR
        )
        if not (options["context"] or found.context_length):
            assumed = engine_intake.CONTEXT_UNKNOWN
            self.stderr.write(
                f"{model.slug}: the engine does not say its context length; {assumed} is assumed (--context)."
            )
        if options["free"] or options["input_price"] or options["output_price"]:
            prices.set_price(model=model, is_free=options["free"], actor=ACTOR, per_million=prices_of(options))
        word = "drafted" if is_new else "was there, now served here too"
        features = ", ".join(found.features)
        self.stdout.write(
            f"Model {model.slug} {word}: context {model.context_length:,}; {features}. {self._price(model)}"
        )

    def _price(self, model: Model) -> str:
        rate = Rate.objects.filter(model=model, organization=None, effective_until=None).first()
        if rate is None:
            example = f"manage.py price set {model.slug} --brand {model.brand.slug} --input 0.20 --output 0.40"
            return f"It refuses calls until it has a price: {example} (or --free)"
        return f"Live, {prices.described(rate)}."

    def _switch(self, act: str, name: str) -> None:
        engine = _named(name)
        state = Engine.State.DRAINING if act == "drain" else Engine.State.LIVE
        engines.change(engine=engine, state=state, actor=ACTOR)
        self.stdout.write(f"Engine {name} is {state}.")

    def _cost(self, name: str, amount: str, since: str | None, currency: str) -> None:
        engine = _named(name)
        try:
            nanos = money.nanos(amount)
        except money.AmountInvalid as error:
            raise CommandError(str(error)) from error
        now = timezone.now()
        begins = moment_named(since, "--since") or now
        engines.set_cost(engine=engine, per_hour_nanos=nanos, since=begins, actor=ACTOR, now=now, currency=currency)
        known = engine.costs.get(since=begins).currency
        said = f" {known}" if known else ", in no currency that was said (--currency)"
        self.stdout.write(f"Engine {name} costs {money.amount(nanos)}{said} per hour since {begins.isoformat()}.")

    def _list(self) -> None:
        for engine in Engine.objects.order_by("name").prefetch_related("routes__model"):
            models = ", ".join(route.model.slug for route in engine.routes.all())
            self.stdout.write(f"{engine.name:20} {engine.kind:12} {engine.state:9} {engine.base_url}  {models}")


def _named(name: str) -> Engine:
    engine = Engine.objects.filter(name=name).first()
    if engine is None:
        names = ", ".join(Engine.objects.order_by("name").values_list("name", flat=True)) or "none yet"
        raise CommandError(f"There is no engine {name!r}; there are: {names}.")
    return engine
