"""The artifact store in S3, or in anything that speaks its protocol. Credentials come from boto3's usual places."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast
from urllib.parse import parse_qs, urlsplit

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from finetune_hub.artifacts.manifest import ArtifactError
from finetune_hub.spec.files import check_relative_path
from finetune_hub.spec.ids import new_id

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


class S3Store:
    """Objects of one bucket below a prefix. Large files go in parts (boto3's transfer manager)."""

    def __init__(self, client: S3Client, bucket: str, prefix: str = "") -> None:
        self.client, self.bucket, self.prefix = client, bucket, prefix.strip("/")

    @classmethod
    def from_url(cls, url: str) -> S3Store:
        """`s3://bucket/prefix?endpoint=https://host`; without `endpoint` it is AWS."""
        parts = urlsplit(url)
        endpoint = parse_qs(parts.query).get("endpoint", [None])[0]
        # A session of its own: boto3's default one is shared by all threads and must not be.
        return cls(boto3.Session().client("s3", endpoint_url=endpoint), parts.netloc, parts.path)

    def put(self, key: str, source: Path) -> None:
        try:
            self.client.upload_file(str(source), self.bucket, self._object(key))
        except (BotoCoreError, ClientError, boto3.exceptions.Boto3Error) as error:
            raise self._failed("write", key, error) from error

    def get(self, key: str, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.{new_id('part')}")
        try:
            self.client.download_file(self.bucket, self._object(key), str(partial))
            partial.replace(target)
        except (BotoCoreError, ClientError, boto3.exceptions.Boto3Error) as error:
            raise self._failed("read", key, error) from error
        finally:
            partial.unlink(missing_ok=True)

    def open(self, key: str) -> BinaryIO:
        try:
            body = self.client.get_object(Bucket=self.bucket, Key=self._object(key))["Body"]
        except (BotoCoreError, ClientError) as error:
            raise self._failed("read", key, error) from error
        return cast(BinaryIO, body)

    def keys(self, prefix: str) -> Iterator[str]:
        skip = len(self.prefix) + 1 if self.prefix else 0
        pages = self.client.get_paginator("list_objects_v2").paginate(
            Bucket=self.bucket, Prefix=self._object(prefix) + "/"
        )
        for page in pages:
            for item in page.get("Contents", []):
                yield item["Key"][skip:]

    def delete(self, key: str) -> None:
        try:
            self.client.delete_object(Bucket=self.bucket, Key=self._object(key))
        except (BotoCoreError, ClientError) as error:
            raise self._failed("delete", key, error) from error

    def local_folder(self, prefix: str) -> Path | None:
        return None

    def _object(self, key: str) -> str:
        return "/".join(filter(None, [self.prefix, check_relative_path(key)]))

    def _failed(self, verb: str, key: str, error: Exception) -> ArtifactError:
        return ArtifactError(
            f"Could not {verb} {key} in bucket {self.bucket}: {error}. "
            "Check ARTIFACT_URL, the credentials and the bucket."
        )
