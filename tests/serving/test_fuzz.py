"""A fuzzer that reads the OpenAPI document finds no 500, no undocumented status, and no answer of another form."""

import schemathesis
from hypothesis import HealthCheck, given, settings, strategies
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.serving.service import serving

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


def test_generated_requests_get_documented_answers(models):
    with serving(models=models, limits={"max_n": 4, "max_images": 4}) as running:
        schema = schemathesis.openapi.from_url(f"{running.url}/openapi.json")
        statuses: dict[str, set[int]] = {}
        for result in schema.get_all_operations():
            fuzz(result.ok(), statuses)
    assert 200 in statuses["/v1/samples"]
    for path in ("/v1/samples", "/v1/completions", "/v1/scores"):
        assert 422 in statuses[path]


def fuzz(operation, statuses):
    """Send cases of an operation, valid ones and others, and note the statuses."""
    modes = schemathesis.GenerationMode
    cases = [operation.as_strategy(generation_mode=m) for m in (modes.POSITIVE, modes.NEGATIVE)]

    @settings(
        max_examples=25, deadline=None, derandomize=True, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(case=strategies.one_of(cases))
    def run(case):
        response = case.call_and_validate(checks=CHECKS, timeout=60)
        statuses.setdefault(operation.path, set()).add(response.status_code)

    run()
