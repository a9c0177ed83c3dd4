const VERBS = ["get", "post", "put", "patch", "delete"];
const DEEP = 5; // levels of schemas that an example shows

let schemas = {};

const resolve = (schema) => (schema && schema.$ref ? schemas[schema.$ref.split("/").pop()] || {} : schema || {});

// An example of what a schema allows: its defaults, else one value of each type.
function example(schema, depth = 0) {
  const found = resolve(schema);
  if (found.default !== undefined) return found.default;
  if (found.const !== undefined) return found.const;
  if (found.enum) return found.enum[0];
  if (found.examples) return found.examples[0];
  const choice = (found.anyOf || found.oneOf || found.allOf || []).find((each) => each.type !== "null");
  if (choice) return example(choice, depth);
  if (depth > DEEP) return "…";
  if (found.type === "array") return found.items ? [example(found.items, depth + 1)] : [];
  if (found.type === "object" || found.properties) {
    const keys = Object.entries(found.properties || {});
    return Object.fromEntries(keys.map(([name, inner]) => [name, example(inner, depth + 1)]));
  }
  return { integer: 0, number: 0, boolean: false, string: "…" }[found.type] ?? "…";
}

function typeOf(schema) {
  if (schema && schema.$ref) return schema.$ref.split("/").pop();
  const found = schema || {};
  const any = found.anyOf || found.oneOf;
  if (any) return any.map(typeOf).join(" or ");
  if (found.type === "array") return `list of ${typeOf(found.items)}`;
  return found.format || found.type || "anything";
}

const heading = (text) => make("p", { className: "quiet small" }, text);

function fieldsTable(schema) {
  const found = resolve(schema);
  const needed = new Set(found.required || []);
  const rows = Object.entries(found.properties || {}).map(([name, inner]) => make("tr", null,
    make("td", null, make("code", null, name), needed.has(name) ? make("span", { className: "bad", title: "required" }, " *") : ""),
    make("td", { className: "small" }, typeOf(inner)),
    make("td", { className: "words small" }, inner.description || "")));
  return rows.length ? make("div", { className: "scroll" }, make("table", null, rows)) : null;
}

function content(title, parts) {
  return Object.entries(parts || {}).flatMap(([type, { schema }]) => {
    const isJson = type.includes("json");
    return [heading(`${title}: ${type}`), isJson ? fieldsTable(schema) : null,
      isJson && schema ? make("pre", null, JSON.stringify(example(schema), null, 1)) : null];
  });
}

function parameters(found) {
  if (!found.length) return [];
  const rows = found.map((each) => make("tr", null,
    make("td", null, make("code", null, each.name), each.required ? make("span", { className: "bad", title: "required" }, " *") : ""),
    make("td", { className: "small" }, each.in),
    make("td", { className: "words small" }, each.description || "")));
  return [heading("Parameters"), make("div", { className: "scroll" }, make("table", null, rows))];
}

function operation(verb, path, found) {
  const body = found.requestBody ? found.requestBody.content : null;
  const failures = Object.entries(found.responses || {}).filter(([status]) => status >= "4");
  const success = (found.responses || {})["200"] || {};
  return make("details", { id: found.operationId },
    make("summary", null, make("code", { className: "verb" }, verb.toUpperCase()), make("code", null, path),
      make("span", { className: "quiet" }, found.summary || ""), found.security ? make("span", { className: "busy small" }, "admin") : ""),
    found.description ? make("p", { style: "white-space:pre-line" }, prose(found.description)) : null,
    parameters(found.parameters || []),
    content("Body", body),
    content("Answer", success.content),
    heading("Otherwise"),
    make("p", { className: "small" }, failures.map(([status, { description }]) => `${status} ${description}`).join(" · ")));
}

function show(document_) {
  schemas = document_.components.schemas;
  byId("about").textContent = document_.info.version;
  byId("description").append(...prose(document_.info.description));
  const groups = new Map();
  for (const [path, verbs] of Object.entries(document_.paths)) {
    for (const verb of VERBS.filter((each) => each in verbs)) {
      const tag = (verbs[verb].tags || ["other"])[0];
      groups.set(tag, [...(groups.get(tag) || []), operation(verb, path, verbs[verb])]);
    }
  }
  byId("operations").replaceChildren(...[...groups].map(([tag, found]) => make("section", null, make("h2", null, tag), found)));
  openNamed();
}

function openNamed() {
  const named = location.hash && byId(decodeURIComponent(location.hash.slice(1)));
  if (named && named.tagName === "DETAILS") {
    named.open = true;
    named.scrollIntoView();
  }
}

byId("filter").addEventListener("input", () => {
  const wanted = byId("filter").value.toLowerCase();
  for (const section of document.querySelectorAll("#operations section")) {
    const found = [...section.querySelectorAll("details")];
    for (const each of found) each.hidden = !each.querySelector("summary").textContent.toLowerCase().includes(wanted);
    section.hidden = found.every((each) => each.hidden);
  }
});
addEventListener("hashchange", openNamed);
ask("GET", "/openapi.json").then(({ content: found }) => show(found), (error) => {
  byId("operations").replaceChildren(make("p", { className: "bad" }, error.message));
});
