from django.db import migrations

REFUSE_CHANGES = """
CREATE FUNCTION refuse_changes() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% rows are immutable: add a new version instead', TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
END $$;

CREATE TRIGGER immutable BEFORE UPDATE ON catalog_datasetversion FOR EACH ROW EXECUTE FUNCTION refuse_changes();
CREATE TRIGGER immutable BEFORE UPDATE ON catalog_basemodelfile FOR EACH ROW EXECUTE FUNCTION refuse_changes();
"""

ALLOW_CHANGES = """
DROP TRIGGER immutable ON catalog_basemodelfile;
DROP TRIGGER immutable ON catalog_datasetversion;
DROP FUNCTION refuse_changes();
"""


class Migration(migrations.Migration):
    dependencies = [("catalog", "0001_initial")]

    operations = [migrations.RunSQL(REFUSE_CHANGES, ALLOW_CHANGES)]
