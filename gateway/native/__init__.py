"""The native API's face: Hugging Face's own clients, on the same keys, quotas, cache and ledger."""
