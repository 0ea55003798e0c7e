"""Rights: whatever a page or the API lets change something asks the table. The actions are found, not listed.

An action is a function that a module of `api` or `dashboard` imports and that writes: it, or what it calls, has a call
of the ORM or of the store that does. Each is called here by somebody who has no right at all.
"""

from __future__ import annotations

import ast
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from functools import cache, cached_property
from importlib import import_module
from pathlib import Path
from textwrap import dedent
from types import FunctionType, ModuleType
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from rest_framework.test import APIClient

import finetune_hub
import finetune_hub.api
import finetune_hub.dashboard
from finetune_hub.accounts import rights
from finetune_hub.accounts.actions import create_token
from finetune_hub.accounts.models import Role, Team, User
from finetune_hub.accounts.rights import Right, Standing
from finetune_hub.catalog.models import BaseModelAlias, Deletion, Upload
from finetune_hub.fleet.models import Worker
from finetune_hub.jobs.kinds.kind import KINDS
from finetune_hub.jobs.kinds.training import Training
from finetune_hub.jobs.models import Job
from finetune_hub.jobs.submission import create_job
from finetune_hub.notifications.models import Wants
from finetune_hub.operations.deletion.actions import delete_thing
from finetune_hub.operations.deletion.deletable import Target
from finetune_hub.spec.refusal import Refusal
from finetune_hub.spec.training import DatasetChoice
from tests.factories import (
    chat_row,
    make_adapter_version,
    make_job,
    make_member,
    make_spec,
    make_team,
    make_user,
    make_worker,
    write_rows,
)

ROOT = Path(finetune_hub.__file__).parent
DOMAIN = tuple(
    f"finetune_hub.{app}."
    for app in ("accounts", "catalog", "fleet", "jobs", "notifications", "operations", "registry")
)
ORM_WRITES = {"save", "create", "bulk_create", "bulk_update", "delete", "get_or_create", "update_or_create"}
FILE_WRITES = {"put", "write"}  # Of the store, or of a file that is there.


def modules_below(package: ModuleType) -> list[ModuleType]:
    found = pkgutil.walk_packages(package.__path__, package.__name__ + ".")
    return [import_module(module.name) for module in found if ".migrations" not in module.name]


FACES = [*modules_below(finetune_hub.api), *modules_below(finetune_hub.dashboard)]


def calls_in(tree: ast.AST) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def is_write(call: ast.Call, names: set[str]) -> bool:
    """A call of one of the names. `update` of a query set has keywords alone, that of a dict or a hash has none."""
    if not isinstance(call.func, ast.Attribute):
        return False
    if call.func.attr == "update":
        return bool(call.keywords) and not call.args
    return call.func.attr in names


@cache
def writing_methods() -> frozenset[str]:
    """The methods of models and query sets that write, by name."""
    names: set[str] = set()
    for name in DOMAIN:
        for module in modules_below(import_module(name.rstrip("."))):
            if "models" not in module.__name__:
                continue
            for node in ast.walk(ast.parse(inspect.getsource(module))):
                if isinstance(node, ast.FunctionDef) and any(is_write(call, ORM_WRITES) for call in calls_in(node)):
                    names.add(node.name)
    return frozenset(names)


def is_ours(value: object) -> bool:
    return isinstance(value, FunctionType) and value.__module__.startswith(DOMAIN)


@cache
def writes(function: FunctionType) -> bool:
    """Whether it, or a function that it calls by name, writes."""
    seen: set[FunctionType] = set()
    waiting = [function]
    while waiting:
        plain = inspect.unwrap(waiting.pop())
        assert isinstance(plain, FunctionType)
        if plain in seen:
            continue
        seen.add(plain)
        for call in calls_in(ast.parse(dedent(inspect.getsource(plain)))):
            if is_write(call, ORM_WRITES | FILE_WRITES | writing_methods()):
                return True
            called = plain.__globals__.get(call.func.id) if isinstance(call.func, ast.Name) else None
            if is_ours(called):
                waiting.append(called)
    return False


def imported_functions() -> set[FunctionType]:
    """The functions below the faces that they can call: imported themselves, or by their module."""
    found = set()
    for face in FACES:
        for value in vars(face).values():
            if isinstance(value, ModuleType) and value.__name__.startswith(DOMAIN):
                found |= {each for each in vars(value).values() if is_ours(each)}
            elif is_ours(value):
                found.add(value)
    return found


ACTIONS = sorted(filter(writes, imported_functions()), key=lambda action: (action.__module__, action.__name__))


