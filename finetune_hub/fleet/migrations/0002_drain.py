from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("fleet", "0001_initial")]

    operations = [migrations.RenameField(model_name="worker", old_name="cordoned", new_name="drain_requested")]
