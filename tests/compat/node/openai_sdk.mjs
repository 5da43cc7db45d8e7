// OpenAI's SDK for JavaScript.
import OpenAI, { NotFoundError } from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";
import * as ask from "./report.mjs";

const client = new OpenAI({ maxRetries: 0 });
const asked = { model: ask.CHAT, temperature: 0, max_tokens: 40 };
const turn = (content) => [{ role: "user", content }];

await ask.report({
  async chat() {
    const answer = await client.chat.completions.create({ ...asked, messages: turn(ask.QUESTION) });
    return { text: answer.choices[0].message.content, tokens: answer.usage.completion_tokens };
  },
  async stream() {
    const pieces = [];
    const messages = turn(ask.QUESTION);
    const chunks = await client.chat.completions.create({ ...asked, messages, stream: true });
    for await (const chunk of chunks) {
      if (chunk.choices[0]?.delta.content) pieces.push(chunk.choices[0].delta.content);
    }
    return pieces;
  },
  async tools() {
    const answer = await client.chat.completions.create({
      ...asked,
      messages: turn(ask.WEATHER),
      tools: [{ type: "function", function: { name: "get_weather", parameters: ask.CITY_SCHEMA } }],
      tool_choice: { type: "function", function: { name: "get_weather" } },
    });
    const [call] = answer.choices[0].message.tool_calls;
    return { name: call.function.name, arguments: JSON.parse(call.function.arguments) };
  },
  async structured() {
    const place = z.object({ city: z.enum(["Paris", "Oslo"]) });
    const answer = await client.chat.completions.parse({
      ...asked,
      messages: turn(ask.WEATHER),
      response_format: zodResponseFormat(place, "place"),
    });
    return answer.choices[0].message.parsed;
  },
  async image() {
    const url = `data:image/jpeg;base64,${ask.CAT.toString("base64")}`;
    const parts = [
      { type: "text", text: ask.ANIMAL },
      { type: "image_url", image_url: { url } },
    ];
    const answer = await client.chat.completions.create({ ...asked, messages: turn(parts) });
    return answer.choices[0].message.content;
  },
  async embeddings() {
    const answer = await client.embeddings.create({ model: ask.EMBEDDINGS, input: ask.TEXTS });
    return ask.compared(answer.data.map((item) => item.embedding));
  },
  async error() {
    try {
      const messages = turn(ask.QUESTION);
      await client.chat.completions.create({ model: "no-such-model", messages });
    } catch (error) {
      if (error instanceof NotFoundError) return ask.refused(error);
      throw error;
    }
  },
});
