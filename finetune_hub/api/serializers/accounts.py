"""Responses about tokens, members and the Hugging Face token."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from finetune_hub.accounts.models import ApiToken, Membership, Role, Scope


class MeSerializer(serializers.ModelSerializer[ApiToken]):
    """A token's user, team and permissions."""

    user = serializers.CharField(source="user.username")
    team = serializers.CharField(source="team.slug")
    role = serializers.ChoiceField(choices=Role.choices)
    scopes = serializers.ListField(child=serializers.ChoiceField(choices=Scope.choices))

    class Meta:
        model = ApiToken
        fields = ["user", "team", "role", "name", "scopes", "expires_at"]


class TokenSerializer(serializers.ModelSerializer[ApiToken]):
    scopes = serializers.ListField(child=serializers.ChoiceField(choices=Scope.choices))

    class Meta:
        model = ApiToken
        fields = ["id", "name", "scopes", "created_at", "last_used_at", "expires_at"]


class CreatedTokenSerializer(TokenSerializer):
    secret = serializers.CharField(help_text="Shown only once.")

    class Meta(TokenSerializer.Meta):
        fields = [*TokenSerializer.Meta.fields, "secret"]


class MemberSerializer(serializers.ModelSerializer[Membership]):
    username = serializers.CharField(source="user.username")
    email = serializers.CharField(source="user.email")
    role = serializers.ChoiceField(choices=Role.choices)
    last_sign_in_at = serializers.DateTimeField(source="user.last_login", allow_null=True)

    class Meta:
        model = Membership
        fields = ["username", "email", "role", "joined_at", "last_sign_in_at"]


class AddedMemberSerializer(MemberSerializer):
    login_link = serializers.CharField(
        allow_null=True, help_text="A one-time sign-in link for a new user; null: the user can already sign in."
    )

    class Meta(MemberSerializer.Meta):
        fields = [*MemberSerializer.Meta.fields, "login_link"]


class HuggingFaceTokenSerializer(serializers.Serializer[Any]):
    """Whether the team has a Hugging Face token. The token itself is never shown."""

    is_set = serializers.BooleanField()
    set_by = serializers.CharField(allow_null=True)
    set_at = serializers.DateTimeField(allow_null=True)
