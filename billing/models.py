"""What it costs and who has paid. Table writers are named in README.md; everything else only reads.

Money is an integer number of nanos (10⁻⁹ of the brand's currency unit), a rate an integer number of picos (10⁻¹²) per
token. UsageEvent, Posting and PostingLine are append-only (triggers refuse UPDATE and DELETE).
"""

from __future__ import annotations

from django.contrib.postgres.fields import ArrayField
from django.contrib.postgres.indexes import BrinIndex
from django.db import models
from django.db.models import TextChoices  # by name: mypy loses models.TextChoices inside a model's body
from django.db.models.functions import Now

from billing.choices import LimitScope, Payer, Unit, Window, reach
from billing.cost_models import EngineCost
from billing.ladder_models import FirstAccount, LimitOverride, UpgradeNight
from billing.payment_models import TopUp
from billing.reading_models import EngineFinding, EngineReading
from billing.subscription_models import Subscription
from billing.telling_models import AlertPreference, LimitAlert, NoticesSeen
from billing.wallet_models import Grant, GrantEnd, LedgerSeal, LedgerSealPart, PromoClaim, PromoCode, WalletMark
from billing.webhook_models import WebhookDelivery, WebhookEndpoint
from billing.windows import month_of_day
from keys.models import Brand, Organization, User

# Words and tables of this room that have a module of their own.
__all__ = ["AlertPreference", "EngineCost", "EngineFinding", "EngineReading", "FirstAccount", "Grant", "GrantEnd"]
__all__ += ["LedgerSeal", "LedgerSealPart", "LimitAlert", "LimitOverride", "LimitScope", "NoticesSeen", "Payer"]
__all__ += ["PromoClaim", "PromoCode", "Subscription", "TopUp", "Unit", "UpgradeNight", "WalletMark"]
__all__ += ["WebhookDelivery", "WebhookEndpoint", "Window"]


class Engine(models.Model):
    """An inference server. `brand` null means every brand's models may use it."""

    class Kind(TextChoices):
        VLLM = "vllm"
        SGLANG = "sglang"
        LLAMACPP = "llamacpp"
        TGI = "tgi"
        TRANSFORMERS = "transformers"
        OPENAI = "openai"

    class State(TextChoices):
        LIVE = "live"
        DRAINING = "draining"
        DOWN = "down"

    brand = models.ForeignKey(Brand, null=True, blank=True, on_delete=models.PROTECT, related_name="engines")
    name = models.SlugField(max_length=60, unique=True)
    kind = models.CharField(max_length=12, choices=Kind.choices)
    base_url = models.CharField(max_length=200, help_text="As an SDK would take it, ending in /v1")
    api_key_sealed = models.BinaryField(null=True, blank=True, help_text="Sealed by keys.sealing")
    headers = models.JSONField(default=dict, blank=True, help_text="Extra request headers")
    verify_tls = models.BooleanField(default=True)
    max_in_flight = models.PositiveIntegerField(default=256)
    weight = models.PositiveSmallIntegerField(default=1)
    cost_per_hour_nanos = models.BigIntegerField(default=0)
    cost_currency = models.CharField(
        max_length=3, blank=True, default="", db_default="", help_text="Empty: that of its brand, or of all brands"
    )
    state = models.CharField(max_length=8, choices=State.choices, default=State.LIVE)
    is_shared = models.BooleanField(
        default=False, help_text="Others use it too: it may count more tokens than are metered here"
    )
    capabilities = models.JSONField(
        default=dict, blank=True, help_text="What proxy.probe found; see snapshot.Capabilities"
    )
    created_at = models.DateTimeField(db_default=Now(), editable=False)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=models.Q(max_in_flight__gt=0, weight__gt=0, cost_per_hour_nanos__gte=0),
                name="engine_amounts_sane",
            )
        ]

    def __str__(self) -> str:
        return self.name


