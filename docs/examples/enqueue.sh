#!/bin/sh
# Have a URL called, as soon as possible or at an instant. Prints the task.
#
#     export RQ_CLOCK_URL=http://127.0.0.1:8000 RQ_CLOCK_TOKEN=…
#     sh enqueue.sh https://example.com/jobs/42 2026-03-01T09:00:00Z
set -eu
curl -sSf "$RQ_CLOCK_URL/api/v1/tasks" \
  -H "Authorization: Bearer $RQ_CLOCK_TOKEN" \
  -H "Content-Type: application/json" \
  -d "{\"webhookUrl\": \"$1\"${2:+, \"executeAt\": \"$2\"}}"
