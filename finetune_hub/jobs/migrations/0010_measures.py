"""Measures of an objective, which were columns each, become one column of those that it has.

Workers one release older still write the old columns: a trigger gathers what they write. The next release drops both.
"""

from django.db import migrations, models

GATHERED = """
    jsonb_strip_nulls(jsonb_build_object(
        'reward_margin', CASE WHEN abs({row}reward_margin) < 'Infinity' THEN {row}reward_margin END,
        'reward_accuracy', {row}reward_accuracy
    ))
"""
GATHER = f"""
    UPDATE jobs_metricpoint SET measures = {GATHERED.format(row="")}
    WHERE reward_margin IS NOT NULL OR reward_accuracy IS NOT NULL
"""
TRIGGER = f"""
    CREATE FUNCTION gather_measures() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        NEW.measures := {GATHERED.format(row="NEW.")};
        RETURN NEW;
    END $$;
    CREATE TRIGGER gather_measures BEFORE INSERT ON jobs_metricpoint
        FOR EACH ROW WHEN (NEW.reward_margin IS NOT NULL OR NEW.reward_accuracy IS NOT NULL)
        EXECUTE FUNCTION gather_measures();
"""
NO_TRIGGER = "DROP TRIGGER gather_measures ON jobs_metricpoint; DROP FUNCTION gather_measures;"
PART = """
    UPDATE jobs_metricpoint
    SET reward_margin = (measures->>'reward_margin')::float, reward_accuracy = (measures->>'reward_accuracy')::float
"""


class Migration(migrations.Migration):
    dependencies = [("jobs", "0009_kinds_are_registered")]

    operations = [
        migrations.AddField(
            model_name="metricpoint",
            name="measures",
            field=models.JSONField(
                default=dict,
                db_default=models.Value({}, models.JSONField()),
                help_text="What the objective measures beside: see `spec.measures`.",
            ),
        ),
        migrations.RunSQL(GATHER, PART),
        migrations.RunSQL(TRIGGER, NO_TRIGGER),
        migrations.SeparateDatabaseAndState(
            state_operations=[
                migrations.RemoveField(model_name="metricpoint", name="reward_margin"),
                migrations.RemoveField(model_name="metricpoint", name="reward_accuracy"),
            ]
        ),
    ]
