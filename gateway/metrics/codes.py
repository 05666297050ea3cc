"""The codes of errors as labels: the gateway's own, as what upstreams invent has no end."""

from __future__ import annotations

OTHER = "other"

CODES = frozenset(
    (
        "above_max_value array_above_max_length below_min_value book_unavailable "
        "client_disconnected client_gone context_length_exceeded empty_array empty_string "
        "file_not_found image_url_not_allowed insufficient_quota internal_error invalid_admin_key "
        "invalid_api_key invalid_file invalid_image invalid_json invalid_multipart "
        "invalid_request invalid_type invalid_value key_not_found key_revoked "
        "method_not_allowed missing_required_parameter model_gated model_loading "
        "model_not_found not_cached quota_unavailable rate_limit_exceeded request_timeout "
        "request_too_large response_not_found storage_unavailable string_above_max_length "
        "team_exists team_not_found template_missing template_unavailable tokenizer_missing "
        "unhealthy unknown_parameter unknown_url unsupported_content_type "
        "unsupported_parameter unsupported_task upstream_error upstream_misconfigured "
        "upstream_overloaded upstream_timeout upstream_unreachable"
    ).split()
)


def bounded(code: str | None) -> str:
    """Return `code` if it is the gateway's own, else `other`."""
    return code if code in CODES else OTHER
