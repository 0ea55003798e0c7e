"""The Celery side of a worker: tasks that take milliseconds, and the agent that runs as long as the process."""

from __future__ import annotations

from typing import Any

from celery import shared_task
from celery.signals import worker_ready, worker_shutting_down
from django.conf import settings

from finetune_hub.jobs import worker_port
from workers.agent import Agent

_agent: Agent | None = None


@shared_task(name="workers.gpu.wake")
def wake() -> None:
    """Wake the agent: there may be something to claim or to stop."""
    if _agent:
        _agent.wake()


@shared_task(name="workers.gpu.canary")
def canary() -> None:
    """Prove that this worker consumes its queue."""
    worker_port.consume_canary(settings.WORKER_NAME)


@worker_ready.connect
def start_agent(sender: Any, **kwargs: Any) -> None:
    """Start the agent if this Celery process consumes a worker's queue, not control's."""
    global _agent
    queues = {queue.name for queue in sender.task_consumer.queues}
    if f"worker.{settings.WORKER_NAME}" in queues:
        _agent = Agent(settings.WORKER_NAME)
        _agent.start()


@worker_shutting_down.connect
def stop_agent(**kwargs: Any) -> None:
    if _agent:
        _agent.stop()
