"""Who is calling: people, brands, organizations, keys, and the trail of what was changed.

Ids are bigints inside; `public_id` ("org_…", "key_…") is what leaves the house. Rows that proxy workers cache carry a
`version` from one PostgreSQL sequence (see publication.py); only the writers named in README.md change them.
"""

from __future__ import annotations

import secrets
from typing import Any, ClassVar

from django.contrib.auth.base_user import AbstractBaseUser, BaseUserManager
from django.contrib.auth.models import PermissionsMixin
from django.contrib.postgres.fields import ArrayField
from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import (
    F,
    TextChoices,  # by name: mypy loses models.TextChoices inside a model's body
)
from django.db.models.functions import Lower, Now

from keys import names
from keys.caller import SHARDS
from keys.mailboxes import mailbox

PUBLIC_ID_ALPHABET = "23456789abcdefghjkmnpqrstuvwxyz"


def public_id(prefix: str) -> str:
    return prefix + "".join(secrets.choice(PUBLIC_ID_ALPHABET) for _ in range(20))


def organization_public_id() -> str:
    return public_id("org_")


def key_public_id() -> str:
    return public_id("key_")


def service_account_public_id() -> str:
    return public_id("svc_")


class UserManager(BaseUserManager["User"]):
    def create_user(self, email: str, password: str | None = None, **extra: Any) -> User:
        user = self.model(email=self.normalize_email(email).lower(), **extra)
        user.set_password(password)
        user.save(using=self._db)
        return user

    def create_superuser(self, email: str, password: str | None = None, **extra: Any) -> User:
        return self.create_user(email, password, is_staff=True, is_superuser=True, **extra)

    def get_by_natural_key(self, username: str | None) -> User:
        return self.get(email=(username or "").lower())


class User(AbstractBaseUser, PermissionsMixin):
    """A person, one per e-mail address for the whole installation."""

    email = models.EmailField(unique=True)
    mailbox = models.CharField(
        max_length=254, default="", db_default="", editable=False, help_text="What every alias of the address leads to"
    )
    name = models.CharField(max_length=150, blank=True)
    is_active = models.BooleanField(default=True)
    is_staff = models.BooleanField(default=False)
    joined_at = models.DateTimeField(db_default=Now(), editable=False)

    USERNAME_FIELD = "email"
    EMAIL_FIELD = "email"
    REQUIRED_FIELDS: ClassVar[list[str]] = []
    objects = UserManager()

    class Meta:
        constraints = [models.UniqueConstraint(Lower("email"), name="user_email_lower_unique")]
        indexes = [models.Index(fields=["mailbox"], name="user_mailbox")]

    def __str__(self) -> str:
        return self.email

    def clean(self) -> None:
        super().clean()
        if not names.is_name(self.name):
            raise ValidationError({"name": names.NOT_ONE})

    def save(self, **options: Any) -> None:
        self.mailbox = mailbox(self.email)
        fields = options.get("update_fields")
        if fields is not None and "email" in fields:
            options["update_fields"] = {*fields, "mailbox"}
        super().save(**options)


class Scheme(TextChoices):
    """How a caller may present a key. The wire rules are in credentials.py."""

    BEARER = "bearer", "Authorization: Bearer"
    API_KEY = "api-key", "Authorization: Api-Key"
    X_API_KEY = "x-api-key", "X-API-Key"
    QUERY = "query", "?api_key="


