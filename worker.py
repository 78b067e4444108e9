"""A worker for this app's queues: WORKER_QUEUES, highest priority first."""

import os

from rq import Queue, Worker

from rq_clock import connect

if __name__ == "__main__":
    redis = connect(wait=True)
    names = os.environ.get("WORKER_QUEUES", "default").replace(",", " ").split()
    queues = [Queue(name, connection=redis) for name in names]
    Worker(queues, connection=redis).work(logging_level="WARNING")
