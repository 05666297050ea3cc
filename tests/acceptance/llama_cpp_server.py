"""llama.cpp's HTTP server over one model: `MODEL PORT TEMPLATE`. It ends with its standard input.

It listens at once, answers 503 until the model is loaded, and says `ready` then.
"""

from __future__ import annotations

import sys
from pathlib import Path

import xllamacpp

SLOTS = 2
CONTEXT_TOKENS = 2048  # of each slot


def main() -> None:
    """Serve until nobody holds the other end of standard input any more."""
    model, port, template = sys.argv[1:]
    settings = xllamacpp.CommonParams()
    settings.model.path = model
    settings.hostnames = ["127.0.0.1"]
    settings.port = int(port)
    settings.chat_template = Path(template).read_text()
    settings.n_parallel = SLOTS
    settings.n_ctx = SLOTS * CONTEXT_TOKENS
    settings.n_batch = settings.n_ubatch = 256
    settings.cpuparams.n_threads = 1
    settings.verbosity = -1
    settings.embedding = True
    settings.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    settings.endpoint_slots = True
    # Prompts that are partly in a cache are computed otherwise: a seed would not be enough.
    settings.cache_prompt = False
    server = xllamacpp.Server(settings)
    print("ready", server.listening_address, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
