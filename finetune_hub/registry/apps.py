from django.apps import AppConfig


class RegistryConfig(AppConfig):
    name = "finetune_hub.registry"
    label = "registry"
