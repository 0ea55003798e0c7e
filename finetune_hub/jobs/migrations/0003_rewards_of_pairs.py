from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("jobs", "0002_memory_needed"), ("jobs", "0002_pause_priority_after")]

    operations = [
        migrations.AddField(
            model_name="metricpoint",
            name="reward_margin",
            field=models.FloatField(help_text="DPO: beta times the mean margin between answers, in nats.", null=True),
        ),
        migrations.AddField(
            model_name="metricpoint",
            name="reward_accuracy",
            field=models.FloatField(help_text="DPO: share of the pairs whose margin is above 0.", null=True),
        ),
        migrations.AlterField(
            model_name="metricpoint",
            name="loss",
            field=models.FloatField(help_text="Mean over the step's supervised tokens, or its pairs (DPO), in nats."),
        ),
    ]