class Brand(models.Model):
    """A public API surface: one company's name, hosts, paths, key format and rules.

    `parameters` holds {"min", "max", "default", "values"} per request field, all optional: a value out of range is
    refused by name, a default is sent to the engine when a request leaves the field out.
    """

    class State(TextChoices):
        ACTIVE = "active"
        PAUSED = "paused"

    class SignUp(TextChoices):
        OPEN = "open"
        INVITE = "invite", "Invite only"

    class DisposableMail(TextChoices):
        REFUSED = "refused"
        WITHOUT_CREDIT = "without_credit", "Taken, without credit and what tiers include"

    slug = models.SlugField(max_length=40, unique=True)
    name = models.CharField(max_length=100)
    hosts = ArrayField(models.CharField(max_length=253), default=list, blank=True)
    base_paths = ArrayField(models.CharField(max_length=60), default=list, blank=True, help_text="e.g. /v1")
    dialect = models.CharField(max_length=40, default="openai")
    schemes = ArrayField(models.CharField(max_length=12, choices=Scheme.choices), default=list)
    key_prefix = models.CharField(max_length=24, help_text="e.g. ak-; letters, digits, - and _")
    legacy_key_patterns = ArrayField(
        models.CharField(max_length=200), default=list, blank=True, help_text="Regular expressions of imported keys"
    )
    id_prefix = models.CharField(max_length=24, default="chatcmpl-")
    response_id_prefix = models.CharField(max_length=24, default="resp_", db_default="resp_")
    default_model = models.CharField(max_length=120, blank=True, help_text="Used when a request names no model")
    model_id_pattern = models.CharField(
        max_length=200, blank=True, default="", db_default="", help_text="What every model id must match whole"
    )
    key_scopes = ArrayField(
        models.CharField(max_length=20),
        default=list,
        db_default=[],
        blank=True,
        help_text="The most its keys may do; empty means everything",
    )
    parameters = models.JSONField(
        default=dict,
        db_default={},
        blank=True,
        help_text='Rules per request field: {"temperature": {"min": 0, "max": 1, "default": 0.7}}',
    )
    is_catalogue_public = models.BooleanField(default=False, db_default=False, help_text="/models needs no key")
    lists_gated_models = models.BooleanField(
        default=False, db_default=False, help_text="/models shows what a higher tier unlocks, too"
    )
    is_plain_chat = models.BooleanField(
        default=False, db_default=False, help_text="Text and nothing else: tools and other parts are 403"
    )
    splits_reasoning = models.BooleanField(
        default=False, db_default=False, help_text="Takes reasoning_split, on by itself for models that reason"
    )
    conversation_days = models.PositiveSmallIntegerField(
        default=0, db_default=0, help_text="How long a session_id is remembered; 0 takes no sessions"
    )
    conversation_bytes_max = models.PositiveIntegerField(default=1_048_576, db_default=1_048_576)
    docs_pages = ArrayField(
        models.CharField(max_length=40),
        default=list,
        db_default=[],
        blank=True,
        help_text="Of its public docs, in order",
    )
    currency = models.CharField(max_length=3, default="USD")
    timezone = models.CharField(max_length=60, default="UTC")
    month_anchor = models.PositiveSmallIntegerField(
        default=1,
        db_default=1,
        help_text="On which day months of limits begin, for accounts opened from now on: 1 for calendar months, another"
        " day, or 0 for the day the account was opened. Months too short for it begin on their last day",
    )
    state = models.CharField(max_length=8, choices=State.choices, default=State.ACTIVE)
    sign_up = models.CharField(max_length=8, choices=SignUp.choices, default=SignUp.OPEN)
    cors_origins = ArrayField(models.CharField(max_length=253), default=list, blank=True, help_text='"*" allows any')
    money_refusal_status = models.PositiveSmallIntegerField(default=429, choices=[(402, "402"), (429, "429")])
    sign_up_grant_nanos = models.BigIntegerField(default=0)
    sign_ups_per_address = models.PositiveSmallIntegerField(
        default=20,
        db_default=20,
        help_text="Most sign-ups a day from one IPv4 address or IPv6 /64 network; 0 for no bound",
    )
    disposable_mail = models.CharField(
        max_length=16,
        choices=DisposableMail.choices,
        default=DisposableMail.REFUSED,
        db_default=DisposableMail.REFUSED,
        help_text="Sign-ups with an address of a domain of throw-away mailboxes",
    )
    theme = models.JSONField(default=dict, blank=True)
    support_email = models.EmailField(blank=True)
    support_url = models.URLField(blank=True)
    terms_url = models.URLField(blank=True, default="", db_default="")
    terms_version = models.CharField(
        max_length=40,
        blank=True,
        default="",
        db_default="",
        help_text="Of these terms. People accept each version before they see an account; empty asks nobody",
    )
    privacy_url = models.URLField(blank=True, default="", db_default="")
    imprint_url = models.URLField(blank=True, default="", db_default="")
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    version = models.BigIntegerField(default=0, editable=False)

    def __str__(self) -> str:
        return self.name


class Organization(models.Model):
    """A customer of one brand: the tenant boundary and the unit of quota and of money."""

    class State(TextChoices):
        ACTIVE = "active"
        SUSPENDED = "suspended"

    brand = models.ForeignKey(Brand, on_delete=models.PROTECT, related_name="organizations")
    public_id = models.CharField(max_length=40, unique=True, default=organization_public_id, editable=False)
    slug = models.SlugField(max_length=60)
    name = models.CharField(max_length=150)
    state = models.CharField(max_length=10, choices=State.choices, default=State.ACTIVE)
    suspended_reason = models.CharField(max_length=200, blank=True)
    is_further = models.BooleanField(
        "further account",
        default=False,
        db_default=False,
        help_text="Of somebody who had one already: pays from its balance what tiers include, unless its tier is sold",
    )
    month_anchor = models.PositiveSmallIntegerField(
        default=1, db_default=1, editable=False, help_text="On which day of the month its months begin; never changes"
    )
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    version = models.BigIntegerField(default=0, editable=False)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["brand", "slug"], name="organization_brand_slug_unique"),
            models.CheckConstraint(
                condition=models.Q(month_anchor__range=(1, 31)), name="organization_month_anchor_is_a_day"
            ),
        ]
        indexes = [models.Index(F("id") % SHARDS, F("id"), name="organization_by_shard")]

    def __str__(self) -> str:
        return self.name


