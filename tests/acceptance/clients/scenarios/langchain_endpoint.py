"""LangChain's model of a Hugging Face endpoint: the native API, by `huggingface_hub`."""

from __future__ import annotations

from typing import Any

from langchain_huggingface import HuggingFaceEndpoint


def whole(gateway: Any) -> str:
    return _endpoint(gateway).invoke("What is the weather in Paris?")


def streamed(gateway: Any) -> str:
    return "".join(_endpoint(gateway).stream("What is the weather in Paris?"))


def _endpoint(gateway: Any) -> HuggingFaceEndpoint:
    return HuggingFaceEndpoint(
        endpoint_url=gateway.model("scripted/writes"),
        huggingfacehub_api_token=gateway.key,
        max_new_tokens=20,
    )
