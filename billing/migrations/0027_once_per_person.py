"""Whose claims of codes and first accounts those of before are: owners of the customers as they stand.

First accounts of staff-made organizations go to an owner who has none, the oldest; those under a mailbox that is spelt
otherwise today follow it, unless that has one already (the person's own mailbox leads to them all the same).
"""

import django.db.models.deletion
from django.conf import settings
from django.apps.registry import Apps
from django.db import migrations, models
from django.db.backends.base.schema import BaseDatabaseSchemaEditor

from keys.mailboxes import mailbox


CLAIMANTS = """
INSERT INTO billing_promoclaimant (code_id, claim_id, mailbox, user_id)
SELECT c.code_id, c.id, u.mailbox, u.id
FROM billing_promoclaim c
JOIN keys_membership m ON m.organization_id = c.organization_id AND m.role = 'owner'
JOIN keys_user u ON u.id = m.user_id
WHERE u.mailbox <> ''
ORDER BY c.id, m.id
ON CONFLICT DO NOTHING
"""
FIRST_ACCOUNTS = """
INSERT INTO billing_firstaccount (brand_id, mailbox, user_id, organization_id)
SELECT DISTINCT ON (o.brand_id, u.mailbox) o.brand_id, u.mailbox, u.id, o.id
FROM keys_membership m
JOIN keys_user u ON u.id = m.user_id
JOIN keys_organization o ON o.id = m.organization_id
WHERE m.role = 'owner' AND u.mailbox <> '' AND NOT o.is_further
    AND NOT EXISTS (SELECT 1 FROM billing_firstaccount f WHERE f.organization_id = o.id)
    AND NOT EXISTS (
        SELECT 1 FROM billing_firstaccount f LEFT JOIN keys_user p ON p.id = f.user_id
        WHERE f.brand_id = o.brand_id AND (f.mailbox = u.mailbox OR f.user_id = u.id OR p.mailbox = u.mailbox))
ORDER BY o.brand_id, u.mailbox, o.created_at, o.id
ON CONFLICT DO NOTHING
"""


def respell(apps: Apps, _editor: BaseDatabaseSchemaEditor | None) -> None:
    firsts = apps.get_model("billing", "FirstAccount").objects
    for pk, brand_id, known in firsts.values_list("pk", "brand_id", "mailbox").iterator(chunk_size=2_000):
        home = mailbox(known)
        if home and home != known and not firsts.filter(brand_id=brand_id, mailbox=home).exists():
            firsts.filter(pk=pk).update(mailbox=home)


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0026_engine_costs"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name="PromoClaimant",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("mailbox", models.CharField(max_length=254)),
                (
                    "claim",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT, related_name="claimants", to="billing.promoclaim"
                    ),
                ),
                (
                    "code",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT, related_name="claimants", to="billing.promocode"
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
            options={
                "constraints": [
                    models.UniqueConstraint(fields=("code", "mailbox"), name="promo_claimant_mailbox_unique"),
                    models.UniqueConstraint(fields=("code", "user"), name="promo_claimant_user_unique"),
                ],
            },
        ),
        migrations.RunPython(respell, migrations.RunPython.noop),
        migrations.RunSQL(FIRST_ACCOUNTS, migrations.RunSQL.noop),
        migrations.RunSQL(CLAIMANTS, migrations.RunSQL.noop),
    ]
