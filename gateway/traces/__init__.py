"""Traces: those of clients go on at the upstreams, with spans of the gateway's own if wanted."""
