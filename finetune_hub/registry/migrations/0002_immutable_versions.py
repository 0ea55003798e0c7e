from django.db import migrations

REFUSE_CHANGES = """
CREATE TRIGGER immutable BEFORE UPDATE ON registry_adapterversion FOR EACH ROW EXECUTE FUNCTION refuse_changes();
CREATE TRIGGER immutable BEFORE UPDATE ON registry_adapterfile FOR EACH ROW EXECUTE FUNCTION refuse_changes();
CREATE TRIGGER immutable BEFORE UPDATE ON registry_lineage FOR EACH ROW EXECUTE FUNCTION refuse_changes();
"""

ALLOW_CHANGES = """
DROP TRIGGER immutable ON registry_lineage;
DROP TRIGGER immutable ON registry_adapterfile;
DROP TRIGGER immutable ON registry_adapterversion;
"""


class Migration(migrations.Migration):
    dependencies = [("registry", "0001_initial"), ("catalog", "0002_immutable_versions")]

    operations = [migrations.RunSQL(REFUSE_CHANGES, ALLOW_CHANGES)]
