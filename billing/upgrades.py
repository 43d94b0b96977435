"""The nights: who has done what the next tier's rule asks moves up one step. The only writer of UpgradeNight.

A night is a brand day that has ended. Safe to run twice, late, or by two at once: an organization moves at most once
for a night (a unique constraint), only from the tier it was judged on, and missed nights are judged in their order.
What people decided stays: nights up to that day move the organization no more, and none does while it pays for its
tier. A rule judges no night that had ended before it was made or changed, however late that night is judged.

One organization that cannot be judged holds up nobody else: it is logged, its brand's nights are judged for all others
and stay open, and the next beat tries again.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from typing import NamedTuple

import msgspec
from django.db import IntegrityError, transaction
from django.db.models import Q
from redis.exceptions import RedisError

from billing import journal, ladder, upgrade_facts
from billing.models import Subscription, Tier, TierChange, UpgradeNight
from billing.upgrade_facts import History
from billing.upgrade_rules import Judgement, Rule, RuleInvalid, days_looked_at, judge, read
from keys.connections import redis_client
from keys.models import Brand, Organization

ACTOR = "the ladder"
WAITS_MAX = timedelta(hours=6)
"""How long a night waits for the journal, counted from when a process first saw that it must."""
GRACE = timedelta(minutes=5)
"""After the brand's midnight: calls of the day that has ended are still being settled and booked."""
NIGHTS_MAX = 31
BATCH = 500
log = logging.getLogger(__name__)
_waiting_since: dict[tuple[int, date], datetime] = {}
"""(brand id, night) → when this process first saw that calls of the day were not booked."""


class Step(NamedTuple):
    """From a tier to the next one up, by that one's rule."""

    from_tier: Tier
    to_tier: Tier
    rule: Rule


def run(now: datetime) -> list[TierChange]:
    """Judge every night of every brand that has ended and was not judged yet."""
    changes: list[TierChange] = []
    for brand in Brand.objects.order_by("pk"):
        try:
            changes += _catch_up(brand, now)
        except Exception:  # the other brands' nights are not to wait for this one's
            log.exception("the nights of %s could not be judged; the next beat tries again", brand.slug)
    return changes


def _catch_up(brand: Brand, now: datetime) -> list[TierChange]:
    changes: list[TierChange] = []
    failed: set[int] = set()
    for night in due(brand, now):
        if not _is_booked(brand, night, now):
            break
        changes += judge_night(brand, night, failed)
    return changes


def due(brand: Brand, now: datetime) -> list[date]:
    """The nights that wait, oldest first; for a brand that was never judged the last one only."""
    last = upgrade_facts.day_before(now - GRACE, brand)
    done = UpgradeNight.objects.filter(brand=brand).order_by("-night").values_list("night", flat=True).first()
    waiting = 1 if done is None else min(NIGHTS_MAX, (last - done).days)
    return [last - timedelta(days=number) for number in reversed(range(waiting))]


def _is_booked(brand: Brand, night: date, now: datetime) -> bool:
    """Whether the journal has booked what was settled on that day: late use would otherwise be lost for it. A journal
    that stands still does not hold up the ladder for ever."""
    ended_at = upgrade_facts.moment_after(night, brand)
    try:
        oldest_ms = journal.lag(redis_client()).oldest_ms
        waits = oldest_ms is not None and oldest_ms < ended_at.timestamp() * 1000
    except (RedisError, OSError):
        waits = True
    if not waits:
        _waiting_since.pop((brand.pk, night), None)
        return True
    since = _waiting_since.setdefault((brand.pk, night), now)
    if now - since < WAITS_MAX:
        log.warning("%s, night of %s: waits for the journal to book that day", brand.slug, night)
        return False
    log.error("%s, night of %s: judged although calls of that day are not booked yet", brand.slug, night)
    return True


def judge_night(brand: Brand, night: date, failed: set[int] | None = None) -> list[TierChange]:
    """The changes of one night; none where it is known to be done. Organizations (ids) in `failed` are left out, those
    that fail now are added to it; while there are any the night stays open."""
    if UpgradeNight.objects.filter(brand=brand, night=night).exists():
        return []
    failed = set() if failed is None else failed
    changes, judged = [], 0
    steps = _steps_on(brand, night)
    for standings in _batches(brand, steps, night):
        judged += len(standings)
        changes += _moves(brand, [one for one in standings if one[0].pk not in failed], steps, night, failed)
    if not failed:
        done = {"judged": judged, "moved": len(changes)}
        UpgradeNight.objects.get_or_create(brand=brand, night=night, defaults=done)
    if changes:
        log.info("%s, night of %s: %d of %d moved up", brand.slug, night, len(changes), judged)
    return changes


def judge_one(organization: Organization, night: date) -> TierChange | None:
    """The night of a single organization, whether or not its brand's is done, and it and the rule existed then; None
    where it stays, also because it moved for this night before."""
    brand = organization.brand
    tier, _ = ladder.standing_of(organization)
    step = steps_of(brand).get(tier.id) if tier else None
    if step is None or has_plan(organization):
        return None
    below = step.from_tier.id
    (known,) = _known(brand, [(organization, below)], {below: step}, night)
    return _moved(known, step, night)


