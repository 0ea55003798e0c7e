"""Template tags and filters: states, ages, durations, hashes."""

from __future__ import annotations

import json
import re
import shlex
from datetime import datetime, timedelta
from typing import Any

import yaml
from django import template
from django.template import Context
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from finetune_hub.accounts.models import Team, User
from finetune_hub.accounts.rights import Right, Standing
from finetune_hub.dashboard import guides
from finetune_hub.dashboard.icons import STATE_ICONS, draw_icon
from finetune_hub.dashboard.markdown import render_foreign
from finetune_hub.fleet.models import Device
from finetune_hub.jobs.models import Job
from finetune_hub.spec.sizes import size_in_words
from finetune_hub.spec.training import TrainingSpec

register = template.Library()

JUST_NOW_SECONDS = 5


@register.simple_tag(takes_context=True)
def may(context: Context, right: str, owner: Team | User | None = None) -> bool:
    """Return whether the user has the named right of `accounts.rights`, over the owner's things or the hub's.

    `{% may "PAUSE_JOB" job.team as may_pause %}`. For a team right without an owner: whether the user has it in any
    team.
    """
    standing: Standing = context["standing"]
    named = Right[right]
    if owner is None and named.rule.about == "team":
        return standing.may_in_a_team(named)
    return standing.may(named, owner)


@register.simple_tag
def icon(name: str) -> SafeString:
    return draw_icon(name)


@register.simple_tag
def state(word: str) -> SafeString:
    """Render a state with icon, word and colour."""
    return format_html(
        '<span class="state state-{}">{}<span>{}</span></span>', word, draw_icon(STATE_ICONS[word]), word
    )


@register.simple_tag
def job_state(job: Job) -> SafeString:
    """Render the job's state. A job that is about to stop is `stopping` or `pausing`."""
    return state(job.shown_state)


HISTORY_WIDTH, HISTORY_HEIGHT = 240, 32


@register.simple_tag
def device_history(device: Device) -> SafeString | str:
    """Render a device's last hour as a small chart of utilisation and memory use, newest at the right."""
    samples = list(device.samples.all())
    if len(samples) < 2:
        return ""
    busy = [sample.utilisation for sample in samples]
    full = [
        None if sample.memory_used_bytes is None else sample.memory_used_bytes / device.memory_bytes
        for sample in samples
    ]
    words = ", ".join(
        f"{percent(round(shares[-1], 2))} {word}"
        for shares, word in ((busy, "busy"), (full, "of memory"))
        if shares[-1] is not None
    )
    return format_html(
        '<svg class="device-history" viewBox="0 0 {} {}" role="img" preserveAspectRatio="none"'
        ' aria-label="The last hour">'
        '<polyline class="full" points="{}"/><polyline class="busy" points="{}"/></svg><small>{}</small>',
        HISTORY_WIDTH,
        HISTORY_HEIGHT,
        polyline(full),
        polyline(busy),
        words,
    )


def polyline(shares: list[float | None]) -> str:
    """Return the points of a line through the shares, 0 at the bottom. Unknown values are left out."""
    step = HISTORY_WIDTH / max(1, len(shares) - 1)
    return " ".join(
        f"{place * step:.1f},{HISTORY_HEIGHT - 1 - min(1.0, share) * (HISTORY_HEIGHT - 2):.1f}"
        for place, share in enumerate(shares)
        if share is not None
    )


@register.filter
def duration(value: float | timedelta | None) -> str:
    """Format seconds or a timedelta in its two largest units: `3 min 20 s`."""
    if value is None:
        return ""
    seconds = round(value.total_seconds() if isinstance(value, timedelta) else value)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    if seconds < 86400:
        return f"{seconds // 3600} h {seconds % 3600 // 60} min"
    return f"{seconds // 86400} d {seconds % 86400 // 3600} h"


@register.filter
def hours(seconds: float) -> str:
    """Format seconds as hours: `1,234.5`, or `0.02` below one hour."""
    value = seconds / 3600
    return f"{value:,.1f}" if value >= 1 else f"{value:.2f}" if value else "0"


