"""Dataset versions that an earlier release deleted: their files are gone, so each has a deletion that is purged."""

from django.db import migrations


def give_tombstones_a_deletion(apps, schema_editor):
    versions, deletions = apps.get_model("catalog", "DatasetVersion"), apps.get_model("catalog", "Deletion")
    buried = versions.objects.filter(deleted_at__isnull=False, deletion=None).select_related("dataset")
    for version in buried.defer("first_rows", "row_offsets"):
        at = version.deleted_at
        deletion = deletions.objects.create(
            team_id=version.dataset.team_id,
            kind="dataset",
            subject=f"dataset {version.dataset.name} v{version.number}",
            size_bytes=version.size_bytes,
            deleted_by_id=version.deleted_by_id or version.created_by_id,
            deleted_at=at,
            purge_after=at,
            purged_at=at,
            files_deleted_at=at,
        )
        versions.objects.filter(pk=version.pk).update(deletion=deletion)


class Migration(migrations.Migration):
    dependencies = [("catalog", "0008_deletions")]

    operations = [migrations.RunPython(give_tombstones_a_deletion, migrations.RunPython.noop, elidable=True)]
