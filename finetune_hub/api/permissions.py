"""What a role may do through the API: everybody in the team looks, members and admins submit."""

from __future__ import annotations

from rest_framework.permissions import SAFE_METHODS, BasePermission
from rest_framework.request import Request
from rest_framework.views import APIView

from finetune_hub.accounts.models import Membership
from finetune_hub.api.authentication import team_of, user_of


class MembersSubmit(BasePermission):
    """Reading needs a membership, which authentication has seen; anything else needs a role that may submit."""

    def has_permission(self, request: Request, view: APIView) -> bool:
        if request.auth is None:
            return False
        if request.method in SAFE_METHODS:
            return True
        return Membership.objects.get(user=user_of(request), team=team_of(request)).may_submit
