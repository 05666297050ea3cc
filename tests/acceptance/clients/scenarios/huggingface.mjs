// huggingface.js, of whatever version is given: its clients are told a model's URL.

const TASKS = [
  "automaticSpeechRecognition",
  "chatCompletion",
  "chatCompletionStream",
  "featureExtraction",
  "textGeneration",
  "textGenerationStream",
  "textToImage",
  "textToSpeech",
];

export default async function make({ root, key, spentKey, load }) {
  const { HfInference } = await load("@huggingface/inference");
  const models = {
    text: "HuggingFaceTB/SmolLM2-135M-Instruct",
    image: "dragoman/emoji-flow",
    speech: "hibari-tts/heart",
    embedding: "sentence-transformers/all-MiniLM-L6-v2",
    transcription: "openai/whisper-tiny.en",
  };
  // Version 3 asks the Hub for a model of the task if the call names none.
  const at = (name, options, accessToken = key) => {
    const model = models[name] ?? name;
    const client = new HfInference(accessToken, options).endpoint(`${root}/models/${model}`);
    const calls = {};
    for (const task of TASKS) calls[task] = (args) => client[task]({ model, ...args });
    return calls;
  };
  const greedy = { inputs: "The sky is", parameters: { max_new_tokens: 12, do_sample: false } };
  const messages = [{ role: "user", content: "What is the capital of France?" }];
  const asked = { messages, max_tokens: 12, temperature: 0 };

  const saidIn = (chunk) => chunk.choices[0]?.delta.content ?? "";
  // Version 4 has texts completed by OpenAI's path, and hands out the chunks as they are.
  const textOf = (event) => event.token?.text ?? event.choices[0]?.text ?? "";

  async function collect(stream) {
    const items = [];
    for await (const item of stream) items.push(item);
    return items;
  }

  // What came before the stream failed, and how it did.
  async function untilItFails(stream, text) {
    const seen = [];
    try {
      for await (const item of stream) seen.push(text(item));
    } catch (error) {
      seen.push(error.message);
    }
    return seen;
  }

  return {
    text: async () => (await at("scripted/writes").textGeneration(greedy)).generated_text,

    text_streamed: async () => {
      const events = await collect(at("scripted/writes").textGenerationStream(greedy));
      return events.map(textOf);
    },

    real_text: async () => {
      const told = await at("text").textGeneration(greedy);
      return told.generated_text.length > 10;
    },

    chat: async () => {
      const answer = await at("text").chatCompletion(asked);
      return [answer.choices[0].message.content, answer.usage.completion_tokens];
    },

    chat_streamed: async () => {
      const chunks = await collect(at("text").chatCompletionStream(asked));
      return chunks.map(saidIn).join("");
    },

    image: async () => {
      const image = await at("image").textToImage({ inputs: "a fox", parameters: { seed: 42 } });
      return [image.type, image.size > 1000];
    },

    speech_and_back: async () => {
      const sound = await at("speech").textToSpeech({ inputs: "A fox runs through the snow." });
      const heard = await at("transcription").automaticSpeechRecognition({
        data: new Blob([await sound.arrayBuffer()]),
      });
      return heard.text;
    },

    embedding: async () =>
      (await at("embedding").featureExtraction({ inputs: "A cat sat." })).flat().length,

    // The client repeats a 503 at once: the gateway holds it instead of asking the server again.
    a_cold_model: async () => {
      let calls = 0;
      const counting = (...args) => ((calls += 1), fetch(...args));
      const told = await at("scripted/loads", { fetch: counting }).textGeneration({ inputs: "Hi" });
      return [told.generated_text, calls <= 4];
    },

    wrong_key: async () => at("text", {}, "sk-wrong").textGeneration(greedy),
    spent_quota: async () => at("text", {}, spentKey).textGeneration(greedy),
    no_such_model: async () => at("no/such").textGeneration(greedy),
    nothing_asked: async () =>
      at("text").textGeneration({ inputs: "Hi", parameters: { max_new_tokens: 0 } }),
    too_much_asked: async () => at("scripted/refuses").textGeneration(greedy),
    busy: async () => at("scripted/is_busy").textGeneration(greedy),
    loading: async () =>
      at("scripted/never_loads", { retry_on_error: false }).textGeneration(greedy),
    failing_late: async () =>
      untilItFails(at("scripted/fails").textGenerationStream({ inputs: "Hi" }), textOf),
    breaking_off: async () =>
      untilItFails(at("scripted/breaks_off").textGenerationStream({ inputs: "Hi" }), textOf),
    chat_breaking_off: async () =>
      untilItFails(at("scripted/falls_silent").chatCompletionStream({ messages }), saidIn),
  };
}
