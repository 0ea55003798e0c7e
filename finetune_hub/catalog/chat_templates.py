"""Set the chat template of a base model that has none: adds a file next to its tokenizer and changes its revision."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from django.conf import settings
from django.db import transaction
from tokenizers import Tokenizer

from finetune_hub.accounts.models import User
from finetune_hub.accounts.rights import Right, require_right
from finetune_hub.artifacts.manifest import entry_of
from finetune_hub.artifacts.store import shared_store
from finetune_hub.catalog.local_files import TOKENIZER_FILES, tokenizer_folder
from finetune_hub.catalog.models import BaseModel, BaseModelState
from finetune_hub.data.chat_template import InvalidChatTemplate
from finetune_hub.data.known_templates import KNOWN_TEMPLATES
from finetune_hub.data.template_process import hash_of_working_template, with_template
from finetune_hub.spec.refusal import Refusal

TEMPLATE_FILE = "chat_template.jinja"
OWN = "own"


def set_chat_template(
    base_model: BaseModel, user: User, *, name: str | None = None, source: str | None = None
) -> BaseModel:
    """Set one of `KNOWN_TEMPLATES` by name, or a Jinja source. This changes the model's revision.

    Raises:
        Refusal: `forbidden`, `invalid_request`, `unknown_chat_template`, `base_model_not_ready`,
            `chat_template_exists`, `chat_template_unsuited`.
        ArtifactError: the store does not have the tokenizer.
    """
    require_right(Right.SET_CHAT_TEMPLATE, user, base_model.team)
    text = _source_of(name, source)
    _require_room(base_model)
    with (
        _tokenizer_with(base_model, text, field="source" if source else "template") as (folder, template_sha256),
        transaction.atomic(),
    ):
        model = BaseModel.objects.select_for_update(no_key=True).get(pk=base_model.pk)
        _require_room(model)
        entry = entry_of(folder / TEMPLATE_FILE, below=folder)
        shared_store(settings.ARTIFACT_URL).put(f"{model.artifact_prefix}/{TEMPLATE_FILE}", folder / TEMPLATE_FILE)
        model.add_chat_template(entry, template_sha256=template_sha256, name=name or OWN)
    return model


def _require_room(model: BaseModel) -> None:
    """Refuse a model that cannot be given a template."""
    if model.state != BaseModelState.READY:
        raise Refusal(
            "base_model_not_ready",
            f"The base model {model.name!r} is not ready: {model.state}.",
            "Wait until its import has finished.",
            kind="conflict",
        )
    if model.facts.get("chat_template_sha256"):
        raise Refusal(
            "chat_template_exists",
            f"The base model {model.name!r} already has a chat template, and adapters may have been trained with it.",
            "Import the model under another name to use another template.",
            kind="conflict",
        )


def fitting_templates(base_model: BaseModel) -> dict[str, bool]:
    """Return known templates → whether all their markers are single tokens of the model, those first.

    Raises:
        ArtifactError: the store does not have the tokenizer.
    """
    file = tokenizer_folder(base_model) / "tokenizer.json"
    vocabulary = Tokenizer.from_file(str(file)).get_vocab(with_added_tokens=True) if file.is_file() else {}
    fits = {name: all(mark in vocabulary for mark in known.marks) for name, known in KNOWN_TEMPLATES.items()}
    return dict(sorted(fits.items(), key=lambda item: not (item[1] and KNOWN_TEMPLATES[item[0]].marks)))


def _source_of(name: str | None, source: str | None) -> str:
    if (name is None) == (source is None):
        raise Refusal(
            "invalid_request",
            "Send either `template` or `source`.",
            "Name a known template or send your own.",
            field="template",
        )
    if source is not None:
        return source
    if name not in KNOWN_TEMPLATES:
        raise Refusal(
            "unknown_chat_template",
            f"There is no known chat template {name!r}.",
            f"Use one of {', '.join(KNOWN_TEMPLATES)}, or send a Jinja template.",
            field="template",
        )
    return KNOWN_TEMPLATES[name].source


@contextmanager
def _tokenizer_with(model: BaseModel, source: str, *, field: str) -> Iterator[tuple[Path, str]]:
    """Yield a folder with the tokenizer and the tested template, and the template's hash."""
    workshop = settings.HOME / "tmp"
    workshop.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=workshop) as temporary:
        folder = Path(temporary)
        for file in tokenizer_folder(model).iterdir():
            if file.name in TOKENIZER_FILES:
                shutil.copyfile(file, folder / file.name)
        (folder / TEMPLATE_FILE).write_text(source, encoding="utf-8")
        try:
            template_sha256 = with_template(folder, "", hash_of_working_template)
        except InvalidChatTemplate as unsuited:
            raise Refusal("chat_template_unsuited", unsuited.message, unsuited.remedy, field=field) from unsuited
        yield folder, template_sha256
