"""What the gateway tells a Prometheus server about itself, at `/metrics`."""