class Model(models.Model):
    """What a brand sells. `slug` is the id customers send."""

    class State(TextChoices):
        LIVE = "live"
        MAINTENANCE = "maintenance"
        RETIRED = "retired"

    brand = models.ForeignKey(Brand, on_delete=models.PROTECT, related_name="models")
    slug = models.CharField(max_length=120)
    aliases = ArrayField(models.CharField(max_length=120), default=list, blank=True)
    name = models.CharField(max_length=150)
    description = models.TextField(blank=True)
    released_on = models.DateField(null=True, blank=True, help_text="Shown as created/date; when absent, created_at")
    owned_by = models.CharField(max_length=100, blank=True)
    context_length = models.PositiveIntegerField()
    default_max_tokens = models.PositiveIntegerField(default=4096)
    max_completion_tokens = models.PositiveIntegerField()
    modalities = models.JSONField(
        default=dict, blank=True, help_text='Token bound per part beyond text, e.g. {"image_url": 1600}'
    )
    tokens_per_message = models.PositiveSmallIntegerField(
        default=16, help_text="Chat template tokens per message, at most"
    )
    tokens_per_call = models.PositiveSmallIntegerField(default=64, help_text="Chat template tokens per call, at most")
    modality = models.CharField(
        max_length=60, default="text->text", db_default="text->text", help_text="As catalogues show it"
    )
    images_per_call_max = models.PositiveSmallIntegerField(
        default=0, db_default=0, help_text="Images one answer may hold, which is what is held for; 0 makes none"
    )
    weights = models.CharField(
        max_length=200, blank=True, default="", db_default="", help_text="As declared to customers"
    )
    weights_revision = models.CharField(max_length=80, blank=True, default="", db_default="")
    quantization = models.CharField(max_length=40, blank=True, default="", db_default="")
    is_moderated = models.BooleanField(default=False)
    is_reasoning = models.BooleanField(default=False)
    features = ArrayField(
        models.CharField(max_length=30), default=list, blank=True, help_text="chat, completions, embeddings, tools, …"
    )
    extra_fields = ArrayField(
        models.CharField(max_length=40), default=list, blank=True, help_text="Engine parameters let through, e.g. top_k"
    )
    state = models.CharField(max_length=12, choices=State.choices, default=State.LIVE)
    maintenance_message = models.CharField(max_length=200, blank=True)
    connect_ms = models.PositiveIntegerField(default=5_000)
    first_byte_ms = models.PositiveIntegerField(default=120_000)
    idle_ms = models.PositiveIntegerField(default=60_000)
    total_ms = models.PositiveIntegerField(default=900_000)
    position = models.PositiveSmallIntegerField(default=0)
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    engines: models.ManyToManyField[Engine, ModelEngine] = models.ManyToManyField(
        Engine, through="ModelEngine", related_name="models"
    )

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["brand", "slug"], name="model_brand_slug_unique"),
            models.CheckConstraint(
                condition=models.Q(
                    context_length__gt=0,
                    max_completion_tokens__gte=models.F("default_max_tokens"),
                ),
                name="model_bounds_sane",
                violation_error_message="default_max_tokens is at most max_completion_tokens",
            ),
        ]

    def __str__(self) -> str:
        return self.slug


class ModelEngine(models.Model):
    """An engine that serves a model, and the model's name there."""

    model = models.ForeignKey(Model, on_delete=models.CASCADE, related_name="routes")
    engine = models.ForeignKey(Engine, on_delete=models.PROTECT, related_name="routes")
    name_there = models.CharField(max_length=250)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["model", "engine"], name="model_engine_unique")]

    def __str__(self) -> str:
        return f"{self.model} on {self.engine}"


RATE_PICOS_FIELDS = ("input_picos", "output_picos", "cache_read_picos", "cache_write_picos", "reasoning_picos")
RATE_PICOS_BOUND = 2**53


