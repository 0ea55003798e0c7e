from django.apps import AppConfig


class AccountsConfig(AppConfig):
    name = "finetune_hub.accounts"
    label = "accounts"