class OrganizationNote(models.Model):
    """What staff tell each other about a customer, who never sees it (notes.py)."""

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="notes")
    text = models.TextField(max_length=4000)
    author = models.ForeignKey("keys.User", null=True, on_delete=models.SET_NULL, related_name="+")
    written_by = models.CharField(max_length=254, help_text="E-mail, or the command; stays when the person is gone")
    written_at = models.DateTimeField(db_default=Now(), editable=False)

    def __str__(self) -> str:
        return f"{self.written_by}: {self.text[:40]}"


class Role(TextChoices):
    OWNER = "owner"
    ADMIN = "admin"
    DEVELOPER = "developer"
    BILLING = "billing"
    VIEWER = "viewer"


class Membership(models.Model):
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="memberships")
    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="memberships")
    role = models.CharField(max_length=10, choices=Role.choices, default=Role.DEVELOPER)
    created_at = models.DateTimeField(db_default=Now(), editable=False)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["user", "organization"], name="membership_unique")]

    def __str__(self) -> str:
        return f"{self.user} in {self.organization} ({self.role})"


class ServiceAccount(models.Model):
    """A member that is a program: keys belong to it instead of to whoever made them. Nobody signs in as one."""

    organization = models.ForeignKey(Organization, on_delete=models.PROTECT, related_name="service_accounts")
    public_id = models.CharField(max_length=40, unique=True, default=service_account_public_id, editable=False)
    name = models.CharField(max_length=100)
    role = models.CharField(max_length=10, choices=Role.choices, default=Role.DEVELOPER)
    created_by = models.ForeignKey(User, null=True, on_delete=models.SET_NULL, related_name="+")
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    disabled_at = models.DateTimeField(null=True, editable=False)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["organization", "name"],
                condition=models.Q(disabled_at=None),
                name="service_account_name_unique",
            )
        ]

    def __str__(self) -> str:
        return self.name


class Invitation(models.Model):
    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="invitations")
    email = models.EmailField()
    role = models.CharField(max_length=10, choices=Role.choices, default=Role.DEVELOPER)
    token_digest = models.BinaryField(max_length=32, unique=True)
    invited_by = models.ForeignKey(User, null=True, on_delete=models.SET_NULL, related_name="+")
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    expires_at = models.DateTimeField()
    accepted_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)

    def __str__(self) -> str:
        return f"{self.email} to {self.organization}"


class Scope(TextChoices):
    CHAT = "chat"
    COMPLETIONS = "completions"
    RESPONSES = "responses"
    EMBEDDINGS = "embeddings"
    IMAGES = "images"
    MODELS = "models"
    USAGE = "usage"


def every_scope() -> list[str]:
    return [scope.value for scope in Scope]


class ApiKey(models.Model):
    """A secret that calls for one organization, or manages it. The secret itself is shown once and never stored.

    A management key has a role (`manages_as`), like a member, and no scope at all, so that it calls no model.
    `pepper_version` names the KEY_PEPPER that made `digest` (HMAC-SHA-256); 0 means an imported key's plain SHA-256.
    `model_slugs` null means every model the tier unlocks. `limits` is a list of {"unit", "window", "amount"} as
    billing.limits reads them; this room stores them without judging. Keys of the playground are made and ended by the
    portal, and lists leave them out. A test key reaches no engine but the house's own, costs nothing and is counted
    apart; its mode stands in its secret and never changes.
    """

    class Purpose(TextChoices):
        PROGRAM = "program"
        PLAYGROUND = "playground"

    class Mode(TextChoices):
        LIVE = "live"
        TEST = "test"

    organization = models.ForeignKey(Organization, on_delete=models.PROTECT, related_name="keys")
    public_id = models.CharField(max_length=40, unique=True, default=key_public_id, editable=False)
    name = models.CharField(max_length=100)
    purpose = models.CharField(
        max_length=10, choices=Purpose.choices, default=Purpose.PROGRAM, db_default=Purpose.PROGRAM, editable=False
    )
    mode = models.CharField(max_length=4, choices=Mode.choices, default=Mode.LIVE, db_default=Mode.LIVE, editable=False)
    digest = models.BinaryField(max_length=32, unique=True, editable=False)
    pepper_version = models.PositiveSmallIntegerField(editable=False)
    hint = models.CharField(
        max_length=40, editable=False, help_text="Brand prefix, an ellipsis and the last four characters"
    )
    scopes = ArrayField(models.CharField(max_length=20, choices=Scope.choices), default=every_scope)
    manages_as = models.CharField(
        max_length=10,
        choices=Role.choices,
        blank=True,
        default="",
        db_default="",
        editable=False,
        help_text="The role of a management key; empty for keys that call models",
    )
    model_slugs = ArrayField(
        models.CharField(max_length=120), null=True, blank=True, help_text="Models allowed; null means all"
    )
    cidrs = ArrayField(models.CharField(max_length=50), default=list, blank=True)
    limits = models.JSONField(default=list, blank=True)
    created_by = models.ForeignKey(User, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True, editable=False)
    service_account = models.ForeignKey(
        ServiceAccount, null=True, blank=True, on_delete=models.PROTECT, related_name="keys", editable=False
    )
    rotated_from = models.ForeignKey("self", null=True, blank=True, on_delete=models.SET_NULL, related_name="rotations")
    version = models.BigIntegerField(default=0, editable=False)

    class Meta:
        verbose_name, verbose_name_plural = "API key", "API keys"
        indexes = [
            models.Index(fields=["organization", "-created_at"], name="api_key_organization_created"),
            models.Index(F("organization_id") % SHARDS, F("id"), name="api_key_by_shard"),
        ]
        constraints = [
            models.CheckConstraint(
                condition=models.Q(manages_as="") | models.Q(scopes__len=0), name="api_key_manages_or_calls"
            )
        ]

    def __str__(self) -> str:
        return f"{self.name} ({self.hint})"