class Rate(models.Model):
    """The price of one model over a period, for everyone or for one organization. Periods never overlap (exclusion
    constraint in SQL). Null input or output refuses the call; null cache rates mean the input rate, a null reasoning
    rate the output rate. A rate of zero needs `is_free`."""

    model = models.ForeignKey(Model, on_delete=models.PROTECT, related_name="rates")
    organization = models.ForeignKey(
        Organization, null=True, blank=True, on_delete=models.PROTECT, related_name="rates"
    )
    effective_from = models.DateTimeField()
    effective_until = models.DateTimeField(null=True, blank=True)
    input_picos = models.BigIntegerField(null=True)
    output_picos = models.BigIntegerField(null=True)
    cache_read_picos = models.BigIntegerField(null=True, blank=True)
    cache_write_picos = models.BigIntegerField(null=True, blank=True)
    reasoning_picos = models.BigIntegerField(null=True, blank=True)
    request_nanos = models.BigIntegerField(default=0)
    image_nanos = models.BigIntegerField(default=0)
    credits_per_request = models.PositiveIntegerField(default=0)
    credits_per_1000_tokens = models.PositiveIntegerField(
        default=0, db_default=0, help_text="Added to credits per request, rounded up once per call"
    )
    is_free = models.BooleanField(default=False)
    created_at = models.DateTimeField(db_default=Now(), editable=False)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=models.Q(effective_until=None) | models.Q(effective_until__gt=models.F("effective_from")),
                name="rate_period_forward",
            ),
            *(
                models.CheckConstraint(
                    condition=models.Q(**{field: None})
                    | models.Q(**{f"{field}__gte": 0, f"{field}__lt": RATE_PICOS_BOUND}),
                    name=f"rate_{field}_bounded",
                )
                for field in RATE_PICOS_FIELDS
            ),
            models.CheckConstraint(
                condition=models.Q(request_nanos__gte=0, image_nanos__gte=0), name="rate_nanos_not_negative"
            ),
            models.CheckConstraint(
                condition=models.Q(is_free=True)
                | models.Q(input_picos=None)
                | models.Q(output_picos=None)
                | models.Q(input_picos__gt=0)
                | models.Q(output_picos__gt=0)
                | models.Q(request_nanos__gt=0)
                | models.Q(image_nanos__gt=0),
                name="rate_free_is_said",
                violation_error_message="A rate that charges nothing says so: is_free",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.model} from {self.effective_from:%Y-%m-%d}"


class Tier(models.Model):
    """A row of a brand's ladder."""

    brand = models.ForeignKey(Brand, on_delete=models.PROTECT, related_name="tiers")
    rank = models.PositiveSmallIntegerField()
    slug = models.SlugField(max_length=40)
    name = models.CharField(max_length=80)
    label = models.CharField(max_length=40, blank=True)
    payer = models.CharField(max_length=24, choices=Payer.choices, default=Payer.PREPAID)
    model_slugs = ArrayField(
        models.CharField(max_length=120), null=True, blank=True, help_text="Models unlocked; null means all"
    )
    monthly_price_nanos = models.BigIntegerField(
        null=True, blank=True, help_text="What a month costs where the tier is sold; null where it is not"
    )
    priority = models.SmallIntegerField(default=0, help_text="Engine priority: lower is served first (vLLM's sense)")
    is_default = models.BooleanField(default=False)
    upgrade_rule = models.JSONField(
        null=True, blank=True, help_text="How the tier below rises to it by itself (upgrade_rules.py); null: never"
    )
    rule_version = models.PositiveIntegerField(
        default=0, db_default=0, editable=False, help_text="Goes up with every change of the rule"
    )
    rule_since = models.DateTimeField(
        null=True, editable=False, help_text="When the rule was made or last changed; null: before anybody noted it"
    )
    is_listed = models.BooleanField(
        default=True, db_default=True, help_text="Shown to customers; one that is not is given by hand"
    )

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["brand", "rank"], name="tier_brand_rank_unique"),
            models.UniqueConstraint(fields=["brand", "slug"], name="tier_brand_slug_unique"),
            models.UniqueConstraint(fields=["brand"], condition=models.Q(is_default=True), name="tier_one_default"),
        ]

    def __str__(self) -> str:
        return f"{self.name} (rank {self.rank})"


