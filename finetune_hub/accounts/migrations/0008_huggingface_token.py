"""The model has another name. Its table keeps the one that it has: nothing changes in the database."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("accounts", "0007_any_audit_verb"),
    ]

    operations = [
        migrations.AlterModelTable(name="hubtoken", table="accounts_hubtoken"),
        migrations.RenameModel(old_name="HubToken", new_name="HuggingFaceToken"),
        migrations.AlterField(
            model_name="huggingfacetoken",
            name="team",
            field=models.OneToOneField(
                on_delete=models.deletion.CASCADE,
                primary_key=True,
                related_name="huggingface_token",
                serialize=False,
                to="accounts.team",
            ),
        ),
    ]
