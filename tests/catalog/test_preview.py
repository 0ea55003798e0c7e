"""What a base model sees of a dataset is what the trainer learns: the same tokens, the same mask, the same cut."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from rest_framework.test import APIClient

from finetune_hub.accounts.actions import create_token
from finetune_hub.accounts.models import Role, Team
from finetune_hub.catalog.models import BaseModel, DatasetVersion
from finetune_hub.catalog.preview import preview_row, token_statistics
from finetune_hub.data.chat_template import ChatTemplate
from finetune_hub.spec.refusal import Refusal
from tests.factories import chat_row, first_member, make_base_model, make_dataset_version, make_team, make_user
from tests.tiny_models import make_tokenizer

ROWS = [chat_row(f"{'far ' * number}{number} + 1?", str(number + 1)) for number in range(30)]


@pytest.fixture
def team(db: None) -> Team:
    return make_team(make_user(), role=Role.ADMIN)


@pytest.fixture
def base_model(team: Team, tmp_path: Path) -> BaseModel:
    make_tokenizer(tmp_path / "model")
    return make_base_model(team, folder=tmp_path / "model")


@pytest.fixture
def version(team: Team) -> DatasetVersion:
    return make_dataset_version(team, rows=ROWS)


def test_tokens_are_the_trainers(version: DatasetVersion, base_model: BaseModel, tmp_path: Path) -> None:
    template = ChatTemplate.from_folder(tmp_path / "model")
    for number in (1, 7, 30):
        row = preview_row(version, base_model, number, 60)
        encoded = template.encode(ROWS[number - 1]["messages"])
        assert [token.id for token in row.tokens] == encoded.input_ids
        assert [token.supervised for token in row.tokens] == encoded.supervised
        assert [token.truncated for token in row.tokens] == [index >= 60 for index in range(len(encoded.input_ids))]
        assert "".join(token.text for token in row.tokens) == encoded.text[: encoded.spans[-1][1]]
        assert row.supervised_count == sum(encoded.supervised[:60])


def test_characters_of_several_tokens_are_shown_once(team: Team, base_model: BaseModel) -> None:
    version = make_dataset_version(team, rows=[chat_row("é漢🙂", "ü")])
    text = "".join(token.text for token in preview_row(version, base_model, 1, 1000).tokens)
    assert "é漢🙂" in text


def test_what_is_lost_at_a_length(version: DatasetVersion, base_model: BaseModel) -> None:
    whole = token_statistics(version, base_model, 1000)
    assert (whole.measured_rows, whole.row_count, whole.truncated_rows, whole.lost_token_share) == (30, 30, 0, 0.0)
    assert sum(bar.rows for bar in whole.histogram) == 30
    rows = [preview_row(version, base_model, number, 120) for number in range(1, 31)]
    cut = token_statistics(version, base_model, 120)
    assert cut.silent_rows == [row.number for row in rows if not row.supervised_count]
    assert 0 < cut.silent_count < 30
    assert cut.truncated_rows == sum(row.truncated_count > 0 for row in rows)
    lost, total = sum(row.truncated_count for row in rows), sum(row.token_count for row in rows)
    assert cut.lost_token_share == pytest.approx(lost / total)
    learned = sum(row.supervised_count for row in rows)
    assert cut.supervised_per_row == pytest.approx(learned / 30)


def test_raw_text_passes_by_the_template(team: Team, base_model: BaseModel) -> None:
    version = make_dataset_version(team, rows=[{"prompt": "2 + 2 =", "completion": " 4"}])
    row = preview_row(version, base_model, 1, 100)
    assert "".join(token.text for token in row.tokens if not token.supervised) == "2 + 2 ="
    assert "".join(token.text for token in row.tokens if token.supervised) == " 4<|im_end|>"


def test_a_row_that_the_template_refuses_is_named(team: Team, tmp_path: Path) -> None:
    strict = "{% if messages | length > 2 %}{{ raise_exception('too long') }}{% endif %}{{ messages[1].content }}"
    make_tokenizer(tmp_path / "strict", chat_template=strict)
    base_model = make_base_model(team, folder=tmp_path / "strict")
    long = {"messages": chat_row()["messages"] * 2}
    version = make_dataset_version(team, rows=[long, long])
    with pytest.raises(Refusal, match="too long"):
        preview_row(version, base_model, 2, 100)
    lengths = token_statistics(version, base_model, 100)
    assert (lengths.refused_count, lengths.refused_rows) == (2, [1, 2])
    assert "too long" in str(lengths.refusal)


def test_a_base_model_without_a_template_is_told(team: Team, version: DatasetVersion, tmp_path: Path) -> None:
    make_tokenizer(tmp_path / "bare", chat_template=None)
    base_model = make_base_model(team, folder=tmp_path / "bare")
    for look in (lambda: preview_row(version, base_model, 1, 9), lambda: token_statistics(version, base_model, 9)):
        with pytest.raises(Refusal, match="no chat template"):
            look()


def test_over_the_api(version: DatasetVersion, base_model: BaseModel, team: Team) -> None:
    client = APIClient()
    _, secret = create_token(first_member(team), team, name="test")
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {secret}")
    address = f"/api/datasets/{version.dataset_id}/versions/1"

    def get(path: str, **query: Any) -> tuple[int, dict[str, Any]]:
        answer = client.get(address + path, {"base_model": "tiny", **query})
        return answer.status_code, answer.json()

    status, row = get("/preview", row=2, max_seq_len=50)
    assert status == 200
    assert (row["number"], row["document"]) == (2, ROWS[1])
    assert {"id", "text", "supervised", "truncated"} == set(row["tokens"][0])
    assert get("/tokens", max_seq_len=50)[1]["max_seq_len"] == 50
    assert get("/preview", row=31)[1]["error"]["code"] == "unknown_row"
    assert get("/preview", base_model="tinny")[1]["error"]["code"] == "unknown_base_model"
    shown = client.get(address).json()
    assert shown["recognised"].startswith("Chat messages in JSONL: ")
    assert b"".join(client.get(f"{address}/files/rows.jsonl")).count(b"\n") == 30
    assert client.get(f"{address}/files/nothing").json()["error"]["code"] == "unknown_file"


def test_on_the_page(version: DatasetVersion, base_model: BaseModel, team: Team) -> None:
    client = Client()
    client.force_login(first_member(team))

    def get(name: str, **query: Any) -> str:
        look = {"base_model": base_model.pk, "max_seq_len": 60, "row": 1} | query
        answer = client.get(reverse(name, args=[version.dataset_id, 1]), look)
        assert answer.status_code == 200
        return answer.content.decode()

    assert 'class="token learned"' in get("dataset-preview")
    assert "120</b> truncated" in get("dataset-preview", row=30)
    assert "rows are numbered from 1 to 30" in get("dataset-preview", row=31)
    assert "without supervised tokens within 60 tokens" in get("dataset-lengths")
    assert "whole numbers" in get("dataset-preview", row="x")
    other = make_base_model(make_team(make_user()), name="theirs")
    answer = client.get(reverse("dataset-preview", args=[version.dataset_id, 1]),
                        {"base_model": other.pk, "max_seq_len": 60, "row": 1})  # fmt: skip
    assert answer.status_code == 404


@pytest.mark.parametrize("on_error", ["quarantine", "refuse"])
def test_bad_rows_over_the_api(team: Team, on_error: str) -> None:
    from django.core.files.uploadedfile import SimpleUploadedFile

    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {create_token(first_member(team), team, name='t')[1]}")
    content = json.dumps({"q": "a", "a": "b"}) + "\n{oops\n"

    def push(**fields: str) -> Any:
        body = {"name": "mixed", "file": SimpleUploadedFile("rows.jsonl", content.encode()), **fields}
        return client.post("/api/datasets", body, format="multipart")

    assert push().json()["error"]["details"] == [{"column": "a"}, {"column": "q"}]
    assert push(mapping="[]").json()["error"]["code"] == "invalid_mapping"
    assert push(mapping='{"q": "user"}').json()["error"]["code"] == "invalid_mapping"
    assert push(on_error="ignore").json()["error"]["field"] == "on_error"
    answer = push(mapping='{"q": "user", "a": "assistant"}', on_error=on_error).json()
    if on_error == "refuse":
        (error,) = answer["error"]["details"]
        assert (error["line"], error["column"], error["code"]) == (2, 2, "invalid_jsonl_line")
    else:
        assert (answer["row_count"], answer["rejected_count"]) == (1, 1)
