"""What a gateway costs: CPU per request and per streamed token, added latency, start, memory.

`python -m tests.bench --help` says how to run it. Not collected by pytest.
"""
