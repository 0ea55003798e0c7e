"""Permission checks before a request's body is read. The rights come from the table in `accounts.rights`.

Any member's token with the scope `read` can read. A view names the rights of its other methods in `rights`, so that
nobody uploads a large file only to be refused. The action checks its right again, whatever the view says.
"""

from __future__ import annotations

from rest_framework.permissions import SAFE_METHODS, BasePermission
from rest_framework.request import Request
from rest_framework.views import APIView

from finetune_hub.accounts.models import Scope
from finetune_hub.accounts.rights import Owner, Right, require_right, require_scope
from finetune_hub.api.authentication import team_of, user_of


class AnyToken(BasePermission):
    """Permission for any valid token, whatever its scopes: for a token's information about itself."""

    def has_permission(self, request: Request, view: APIView) -> bool:
        return request.auth is not None


class HasRight(AnyToken):
    """Permission by the right that the view names for the method; safe methods need the scope `read`."""

    def has_permission(self, request: Request, view: APIView) -> bool:
        """Check the right.

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
        else:  # A method that the view lacks is answered with 405.
            assert not hasattr(view, method), f"{type(view).__name__} does not say what right {method} needs"
        return True
