// Vercel's AI SDK, by each of the three ways in which it speaks to such a server.

export default async function make({ root, key, load }) {
  const ai = await load("ai");
  const { generateText, jsonSchema, Output, streamText } = ai;
  const { createOpenAI } = await load("@ai-sdk/openai");
  const { createOpenAICompatible } = await load("@ai-sdk/openai-compatible");

  const id = "scripted/assists";
  const baseURL = `${root}/v1`;
  const openai = createOpenAI({ baseURL, apiKey: key });
  const compatible = createOpenAICompatible({ name: "gateway", baseURL, apiKey: key });
  const models = { responses: openai(id), chat: openai.chat(id), compatible: compatible(id) };
  const schema = jsonSchema({
    type: "object",
    properties: { city: { type: "string" }, degrees: { type: "number" } },
    required: ["city", "degrees"],
    additionalProperties: false,
  });
  const prompt = "What is the weather in Paris?";

  const scenarios = {
    embedding: async () => {
      const model = openai.embedding("local-embedding");
      return (await ai.embed({ model, value: "A cat sat." })).embedding.length;
    },

    image: async () => {
      const model = openai.image("local-image");
      return (await ai.experimental_generateImage({ model, prompt: "a fox" })).image.mediaType;
    },

    speech_and_back: async () => {
      const model = openai.speech("local-speech");
      const { audio } = await ai.experimental_generateSpeech({ model, text: "Hello there." });
      const ears = openai.transcription("local-transcription");
      return (await ai.experimental_transcribe({ model: ears, audio: audio.uint8Array })).text;
    },
  };
  for (const [name, model] of Object.entries(models)) {
    const asked = { model, prompt, maxRetries: 0 };
    scenarios[`${name}_whole`] = async () => (await generateText(asked)).text;
    scenarios[`${name}_streamed`] = async () => {
      const texts = [];
      for await (const text of streamText(asked).textStream) texts.push(text);
      return texts.join("");
    };
    scenarios[`${name}_structured`] = async () =>
      (await generateText({ ...asked, output: Output.object({ schema }) })).output;
    scenarios[`${name}_tool`] = async () => {
      const forecast = { description: "The forecast", inputSchema: schema };
      return (await generateText({ ...asked, tools: { forecast } })).toolCalls[0].input;
    };
  }
  return scenarios;
}
