"""The words of tiers and limits: who pays, what is counted, in which window, for whom."""

from django.db.models import TextChoices


class Payer(TextChoices):
    INCLUDED = "included", "Included: limits only, charge 0"
    PREPAID = "prepaid", "Prepaid balance"
    INCLUDED_THEN_PREPAID = "included_then_prepaid", "Included allotment first, then prepaid balance"


class Unit(TextChoices):
    REQUESTS = "requests"
    INPUT_TOKENS = "input"
    OUTPUT_TOKENS = "output"
    TOKENS = "tokens", "All tokens"
    CREDITS = "credits"
    NANOS = "nanos", "Spend"
    CONCURRENT = "concurrent"


class Window(TextChoices):
    MINUTE = "minute"
    DAY = "day"
    MONTH = "month"
    LIFETIME = "lifetime"


class LimitScope(TextChoices):
    KEY = "key"
    ORGANIZATION = "organization"
    MODEL = "model"


def reach(unit: str, window: str, scope: str) -> str:
    """What a limit is per: "per day and key". Calls at once have no window: "per key"."""
    return f"per {scope}" if unit == Unit.CONCURRENT else f"per {window} and {scope}"
