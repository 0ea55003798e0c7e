"""Uploads of large files in parts. `static/js/upload.js` sends the parts and resumes after interruptions."""

from __future__ import annotations

from django.contrib.auth.decorators import login_required
from django.http import JsonResponse
from django.shortcuts import get_object_or_404
from django.views.decorators.http import require_POST

from finetune_hub.accounts.rights import Right
from finetune_hub.api.statuses import status_of
from finetune_hub.catalog.models import Upload
from finetune_hub.catalog.uploads import MAX_PART_BYTES, add_part, begin_upload, received_bytes
from finetune_hub.dashboard.access import MemberRequest, reads_bodies, teams_for
from finetune_hub.dashboard.forms import PartForm, UploadBeginForm
from finetune_hub.spec.refusal import Refusal


@login_required
@require_POST
def begin(request: MemberRequest) -> JsonResponse:
    """Begin an upload, or return the unfinished one with this fingerprint."""
    form = UploadBeginForm(request.POST, teams=teams_for(Right.UPLOAD_FILE, request.user))
    if not form.is_valid():
        return refused(Refusal("invalid_request", "The file has no name or size.", "Choose the file again."))
    wanted = {name: form.cleaned_data[name] for name in ("file_name", "size_bytes", "fingerprint")}
    try:
        upload = begin_upload(form.team, request.user, **wanted)
    except Refusal as refusal:
        return refused(refusal)
    return JsonResponse({"id": upload.pk, "received_bytes": received_bytes(upload)})


@reads_bodies(MAX_PART_BYTES, Right.UPLOAD_FILE)
@login_required
@require_POST
def send_part(request: MemberRequest, upload_id: str) -> JsonResponse:
    """Receive one part as a raw binary body."""
    upload = find_own_upload(request, upload_id)
    form = PartForm(request.GET)
    data = request.read(MAX_PART_BYTES + 1)
    if not form.is_valid() or len(data) > MAX_PART_BYTES:
        return refused(Refusal("invalid_request", "This is not a part of an upload.", "Reload the page."))
    try:
        received = add_part(upload, request.user, form.cleaned_data["offset"], data)
    except Refusal as refusal:
        return refused(refusal)
    return JsonResponse({"received_bytes": received})


def find_own_upload(request: MemberRequest, upload_id: str) -> Upload:
    """Return the upload.

    Raises:
        Http404: it is not the user's, or was deleted.
    """
    return get_object_or_404(Upload, pk=upload_id, created_by=request.user)


def refused(refusal: Refusal) -> JsonResponse:
    return JsonResponse({"message": str(refusal)}, status=status_of(refusal))
