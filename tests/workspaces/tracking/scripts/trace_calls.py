"""Calls are traced, in a run and outside of one, and found again by their ids."""

from typing import Any

import mlflow


@mlflow.trace
def double(number: int) -> int:
    with mlflow.start_span("inner") as span:
        span.set_inputs({"number": number})
    return number * 2


with mlflow.start_run():
    for number in range(3):
        double(number)
if hasattr(mlflow, "flush_trace_async_logging"):
    mlflow.flush_trace_async_logging()
trace_id = mlflow.get_last_active_trace_id()
assert trace_id
client: Any = mlflow.MlflowClient()
client.set_trace_tag(trace_id, "kind", "good")
client.set_trace_tag(trace_id, "gone", "1")
client.delete_trace_tag(trace_id, "gone")
trace = client.get_trace(trace_id)
assert trace.info.tags["kind"] == "good", trace.info
assert "gone" not in trace.info.tags, trace.info
assert trace.info.status == "OK", trace.info
assert [span.name for span in trace.data.spans] == ["double", "inner"], trace.data
