"""Hugging Face tokens, aliases, chat templates, and what the hub fetches, from the command line."""

from __future__ import annotations

from pathlib import Path

from finetune_hub.accounts.huggingface_tokens import open_huggingface_token
from finetune_hub.accounts.models import Team
from finetune_hub.jobs.models import Job
from tests.cli.conftest import RunCommand
from tests.factories import make_base_model
from tests.fake_huggingface import TOKEN
from tests.tiny_models import make_tokenizer


def test_the_huggingface_token_is_read_from_stdin_and_never_printed(hub: RunCommand, team: Team) -> None:
    assert hub("huggingface-token", "show").out == "The team has no Hugging Face token.\n"
    answer = hub("huggingface-token", "set", stdin=f"{TOKEN}\n")
    assert answer.out.startswith("Set by alice")
    assert open_huggingface_token(team) == TOKEN
    for said in (
        answer,
        hub("huggingface-token", "show"),
        hub("huggingface-token", "show", "--json"),
        hub("huggingface-token", "remove"),
    ):
        assert TOKEN not in said.out + said.err
    assert open_huggingface_token(team) is None
    refused = hub("huggingface-token", "set", "--json", stdin="not a token\n")
    assert refused.error["code"] == "invalid_huggingface_token"
    assert "not a token" not in refused.err


def test_the_former_name_of_a_command_works_and_says_the_new_one(hub: RunCommand) -> None:
    answer = hub("hub-token", "show")
    assert answer.out == "The team has no Hugging Face token.\n"
    assert "`hub-token` is now called `huggingface-token`" in answer.err


def test_aliases(hub: RunCommand, team: Team) -> None:
    make_base_model(team, "tiny")
    assert hub("base-models", "alias", "openai/gpt-4o", "tiny").out == "openai/gpt-4o is now an alias of tiny.\n"
    assert hub("base-models", "aliases", "--json").json[0]["alias"] == "openai/gpt-4o"
    assert hub("base-models", "alias", "openai/gpt-4o", "--remove").code == 0
    assert hub("base-models", "aliases", "--json").json == []
    assert hub("base-models", "alias", "gpt-4o", "none").code == 3


def test_a_chat_template_is_chosen_from_a_list(hub: RunCommand, team: Team, tmp_path: Path) -> None:
    make_tokenizer(tmp_path / "plain", chat_template=None)
    make_base_model(team, "plain", folder=tmp_path / "plain", facts={"chat_template_sha256": None})
    listed = hub("base-models", "set-template", "plain").out.splitlines()
    assert listed[1].split()[:2] == ["chatml", "yes"]
    assert hub("base-models", "set-template", "plain", "chatml").out.startswith(
        "plain now has the chat template chatml."
    )
    assert hub("base-models", "set-template", "plain", "alpaca", "--json").error["code"] == "chat_template_exists"


def test_a_dataset_is_named_after_its_source(hub: RunCommand) -> None:
    assert "support-tickets" in hub("datasets", "import", "hf:team/Support_Tickets@main:train").out
    assert "my-rows" in hub("datasets", "import", "https://example.org/a/My%20rows.jsonl.gz?x=1").out
    assert [job.subject for job in Job.objects.order_by("created_at")] == ["support-tickets", "my-rows"]
    for source in ("http://example.org/x", "https://user:secret@example.org/x", "team/rows", "hf:../rows"):
        assert hub("datasets", "import", source, "--name", "x", "--json").error["code"] == "unknown_source"


def test_what_is_no_gguf_file_is_not_sent(hub: RunCommand, tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"nothing")
    assert hub("base-models", "push", tmp_path / "model.gguf", "--json").error["code"] == "not_gguf"