class TierLimit(models.Model):
    """(unit, window, scope, amount). `is_allotment` marks the included part of an included_then_prepaid tier: past it
    the balance pays instead of a refusal. One on trial (`is_shadow`) may stand beside the one that holds. `concurrent`
    ignores the window. Scope model with `model` null applies to each model by itself."""

    tier = models.ForeignKey(Tier, on_delete=models.CASCADE, related_name="limits")
    unit = models.CharField(max_length=10, choices=Unit.choices)
    window = models.CharField(max_length=8, choices=Window.choices)
    scope = models.CharField(max_length=12, choices=LimitScope.choices, default=LimitScope.ORGANIZATION)
    model = models.ForeignKey(Model, null=True, blank=True, on_delete=models.CASCADE)
    amount = models.BigIntegerField()
    is_allotment = models.BooleanField(default=False)
    is_shadow = models.BooleanField(
        default=False, db_default=False, help_text="Counts and reports, but refuses nobody: to try a limit out"
    )

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["tier", "unit", "window", "scope", "model", "is_allotment", "is_shadow"],
                nulls_distinct=False,
                name="tier_limit_place_unique",
            ),
            models.CheckConstraint(
                condition=models.Q(amount__gte=0, amount__lt=2**53), name="tier_limit_amount_bounded"
            ),
            models.CheckConstraint(
                condition=models.Q(model=None) | models.Q(scope=LimitScope.MODEL), name="tier_limit_model_scope"
            ),
            models.CheckConstraint(
                condition=models.Q(is_allotment=False) | ~models.Q(unit__in=[Unit.NANOS, Unit.CONCURRENT]),
                name="tier_limit_allotment_countable",
                violation_error_message="An allotment is of requests, tokens or credits: included calls spend nothing",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.amount} {self.unit} {reach(self.unit, self.window, self.scope)}"


class TierAssignment(models.Model):
    """The tier an organization stands on now. Written by billing.ladder with a TierChange in the same transaction."""

    organization = models.OneToOneField(
        Organization, primary_key=True, on_delete=models.CASCADE, related_name="standing"
    )
    tier = models.ForeignKey(Tier, on_delete=models.PROTECT, related_name="assignments")
    assigned_at = models.DateTimeField(db_default=Now())

    def __str__(self) -> str:
        return f"{self.organization} on {self.tier}"


class TierChange(models.Model):
    organization = models.ForeignKey(Organization, on_delete=models.PROTECT, related_name="tier_changes")
    from_tier = models.ForeignKey(Tier, null=True, on_delete=models.PROTECT, related_name="+")
    to_tier = models.ForeignKey(Tier, on_delete=models.PROTECT, related_name="+")
    at = models.DateTimeField(db_default=Now(), editable=False)
    actor = models.ForeignKey(User, null=True, on_delete=models.SET_NULL, related_name="+")
    reason = models.CharField(max_length=200)
    facts = models.JSONField(default=dict)
    night = models.DateField(null=True, help_text="The brand day whose judgement moved it; null when a person did")
    rule_version = models.PositiveIntegerField(null=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["organization", "night"], name="tier_change_once_a_night"),
        ]
        indexes = [models.Index(fields=["organization", "-at"], name="tier_change_organization_at")]

    def __str__(self) -> str:
        return f"{self.organization}: {self.from_tier} to {self.to_tier}"


class LedgerAccount(models.Model):
    """One account of a brand's books. `balance_nanos` is kept in the posting's own transaction and proved equal to the
    sum of its lines by reconcile. `changes` numbers the organization's counter changes (see CounterChange)."""

    class Kind(TextChoices):
        WALLET = "wallet", "Customer's prepaid credit (we owe it)"
        REVENUE = "revenue"
        CASH = "cash", "Received from customers"
        PROMOTION = "promotion", "Credit given away"
        ADJUSTMENT = "adjustment"

    brand = models.ForeignKey(Brand, on_delete=models.PROTECT, related_name="accounts")
    organization = models.ForeignKey(
        Organization, null=True, blank=True, on_delete=models.PROTECT, related_name="accounts"
    )
    kind = models.CharField(max_length=12, choices=Kind.choices)
    balance_nanos = models.BigIntegerField(default=0)
    changes = models.BigIntegerField(default=0)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["brand", "organization", "kind"], nulls_distinct=False, name="ledger_account_unique"
            ),
            models.CheckConstraint(
                condition=models.Q(kind="wallet", organization__isnull=False)
                | (~models.Q(kind="wallet") & models.Q(organization=None)),
                name="ledger_account_wallet_owned",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.brand} {self.organization or ''} {self.kind}"


