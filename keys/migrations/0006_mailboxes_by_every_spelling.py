"""Mailboxes of addresses whose spelling was not folded before: names in quotation marks, domains in other letters.

By the rules of today (keys.mailboxes), as User.save keeps them: SQL has no IDNA. Few rows differ, and only these are
written and locked.
"""

from django.apps.registry import Apps
from django.db import migrations
from django.db.backends.base.schema import BaseDatabaseSchemaEditor

from keys.mailboxes import mailbox


def fill(apps: Apps, _editor: BaseDatabaseSchemaEditor | None) -> None:
    users = apps.get_model("keys", "User").objects
    for pk, email, known in users.values_list("pk", "email", "mailbox").iterator(chunk_size=2_000):
        home = mailbox(email)
        if home != known:
            users.filter(pk=pk, email=email).update(mailbox=home)


class Migration(migrations.Migration):
    dependencies = [
        ("keys", "0005_month_anchors"),
    ]

    operations = [
        migrations.RunPython(fill, migrations.RunPython.noop),
    ]
