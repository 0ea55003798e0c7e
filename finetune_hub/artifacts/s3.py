"""The artifact store in S3 or a compatible service. Credentials come from boto3's usual places."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast
from urllib.parse import parse_qs, quote, urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from finetune_hub.artifacts.manifest import ArtifactError
from finetune_hub.spec.files import check_relative_path
from finetune_hub.spec.ids import new_id

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef, GetObjectRequestTypeDef

PART_BYTES = 16 << 20
PARTS_AT_MOST = 10_000
PARTS_AT_ONCE = 4
FAILURES = (BotoCoreError, ClientError, boto3.exceptions.Boto3Error)


class S3Store:
    """Artifact store under a prefix of a bucket. Large files are uploaded in parts, and interrupted uploads resume."""

    def __init__(self, client: S3Client, bucket: str, prefix: str = "") -> None:
        self.client, self.bucket, self.prefix = client, bucket, prefix.strip("/")

    @classmethod
    def from_url(cls, url: str) -> S3Store:
        """Open `s3://bucket/prefix?endpoint=https://host`; AWS without `endpoint`."""
        parts = urlsplit(url)
        endpoint = parse_qs(parts.query).get("endpoint", [None])[0]
        # Its own session, as boto3's default session is not thread-safe.
        client = boto3.Session().client("s3", endpoint_url=endpoint, config=Config(signature_version="s3v4"))
        return cls(client, parts.netloc, parts.path)

    def put(self, key: str, source: Path) -> None:
        try:
            if source.stat().st_size <= PART_BYTES:
                with source.open("rb") as file:
                    self.client.put_object(Bucket=self.bucket, Key=self._object(key), Body=file)
            else:
                self._put_in_parts(self._object(key), source)
        except FAILURES as error:
            raise self._failed("write", key, error) from error

    def get(self, key: str, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.{new_id('part')}")
        try:
            self.client.download_file(self.bucket, self._object(key), str(partial))
            partial.replace(target)
        except FAILURES as error:
            raise self._failed("read", key, error) from error
        finally:
            partial.unlink(missing_ok=True)

    def open(self, key: str, *, start: int = 0, length: int | None = None) -> BinaryIO:
        wanted: GetObjectRequestTypeDef = {"Bucket": self.bucket, "Key": self._object(key)}
        if start or length:  # An empty file has no range.
            wanted["Range"] = f"bytes={start}-{start + length - 1 if length else ''}"
        try:
            body = self.client.get_object(**wanted)["Body"]
        except FAILURES as error:
            raise self._failed("read", key, error) from error
        return cast(BinaryIO, body)

    def keys(self, prefix: str, *, older_than: timedelta | None = None) -> Iterator[str]:
        return (key for key, _ in self.sizes(prefix, older_than=older_than))

    def sizes(self, prefix: str, *, older_than: timedelta | None = None) -> Iterator[tuple[str, int]]:
        now = datetime.now(UTC)
        skip = len(self.prefix) + 1 if self.prefix else 0
        pages = self.client.get_paginator("list_objects_v2").paginate(
            Bucket=self.bucket, Prefix=self._object(prefix) + "/"
        )
        try:
            for page in pages:
                for item in page.get("Contents", []):
                    if older_than is None or now - item["LastModified"] > older_than:
                        yield item["Key"][skip:], item["Size"]
        except FAILURES as error:
            raise self._failed("list", prefix, error) from error

    def delete(self, key: str) -> None:
        try:
            self.client.delete_object(Bucket=self.bucket, Key=self._object(key))
        except FAILURES as error:
            raise self._failed("delete", key, error) from error

    def local_folder(self, prefix: str) -> Path | None:
        return None

    def download_url(self, key: str, *, filename: str, lifetime: timedelta) -> str | None:
        disposition = f"attachment; filename*=UTF-8''{quote(filename)}"
        return self.client.generate_presigned_url(
            "get_object",
            Params={
                "Bucket": self.bucket,
                "Key": self._object(key),
                "ResponseContentDisposition": disposition,
                "ResponseCacheControl": "private",
            },
            ExpiresIn=int(lifetime.total_seconds()),
        )

    def _put_in_parts(self, name: str, source: Path) -> None:
        """Upload the missing parts. After an interruption, the uploaded parts stay for the next attempt."""
        size_bytes = source.stat().st_size
        part_bytes = max(PART_BYTES, -(-size_bytes // PARTS_AT_MOST))
        upload_id = self._unfinished(name)
        if upload_id is None:
            upload_id = self.client.create_multipart_upload(Bucket=self.bucket, Key=name)["UploadId"]
        present = self._present_parts(name, upload_id)

        def send(number: int) -> CompletedPartTypeDef:
            with source.open("rb") as file:
                file.seek((number - 1) * part_bytes)
                body = file.read(part_bytes)
            tag = f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"'
            if present.get(number) != tag:  # With encryption, tags are not MD5 and the part is sent again.
                tag = self.client.upload_part(
                    Bucket=self.bucket, Key=name, UploadId=upload_id, PartNumber=number, Body=body
                )["ETag"]
            return {"PartNumber": number, "ETag": tag}

        numbers = range(1, -(-size_bytes // part_bytes) + 1)
        with ThreadPoolExecutor(PARTS_AT_ONCE) as threads:
            parts = list(threads.map(send, numbers))
        self.client.complete_multipart_upload(
            Bucket=self.bucket, Key=name, UploadId=upload_id, MultipartUpload={"Parts": parts}
        )

    def _unfinished(self, name: str) -> str | None:
        """Return the newest unfinished upload of this object; None if there is none or listing is not permitted."""
        try:
            found = self.client.list_multipart_uploads(Bucket=self.bucket, Prefix=name).get("Uploads", [])
        except ClientError:
            return None
        uploads = sorted((one for one in found if one["Key"] == name), key=lambda one: one["Initiated"])
        return uploads[-1]["UploadId"] if uploads else None

    def _present_parts(self, name: str, upload_id: str) -> dict[int, str]:
        """Return the uploaded parts: number → tag."""
        pages = self.client.get_paginator("list_parts").paginate(Bucket=self.bucket, Key=name, UploadId=upload_id)
        return {part["PartNumber"]: part["ETag"] for page in pages for part in page.get("Parts", [])}

    def _object(self, key: str) -> str:
        return "/".join(filter(None, [self.prefix, check_relative_path(key)]))

    def _failed(self, verb: str, key: str, error: Exception) -> ArtifactError:
        return ArtifactError(
            f"Could not {verb} {key} in bucket {self.bucket}: {error}.",
            "Check ARTIFACT_URL, the credentials and the bucket.",
        )
