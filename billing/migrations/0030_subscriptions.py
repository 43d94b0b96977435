"""Tiers that are paid by the month: what was agreed at Stripe, what came in, what went back."""

import billing.payment_models
import billing.subscription_models
import django.db.models.deletion
import django.db.models.functions.datetime
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0029_rules_since"),
        ("keys", "0006_mailboxes_by_every_spelling"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.AlterField(
            model_name="posting",
            name="kind",
            field=models.CharField(
                choices=[
                    ("usage", "Usage"),
                    ("grant", "Grant"),
                    ("top_up", "Top Up"),
                    ("refund", "Refund"),
                    ("correction", "Correction"),
                    ("adjustment", "Adjustment"),
                    ("dispute", "Dispute"),
                    ("expiry", "Expiry"),
                    ("subscription", "Paid plan"),
                ],
                max_length=12,
            ),
        ),
        migrations.CreateModel(
            name="Subscription",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "public_id",
                    models.CharField(
                        default=billing.subscription_models.subscription_public_id,
                        editable=False,
                        max_length=40,
                        unique=True,
                    ),
                ),
                (
                    "state",
                    models.CharField(
                        choices=[
                            ("created", "Being prepared"),
                            ("open", "Waiting for the payment"),
                            ("active", "Active"),
                            ("past_due", "Not paid"),
                            ("ended", "Ended"),
                            ("expired", "Never paid"),
                            ("failed", "Failed"),
                        ],
                        default="created",
                        max_length=10,
                    ),
                ),
                ("period_end", models.DateTimeField(help_text="Until when it is paid, or was to be", null=True)),
                ("ends_at", models.DateTimeField(help_text="When it was told to end; null: it goes on", null=True)),
                ("grace_until", models.DateTimeField(help_text="How long an unpaid one keeps its tier", null=True)),
                ("return_url", models.CharField(blank=True, max_length=400)),
                (
                    "idempotency_key",
                    models.CharField(default=billing.payment_models.idempotency_key, max_length=60, unique=True),
                ),
                ("session_id", models.CharField(max_length=100, null=True, unique=True)),
                (
                    "stripe_id",
                    models.CharField(help_text="sub_…; null until it is paid", max_length=60, null=True, unique=True),
                ),
                ("checkout_url", models.TextField(blank=True)),
                ("failure", models.CharField(blank=True, max_length=200)),
                ("looks", models.PositiveIntegerField(default=0, help_text="How often Stripe was asked")),
                (
                    "applied_look",
                    models.PositiveIntegerField(default=0, help_text="Whose answer stands here: an older one is late"),
                ),
                ("address", models.GenericIPAddressField(null=True)),
                (
                    "created_at",
                    models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), editable=False),
                ),
                ("ended_at", models.DateTimeField(null=True)),
                (
                    "next_look_at",
                    models.DateTimeField(
                        help_text="When the poller asks Stripe about it; null: never again", null=True
                    ),
                ),
                (
                    "account",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="subscriptions",
                        to="billing.stripeaccount",
                    ),
                ),
                (
                    "actor",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
                (
                    "fallback",
                    models.ForeignKey(
                        help_text="Where it leads back to",
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to="billing.tier",
                    ),
                ),
                (
                    "granted",
                    models.ForeignKey(
                        help_text="What it gives now",
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to="billing.tier",
                    ),
                ),
                (
                    "organization",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="subscriptions",
                        to="keys.organization",
                    ),
                ),
            ],
        ),
        migrations.CreateModel(
            name="SubscriptionInvoice",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("invoice_id", models.CharField(help_text="in_…", max_length=60, unique=True)),
                ("payment_intent", models.CharField(blank=True, db_index=True, max_length=60)),
                (
                    "reason",
                    models.CharField(
                        blank=True, help_text="Stripe's: subscription_create, subscription_cycle…", max_length=40
                    ),
                ),
                ("paid_units", models.BigIntegerField(help_text="Received with tax, in the currency's minor units")),
                ("net_nanos", models.BigIntegerField(help_text="Without tax")),
                ("created_at", models.DateTimeField(help_text="At Stripe")),
                (
                    "posting",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.PROTECT, related_name="+", to="billing.posting"
                    ),
                ),
                (
                    "subscription",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT, related_name="invoices", to="billing.subscription"
                    ),
                ),
            ],
        ),
        migrations.CreateModel(
            name="InvoiceReversal",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "kind",
                    models.CharField(choices=[("refund", "Refund"), ("dispute", "Disputed payment")], max_length=8),
                ),
                ("stripe_id", models.CharField(help_text="re_… or du_…", max_length=60, unique=True)),
                ("units", models.BigIntegerField(help_text="With tax, in the currency's minor units")),
                ("nanos", models.BigIntegerField(help_text="Taken from the revenue")),
                (
                    "created_at",
                    models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), editable=False),
                ),
                (
                    "posting",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.PROTECT, related_name="+", to="billing.posting"
                    ),
                ),
                (
                    "returned",
                    models.OneToOneField(
                        null=True, on_delete=django.db.models.deletion.PROTECT, related_name="+", to="billing.posting"
                    ),
                ),
                (
                    "invoice",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="reversals",
                        to="billing.subscriptioninvoice",
                    ),
                ),
            ],
        ),
        migrations.CreateModel(
            name="SubscriptionPrice",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("amount_nanos", models.BigIntegerField(help_text="A month, without tax")),
                ("currency", models.CharField(max_length=3)),
                ("name", models.CharField(help_text="What Stripe's pages and receipts call it", max_length=80)),
                (
                    "idempotency_key",
                    models.CharField(default=billing.payment_models.idempotency_key, max_length=60, unique=True),
                ),
                (
                    "price_id",
                    models.CharField(blank=True, help_text="price_…; empty until Stripe has answered", max_length=60),
                ),
                (
                    "account",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT, related_name="+", to="billing.stripeaccount"
                    ),
                ),
                (
                    "tier",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT, related_name="prices", to="billing.tier"
                    ),
                ),
            ],
        ),
        migrations.AddField(
            model_name="subscription",
            name="price",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.PROTECT,
                related_name="subscriptions",
                to="billing.subscriptionprice",
            ),
        ),
        migrations.AddConstraint(
            model_name="subscriptioninvoice",
            constraint=models.CheckConstraint(
                condition=models.Q(("net_nanos__gt", 0), ("paid_units__gt", 0)), name="subscription_invoice_positive"
            ),
        ),
        migrations.AddConstraint(
            model_name="invoicereversal",
            constraint=models.CheckConstraint(
                condition=models.Q(("nanos__gt", 0), ("units__gt", 0)), name="invoice_reversal_positive"
            ),
        ),
        migrations.AddConstraint(
            model_name="subscriptionprice",
            constraint=models.UniqueConstraint(
                fields=("account", "tier", "amount_nanos", "currency"), name="subscription_price_once"
            ),
        ),
        migrations.AddConstraint(
            model_name="subscriptionprice",
            constraint=models.UniqueConstraint(
                condition=models.Q(("price_id", ""), _negated=True),
                fields=("account", "price_id"),
                name="subscription_price_of_one",
            ),
        ),
        migrations.AddConstraint(
            model_name="subscriptionprice",
            constraint=models.CheckConstraint(
                condition=models.Q(("amount_nanos__gt", 0)), name="subscription_price_positive"
            ),
        ),
        migrations.AddIndex(
            model_name="subscription",
            index=models.Index(
                condition=models.Q(("next_look_at__isnull", False)),
                fields=["next_look_at"],
                name="subscription_to_look_at",
            ),
        ),
        migrations.AddIndex(
            model_name="subscription",
            index=models.Index(fields=["organization", "-created_at"], name="subscription_of_organization"),
        ),
        migrations.AddConstraint(
            model_name="subscription",
            constraint=models.UniqueConstraint(
                condition=models.Q(("state__in", ["created", "open", "active", "past_due"])),
                fields=("organization",),
                name="subscription_one_at_a_time",
            ),
        ),
        migrations.AddConstraint(
            model_name="subscription",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(("state__in", ["active", "past_due"]), _negated=True),
                    ("stripe_id__isnull", False),
                    _connector="OR",
                ),
                name="subscription_running_is_known",
            ),
        ),
        migrations.AddConstraint(
            model_name="subscription",
            constraint=models.CheckConstraint(
                condition=models.Q(("granted", None), ("state__in", ["active", "past_due"]), _connector="OR"),
                name="subscription_gives_while_it_runs",
            ),
        ),
    ]
