"""An attempt keeps the remedy of its failure, as its job does.

Workers one release older write none: the database's own default stands for it.
"""

from django.db import migrations, models

# Of an attempt whose failure is its job's, the remedy is known.
TAKE_FROM_JOB = """
    UPDATE jobs_attempt SET failure_remedy = jobs_job.failure_remedy FROM jobs_job
    WHERE jobs_job.id = jobs_attempt.job_id AND jobs_job.failure_remedy <> ''
      AND (jobs_job.failure_class, jobs_job.failure_message)
        = (jobs_attempt.failure_class, jobs_attempt.failure_message)
"""


class Migration(migrations.Migration):
    dependencies = [("jobs", "0011_parent_and_address")]

    operations = [
        migrations.AlterField(
            model_name="job",
            name="failure_remedy",
            field=models.TextField(blank=True, db_default="", default=""),
        ),
        migrations.AddField(
            model_name="attempt",
            name="failure_remedy",
            field=models.TextField(blank=True, db_default="", default=""),
        ),
        migrations.RunSQL(TAKE_FROM_JOB, migrations.RunSQL.noop),
    ]
