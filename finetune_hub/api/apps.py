from django.apps import AppConfig


class ApiConfig(AppConfig):
    name = "finetune_hub.api"
    label = "api"
