"""A worker for this app's queues: WORKER_QUEUES, highest priority first."""

from rq_clock import run_worker

if __name__ == "__main__":
    run_worker()
