from django.apps import AppConfig


class DashboardConfig(AppConfig):
    name = "finetune_hub.dashboard"
    label = "dashboard"
