"""What a token may do: its scope must cover the request, and its user's role must allow it at this moment.

Every member's token with the scope `read` looks. What changes something is asked for by one of the classes below, whose
rules are methods of the models, as on the pages.
"""

from __future__ import annotations

from rest_framework.permissions import SAFE_METHODS, BasePermission
from rest_framework.request import Request
from rest_framework.views import APIView

from finetune_hub.accounts.models import Scope
from finetune_hub.api.authentication import membership_of, token_of, user_of
from finetune_hub.spec.refusal import Refusal


class AnyToken(BasePermission):
    """Every token, whatever its scopes: for what a token may know of itself."""

    def has_permission(self, request: Request, view: APIView) -> bool:
        return request.auth is not None


class MembersSubmit(AnyToken):
    """Looking needs the scope `read`; anything else `write`, and a role that submits."""

    scope = Scope.WRITE
    refusal = "A viewer may look, but not submit or change anything."
    remedy = "Ask an admin of the team to make you a member of it."

    def has_permission(self, request: Request, view: APIView) -> bool:
        """
        Raises:
            Refusal: `forbidden`, `insufficient_scope`.
        """
        if not super().has_permission(request, view):
            return False
        if request.method in SAFE_METHODS:
            require_scope(request, Scope.READ)
            return True
        if not self.role_allows(request):
            raise Refusal("forbidden", self.refusal, self.remedy, kind="forbidden")
        require_scope(request, self.scope)
        return True

    def role_allows(self, request: Request) -> bool:
        return membership_of(request).may_submit


class AdminsManageMembers(MembersSubmit):
    scope = Scope.ADMIN
    refusal = "Only an admin of the team manages its members."
    remedy = "Ask one of them."

    def role_allows(self, request: Request) -> bool:
        return membership_of(request).may_manage_members


class AdminsPreempt(MembersSubmit):
    refusal = "Only an admin of the team preempts its jobs."
    remedy = "Ask one of them, or pause the job."

    def role_allows(self, request: Request) -> bool:
        return membership_of(request).may_preempt


class AdminsManageHubToken(AdminsManageMembers):
    refusal = "Only an admin of the team sets its hub token."


class AdminsManageWorkers(MembersSubmit):
    scope = Scope.ADMIN
    refusal = "Only an admin of a team manages the workers."
    remedy = "Ask one of them."

    def role_allows(self, request: Request) -> bool:
        return user_of(request).may_manage_workers()


class StaffInviteWorkers(MembersSubmit):
    scope = Scope.ADMIN
    refusal = "Only the hub's staff invite workers."
    remedy = "Ask whoever runs the hub."

    def role_allows(self, request: Request) -> bool:
        return user_of(request).may_invite_workers()


class StaffSetQuotas(MembersSubmit):
    scope = Scope.ADMIN
    refusal = "Only the hub's staff say what a team may have."
    remedy = "Ask whoever runs the hub."

    def role_allows(self, request: Request) -> bool:
        return user_of(request).may_set_quotas()


class ManagersScrape(AnyToken):
    """A scraper holds a token that opens nothing else."""

    def has_permission(self, request: Request, view: APIView) -> bool:
        """
        Raises:
            Refusal: `forbidden`, `insufficient_scope`.
        """
        if not super().has_permission(request, view):
            return False
        if not user_of(request).may_manage_workers():
            raise Refusal(
                "forbidden", "Only an admin of a team reads the metrics.", "Ask one for a token.", kind="forbidden"
            )
        require_scope(request, Scope.METRICS)
        return True


def require_scope(request: Request, scope: Scope) -> None:
    """
    Raises:
        Refusal: `insufficient_scope`.
    """
    held = token_of(request).scopes
    if scope not in held:
        raise Refusal(
            "insufficient_scope",
            f"The token lacks the scope `{scope}`; it has {', '.join(held)}.",
            f"Make a token with `{scope}` on your account's page, and use that one.",
            kind="forbidden",
        )
