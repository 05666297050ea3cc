// What an application sees through OpenAI's Node SDK, as JSON on standard output.
//
//     node sdk_scenarios.mjs PATH_OF_THE_SDK BASE_URL API_KEY
//
// The scenarios are those of `sdk_scenarios.py`, name by name.

import assert from "node:assert";

const [sdk, baseURL, apiKey] = process.argv.slice(2);
const { default: OpenAI } = await import(`${sdk}/index.mjs`);
const { VERSION } = await import(`${sdk}/version.mjs`);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0, timeout: 60_000 });

const messages = [{ role: "user", content: "Hi" }];
const tools = ["get_weather", "get_time"].map((name) => ({
  type: "function",
  function: { name, strict: true, parameters: { type: "object" } },
}));
const schema = {
  type: "json_schema",
  json_schema: {
    name: "weather",
    schema: { type: "object", properties: { city: { type: "string" } } },
  },
};
const forced = { type: "function", function: { name: "get_weather" } };

const create = (options) => client.chat.completions.create({ messages, ...options });
const counts = (usage) => [usage.prompt_tokens, usage.completion_tokens, usage.total_tokens];

async function collect(stream) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return chunks;
}

function seen(choice) {
  const calls = choice.message.tool_calls ?? [];
  assert.equal(new Set(calls.map((call) => call.id)).size, calls.length, "calls share an id");
  return {
    role: choice.message.role,
    content: choice.message.content,
    finish_reason: choice.finish_reason,
    calls: calls.map((call) => [call.type, call.function.name, call.function.arguments]),
  };
}

// The choices that the SDK's own accumulating helper ends with.
async function final(options) {
  const answer = await client.chat.completions
    .stream({ messages, ...options })
    .finalChatCompletion();
  return answer.choices.map(seen);
}

const named = (headers) => ({
  request_id: headers.get("x-request-id").length,
  model: headers.get("x-dragoman-model"),
  upstream: headers.get("x-dragoman-upstream"),
  ignored: headers.get("x-dragoman-ignored"),
  timed: /^\d+$/.test(headers.get("x-dragoman-upstream-ms")),
});

async function failure(options, by = client) {
  try {
    await by.chat.completions.create({ messages, ...options });
  } catch (error) {
    assert(error.requestID);
    return [error.constructor.name, error.status, error.code, error.param, error.type];
  }
  return [];
}

