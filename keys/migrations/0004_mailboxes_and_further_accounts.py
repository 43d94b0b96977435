"""What is given once to a person goes by mailbox; further accounts pay what tiers include."""

from django.db import migrations, models

FILL = """
WITH parts AS (
    SELECT id, split_part(lower(btrim(email)), '@', 1) AS local, CASE split_part(lower(btrim(email)), '@', 2)
        WHEN 'googlemail.com' THEN 'gmail.com'
        WHEN 'protonmail.com' THEN 'proton.me'
        WHEN 'protonmail.ch' THEN 'proton.me'
        WHEN 'pm.me' THEN 'proton.me'
        WHEN 'me.com' THEN 'icloud.com'
        WHEN 'mac.com' THEN 'icloud.com'
        WHEN 'ya.ru' THEN 'yandex.ru'
        WHEN 'yandex.com' THEN 'yandex.ru'
        WHEN 'yandex.by' THEN 'yandex.ru'
        WHEN 'yandex.kz' THEN 'yandex.ru'
        ELSE split_part(lower(btrim(email)), '@', 2) END AS domain
    FROM keys_user
), homes AS (
    SELECT id,
        CASE WHEN domain LIKE '%.fastmail.com' THEN left(domain, -length('.fastmail.com')) ELSE local END AS local,
        CASE WHEN domain LIKE '%.fastmail.com' THEN 'fastmail.com' ELSE domain END AS domain
    FROM parts
), names AS (
    SELECT id, domain, coalesce(
        nullif(split_part(local, CASE WHEN domain LIKE 'yahoo.%' THEN '-' ELSE '+' END, 1), ''), local) AS name
    FROM homes
)
UPDATE keys_user SET mailbox = coalesce(nullif(CASE names.domain
        WHEN 'gmail.com' THEN replace(names.name, '.', '')
        WHEN 'proton.me' THEN translate(names.name, '.-_', '')
        ELSE names.name END, ''), names.name) || '@' || names.domain
FROM names WHERE names.id = keys_user.id AND names.domain <> ''
"""


class Migration(migrations.Migration):
    dependencies = [
        ("keys", "0003_brand_surface"),
    ]

    operations = [
        migrations.AddField(
            model_name="brand",
            name="disposable_mail",
            field=models.CharField(
                choices=[
                    ("refused", "Refused"),
                    ("without_credit", "Taken, without credit and what tiers include"),
                ],
                db_default="refused",
                default="refused",
                help_text="Sign-ups with an address of a domain of throw-away mailboxes",
                max_length=16,
            ),
        ),
        migrations.AddField(
            model_name="brand",
            name="sign_ups_per_address",
            field=models.PositiveSmallIntegerField(
                db_default=20,
                default=20,
                help_text="Most sign-ups a day from one IPv4 address or IPv6 /64 network; 0 for no bound",
            ),
        ),
        migrations.AddField(
            model_name="organization",
            name="is_further",
            field=models.BooleanField(
                db_default=False,
                default=False,
                help_text="Of somebody who had one already: pays from its balance what tiers include, "
                "unless its tier is sold",
                verbose_name="further account",
            ),
        ),
        migrations.AddField(
            model_name="user",
            name="mailbox",
            field=models.CharField(
                db_default="",
                default="",
                editable=False,
                help_text="What every alias of the address leads to",
                max_length=254,
            ),
        ),
        migrations.RunSQL(FILL, migrations.RunSQL.noop),
        migrations.AddIndex(
            model_name="user",
            index=models.Index(fields=["mailbox"], name="user_mailbox"),
        ),
    ]
