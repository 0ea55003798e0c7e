from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("jobs", "0001_initial")]

    operations = [
        migrations.AddField(
            model_name="job",
            name="memory_bytes_needed",
            field=models.BigIntegerField(
                help_text="Memory that each of its devices must have, the planner's margin included; null: not known.",
                null=True,
            ),
        ),
    ]
