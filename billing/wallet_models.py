"""What is kept about wallets beside the books themselves. Writers are named in README.md."""

from __future__ import annotations

from django.db import models
from django.db.models import TextChoices  # by name: mypy loses models.TextChoices inside a model's body
from django.db.models.functions import Now

from billing import money
from keys.models import Brand, Organization, User


class Grant(models.Model):
    """Credit given to an organization by an operator, a sign-up, a promotion or a payment. In which order grants are
    spent says billing/spending.py; `expires_at` is when what is left of it is taken back."""

    class Kind(TextChoices):
        PAID = "paid"
        PROMOTIONAL = "promotional"
        COMPENSATION = "compensation"
        SIGN_UP = "sign_up"

    organization = models.ForeignKey(Organization, on_delete=models.PROTECT, related_name="grants")
    kind = models.CharField(max_length=12, choices=Kind.choices)
    amount_nanos = models.BigIntegerField()
    reason = models.CharField(max_length=200)
    posting = models.OneToOneField("billing.Posting", on_delete=models.PROTECT, related_name="grant")
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    expires_at = models.DateTimeField(null=True, blank=True)
    priority = models.SmallIntegerField(default=0, db_default=0, help_text="Lower is spent first, whatever expires")

    class Meta:
        app_label = "billing"
        constraints = [models.CheckConstraint(condition=models.Q(amount_nanos__gt=0), name="grant_positive")]
        indexes = [
            models.Index(fields=["expires_at"], condition=~models.Q(expires_at=None), name="grant_expiring"),
        ]

    def __str__(self) -> str:
        amount = money.decimal(self.amount_nanos, 9, places_min=2)
        return f"{self.get_kind_display()} credit of {amount} to {self.organization}"


class GrantEnd(models.Model):
    """A grant that expired, and of which nothing is left: spent, or taken back (billing/expiry.py)."""

    grant = models.OneToOneField(Grant, primary_key=True, on_delete=models.PROTECT, related_name="end")
    at = models.DateTimeField(db_default=Now(), editable=False)

    class Meta:
        app_label = "billing"

    def __str__(self) -> str:
        return f"end of {self.grant}"


class WalletMark(models.Model):
    """What was left of an organization's grants after a posting, so that reading on from there is enough. A cache:
    without the row the whole wallet is read. `left` is {grant id: nanos}."""

    organization = models.OneToOneField(Organization, primary_key=True, on_delete=models.CASCADE, related_name="+")
    posting_id = models.BigIntegerField()
    left = models.JSONField()
    loose_nanos = models.BigIntegerField()
    debt_nanos = models.BigIntegerField()

    class Meta:
        app_label = "billing"

    def __str__(self) -> str:
        return f"{self.organization_id} up to posting {self.posting_id}"


class PromoCode(models.Model):
    """A code that gives credit to whoever claims it, until it ends or is used up. Written by billing/promo_codes.py."""

    brand = models.ForeignKey(Brand, on_delete=models.PROTECT, related_name="promo_codes")
    code = models.CharField(max_length=40, help_text="Capitals, digits and -; customers may write it in any case")
    amount_nanos = models.BigIntegerField()
    claims_max = models.PositiveIntegerField(help_text="How many customers may claim it")
    claimed = models.PositiveIntegerField(default=0, db_default=0, editable=False)
    expires_at = models.DateTimeField(null=True, blank=True, help_text="Until when it may be claimed")
    credit_days = models.PositiveSmallIntegerField(
        null=True, blank=True, help_text="How long the credit is good after it was claimed; empty: for ever"
    )
    note = models.CharField(max_length=200, blank=True, help_text="For yourself")
    created_at = models.DateTimeField(db_default=Now(), editable=False)

    class Meta:
        app_label = "billing"
        constraints = [
            models.UniqueConstraint(fields=["brand", "code"], name="promo_code_unique"),
            models.CheckConstraint(condition=models.Q(amount_nanos__gt=0), name="promo_code_gives"),
            models.CheckConstraint(
                condition=models.Q(claimed__lte=models.F("claims_max")),
                name="promo_code_claims_bounded",
                violation_error_message="More customers than that have claimed it already.",
            ),
        ]

    def __str__(self) -> str:
        return self.code


class PromoClaim(models.Model):
    code = models.ForeignKey(PromoCode, on_delete=models.PROTECT, related_name="claims")
    organization = models.ForeignKey(Organization, on_delete=models.PROTECT, related_name="promo_claims")
    grant = models.OneToOneField(Grant, on_delete=models.PROTECT, related_name="+")
    at = models.DateTimeField(db_default=Now(), editable=False)

    class Meta:
        app_label = "billing"
        constraints = [models.UniqueConstraint(fields=["code", "organization"], name="promo_claim_unique")]

    def __str__(self) -> str:
        return f"{self.code} by {self.organization}"


class PromoClaimant(models.Model):
    """An owner of the customer that claimed a code, at that moment: nobody has a code's credit for a second customer.
    Kept by mailbox and by person. Written by billing/promo_codes.py."""

    code = models.ForeignKey(PromoCode, on_delete=models.PROTECT, related_name="claimants")
    claim = models.ForeignKey(PromoClaim, on_delete=models.PROTECT, related_name="claimants")
    mailbox = models.CharField(max_length=254)
    user = models.ForeignKey(User, null=True, on_delete=models.SET_NULL, related_name="+")

    class Meta:
        app_label = "billing"
        constraints = [
            models.UniqueConstraint(fields=["code", "mailbox"], name="promo_claimant_mailbox_unique"),
            models.UniqueConstraint(fields=["code", "user"], name="promo_claimant_user_unique"),
        ]

    def __str__(self) -> str:
        return f"{self.mailbox} for {self.code}"


class LedgerSeal(models.Model):
    """That the postings of a brand's day were these: a digest over them and the seal before, and a signature with a
    secret that is not in the database. Append-only (trigger). Written by billing/seals.py."""

    brand = models.ForeignKey(Brand, on_delete=models.PROTECT, related_name="seals")
    number = models.PositiveIntegerField(help_text="Of the brand's seals, from 1, without gaps")
    day = models.DateField(help_text="The brand day that ended with it")
    since = models.DateTimeField(null=True, help_text="Null: from the beginning of the books")
    until = models.DateTimeField()
    postings = models.PositiveIntegerField()
    digest = models.CharField(max_length=64)
    pepper_version = models.PositiveSmallIntegerField()
    signature = models.CharField(max_length=64)
    sealed_at = models.DateTimeField(db_default=Now(), editable=False)

    class Meta:
        app_label = "billing"
        constraints = [models.UniqueConstraint(fields=["brand", "number"], name="ledger_seal_unique")]

    def __str__(self) -> str:
        return f"{self.brand} {self.day}"


class LedgerSealPart(models.Model):
    """Up to a thousand postings of a seal, in order: of each its id and the first 8 bytes of its digest, so that one
    which was changed can be named."""

    seal = models.ForeignKey(LedgerSeal, on_delete=models.PROTECT, related_name="parts")
    last_id = models.BigIntegerField()
    prints = models.BinaryField()

    class Meta:
        app_label = "billing"
        constraints = [models.UniqueConstraint(fields=["seal", "last_id"], name="ledger_seal_part_unique")]

    def __str__(self) -> str:
        return f"{self.seal} up to {self.last_id}"
