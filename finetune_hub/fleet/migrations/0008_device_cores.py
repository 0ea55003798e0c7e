"""A CPU device's cores, which bound how many jobs share it. Workers used to say them in the device's name alone."""

from django.db import migrations, models

FROM_NAMES = "UPDATE fleet_device SET cores = substring(name FROM ', ([0-9]{1,4}) cores?$')::int WHERE kind = 'cpu'"


class Migration(migrations.Migration):
    dependencies = [
        ("fleet", "0007_plain_help_texts"),
    ]

    operations = [
        migrations.AddField(
            model_name="device",
            name="cores",
            field=models.PositiveSmallIntegerField(
                help_text="Cores of a CPU device, at most so many jobs share it; null: unknown, or a GPU.", null=True
            ),
        ),
        migrations.RunSQL(FROM_NAMES, migrations.RunSQL.noop),
    ]
