"""The calls of the Hugging Face cookbook's tour of serverless inference, in its order.

https://huggingface.co/learn/cookbook/en/enterprise_hub_serverless_inference_api. The client finds
the gateway by the variables HF_INFERENCE_ENDPOINT and HF_TOKEN.
"""

from __future__ import annotations

import base64
import hashlib
import io
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub import InferenceClient
from transformers import AutoTokenizer

LLM = "HuggingFaceTB/SmolLM2-135M-Instruct"
TOKENIZER = Path(__file__).parents[4] / "adapters/local/tokenizers/SmolLM2-135M-Instruct"
IMAGE_MODEL = "dragoman/emoji-flow"
MESSAGES = [{"role": "user", "content": "What is the capital of France?"}]
FOX = "a fox"


def release(_: Any) -> str:
    return huggingface_hub.__version__


def generate_text(_: Any) -> str:
    prompt = "A HTTP POST request is used to "
    return InferenceClient().text_generation(
        prompt, model=LLM, temperature=0.8, max_new_tokens=20, seed=42, return_full_text=True
    )


def apply_the_template_by_hand(_: Any) -> list[str]:
    # Its files are in the form of newer releases.
    tokenizer = AutoTokenizer.from_pretrained(str(TOKENIZER), tokenizer_type="gpt2")
    tokenizer.chat_template = (TOKENIZER / "chat_template.jinja").read_text()
    prompt = tokenizer.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True)
    client = InferenceClient()
    by_hand = client.text_generation(prompt, model=LLM, max_new_tokens=20, do_sample=False)
    by_server = client.chat_completion(MESSAGES, model=LLM, max_tokens=20, temperature=0)
    return [by_hand, by_server.choices[0].message.content]


def stream_a_chat(_: Any) -> dict[str, Any]:
    client = InferenceClient()
    chunks = list(client.chat_completion(MESSAGES, model=LLM, max_tokens=20, seed=1, stream=True))
    return {
        "texts": [chunk.choices[0].delta.content or "" for chunk in chunks],
        "finish_reason": chunks[-1].choices[0].finish_reason,
    }


def hold_a_chat_to_a_schema(_: Any) -> str:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    answer = InferenceClient().chat_completion(
        MESSAGES,
        model=LLM,
        max_tokens=40,
        temperature=0,
        response_format={"type": "json", "value": schema},
    )
    return answer.choices[0].message.content


def paint(_: Any) -> list[Any]:
    client = InferenceClient()
    image = client.text_to_image(prompt=FOX, model=IMAGE_MODEL, guidance_scale=3, seed=42)
    return [image.format, *image.size]


def paint_the_same_again(_: Any) -> list[str]:
    client = InferenceClient()
    return [_digest(client.text_to_image(prompt=FOX, model=IMAGE_MODEL)) for _ in range(2)]


def paint_anew_without_the_cache(_: Any) -> list[str]:
    client = InferenceClient()
    client.headers["x-use-cache"] = "0"
    return [_digest(client.text_to_image(prompt=FOX, model=IMAGE_MODEL)) for _ in range(2)]


def ask_about_a_picture(_: Any) -> str:
    client = InferenceClient()
    buffer = io.BytesIO()
    client.text_to_image(prompt=FOX, model=IMAGE_MODEL).save(buffer, format="PNG")
    data_url = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    prompt = f"![]({data_url})What is this?"
    return client.text_generation(prompt, model="scripted/sees", max_new_tokens=20)


def speak(_: Any) -> list[Any]:
    client = InferenceClient()
    speech = client.text_to_speech("A fox runs through the snow.", model="hibari-tts/heart")
    heard = client.automatic_speech_recognition(speech, model="openai/whisper-tiny.en")
    return [len(speech) > 10_000, heard.text]


def embed(_: Any) -> list[int]:
    model = "sentence-transformers/all-MiniLM-L6-v2"
    return [*InferenceClient().feature_extraction("A cat sat.", model=model).shape]


def look_at_the_service(_: Any) -> dict[str, Any]:
    client = InferenceClient()
    status = client.get_model_status(LLM)
    return {
        "loaded": status.loaded,
        "framework": status.framework,
        "info": client.get_endpoint_info(model=LLM)["model_id"],
        "listed": client.list_deployed_models("diffusers"),
    }


def wait_for_a_cold_model(_: Any) -> str:
    return InferenceClient().text_generation("Hi", model="scripted/loads", max_new_tokens=5)


def wait_no_longer_than_this(_: Any) -> str:
    client = InferenceClient(timeout=1)
    return client.text_to_image("Hi", model="scripted/never_loads").format


def use_up_the_quota(gateway: Any) -> str:
    client = InferenceClient(token=gateway.spent_key)
    return client.text_generation("Hi", model=LLM, max_new_tokens=5)


def show_a_wrong_key(_: Any) -> str:
    return InferenceClient(token="hf_wrong").text_generation("Hi", model=LLM)


def ask_for_no_model(_: Any) -> Any:
    return InferenceClient().text_to_image("Hi", model="no/such")


def ask_for_nothing(_: Any) -> str:
    return InferenceClient().text_generation("Hi", model=LLM, max_new_tokens=0)


def ask_for_too_much(_: Any) -> str:
    return InferenceClient().text_generation("Hi", model="scripted/refuses")


def ask_when_it_is_busy(_: Any) -> str:
    return InferenceClient().text_generation("Hi", model="scripted/is_busy")


def _digest(image: Any) -> str:
    return hashlib.sha256(image.tobytes()).hexdigest()
