from django.apps import AppConfig


class NotificationsConfig(AppConfig):
    name = "finetune_hub.notifications"
    label = "notifications"
