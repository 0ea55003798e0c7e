from django.apps import AppConfig


class OperationsConfig(AppConfig):
    name = "finetune_hub.operations"
    label = "operations"