class Posting(models.Model):
    """An immutable double-entry transaction. `reference` is unique: posting twice changes nothing."""

    class Kind(TextChoices):
        USAGE = "usage"
        GRANT = "grant"
        TOP_UP = "top_up"
        REFUND = "refund"
        CORRECTION = "correction"
        ADJUSTMENT = "adjustment"
        DISPUTE = "dispute"
        EXPIRY = "expiry"
        SUBSCRIPTION = "subscription", "Paid plan"

    brand = models.ForeignKey(Brand, on_delete=models.PROTECT, related_name="+")
    organization = models.ForeignKey(Organization, null=True, on_delete=models.PROTECT, related_name="postings")
    kind = models.CharField(max_length=12, choices=Kind.choices)
    reference = models.CharField(max_length=120, unique=True)
    memo = models.CharField(max_length=200, blank=True)
    posted_at = models.DateTimeField(db_default=Now(), editable=False)
    actor = models.ForeignKey(  # a deleted user leaves the id behind: a posting is never updated
        User, null=True, on_delete=models.DO_NOTHING, related_name="+", db_constraint=False
    )

    class Meta:
        indexes = [
            models.Index(fields=["organization", "-posted_at"], name="posting_organization_at"),
            models.Index(fields=["brand", "kind", "-posted_at", "-id"], name="posting_brand_kind_at"),
            models.Index(fields=["organization", "kind", "-posted_at", "-id"], name="posting_organization_kind_at"),
            BrinIndex(fields=["posted_at"], name="posting_lately"),
            models.Index(
                fields=["organization", "id"],
                condition=~models.Q(kind__in=["usage", "correction"]),
                name="posting_besides_usage",
            ),
        ]
        constraints = [models.CheckConstraint(condition=~models.Q(reference=""), name="posting_reference_given")]

    def __str__(self) -> str:
        return f"{self.kind} {self.reference}"


class PostingLine(models.Model):
    """Lines of a posting sum to zero (deferred constraint trigger). Positive raises the account: a wallet line of +5
    means we owe the customer 5 more, its counterpart is −5 on cash, promotion or revenue."""

    posting = models.ForeignKey(Posting, on_delete=models.PROTECT, related_name="lines")
    account = models.ForeignKey(LedgerAccount, on_delete=models.PROTECT, related_name="lines")
    amount_nanos = models.BigIntegerField()

    class Meta:
        constraints = [models.CheckConstraint(condition=~models.Q(amount_nanos=0), name="posting_line_moves")]

    def __str__(self) -> str:
        return f"{self.account}: {self.amount_nanos}"


class CounterChange(models.Model):
    """Outbox: a change PostgreSQL decided that Redis counters must take over (grant, correction, late settlement).
    Numbered per organization without gaps by LedgerAccount.changes of its wallet; Redis applies seq = applied + 1."""

    organization = models.ForeignKey(Organization, on_delete=models.PROTECT, related_name="+")
    seq = models.BigIntegerField()
    balance_nanos = models.BigIntegerField(default=0, help_text="Added to the available balance")
    day = models.CharField(
        max_length=8, blank=True, help_text="Brand day (YYYYMMDD) whose windows the amounts belong to"
    )
    key_id = models.BigIntegerField(null=True)
    model_id = models.BigIntegerField(null=True)
    amounts = models.JSONField(default=dict, help_text="{unit: signed amount} posted to the windows of that day")
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    applied_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["organization", "seq"], name="counter_change_seq_unique")]
        indexes = [
            models.Index(
                fields=["organization", "seq"], condition=models.Q(applied_at=None), name="counter_change_pending"
            )
        ]

    @property
    def month_id(self) -> str:
        return month_of_day(self.day, self.organization.month_anchor) if self.day else ""

    def __str__(self) -> str:
        return f"{self.organization_id} #{self.seq}"


