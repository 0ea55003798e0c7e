"""Files in forms, stored in the hub's home, where the files of interrupted requests are deleted after a day.

The handler is set in `settings.FILE_UPLOAD_HANDLERS`. Django's setting FILE_UPLOAD_TEMP_DIR does not fit, because that
folder must exist when Django starts.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.files.uploadedfile import TemporaryUploadedFile, UploadedFile
from django.core.files.uploadhandler import FileUploadHandler, TemporaryFileUploadHandler


class FileInHome(TemporaryUploadedFile):
    """An uploaded file in the folder `tmp` of the hub's home, deleted when its request ends."""

    def __init__(
        self, name: str | None, content_type: str | None, size: int, charset: str | None, extra: Any = None
    ) -> None:
        folder: Path = settings.HOME / "tmp"
        folder.mkdir(parents=True, exist_ok=True)
        file = tempfile.NamedTemporaryFile(suffix=".upload", dir=folder)  # noqa: SIM115  # It closes with the request.
        UploadedFile.__init__(self, file, name, content_type, size, charset, extra)


class HomeUploadHandler(TemporaryFileUploadHandler):
    """Django's upload handler for such files."""

    def new_file(self, *args: Any, **kwargs: Any) -> None:
        FileUploadHandler.new_file(self, *args, **kwargs)
        self.file = FileInHome(self.file_name, self.content_type, 0, self.charset, self.content_type_extra)

    def receive_data_chunk(self, raw_data: bytes, start: int) -> None:
        try:
            super().receive_data_chunk(raw_data, start)
        except OSError:
            self.upload_interrupted()  # Deletes it.
            raise
