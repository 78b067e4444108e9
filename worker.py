"""A worker for this app's queues: WORKER_QUEUES, highest priority first."""

from rq import Queue, Worker

from rq_clock import connect
from rq_clock.settings import Settings

if __name__ == "__main__":
    redis = connect(wait=True)
    queues = [Queue(name, connection=redis) for name in Settings.from_env().worker_queues]
    Worker(queues, connection=redis).work(logging_level="WARNING")