class UsageSource(TextChoices):
    FINAL = "final"
    RUNNING = "running"
    ESTIMATED = "estimated"
    NONE = "none"


class EndReason(TextChoices):
    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"
    CONTENT_FILTER = "content_filter"
    CLIENT_GONE = "client_gone"
    UPSTREAM_ERROR = "upstream_error"
    UPSTREAM_CUT = "upstream_cut"
    TIMEOUT = "timeout"
    LAPSED = "lapsed"


class UsageEvent(models.Model):
    """The immutable record of one settled call. Partitioned by range on call_id (UUIDv7 bounds per day, plus DEFAULT),
    so the primary key is call_id alone. Foreign keys are plain ids: events outlive what they name, and a batch insert
    must not lock rows of other rooms. A null token bucket means the engine did not say (see flags)."""

    class Kind(TextChoices):
        CALL = "call"
        CORRECTION = "correction"

    call_id = models.UUIDField(primary_key=True)
    kind = models.CharField(max_length=10, choices=Kind.choices, default=Kind.CALL)
    corrects = models.UUIDField(null=True)
    brand_id = models.BigIntegerField()
    organization_id = models.BigIntegerField()
    key_id = models.BigIntegerField()
    model_id = models.BigIntegerField()
    engine_id = models.BigIntegerField(null=True)
    tier_id = models.BigIntegerField(null=True)
    rate_id = models.BigIntegerField(null=True)
    rates = models.JSONField(help_text="The frozen rates, picos per token and nanos per request")
    endpoint = models.CharField(max_length=20)
    payer = models.CharField(max_length=10, help_text="included or prepaid")
    uncached_input_tokens = models.BigIntegerField()
    cache_read_tokens = models.BigIntegerField(null=True)
    cache_write_tokens = models.BigIntegerField(null=True)
    output_tokens = models.BigIntegerField()
    reasoning_tokens = models.BigIntegerField(null=True)
    images = models.IntegerField(default=0)
    credits = models.BigIntegerField(default=0)
    list_cost_nanos = models.BigIntegerField()
    cost_nanos = models.BigIntegerField()
    held_nanos = models.BigIntegerField(default=0)
    prompt_tokens_max = models.BigIntegerField(null=True, help_text="What the prompt was held for")
    granted_tokens = models.BigIntegerField(null=True, help_text="Output, for each of the choices")
    choices = models.SmallIntegerField(default=1)
    usage_source = models.CharField(max_length=10, choices=UsageSource.choices)
    end_reason = models.CharField(max_length=16, choices=EndReason.choices)
    flags = ArrayField(models.TextField(), default=list)
    http_status = models.SmallIntegerField()
    stream = models.BooleanField()
    day = models.DateField(help_text="Brand day of the reserve")
    started_at = models.DateTimeField()
    first_token_ms = models.IntegerField(null=True)
    duration_ms = models.IntegerField()
    settled_at = models.DateTimeField()
    address = models.GenericIPAddressField(null=True)
    agent = models.CharField(max_length=200, blank=True)
    metadata = models.JSONField(default=dict)
    user = models.CharField(max_length=512, blank=True)
    posting_id = models.BigIntegerField(null=True)

    class Meta:
        managed = False
        db_table = "usage_event"

    def __str__(self) -> str:
        return str(self.call_id)


class Rollup(models.Model):
    """Sums of usage events. Histograms count events per fixed bucket (bounds in billing/histograms.py)."""

    brand_id = models.BigIntegerField()
    organization_id = models.BigIntegerField()
    key_id = models.BigIntegerField()
    model_id = models.BigIntegerField()
    engine_id = models.BigIntegerField(default=0)
    end_reason = models.CharField(max_length=16)
    requests = models.BigIntegerField(default=0)
    failures = models.BigIntegerField(
        default=0, db_default=0, help_text="Of the requests, those an engine failed: given back"
    )
    uncached_input_tokens = models.BigIntegerField(default=0)
    cache_read_tokens = models.BigIntegerField(default=0)
    cache_write_tokens = models.BigIntegerField(default=0)
    output_tokens = models.BigIntegerField(default=0)
    reasoning_tokens = models.BigIntegerField(default=0)
    images = models.BigIntegerField(default=0)
    credits = models.BigIntegerField(default=0)
    list_cost_nanos = models.BigIntegerField(default=0)
    cost_nanos = models.BigIntegerField(default=0)
    first_token_histogram = ArrayField(models.BigIntegerField(), default=list)
    duration_histogram = ArrayField(models.BigIntegerField(), default=list)
    speed_histogram = ArrayField(models.BigIntegerField(), default=list)

    class Meta:
        abstract = True


