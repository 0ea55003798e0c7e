"""Every team's quota and use, for placement and for pages that show quotas."""

from __future__ import annotations

from dataclasses import dataclass

from django.db import connection

from finetune_hub.accounts.models import Team, User
from finetune_hub.accounts.rights import Right, may
from finetune_hub.fleet.models import TeamQuota
from finetune_hub.scheduling.placement.situation import TeamShare
from finetune_hub.scheduling.placement.turns import HALF_LIFE_SECONDS

# The decayed use of a device from a to b seconds ago is the integral of 0.5^(age / half-life) over that time:
# half-life / ln 2 · (0.5^(b / half-life) - 0.5^(a / half-life)). Five half-lives are longer than a month.
USE_OF_TEAMS = """
    WITH uses AS (
        SELECT job.team_id, attempt.assigned_at AS start,
               GREATEST(attempt.assigned_at, COALESCE(use.released_at, now())) AS stop,
               COALESCE(use.memory_bytes::float / device.memory_bytes, 1) AS share,
               use.released_at IS NULL AS is_held
        FROM jobs_deviceuse use
        JOIN fleet_device device ON device.id = use.device_id
        JOIN jobs_attempt attempt ON attempt.id = use.attempt_id
        JOIN jobs_job job ON job.id = attempt.job_id
        WHERE use.released_at IS NULL OR use.released_at > now() - 5 * %(half_life)s * interval '1 second'
    ), month AS (SELECT date_trunc('month', now(), 'UTC') AS start)
    SELECT team_id,
           count(*) FILTER (WHERE is_held),
           extract(epoch FROM max(uses.start)),
           sum(share * extract(epoch FROM GREATEST(interval '0', stop - GREATEST(uses.start, month.start)))) / 3600,
           sum(share * %(half_life)s / ln(2) * (0.5 ^ (extract(epoch FROM now() - stop) / %(half_life)s)
               - 0.5 ^ (extract(epoch FROM now() - uses.start) / %(half_life)s)))
    FROM uses, month
    GROUP BY team_id"""


@dataclass(frozen=True)
class TeamUse:
    """A team's quota and its use.

    Time on a shared device counts by the share of its memory that was held. In `devices`, it counts as one device.
    """

    team: Team
    quota: TeamQuota
    """Its quota; for a team without one, an unsaved quota without limits."""
    devices: int = 0
    """In use now."""
    last_start: float = 0.0
    """Unix seconds; when one of its jobs last got a device, if that is not long ago."""
    month_hours: float = 0.0
    """Device hours of this calendar month (UTC)."""
    recent_seconds: float = 0.0
    """Device seconds for fair share; those of a week ago count half."""

    @property
    def recent_hours(self) -> float:
        return self.recent_seconds / 3600

    def as_share(self) -> TeamShare:
        return TeamShare(
            team_id=self.team.pk,
            name=self.team.name,
            weight=self.quota.weight,
            recent_seconds=self.recent_seconds,
            last_start=self.last_start,
            max_devices=self.quota.max_devices,
            max_hours=self.quota.max_hours,
            used_hours=self.month_hours,
        )


def uses_of_teams() -> list[TeamUse]:
    """Return all teams by name, in two queries, by the database's clock."""
    with connection.cursor() as cursor:
        cursor.execute(USE_OF_TEAMS, {"half_life": HALF_LIFE_SECONDS})
        used = {row[0]: (row[1], *map(float, row[2:])) for row in cursor.fetchall()}
    teams = Team.objects.select_related("quota").order_by("name", "pk")
    return [TeamUse(team, quota_of(team), *used.get(team.pk, ())) for team in teams]


def uses_shown_to(user: User) -> list[TeamUse]:
    """Return the use of the user's own teams; a user who may set quotas sees all teams."""
    uses = uses_of_teams()
    if may(Right.SET_QUOTA, user):
        return uses
    own = set(Team.objects.of(user).values_list("pk", flat=True))
    return [use for use in uses if use.team.pk in own]


def quota_of(team: Team) -> TeamQuota:
    return team.quota if hasattr(team, "quota") else TeamQuota(team=team)
