"""all-MiniLM-L6-v2 in onnxruntime: texts to vectors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from tokenizers import Tokenizer

_WARM_UP_TEXT = "A first text."


class MiniLm:
    """The encoder in `weights`, with the vocabulary in `tokenizer`. The constructor blocks."""

    def __init__(self, weights: Path, tokenizer: Path, *, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Threads that spin while they wait would starve the other models.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(
            str(weights), options, providers=["CPUExecutionProvider"]
        )
        self._tokenizer = Tokenizer.from_file(str(tokenizer))
        # The file has both switched on. Vectors that are pooled over padding are wrong.
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self.vector(self.tokens(_WARM_UP_TEXT))

    def tokens(self, text: str) -> list[int]:
        """Return the ids of all of `text`, between its two marks."""
        return list(self._tokenizer.encode(text).ids)

    def vector(self, tokens: list[int], *, normalize: bool = True) -> NDArray[np.float32]:
        """Return the mean (384,) of the tokens' states, of length 1 if it is to be normalized.

        One text at a time: the weights are quantised dynamically over a whole batch, so that
        a text's vector would depend on its neighbours.
        """
        ids = np.array([tokens], dtype=np.int64)
        inputs = {
            "input_ids": ids,
            "attention_mask": np.ones_like(ids),
            "token_type_ids": np.zeros_like(ids),
        }
        states: NDArray[np.float32] = self._session.run(None, inputs)[0]
        mean: NDArray[np.float32] = states.mean(1)[0]
        return mean / np.linalg.norm(mean) if normalize else mean
