// What every client is asked, and how its script tells what came of it: see ../clients/report.py.
import { readFileSync } from "node:fs";

export const CHAT = "galley/chat";
export const EMBEDDINGS = "galley/embeddings";
export const QUESTION = "What is FastAPI?";
export const WEATHER = "What is the weather in Paris?";
export const ANIMAL = "What animal is in this picture?";
export const CAT = readFileSync(new URL("../../data/photos/cat.jpg", import.meta.url));
export const TEXTS = ["a cat sits on the mat", "a kitten is on a rug", "stock markets fell"];
export const CITY_SCHEMA = {
  type: "object",
  properties: { city: { type: "string", enum: ["Paris", "Oslo"] } },
  required: ["city"],
  additionalProperties: false,
};

// How long the vectors of TEXTS are, and how near to the first the others.
export function compared([first, ...others]) {
  const [near, far] = others.map((other) => other.reduce((sum, x, i) => sum + x * first[i], 0));
  return { dimensions: first.length, near, far };
}

// What the client threw.
export function refused(error) {
  return { kind: error.constructor.name, message: error.message };
}

// Tries each aspect and prints what came; one that fails takes no other with it.
export async function report(aspects) {
  const told = {};
  for (const [name, ask] of Object.entries(aspects)) {
    try {
      told[name] = await ask();
    } catch (error) {
      told[name] = { failed: String(error.stack) };
    }
  }
  process.stdout.write(JSON.stringify(told));
}
