// Asks a gateway with the official clients for Node and prints what they make of it, one JSON object a question.
// Arguments: the gateway's URL, a key, the name of a question.

import Anthropic from "@anthropic-ai/sdk";
import OpenAI from "openai";

const [url, key, question] = process.argv.slice(2);
const openai = new OpenAI({ baseURL: `${url}/v1`, apiKey: key, maxRetries: 0 });
const anthropic = new Anthropic({ baseURL: url, apiKey: key, maxRetries: 0 });
const messages = [{ role: "user", content: "Say hello." }];
const tools = [{ type: "function", function: { name: "weather", parameters: { type: "object" } } }];

const questions = {
  async chat() {
    const { data, response } = await openai.chat.completions.create({ model: "assistant", messages }).withResponse();
    return {
      text: data.choices[0].message.content,
      usage: data.usage.total_tokens,
      backend: response.headers.get("x-gateway-backend"),
    };
  },
  async stream() {
    const stream = await openai.chat.completions.create({
      model: "assistant", messages, stream: true, stream_options: { include_usage: true },
    });
    let text = "", usage = null;
    for await (const chunk of stream) {
      text += chunk.choices[0]?.delta?.content ?? "";
      usage = chunk.usage?.total_tokens ?? usage;
    }
    return { text, usage };
  },
  async tools() {
    const answer = await openai.chat.completions.create({ model: "assistant", messages, tools });
    return answer.choices[0].message.tool_calls[0].function;
  },
  async responses() {
    const answer = await openai.responses.create({ model: "assistant", input: "Say hello." });
    return { text: answer.output_text, status: answer.status };
  },
  async responses_stream() {
    const stream = await openai.responses.create({ model: "assistant", input: "Say hello.", stream: true });
    let text = "", last = "";
    for await (const event of stream) {
      if (event.type === "response.output_text.delta") text += event.delta;
      last = event.type;
    }
    return { text, last };
  },
  async messages() {
    const answer = await anthropic.messages.create({ model: "assistant", max_tokens: 50, messages });
    return { text: answer.content[0].text, reason: answer.stop_reason };
  },
  async messages_stream() {
    const stream = anthropic.messages.stream({ model: "assistant", max_tokens: 50, messages });
    const answer = await stream.finalMessage();
    return { text: answer.content[0].text, usage: answer.usage.output_tokens };
  },
  async models() {
    const listed = [];
    for await (const model of openai.models.list()) listed.push(model.id);
    return { listed };
  },
  async embeddings() {
    const answer = await openai.embeddings.create({ model: "assistant", input: "one" });
    return { length: answer.data.length };
  },
  async retried() {
    const patient = new OpenAI({ baseURL: `${url}/v1`, apiKey: key, maxRetries: 2 });
    const answer = await patient.chat.completions.create({ model: "assistant", messages });
    return { text: answer.choices[0].message.content };
  },
};

try {
  console.log(JSON.stringify(await questions[question]()));
} catch (error) {
  const { name, status, code, message } = error;
  console.log(JSON.stringify({ raised: error.constructor.name, name, status: status ?? null, code: code ?? null, message }));
}
