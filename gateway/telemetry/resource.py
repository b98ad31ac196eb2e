"""Who sends spans and metrics."""

from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource

from gateway.telemetry import semconv


def resource_of(version: str) -> Resource:
    """Who we are: `llm-gateway` unless the operator's OTEL_SERVICE_NAME or OTEL_RESOURCE_ATTRIBUTES say otherwise.

    The SDK adds its own names and a `service.instance.id` that is new in every process.
    """
    resource = Resource.create({SERVICE_VERSION: version})
    if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: semconv.SERVICE_NAME}))
    return resource
