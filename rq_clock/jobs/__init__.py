"""RQ's jobs, queues and workers as rq-clock sees them in Redis."""
