"""OpenTelemetry: spans that are sent in batches all arrive, through restarts too."""

from __future__ import annotations

import os
from collections import Counter

import pytest
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from rq import Queue, get_current_job

from tests.ecosystem.conftest import Start, run_through_restarts
from tests.process import Process
from tests.recorder import Recorder

WORKER = """
from rq_clock import run_worker
from tests.ecosystem.test_opentelemetry import configure
run_worker({hook}=configure)
"""


def configure() -> None:
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(os.environ["COLLECTOR"])))
    trace.set_tracer_provider(provider)


def traced() -> None:
    job = get_current_job()
    assert job
    with trace.get_tracer("tests").start_as_current_span(job.id):
        pass


def received(receiver: Recorder) -> Counter[str]:
    """Count the spans that have arrived, by their name."""
    found = Counter[str]()
    for request in list(receiver.seen):
        message = ExportTraceServiceRequest.FromString(request["body"])
        for resource in message.resource_spans:
            found.update(span.name for scope in resource.scope_spans for span in scope.spans)
    return found


@pytest.mark.parametrize("hook", ["setup", "after_fork"])
@pytest.mark.parametrize("horse_jobs", ["1", "100"], ids=["isolated", "shared"])
def test_each_of_100_spans_arrives_once_through_restarts(
    queue: Queue, start: Start, receiver: Recorder, hook: str, horse_jobs: str
) -> None:
    env = {"COLLECTOR": receiver.url, "RQ_CLOCK_HORSE_JOBS": horse_jobs}
    workers: list[Process] = []

    def worker() -> Process:
        workers.append(start("-c", WORKER.format(hook=hook), **env))
        return workers[-1]

    ids = run_through_restarts(worker, lambda _: queue.enqueue(traced))
    assert received(receiver) == ids
    assert not [event for worker in workers for event in worker.events("setup.thread")]
