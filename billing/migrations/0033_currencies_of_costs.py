"""What engines cost is in a currency: costs so far in that of the engine's brand, or of all brands where they have one."""

from django.db import migrations, models


def name_currencies(apps, _schema_editor):
    used = list(apps.get_model("keys", "Brand").objects.values_list("currency", flat=True).distinct()[:2])
    for cost in apps.get_model("billing", "EngineCost").objects.select_related("engine__brand"):
        brand = cost.engine.brand
        cost.currency = brand.currency if brand else used[0] if len(used) == 1 else ""
        cost.save(update_fields=["currency"])


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0032_taxed_top_ups"),
    ]

    operations = [
        migrations.AddField(
            model_name="engine",
            name="cost_currency",
            field=models.CharField(
                blank=True,
                db_default="",
                default="",
                help_text="Empty: that of its brand, or of all brands",
                max_length=3,
            ),
        ),
        migrations.AddField(
            model_name="enginecost",
            name="currency",
            field=models.CharField(blank=True, db_default="", help_text="Empty: nobody knew", max_length=3),
        ),
        migrations.RunPython(name_currencies, migrations.RunPython.noop),
    ]