class BrandStaff(models.Model):
    """Somebody who works for a brand: the operators' site shows them its rows and no other brand's (staff.py)."""

    class Role(TextChoices):
        SUPPORT = "support", "Support: looks, changes nothing"
        MANAGER = "manager", "Manager: looks and acts"

    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="staff_of")
    brand = models.ForeignKey(Brand, on_delete=models.PROTECT, related_name="staff")
    role = models.CharField(max_length=8, choices=Role.choices, default=Role.SUPPORT)
    created_at = models.DateTimeField(db_default=Now(), editable=False)

    class Meta:
        verbose_name_plural = "brand staff"
        constraints = [models.UniqueConstraint(fields=["user", "brand"], name="brand_staff_unique")]

    def __str__(self) -> str:
        return f"{self.user} for {self.brand} ({self.role})"


class KeyUse(models.Model):
    """When a key was last used, and from where. Written by the journal, never on a call's way; for management keys,
    which the journal never sees, by management.py."""

    key = models.OneToOneField(ApiKey, primary_key=True, on_delete=models.CASCADE, related_name="use")
    last_used_at = models.DateTimeField()
    address = models.GenericIPAddressField(null=True)
    agent = models.CharField(max_length=200, blank=True)

    def __str__(self) -> str:
        return f"{self.key_id} at {self.last_used_at}"


class AuditEvent(models.Model):
    """Who changed what, from where. Append-only: a trigger refuses UPDATE and DELETE.

    So the deletion of a user must not touch it (SET_NULL would be an UPDATE): `actor_id` keeps the number of a person
    who may be gone, `actor_name` who it was. Show the name; follow `actor` only through a filter on User.
    """

    at = models.DateTimeField(db_default=Now(), editable=False)
    brand = models.ForeignKey(Brand, null=True, on_delete=models.PROTECT, related_name="+")
    organization = models.ForeignKey(Organization, null=True, on_delete=models.PROTECT, related_name="+")
    actor = models.ForeignKey(User, null=True, on_delete=models.DO_NOTHING, related_name="+", db_constraint=False)
    actor_key = models.ForeignKey(
        ApiKey, null=True, on_delete=models.DO_NOTHING, related_name="+", db_constraint=False, db_index=False
    )
    actor_name = models.CharField(
        max_length=254, blank=True, help_text="E-mail, a management key's name, or the command that acted"
    )
    action = models.CharField(max_length=60, help_text="e.g. key.issued, key.revoked, organization.suspended")
    subject = models.CharField(max_length=80, help_text="Public id of what changed")
    before = models.JSONField(default=dict)
    after = models.JSONField(default=dict)
    address = models.GenericIPAddressField(null=True)

    class Meta:
        indexes = [models.Index(fields=["organization", "-at"], name="audit_organization_at")]

    def __str__(self) -> str:
        return f"{self.at} {self.action} {self.subject}"


class Publication(models.Model):
    """A versioned change on its way to Redis. Written in the transaction that made the change (see publication.py)."""

    version = models.BigIntegerField(primary_key=True)
    subject = models.CharField(max_length=8, choices=[("key", "key"), ("org", "org"), ("brand", "brand")])
    subject_id = models.BigIntegerField()
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    applied_at = models.DateTimeField(null=True)

    class Meta:
        indexes = [models.Index(fields=["version"], condition=models.Q(applied_at=None), name="publication_pending")]

    def __str__(self) -> str:
        return f"{self.subject} {self.subject_id} v{self.version}"
