from typing import Any

from django.apps import AppConfig
from django.db.models.signals import post_migrate


class FleetConfig(AppConfig):
    name = "finetune_hub.fleet"
    label = "fleet"

    def ready(self) -> None:
        post_migrate.connect(renew_grants_of_workers, sender=self)


def renew_grants_of_workers(**kwargs: Any) -> None:
    """Grant workers' roles their privileges again after migrations, which may have recreated tables."""
    from finetune_hub.fleet.connection_limits import share_connections
    from finetune_hub.fleet.worker_role import invited_workers, policies_are_on, renew_grants

    if policies_are_on() and invited_workers().exists():
        renew_grants()
        share_connections()
