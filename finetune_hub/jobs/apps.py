from django.apps import AppConfig


class JobsConfig(AppConfig):
    name = "finetune_hub.jobs"
    label = "jobs"