@register.filter
def ago(moment: datetime | None) -> SafeString | str:
    """Format a time as `3 min ago`, with the exact UTC time as tooltip."""
    if moment is None:
        return ""
    seconds = (timezone.now() - moment).total_seconds()
    if seconds < JUST_NOW_SECONDS:
        words = "just now"
    elif seconds < 60:
        words = f"{seconds:.0f} s ago"
    elif seconds < 3600:
        words = f"{seconds // 60:.0f} min ago"
    elif seconds < 86400:
        words = f"{seconds // 3600:.0f} h ago"
    elif seconds < 30 * 86400:
        words = f"{seconds // 86400:.0f} d ago"
    else:
        words = f"{moment:%d %b %Y}"
    return format_html(
        '<time datetime="{}" title="{} UTC">{}</time>', moment.isoformat(), f"{moment:%Y-%m-%d %H:%M:%S}", words
    )


@register.filter
def clock(moment: datetime) -> SafeString:
    """Format the time of day in UTC, with the date as tooltip."""
    return format_html(
        '<time datetime="{}" title="{} UTC">{}</time>',
        moment.isoformat(),
        f"{moment:%Y-%m-%d %H:%M:%S}",
        f"{moment:%H:%M:%S}",
    )


@register.filter
def visible(text: str) -> str:
    """Make white space and partial characters in a token's text visible."""
    return text.replace("\n", "↵\n").replace("\t", "⇥\t") or "⋯"


@register.filter
def short_hash(digest: str) -> str:
    return digest[:12]


@register.filter
def percent(share: float) -> str:
    """Format a share between 0 and 1 as `97.5%`."""
    return f"{share * 100:.1f}".removesuffix(".0") + "%"


@register.filter
def compact(number: float) -> str:
    """Format a large number in short form: `134.5 M`."""
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.1f}".removesuffix(".0") + f" {unit}"
    return f"{number:g}"


@register.filter
def size(size_bytes: float | None) -> str:
    return "–" if size_bytes is None else size_in_words(size_bytes)


@register.filter
def scientific(number: float) -> str:
    return f"{number:.1e}" if number else "0"


@register.filter
def as_yaml(document: Any) -> str:
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True)


@register.filter
def recipe(spec: dict[str, Any]) -> str:
    """Format a stored TrainingSpec as YAML in the model's order, which the database does not keep."""
    return as_yaml(TrainingSpec.model_validate(spec).model_dump(mode="json", exclude_none=True))


@register.simple_tag(takes_context=True)
def curl_command(context: Context, document: dict[str, Any]) -> str:
    """Return the shell command that submits the document to the API."""
    body = shlex.quote(json.dumps(document, indent=2, ensure_ascii=False))
    return (
        f"curl {context['request'].build_absolute_uri(reverse('api:jobs'))} \\\n"
        '  -H "Authorization: Bearer $FINETUNE_HUB_TOKEN" \\\n'
        '  -H "Content-Type: application/json" \\\n'
        f"  -d {body}"
    )


@register.filter
def code_marks(text: object) -> SafeString:
    """Render `backquoted` text as code and guide paths, such as docs/jobs.md, as links."""
    parts = re.split(r"(`[^`]+`|\bdocs/[\w/-]+\.md\b)", str(text))
    return format_html_join("", "{}", ((_marked(part) if number % 2 else part,) for number, part in enumerate(parts)))


def _marked(part: str) -> SafeString:
    words = part.strip("`")
    entry = guides.entries().get(words.removeprefix("docs/").removesuffix(".md"))
    if entry and words.startswith("docs/"):
        return format_html('<a href="{}">{}</a>', entry.url, entry.title)
    return format_html("<code>{}</code>", words) if part.startswith("`") else format_html("{}", part)


@register.simple_tag
def guide(name: str, section: str = "") -> SafeString:
    """Render a link to a guide or to a section of it."""
    entry = guides.entries()[name]
    return format_html(
        '<a class="guide" href="{}{}">{}<span>Guide: {}</span></a>',
        entry.url,
        f"#{section}" if section else "",
        draw_icon("book"),
        entry.title,
    )


@register.filter
def markdown(text: str, prefix: str) -> SafeString:
    """Render third-party Markdown as HTML. The ids of its code blocks start with the prefix."""
    return render_foreign(text, prefix=prefix)


@register.filter
def as_json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)
