// Vercel's AI SDK. The lines of `galley connect ai-sdk` stand before these; they make `galley`,
// `chat` and `embeddings`.
import { APICallError, embedMany, generateText, Output, streamText, tool } from "ai";
import { z } from "zod";
import * as ask from "./report.mjs";

const asked = { model: chat, temperature: 0, maxOutputTokens: 40, maxRetries: 0 };
const place = z.object({ city: z.enum(["Paris", "Oslo"]) });

await ask.report({
  async chat() {
    const answer = await generateText({ ...asked, prompt: ask.QUESTION });
    return { text: answer.text, tokens: answer.usage.outputTokens };
  },
  async stream() {
    const pieces = [];
    for await (const piece of streamText({ ...asked, prompt: ask.QUESTION }).textStream) {
      pieces.push(piece);
    }
    return pieces;
  },
  async tools() {
    const answer = await generateText({
      ...asked,
      prompt: ask.WEATHER,
      tools: { get_weather: tool({ inputSchema: place }) },
      toolChoice: "required",
    });
    const [call] = answer.toolCalls;
    return { name: call.toolName, arguments: call.input };
  },
  async structured() {
    const output = Output.object({ schema: place });
    return (await generateText({ ...asked, prompt: ask.WEATHER, output })).output;
  },
  async image() {
    const content = [
      { type: "text", text: ask.ANIMAL },
      { type: "file", data: ask.CAT, mediaType: "image/jpeg" },
    ];
    return (await generateText({ ...asked, messages: [{ role: "user", content }] })).text;
  },
  async embeddings() {
    const answer = await embedMany({ model: embeddings, values: ask.TEXTS, maxRetries: 0 });
    return ask.compared(answer.embeddings);
  },
  async error() {
    try {
      await generateText({ ...asked, model: galley("no-such-model"), prompt: ask.QUESTION });
    } catch (error) {
      if (APICallError.isInstance(error)) {
        return { kind: `${error.statusCode}`, message: error.message };
      }
      throw error;
    }
  },
});
