"""Every name that a span, an event or an attribute of ours can have, and the closed lists of values. No logic.

`http.*`, `server.*`, `error.*`, `url.*` and `user_agent.*` are OpenTelemetry's stable conventions. `gen_ai.*` is in
development: the deployed spelling (semantic conventions 1.41 and before) is the default, the newest one is chosen by
`OTEL_SEMCONV_STABILITY_OPT_IN=gen_ai_latest_experimental`. `gateway.*` is ours.
"""

from typing import Final, Literal

SERVICE_NAME: Final = "llm-gateway"
SCOPE: Final = "gateway"

# Spans. The root is named `{method} {route}`, an attempt `{operation} {model}`.
SPAN_DECIDE: Final = "policy.decide"
SPAN_RESERVE: Final = "admission.reserve"
SPAN_RECONCILE: Final = "admission.reconcile"
EVENT_FIRST_TOKEN: Final = "gateway.first_token"  # noqa: S105 - a token of text

# General conventions.
HTTP_METHOD: Final = "http.request.method"
HTTP_ROUTE: Final = "http.route"
HTTP_STATUS: Final = "http.response.status_code"
URL_PATH: Final = "url.path"
USER_AGENT: Final = "user_agent.original"
SERVER_ADDRESS: Final = "server.address"
SERVER_PORT: Final = "server.port"
ERROR_TYPE: Final = "error.type"
PEER_SERVICE: Final = "peer.service"
"""Deprecated in favour of the next one, but the only one that Jaeger's UI draws. Both are sent."""
SERVICE_PEER_NAME: Final = "service.peer.name"

# GenAI, on attempts only: any `gen_ai.` attribute makes Jaeger show its span as a model call.
GEN_AI_OPERATION: Final = "gen_ai.operation.name"
GEN_AI_PROVIDER: Final = "gen_ai.provider.name"
GEN_AI_REQUEST_MODEL: Final = "gen_ai.request.model"
GEN_AI_REQUEST_STREAM: Final = "gen_ai.request.stream"
GEN_AI_REQUEST_MAX_TOKENS: Final = "gen_ai.request.max_tokens"
GEN_AI_REQUEST_TEMPERATURE: Final = "gen_ai.request.temperature"
GEN_AI_REQUEST_TOP_P: Final = "gen_ai.request.top_p"
GEN_AI_RESPONSE_ID: Final = "gen_ai.response.id"
GEN_AI_RESPONSE_MODEL: Final = "gen_ai.response.model"
GEN_AI_FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
GEN_AI_TIME_TO_FIRST_CHUNK: Final = "gen_ai.response.time_to_first_chunk"
"""Seconds."""
GEN_AI_INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
"""All tokens of the prompt, cached ones included."""
GEN_AI_OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
"""All generated tokens, reasoning included."""
GEN_AI_CACHE_READ_TOKENS: Final = "gen_ai.usage.cache_read.input_tokens"
GEN_AI_CACHE_WRITE_TOKENS: Final = "gen_ai.usage.cache_creation.input_tokens"
GEN_AI_CACHE_WRITE_TOKENS_LATEST: Final = "gen_ai.usage.cache_write.input_tokens"
"""The newest spelling of the one above; the only name on our spans that the opt-in changes."""
GEN_AI_REASONING_TOKENS: Final = "gen_ai.usage.reasoning.output_tokens"
GEN_AI_INPUT_MESSAGES: Final = "gen_ai.input.messages"
"""JSON, and only where an operator wants content in traces; so is the next one."""
GEN_AI_OUTPUT_MESSAGES: Final = "gen_ai.output.messages"

GEN_AI_LATEST: Final = "gen_ai_latest_experimental"
"""The word in `OTEL_SEMCONV_STABILITY_OPT_IN` that chooses the newest spelling."""

# Ours, on the root.
REQUEST_ID: Final = "gateway.request.id"
TENANT: Final = "gateway.tenant"
KEY_ID: Final = "gateway.key.id"
REQUEST_MODEL: Final = "gateway.request.model"
"""The public name that was asked for."""
STREAM: Final = "gateway.stream"
OUTCOME: Final = "gateway.outcome"
ERROR_CODE: Final = "gateway.error.code"
ATTEMPTS: Final = "gateway.attempts"
SERVED_BY: Final = "gateway.served_by"
TTFT_S: Final = "gateway.ttft_s"
OVERHEAD_MS: Final = "gateway.overhead_ms"
QUEUED_S: Final = "gateway.queue.wait_s"
"""How long it waited for its turn, or for a limit; absent when it did not."""
COST_USD: Final = "gateway.cost.usd"
TOTAL_TOKENS: Final = "gateway.usage.total_tokens"
"""Not `gen_ai.usage.*`: the attempts carry those, and a dashboard would count them twice."""

