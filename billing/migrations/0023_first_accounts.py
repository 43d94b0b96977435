"""Whose organization is their first at a brand: of those who came before, the one with the sign-up credit, else the
oldest that they own."""

import django.db.models.deletion
import django.db.models.functions.datetime
from django.conf import settings
from django.db import migrations, models

FILL = """
INSERT INTO billing_firstaccount (brand_id, mailbox, user_id, organization_id)
SELECT DISTINCT ON (found.brand_id, found.mailbox) found.brand_id, found.mailbox, found.user_id, found.organization_id
FROM (
    SELECT 0 AS place, o.brand_id, u.mailbox, u.id AS user_id, o.id AS organization_id, o.created_at
    FROM billing_grant g
    JOIN billing_posting p ON p.id = g.posting_id
    JOIN keys_user u ON u.id = p.actor_id
    JOIN keys_organization o ON o.id = g.organization_id
    WHERE g.kind = 'sign_up'
    UNION ALL
    SELECT 1, o.brand_id, u.mailbox, u.id, o.id, o.created_at
    FROM keys_membership m
    JOIN keys_user u ON u.id = m.user_id
    JOIN keys_organization o ON o.id = m.organization_id
    WHERE m.role = 'owner'
) found
WHERE found.mailbox <> ''
ORDER BY found.brand_id, found.mailbox, found.place, found.created_at, found.organization_id
"""


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0022_posting_lately"),
        ("keys", "0004_mailboxes_and_further_accounts"),
    ]

    operations = [
        migrations.CreateModel(
            name="FirstAccount",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("mailbox", models.CharField(max_length=254)),
                (
                    "created_at",
                    models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), editable=False),
                ),
                (
                    "brand",
                    models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name="+", to="keys.brand"),
                ),
                (
                    "organization",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT, related_name="+", to="keys.organization"
                    ),
                ),
                (
                    "user",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
            ],
        ),
        migrations.AddConstraint(
            model_name="firstaccount",
            constraint=models.UniqueConstraint(fields=("brand", "mailbox"), name="first_account_unique"),
        ),
        migrations.RunSQL(FILL, migrations.RunSQL.noop),
    ]