ROLLUP_KEY = ["brand_id", "organization_id", "key_id", "model_id", "engine_id", "end_reason"]


class UsageQuarter(Rollup):
    """Per quarter of an hour in UTC, by the time a call started."""

    starts_at = models.DateTimeField()

    class Meta:
        indexes = [BrinIndex(fields=["starts_at"], name="usage_quarter_lately")]
        constraints = [
            models.UniqueConstraint(
                fields=["organization_id", "starts_at", *ROLLUP_KEY[2:], "brand_id"], name="usage_quarter_unique"
            )
        ]

    def __str__(self) -> str:
        return f"{self.organization_id} {self.starts_at}"


class UsageDay(Rollup):
    """Per brand day of the reserve."""

    day = models.DateField()

    class Meta:
        indexes = [BrinIndex(fields=["day"], name="usage_day_lately")]
        constraints = [
            models.UniqueConstraint(
                fields=["organization_id", "day", *ROLLUP_KEY[2:], "brand_id"], name="usage_day_unique"
            )
        ]

    def __str__(self) -> str:
        return f"{self.organization_id} {self.day}"


class JournalShard(models.Model):
    """Who drains a shard's journal (a leased row), and the last stream id whose effect is committed."""

    shard = models.PositiveSmallIntegerField(primary_key=True)
    holder = models.CharField(max_length=80, blank=True)
    leased_until = models.DateTimeField(null=True)
    last_stream_id = models.CharField(max_length=40, default="0-0")
    generation = models.PositiveBigIntegerField(db_default=0)
    """Goes up with every rebuild of the shard's Redis: what was read from the one before is booked no more."""

    def __str__(self) -> str:
        return f"shard {self.shard}"


class WorkerLease(models.Model):
    """A proxy worker that is alive until then. A rebuild of Redis waits for what it holds. `name` is also that of its
    WAL files, which lie in `folder` on `host`; `running` and `held_nanos` are as of its last renewal."""

    name = models.CharField(max_length=120, primary_key=True)
    host = models.CharField(max_length=80)
    folder = models.TextField()
    running = models.PositiveIntegerField(default=0)
    held_nanos = models.BigIntegerField(default=0)
    expires_at = models.DateTimeField()

    def __str__(self) -> str:
        return self.name


class JournalWriter(models.Model):
    """A journal process that is alive until then: the shards are shared among those."""

    name = models.CharField(max_length=80, primary_key=True)
    seen_until = models.DateTimeField()

    def __str__(self) -> str:
        return self.name


class DeadLetter(models.Model):
    """A journal entry that could not be recorded after several tries. Nothing is lost: retry it from the admin site."""

    shard = models.PositiveSmallIntegerField()
    stream_id = models.CharField(max_length=40)
    payload = models.BinaryField()
    error = models.TextField()
    tries = models.PositiveSmallIntegerField()
    at = models.DateTimeField(db_default=Now(), editable=False)
    resolved_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["shard", "stream_id"], name="dead_letter_unique")]

    def __str__(self) -> str:
        return f"{self.shard} {self.stream_id}"


class Notice(models.Model):
    """Something to tell an organization; portal.notify renders and sends it."""

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="notices")
    kind = models.CharField(max_length=40)
    unique_key = models.CharField(max_length=120, unique=True)
    payload = models.JSONField(default=dict)
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    sent_at = models.DateTimeField(null=True)

    def __str__(self) -> str:
        return self.kind
