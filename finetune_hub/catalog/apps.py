from django.apps import AppConfig


class CatalogConfig(AppConfig):
    name = "finetune_hub.catalog"
    label = "catalog"
