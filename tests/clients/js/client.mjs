// Reads calls from standard input as JSON, makes them with the openai package from npm, writes what came.
//
// A call is {"method": "completions.create", "args": [...], "options": {...}}; with `stream` in its first
// argument the chunks come as a list. An error is written as its class and what the class carries.
import { readFileSync } from "node:fs";
import OpenAI from "openai";

const { settings, calls, together } = JSON.parse(readFileSync(0, "utf8"));
const statuses = [];

async function watched(url, init) {
  const response = await fetch(url, init);
  statuses.push(response.status);
  return response;
}

const client = new OpenAI({ ...settings, fetch: watched });

async function make({ method, args, options }) {
  const path = method.split(".");
  const name = path.pop();
  const owner = path.reduce((found, part) => found[part], client);
  try {
    const value = await owner[name](...args, options);
    if (args[0]?.stream) {
      const chunks = [];
      for await (const chunk of value) chunks.push(chunk);
      return { value: chunks };
    }
    return { value: typeof value?.getPaginatedItems === "function" ? value.getPaginatedItems() : value };
  } catch (error) {
    const { status, code, param, type, message } = error;
    return { error: { name: error.constructor.name, status, code, param, type, message } };
  }
}

const results = [];
if (together) results.push(...(await Promise.all(calls.map(make))));
else for (const call of calls) results.push(await make(call));
process.stdout.write(JSON.stringify({ results, statuses }));
