from django.apps import AppConfig


class FleetConfig(AppConfig):
    name = "finetune_hub.fleet"
    label = "fleet"
