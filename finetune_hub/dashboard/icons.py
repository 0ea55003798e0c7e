"""The dashboard's icons: strokes on a 24 × 24 grid, inlined so that they take the colour of the text."""

from __future__ import annotations

from django.utils.html import format_html
from django.utils.safestring import SafeString, mark_safe

PATHS = {
    "home": '<path d="M4 11l8-7 8 7v8a1 1 0 0 1-1 1h-4v-6H9v6H5a1 1 0 0 1-1-1z"/>',
    "activity": '<path d="M3 12h4l3-8 4 16 3-8h4"/>',
    "rows": '<rect x="3" y="4" width="18" height="16" rx="2"/><path d="M3 10h18M3 15h18"/>',
    "cube": '<path d="M12 3l8 4.5v9L12 21l-8-4.5v-9z"/><path d="M4 7.5l8 4.5 8-4.5M12 12v9"/>',
    "layers": '<path d="M12 3l9 5-9 5-9-5z"/><path d="M3 12.5l9 5 9-5M3 17l9 5 9-5"/>',
    "chip": '<rect x="6" y="6" width="12" height="12" rx="2"/><rect x="10" y="10" width="4" height="4"/>'
    '<path d="M9 2v4M15 2v4M9 18v4M15 18v4M2 9h4M2 15h4M18 9h4M18 15h4"/>',
    "people": '<circle cx="9" cy="8" r="3.5"/><path d="M2.5 20a6.5 6.5 0 0 1 13 0M15.5 4.8a3.5 3.5 0 0 1 0 6.4"/>'
    '<path d="M18 14.2a6.5 6.5 0 0 1 3.5 5.8"/>',
    "key": '<circle cx="8" cy="15" r="4.5"/><path d="M11.3 11.7L20 3M16 7l3.5 3.5"/>',
    "book": '<path d="M5 19V5.5A2.5 2.5 0 0 1 7.5 3H19v14H7a2 2 0 0 0 0 4h12v-4"/>',
    "search": '<circle cx="11" cy="11" r="6.5"/><path d="M16 16l5 5"/>',
    "clock": '<circle cx="12" cy="12" r="9"/><path d="M12 7v5l3.5 2"/>',
    "play": '<circle cx="12" cy="12" r="9"/><path d="M10 8.5v7l5.5-3.5z"/>',
    "pause": '<circle cx="12" cy="12" r="9"/><path d="M10 8.5v7M14 8.5v7"/>',
    "check": '<circle cx="12" cy="12" r="9"/><path d="M8 12.5l2.8 2.8L16 9.5"/>',
    "cross": '<circle cx="12" cy="12" r="9"/><path d="M9 9l6 6M15 9l-6 6"/>',
    "stop": '<circle cx="12" cy="12" r="9"/><path d="M8 12h8"/>',
    "warning": '<path d="M12 4l9.5 16h-19z"/><path d="M12 10v4.5M12 17.2v.3"/>',
    "info": '<circle cx="12" cy="12" r="9"/><path d="M12 11v5.5M12 7.6v.3"/>',
    "plus": '<path d="M12 5v14M5 12h14"/>',
    "download": '<path d="M12 4v11M7.5 11L12 15.5 16.5 11M4 20h16"/>',
    "upload": '<path d="M12 16V5M7.5 9L12 4.5 16.5 9M4 20h16"/>',
    "copy": '<rect x="8" y="8" width="12" height="12" rx="2"/>'
    '<path d="M16 8V6a2 2 0 0 0-2-2H6a2 2 0 0 0-2 2v8a2 2 0 0 0 2 2h2"/>',
    "arrow": '<path d="M5 12h14M13 6l6 6-6 6"/>',
    "repeat": '<path d="M4 11a8 8 0 0 1 14-4.5L20 8M20 4v4h-4M20 13a8 8 0 0 1-14 4.5L4 16M4 20v-4h4"/>',
    "trash": '<path d="M4 7h16M9 7V4.5h6V7M6.5 7l1 13h9l1-13M10 11v5.5M14 11v5.5"/>',
    "out": '<path d="M10 4H6a2 2 0 0 0-2 2v12a2 2 0 0 0 2 2h4M15 8l4 4-4 4M19 12H9"/>',
    "bell": '<path d="M6 16v-5a6 6 0 0 1 12 0v5l1.5 2h-15zM10 21h4"/>',
    "shield": '<path d="M12 3l8 3v6c0 4.5-3.2 7.6-8 9-4.8-1.4-8-4.5-8-9V6z"/><path d="M8.5 12l2.5 2.5 4.5-5"/>',
}

# The icon of each state of jobs, attempts, base models and workers.
STATE_ICONS = {
    "validating": "search",
    "queued": "clock",
    "assigned": "clock",
    "importing": "clock",
    "running": "play",
    "succeeded": "check",
    "ready": "check",
    "healthy": "check",
    "failed": "cross",
    "lost": "cross",
    "offline": "cross",
    "unhealthy": "warning",
    "cancelled": "stop",
    "draining": "clock",
    "drained": "stop",
    "expired": "clock",
    "ok": "check",
    "warning": "warning",
    "bad": "cross",
    "quarantined": "warning",
    "stopping": "stop",
    "pausing": "pause",
    "paused": "pause",
    "preempted": "pause",
}


def draw_icon(name: str) -> SafeString:
    """Return the icon as inline SVG, hidden from screen readers, as there is always a word next to it."""
    return format_html(
        '<svg class="icon" viewBox="0 0 24 24" width="20" height="20" aria-hidden="true" focusable="false">{}</svg>',
        mark_safe(PATHS[name]),  # noqa: S308  (a constant of this module)
    )
