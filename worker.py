"""A worker for this app's queues: WORKER_QUEUES, highest priority first."""

from rq import Queue, Worker

from rq_clock import connect
from rq_clock.settings import Settings

if __name__ == "__main__":
    settings = Settings.from_env()
    redis = connect(settings=settings)
    queues = [Queue(name, connection=redis) for name in settings.worker_queues]
    Worker(queues, connection=redis).work()
