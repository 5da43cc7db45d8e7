// Anthropic's SDK for JavaScript.
import Anthropic, { NotFoundError } from "@anthropic-ai/sdk";
import { zodOutputFormat } from "@anthropic-ai/sdk/helpers/zod";
import { z } from "zod";
import * as ask from "./report.mjs";

const client = new Anthropic({ maxRetries: 0 });
const asked = { model: ask.CHAT, max_tokens: 40, temperature: 0 };
const turn = (content) => [{ role: "user", content }];

await ask.report({
  async chat() {
    const answer = await client.messages.create({ ...asked, messages: turn(ask.QUESTION) });
    return { text: answer.content[0].text, tokens: answer.usage.output_tokens };
  },
  async stream() {
    const pieces = [];
    const events = client.messages.stream({ ...asked, messages: turn(ask.QUESTION) });
    events.on("text", (piece) => pieces.push(piece));
    await events.finalMessage();
    return pieces;
  },
  async tools() {
    const answer = await client.messages.create({
      ...asked,
      messages: turn(ask.WEATHER),
      tools: [{ name: "get_weather", input_schema: ask.CITY_SCHEMA }],
      tool_choice: { type: "tool", name: "get_weather" },
    });
    const [call] = answer.content;
    return { name: call.name, arguments: call.input };
  },
  async structured() {
    const answer = await client.messages.parse({
      ...asked,
      messages: turn(ask.WEATHER),
      output_config: { format: zodOutputFormat(z.object({ city: z.enum(["Paris", "Oslo"]) })) },
    });
    return answer.parsed_output;
  },
  async image() {
    const source = {
      type: "base64",
      media_type: "image/jpeg",
      data: ask.CAT.toString("base64"),
    };
    const parts = [
      { type: "image", source },
      { type: "text", text: ask.ANIMAL },
    ];
    const answer = await client.messages.create({ ...asked, messages: turn(parts) });
    return answer.content[0].text;
  },
  async error() {
    try {
      const messages = turn(ask.QUESTION);
      await client.messages.create({ model: "no-such-model", max_tokens: 1, messages });
    } catch (error) {
      if (error instanceof NotFoundError) return ask.refused(error);
      throw error;
    }
  },
});