const scenarios = {
  async chat() {
    const answer = await create({ model: "native/plain" });
    const [choice] = answer.choices;
    return {
      object: answer.object,
      model: answer.model,
      role: choice.message.role,
      content: choice.message.content,
      finish_reason: choice.finish_reason,
      usage: counts(answer.usage),
    };
  },
  async stream() {
    const chunks = await collect(await create({ model: "native/plain", stream: true }));
    const choices = chunks.flatMap((chunk) => chunk.choices);
    return {
      ids: new Set(chunks.map((chunk) => [chunk.id, chunk.created, chunk.model].join())).size,
      roles: choices.map((choice) => choice.delta.role).filter(Boolean),
      content: choices.map((choice) => choice.delta.content ?? "").join(""),
      finish_reasons: choices.map((choice) => choice.finish_reason).filter(Boolean),
      chunks_with_usage: chunks.filter((chunk) => chunk.usage).length,
    };
  },
  async stream_usage() {
    const stream_options = { include_usage: true };
    const chunks = await collect(
      await create({ model: "native/plain", stream: true, stream_options }),
    );
    const told = chunks.filter((chunk) => chunk.usage);
    return {
      told: told.length,
      is_last: told.at(-1) === chunks.at(-1),
      choices: told.at(-1).choices.length,
      usage: counts(told.at(-1).usage),
    };
  },
  helper: () => final({ model: "native/plain" }),
  async completion() {
    const answer = await client.completions.create({ model: "native/plain", prompt: "Hi" });
    const [choice] = answer.choices;
    return { object: answer.object, text: choice.text, finish_reason: choice.finish_reason };
  },
  async completion_stream() {
    const stream = await client.completions.create({
      model: "native/plain",
      prompt: "Hi",
      stream: true,
    });
    const choices = (await collect(stream)).flatMap((chunk) => chunk.choices);
    return {
      text: choices.map((choice) => choice.text).join(""),
      finish_reasons: choices.map((choice) => choice.finish_reason).filter(Boolean),
    };
  },
  two_choices: () => final({ model: "native/plain", n: 2 }),
  tools: async () => seen((await create({ model: "native/tools", tools })).choices[0]),
  tools_stream: () => final({ model: "native/tools", tools }),
  forced_tool: async () =>
    seen((await create({ model: "native/forced", tools, tool_choice: forced })).choices[0]),
  forced_tool_stream: () => final({ model: "native/forced", tools, tool_choice: forced }),
  async logprobs() {
    const answer = await create({ model: "native/logprobs", logprobs: true, top_logprobs: 2 });
    return answer.choices[0].logprobs.content.map((token) => [
      token.token,
      token.logprob,
      Buffer.from(token.bytes).toString(),
      token.top_logprobs.length,
    ]);
  },
  async logprobs_stream() {
    const stream = await create({ model: "native/logprobs", logprobs: true, stream: true });
    return (await collect(stream))
      .flatMap((chunk) => chunk.choices)
      .flatMap((choice) => choice.logprobs?.content ?? [])
      .map((token) => token.token);
  },
  async structured() {
    const answer = await create({ model: "native/json", response_format: schema });
    return JSON.parse(answer.choices[0].message.content);
  },
  async headers() {
    const { response } = await create({ model: "native/plain", store: true }).withResponse();
    return named(response.headers);
  },
  async stream_headers() {
    const options = { model: "native/plain", store: true, stream: true };
    const { data, response } = await create(options).withResponse();
    await collect(data);
    return named(response.headers);
  },
  async models() {
    const listed = (await collect(await client.models.list())).map((model) => model.id);
    const shown = await client.models.retrieve("native/plain");
    return { listed: listed.includes("native/plain"), shown: shown.id };
  },
  repeated_tools: () => final({ model: "openai/repeated_tools", tools }),
  bare_tools: () => final({ model: "openai/bare_tools", tools }),
  bare_tools_whole: async () =>
    seen((await create({ model: "openai/bare_tools", tools })).choices[0]),
  vllm_stream: () => final({ model: "openai/vllm" }),
  tgi_chat_stream: () => final({ model: "openai/tgi" }),
  unordered_choices: () => final({ model: "openai/unordered", n: 2 }),
  async broken_stream() {
    const stream = await create({ model: "native/fails", stream: true });
    let content = "";
    const finish_reasons = [];
    try {
      for await (const { choices } of stream) {
        if (!content) await scenarios.chat(); // tells the upstream that its first words arrived
        content += choices[0].delta.content ?? "";
        if (choices[0].finish_reason) finish_reasons.push(choices[0].finish_reason);
      }
    } catch (error) {
      return { error: error.constructor.name, code: error.code, content, finish_reasons };
    }
    return { error: null };
  },
  errors: async () => ({
    key: await failure({ model: "native/plain" }, client.withOptions({ apiKey: "sk-dm_nonsense" })),
    model: await failure({ model: "no/such" }),
    value: await failure({ model: "native/plain", temperature: 3 }),
    unsupported: await failure({ model: "native/plain", logit_bias: { 1: 1 } }),
    context: await failure({ model: "errors/context" }),
    rate: await failure({ model: "errors/rate_limit" }),
    rate_event: await failure({ model: "errors/overloaded_event", stream: true }),
    credits: await failure({ model: "errors/credits" }),
    loading: await failure({ model: "errors/loading" }),
    failed: await failure({ model: "errors/generation" }),
  }),
};

const facts = { version: VERSION };
for (const [name, scenario] of Object.entries(scenarios)) {
  facts[name] = await scenario().catch((error) => `${error.constructor.name}: ${error.message}`);
}
console.log(JSON.stringify(facts));