def steps_of(brand: Brand, rules: dict[str, Rule] | None = None) -> dict[int, Step]:
    """By the id of the tier below. `rules` (tier slug → rule) in place of those in force. A rule that cannot be read
    moves nobody, and says so in the log. Tiers that are not listed are no steps: they are given by hand."""
    tiers = list(Tier.objects.filter(brand=brand, is_listed=True).order_by("rank"))
    found = {}
    for below, above in itertools.pairwise(tiers):
        rule = _rule(above) if rules is None else rules.get(above.slug)
        if rule is not None:
            found[below.id] = Step(below, above, rule)
    return found


def _steps_on(brand: Brand, night: date) -> dict[int, Step]:
    """Those by rules that were in force when the night ended."""
    ended_at = upgrade_facts.moment_after(night, brand)
    return {
        below: step
        for below, step in steps_of(brand).items()
        if step.to_tier.rule_since is None or step.to_tier.rule_since < ended_at
    }


def standing_judgement(organization: Organization, now: datetime) -> tuple[Step, Judgement] | None:
    """How far the organization is on its way up as of today, for the people who look; None where no rule leads on."""
    brand = organization.brand
    tier, _ = ladder.standing_of(organization)
    step = steps_of(brand).get(tier.id) if tier else None
    if step is None or has_plan(organization):
        return None
    today = upgrade_facts.day_before(now, brand) + timedelta(days=1)
    standings, steps = [(organization, step.from_tier.id)], {step.from_tier.id: step}
    return step, _judgement(_known(brand, standings, steps, today)[0], step, today)


def has_plan(organization: Organization) -> bool:
    """Whether the organization has its tier by a paid plan: then no night moves it."""
    return Subscription.objects.filter(organization=organization, granted__isnull=False).exists()


def _rule(tier: Tier) -> Rule | None:
    if tier.upgrade_rule is None:
        return None
    try:
        return read(tier.upgrade_rule)
    except RuleInvalid:
        log.exception("the upgrade rule of %s cannot be read; nobody moves up to it", tier)
        return None


def _batches(brand: Brand, steps: dict[int, Step], night: date) -> Iterator[list[tuple[Organization, int]]]:
    """(organization, id of its tier) for all that stand below a rule and existed before the night was over."""
    default = Tier.objects.filter(brand=brand, is_default=True).values_list("pk", flat=True).first()
    below = Q(standing__tier_id__in=list(steps))
    if default in steps:
        below |= Q(standing=None)
    ended_at = upgrade_facts.moment_after(night, brand)
    found = Organization.objects.filter(below, brand=brand, created_at__lt=ended_at).exclude(
        subscriptions__granted__isnull=False
    )
    found = found.select_related("standing").order_by("pk")
    last = 0
    while batch := list(found.filter(pk__gt=last)[:BATCH]):
        last = batch[-1].pk
        yield [(one, one.standing.tier_id if hasattr(one, "standing") else default or 0) for one in batch]


class _Known(NamedTuple):
    """`limits`: of the tier it stands on."""

    history: History
    tier_id: int
    limits: dict[str, int]


def _known(
    brand: Brand, standings: list[tuple[Organization, int]], steps: dict[int, Step], night: date
) -> list[_Known]:
    within = max((days_looked_at(step.rule) for step in steps.values()), default=0)
    organizations = [organization for organization, _ in standings]
    first = night - timedelta(days=max(0, within - 1))
    histories = upgrade_facts.histories(brand, organizations, first=first, last=night)
    limits = upgrade_facts.daily_limits(step.from_tier for step in steps.values())
    return [_Known(histories[organization.id], tier_id, limits[tier_id]) for organization, tier_id in standings]


def _judgement(known: _Known, step: Step, night: date) -> Judgement:
    return judge(step.rule, known.history.facts(night, known.limits, known.history.standing(night)))


def _moves(
    brand: Brand, standings: list[tuple[Organization, int]], steps: dict[int, Step], night: date, failed: set[int]
) -> list[TierChange]:
    """Who cannot be judged or moved is added to `failed`."""
    changes = []
    for known in _known(brand, standings, steps, night):
        organization = known.history.organization
        try:
            change = _moved(known, steps[known.tier_id], night)
        except Exception:  # one organization's trouble is not to stop the others
            log.exception("%s, night of %s: %s could not be judged", brand.slug, night, organization.public_id)
            failed.add(organization.pk)
            continue
        if change is not None:
            changes.append(change)
    return changes


def _moved(known: _Known, step: Step, night: date) -> TierChange | None:
    if not known.history.is_open(night):
        return None
    judgement = _judgement(known, step, night)
    return _move(known.history.organization, step, judgement, night) if judgement.is_met else None


def _move(organization: Organization, step: Step, judgement: Judgement, night: date) -> TierChange | None:
    facts = {"night": night.isoformat(), **msgspec.to_builtins(judgement)}
    reason = f"Earned by use up to {night.isoformat()}"
    try:
        with transaction.atomic():
            Organization.objects.select_for_update(no_key=True).get(pk=organization.pk)
            if has_plan(organization):  # bought since the judgement began
                return None
            return ladder.assign(
                organization=organization,
                tier=step.to_tier,
                reason=reason,
                actor=ACTOR,
                facts=facts,
                only_from=step.from_tier,
                night=night,
            )
    except IntegrityError:
        if not TierChange.objects.filter(organization=organization, night=night).exists():
            raise
        return None  # it has moved for this night already, and stands on the next tier's doorstep