def test_actions_are_found() -> None:
    names = {action.__name__ for action in ACTIONS}
    assert {"pause_job", "add_part", "set_quota", "remove_alias", "delete_thing", "submit_training"} <= names
    assert not names & {"plan_training", "find_rows", "usage_of", "look", "uses_shown_to"}


class Something:
    """How an argument of each type is made: a team, its things, and charlie, who has no right. Made when asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def team(self) -> Team:
        return make_team(make_user("alice"), role=Role.ADMIN)

    @cached_property
    def alice(self) -> User:
        return self.team.memberships.get().user

    @cached_property
    def job(self) -> Job:
        return make_job(self.team)

    @cached_property
    def worker(self) -> Worker:
        return make_worker()

    @cached_property
    def file(self) -> Path:
        return write_rows(self.folder / "rows.jsonl", [chat_row()])

    @cached_property
    def deletion(self) -> Deletion:
        return delete_thing(Target("adapter", make_adapter_version(self.team).adapter_id), self.alice)

    def of(self, annotation: str, name: str) -> Any:
        """For the parameter of this name."""
        makers: dict[str, Callable[[], Any]] = {
            "Team": lambda: self.team,
            "User": lambda: self.alice,
            "str": lambda: self.job.pk if name == "job_id" else "something",
            "int": lambda: 1,
            "float": lambda: 0.5,
            "int | None": lambda: None,
            "float | None": lambda: None,
            "bool": lambda: True,
            "bytes": lambda: b"x",
            "Path": lambda: self.file,
            "Role": lambda: Role.VIEWER,
            "Wants": lambda: Wants.NOTHING,
            "Membership": lambda: self.team.memberships.get(),
            "ApiToken": lambda: create_token(self.alice, self.team, name="ci")[0],
            "Worker": lambda: self.worker,
            "Device": lambda: self.worker.devices.get(),
            "DatasetVersion": lambda: self.job.dataset_versions.get(),
            "BaseModel": lambda: self.job.over,
            "BaseModelAlias": lambda: BaseModelAlias.objects.create(
                team=self.team, alias="gpt-4o", base_model=self.job.over, created_by=self.alice
            ),
            "Upload": lambda: Upload.objects.create(team=self.team, created_by=self.alice, file_name="x", size_bytes=0),
            "TrainingSpec": make_spec,
            "Target": lambda: Target("dataset", self.job.dataset_versions.get().dataset_id),
            "Deletion": lambda: self.deletion,
            "AdapterVersion": lambda: make_adapter_version(self.team),
            "DatasetChoice": lambda: DatasetChoice(name="tickets"),
        }
        assert annotation in makers, f"say here how a {annotation} is made"
        return makers[annotation]()


def arguments_of(action: FunctionType, something: Something) -> dict[str, Any]:
    """What it needs. The person who acts, its `actor`, or its `user` where it has no other, is charlie."""
    parameters = inspect.signature(action).parameters
    people = [name for name, parameter in parameters.items() if parameter.annotation in {"User", "User | None"}]
    acting = next((name for name in ("actor", "user") if name in people), None)
    assert acting, f"{action.__name__} writes, and is not told who acts: give it a `user` or `actor`"
    needed = [each for each in parameters.values() if each.default is inspect.Parameter.empty and each.name != acting]
    return {each.name: something.of(each.annotation, each.name) for each in needed} | {acting: make_user("charlie")}


@pytest.mark.parametrize("action", ACTIONS, ids=lambda action: action.__name__)
@pytest.mark.django_db
def test_an_action_asks_before_it_writes(action: FunctionType, tmp_path: Path) -> None:
    given, written = arguments_of(action, Something(tmp_path)), []

    def note(execute: Callable[..., Any], sql: str, *rest: Any) -> Any:
        if sql.lstrip().startswith(("INSERT", "UPDATE", "DELETE")):
            written.append(sql)
        return execute(sql, *rest)

    with connection.execute_wrapper(note), pytest.raises(Refusal) as refused:
        action(**given)
    assert (refused.value.code, refused.value.kind) == ("forbidden", "forbidden")
    assert refused.value.message in {right.sentence for right in Right}
    assert not written


@pytest.mark.django_db
def test_a_job_of_any_kind_is_asked_for(tmp_path: Path) -> None:
    """Also of one that a plugin adds, whose `submit` page and API call; a child was asked for with its parent."""
    something = Something(tmp_path)
    asked = {"team": something.team, "created_by": make_user("charlie"), "spec": {}, "base_model": something.job.over}
    for kind in KINDS.values():
        with pytest.raises(Refusal, match="Only members and admins of the team can submit its jobs"):
            create_job(type(kind), **asked)
    assert create_job(Training, **asked, parent=something.job).parent == something.job


def test_pages_and_api_write_nothing_themselves() -> None:
    """They call actions, which ask. That a token was used is noted without a question."""
    found = []
    for face in FACES:
        for call in calls_in(ast.parse(Path(str(face.__file__)).read_text())):
            if is_write(call, ORM_WRITES | writing_methods()):
                assert isinstance(call.func, ast.Attribute)
                if ast.unparse(call.func) != "super().delete":  # That is a view's, for the method DELETE.
                    found.append((face.__name__, call.func.attr))
    assert found == [("finetune_hub.api.authentication", "record_use")]


def test_every_right_is_asked_for_somewhere() -> None:
    source = "".join(path.read_text() for path in ROOT.rglob("*.py") if path.name != "rights.py")
    assert [right.name for right in Right if f"Right.{right.name}" not in source] == []


@pytest.mark.django_db
def test_a_right_over_a_teams_things_is_asked_with_the_team() -> None:
    alice = make_user()
    team = make_team(alice, role=Role.ADMIN)
    for owner in (None, alice):
        with pytest.raises(AssertionError, match="PAUSE_JOB needs a team, not a"):
            rights.may(Right.PAUSE_JOB, alice, owner)
    assert rights.may(Right.PAUSE_JOB, alice, team)
    assert not rights.may(Right.PAUSE_JOB, alice, make_team())
    assert rights.may(Right.DRAIN_WORKER, alice)


# By role in a team: the rights over its things, and over the hub's.
HOLDERS = {
    Role.VIEWER: {rights.INSIDERS},
    Role.MEMBER: {rights.INSIDERS, rights.MEMBERS},
    Role.ADMIN: {rights.INSIDERS, rights.MEMBERS, rights.ADMINS, rights.ADMINS_AND_STAFF, rights.ADMINS_OF_ANY_TEAM},
}
OF_STAFF = {rights.STAFF, rights.ADMINS_OF_ANY_TEAM, rights.ADMINS_AND_STAFF}


@pytest.mark.parametrize("is_staff", [False, True])
@pytest.mark.parametrize("role", Role)
def test_a_role_has_its_rights(role: Role, is_staff: bool) -> None:
    person, team, other = User(pk=1, is_staff=is_staff), Team(pk=1), Team(pk=2)
    standing = Standing(person, {team.pk: role})
    of_staff = OF_STAFF if is_staff else set()
    held = HOLDERS[role] | of_staff
    for right in Right:
        match right.rule.about:
            case "team":
                assert standing.may(right, team) == (right.rule in held), right
                assert standing.may(right, other) == (right.rule in of_staff), right
            case "person":
                assert standing.may(right, person), right
                assert not standing.may(right, User(pk=2)), right
            case "hub":
                assert standing.may(right) == (right.rule in held), right


@pytest.mark.django_db
def test_page_and_api_say_the_same() -> None:
    team = make_team(make_user())
    job, viewer = make_job(team), make_member(team, Role.VIEWER)
    browser, program = Client(), APIClient()
    browser.force_login(viewer)
    program.credentials(HTTP_AUTHORIZATION=f"Bearer {create_token(viewer, team, name='ci')[1]}")
    page = browser.post(f"/jobs/{job.pk}/pause")
    answer = program.post(f"/api/jobs/{job.pk}/pause", {}, format="json")
    assert (page.status_code, answer.status_code) == (403, 403)
    assert answer.json()["error"]["message"] == "Only members and admins of the team can pause its jobs."
    for sentence in (answer.json()["error"]["message"], answer.json()["error"]["remedy"]):
        assert sentence in page.content.decode()


@pytest.mark.django_db
def test_an_action_does_no_more_than_the_token_is_for() -> None:
    """Whatever the view says that it needs: the action asks for the token's scope, too."""
    alice = make_user()
    team = make_team(alice, role=Role.ADMIN)
    alice.acting_with, _ = create_token(alice, team, name="ci", scopes=["read", "write"])
    rights.require_right(Right.PAUSE_JOB, alice, team)
    with pytest.raises(Refusal, match="does not have the scope `admin`") as refused:
        rights.require_right(Right.DRAIN_WORKER, alice)
    assert refused.value.code == "insufficient_scope"
    team.memberships.update(role=Role.VIEWER)
    with pytest.raises(Refusal, match="Your role in the team does not allow tokens with the scope `metrics`"):
        rights.require_scope(rights.Scope.METRICS, alice)
