"use strict";
// What both pages are made of. Text from the server goes into text nodes only, never into markup.

function make(tag, properties, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties || {})) {
    if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

const byId = (id) => document.getElementById(id);

// Words between backticks are code.
const prose = (text) => text.split("`").map((part, index) => (index % 2 ? make("code", null, part) : part));

class Refused extends Error {}

// Ask the server that this page came from; what it refuses is an error with its own words.
async function ask(method, path, options = {}) {
  const headers = { Accept: "application/json", ...options.headers };
  let answer;
  try {
    answer = await fetch(path, { method, headers, body: options.body });
  } catch {
    throw new Refused("The server does not answer.");
  }
  const text = await answer.text();
  let content;
  try {
    content = JSON.parse(text);
  } catch {
    content = { error: text.slice(0, 300) };
  }
  if (!answer.ok) {
    const refused = new Refused(content.error || `The server answered ${answer.status}.`);
    refused.status = answer.status;
    throw refused;
  }
  return { content, timing: answer.headers.get("Server-Timing") };
}