# Ours, on policy.decide.
POLICY_ID: Final = "gateway.policy.id"
POLICY_VERSION: Final = "gateway.policy.version"
ROUTE: Final = "gateway.route"
STRATEGY: Final = "gateway.strategy"
DECISION_ID: Final = "gateway.decision.id"
CANDIDATES: Final = "gateway.candidates"
EXCLUDED: Final = "gateway.excluded"
AFFINITY: Final = "gateway.affinity"
"""`backend/model:filter` of every target that was removed."""
PANICS: Final = "gateway.panics"
"""True when all breakers were open, so that none of them counted; absent otherwise."""

# Ours, on admission.reserve and admission.reconcile.
LIMIT_DECISION: Final = "gateway.ratelimit.decision"
LIMIT_DIMENSION: Final = "gateway.ratelimit.dimension"
LIMIT_RETRY_AFTER_S: Final = "gateway.ratelimit.retry_after_s"
LIMIT_ESTIMATE_PROMPT: Final = "gateway.ratelimit.estimate.prompt"
LIMIT_ESTIMATE_OUTPUT: Final = "gateway.ratelimit.estimate.output"
LIMIT_RESERVED_TOKENS: Final = "gateway.ratelimit.reserved_tokens"
LIMIT_ACTUAL_TOKENS: Final = "gateway.ratelimit.actual_tokens"
LIMIT_DELTA_TOKENS: Final = "gateway.ratelimit.delta_tokens"
"""Actual minus reserved: negative when we reserved too much."""
RESERVATION_ID: Final = "gateway.ratelimit.reservation.id"
USAGE_SOURCE: Final = "gateway.usage.source"

# Ours, on attempts.
ATTEMPT_NUMBER: Final = "gateway.attempt.number"
ATTEMPT_REASON: Final = "gateway.attempt.reason"
ATTEMPT_BACKEND: Final = "gateway.attempt.backend"
ATTEMPT_RETRYABLE: Final = "gateway.attempt.retryable"
ATTEMPT_DECISION: Final = "gateway.attempt.decision"
ATTEMPT_RETRY_AFTER_S: Final = "gateway.attempt.retry_after_s"
ATTEMPT_BYTES_FORWARDED: Final = "gateway.attempt.bytes_forwarded"
ATTEMPT_DRILL: Final = "gateway.attempt.drill"
COST_SOURCE: Final = "gateway.cost.source"

# Closed lists.
RequestOutcome = Literal["ok", "rejected", "upstream_error", "client_gone", "internal"]
AttemptReason = Literal["initial", "retry", "failover", "hedge", "continuation"]
AttemptDecision = Literal["retry", "failover", "give_up"]
"""What was done about an attempt's fault."""
LimitDecision = Literal["admitted", "denied"]
Operation = Literal["chat", "text_completion", "embeddings"]

CANCELLED: Final = "cancelled"
"""`error.type` of an attempt that we gave up because the client left."""
FINISH_ERROR: Final = "error"
"""The finish reason of a stream that broke off."""
OTHER: Final = "_OTHER"
"""OpenTelemetry's own word for a value outside the closed list."""

ERROR_CODES: Final = frozenset(
    {
        "ambiguous_credentials",
        "answer_not_kept",
        "content_filter",
        "context_length_exceeded",
        "gateway_draining",
        "idempotency_key_reused",
        "insufficient_quota",
        "internal_error",
        "invalid_api_key",
        "invalid_json",
        "limits_unavailable",
        "loop_detected",
        "model_not_found",
        "no_backend_available",
        "overloaded",
        "rate_limit_exceeded",
        "request_in_flight",
        "request_timeout",
        "request_too_large",
        "unsupported_parameter",
        "upstream_auth",
        "upstream_error",
        "upstream_interrupted",
        "upstream_invalid",
        "upstream_rate_limited",
        "upstream_timeout",
        "upstream_tls",
    }
)
"""The codes of our own errors. A backend's rejection may bring any code of its own; spans report it as `_OTHER`, and so
do logs and metrics when it does not look like a code."""
