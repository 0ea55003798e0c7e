from django.apps import AppConfig
from django.core import checks


class OperationsConfig(AppConfig):
    name = "finetune_hub.operations"
    label = "operations"

    def ready(self) -> None:
        from finetune_hub.operations.upgrade import check_database_is_not_newer

        checks.register(check_database_is_not_newer, checks.Tags.database)
