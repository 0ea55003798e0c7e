from django.apps import AppConfig


class JobsConfig(AppConfig):
    name = "finetune_hub.jobs"
    label = "jobs"

    def ready(self) -> None:
        from finetune_hub.jobs.kinds import registry  # noqa: F401  (fills KINDS)
