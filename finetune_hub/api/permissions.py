"""What is asked before a request's body is read: the view's right, of the one table (`accounts.rights`).

Every member's token with the scope `read` looks. A view says in `rights` what its other methods do, so that nobody
sends a large file for nothing. The action asks the table for itself, whatever the view says.
"""

from __future__ import annotations

from rest_framework.permissions import SAFE_METHODS, BasePermission
from rest_framework.request import Request
from rest_framework.views import APIView

from finetune_hub.accounts.models import Scope
from finetune_hub.accounts.rights import Owner, Right, require_right, require_scope
from finetune_hub.api.authentication import team_of, user_of


class AnyToken(BasePermission):
    """Every token, whatever its scopes: for what a token may know of itself."""

    def has_permission(self, request: Request, view: APIView) -> bool:
        return request.auth is not None


class HasRight(AnyToken):
    """The right that the view names for the method, over what is the token's team's, or its user's; to look, `read`."""

    def has_permission(self, request: Request, view: APIView) -> bool:
        """
        Raises:
            Refusal: `forbidden`, `insufficient_scope`.
        """
        if not super().has_permission(request, view):
            return False
        method = "get" if request.method == "HEAD" else str(request.method).lower()
        right: Right | None = getattr(view, "rights", {}).get(method)
        if right:
            owners: dict[str, Owner] = {"team": team_of(request), "person": user_of(request), "hub": None}
            require_right(right, user_of(request), owners[right.rule.about])
        elif request.method in SAFE_METHODS:
            require_scope(Scope.READ, user_of(request))
        else:  # Without a method of this name it is answered as not allowed.
            assert not hasattr(view, method), f"{type(view).__name__} does not say what right {method} needs"
        return True
