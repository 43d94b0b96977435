"""The engine behind the demo's models: the demo engine, or the real one that DEMO_INFERENCE_URL names."""

from __future__ import annotations

from billing import engines
from billing.models import Engine, Model
from billing.snapshot import Capabilities
from keys.models import Brand
from portal.brandfile.structure import BrandFile
from portal.demo.inference import NAME as REAL_NAME
from portal.demo.inference import RealEngine, fit

NAME = "demo"
"""What the brand files call the demo engine."""
MAX_IN_FLIGHT = 2_000
CAPABILITIES = Capabilities(
    reports_cached=True,
    running_usage="continuous_usage_stats",
    tokenize="vllm",
    stops_on_close=True,
    cache_salt=True,
    priority=True,
    extra_fields=("top_k", "min_p"),
)


def demo_engine(base_url: str, actor: str) -> Engine:
    """Its address is this start's: the port may have changed."""
    engine = Engine.objects.filter(name=NAME).first()
    if engine is None:
        return engines.register(
            name=NAME,
            kind=Engine.Kind.VLLM,
            base_url=base_url,
            actor=actor,
            capabilities=CAPABILITIES,
            max_in_flight=MAX_IN_FLIGHT,
        )
    engines.change(engine=engine, actor=actor, base_url=base_url)
    return engine


def serve_ordinary(
    brand: Brand, file: BrandFile, special: set[str], *, demo: Engine, real: RealEngine | None, actor: str
) -> None:
    """The models that only chat are served by the real engine while there is one, else by the demo engine. One that
    people gave to an engine of theirs, or to none, stays so."""
    for entry in file.models:
        there = entry.routes.get(NAME)
        if there is None or entry.id in special or "chat" not in entry.features or entry.images_per_call_max:
            continue
        model = Model.objects.filter(brand=brand, slug=entry.id).prefetch_related("routes__engine").first()
        if model is None or {route.engine.name for route in model.routes.all()} not in ({NAME}, {REAL_NAME}):
            continue
        if real is not None:
            fit(model, real, actor)
            _serve(model, real.engine, real.name_there or there, actor)
        elif model.routes.all()[0].engine_id != demo.id:
            _serve(model, demo, there, actor)


def _serve(model: Model, engine: Engine, there: str, actor: str) -> None:
    """This engine and no other, under this name."""
    if not model.routes.filter(engine=engine, name_there=there).exists():
        engines.set_route(model=model, engine=engine, name_there=there, actor=actor)
    for route in model.routes.exclude(engine=engine).select_related("engine", "model__brand"):
        engines.remove_route(route=route, actor=actor)
