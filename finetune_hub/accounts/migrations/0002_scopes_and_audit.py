import django.contrib.postgres.fields
import django.db.models.deletion
import django.db.models.functions.datetime
from django.conf import settings
from django.db import migrations, models

APPEND_ONLY = """
CREATE FUNCTION refuse_to_rewrite() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% rows are only ever added', TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
END $$;

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON accounts_auditevent
    FOR EACH ROW EXECUTE FUNCTION refuse_to_rewrite();
"""

REWRITABLE = """
DROP TRIGGER append_only ON accounts_auditevent;
DROP FUNCTION refuse_to_rewrite();
"""


class Migration(migrations.Migration):
    dependencies = [("accounts", "0001_initial")]

    operations = [
        migrations.AddField(
            model_name="membership",
            name="joined_at",
            field=models.DateTimeField(db_default=django.db.models.functions.datetime.Now()),
        ),
        migrations.AlterField(
            model_name="membership",
            name="role",
            field=models.CharField(
                choices=[
                    ("viewer", "Viewer: looks"),
                    ("member", "Member: submits"),
                    ("admin", "Admin: manages members and workers"),
                ],
                max_length=10,
            ),
        ),
        # Tokens made before scopes could do all that their user could, and go on to.
        migrations.AddField(
            model_name="apitoken",
            name="scopes",
            field=django.contrib.postgres.fields.ArrayField(
                base_field=models.CharField(max_length=10), default=["read", "write", "admin"].copy, size=None
            ),
            preserve_default=False,
        ),
        migrations.AddConstraint(
            model_name="apitoken",
            constraint=models.CheckConstraint(
                condition=models.Q(("scopes__contained_by", ["read", "write", "admin"]), ("scopes__len__gt", 0)),
                name="token_scopes_known",
            ),
        ),
        migrations.CreateModel(
            name="AuditEvent",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "verb",
                    models.CharField(
                        choices=[
                            ("member_added", "added"),
                            ("role_changed", "changed the role of"),
                            ("member_removed", "removed"),
                            ("token_created", "created the token"),
                            ("token_revoked", "revoked the token"),
                            ("worker_drained", "drained"),
                            ("worker_resumed", "resumed"),
                        ],
                        max_length=20,
                    ),
                ),
                ("subject", models.CharField(max_length=300)),
                ("created_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                (
                    "actor",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="audit_events",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
                (
                    "team",
                    models.ForeignKey(
                        help_text="None: the fleet.",
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="audit_events",
                        to="accounts.team",
                    ),
                ),
            ],
            options={
                "indexes": [models.Index(fields=["team", "-id"], name="audit_newest_of_team")],
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(
                            (
                                "verb__in",
                                [
                                    "member_added",
                                    "role_changed",
                                    "member_removed",
                                    "token_created",
                                    "token_revoked",
                                    "worker_drained",
                                    "worker_resumed",
                                ],
                            )
                        ),
                        name="audit_verb_known",
                    )
                ],
            },
        ),
        migrations.RunSQL(APPEND_ONLY, REWRITABLE),
    ]
