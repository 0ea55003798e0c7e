from django.apps import AppConfig


class ApiConfig(AppConfig):
    name = "finetune_hub.api"
    label = "api"

    def ready(self) -> None:
        from finetune_hub.api import schema  # noqa: F401  (drf-spectacular knows its extensions by their import)
