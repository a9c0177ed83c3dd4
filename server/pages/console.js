const REFRESH_MS = 2000;
const STATE = { READY: "good", LOADING: "busy", DRAINING: "busy", FAILED: "bad" };
let models = [];
let rates = new Map(); // of the moment: requests a second and milliseconds, by "model version"
let counted = new Map();
let countedAt = 0;
let picture = null;

const failed = (error) => make("p", { className: "bad" }, prose(String(error.message || error)));
const sized = (bytes) => (bytes < 1e6 ? `${Math.ceil(bytes / 1e3)} kB` : `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB`);

// --- traffic, from the metrics

const LINE = /^millrace_request_duration_seconds_(count|sum)\{(.*)\} ([^ ]+)$/;

function readTraffic(text) {
  const found = new Map();
  for (const line of text.split("\n")) {
    const match = LINE.exec(line);
    if (!match) continue;
    const label = (name) => (new RegExp(`(?:^|,)${name}="((?:[^"\\\\]|\\\\.)*)"`).exec(match[2]) || [])[1];
    const key = `${label("model")} ${label("version")}`;
    found.set(key, { ...found.get(key), [match[1]]: Number(match[3]) });
  }
  return found;
}

async function measure() {
  const answer = await fetch("/metrics");
  if (!answer.ok) return;
  const now = performance.now();
  const found = readTraffic(await answer.text());
  const seconds = (now - countedAt) / 1000;
  rates = new Map();
  for (const [key, { count, sum }] of found) {
    const before = counted.get(key) || { count: 0, sum: 0 };
    const more = count - before.count;
    if (!countedAt || more < 0) continue;
    rates.set(key, { rate: more / seconds, ms: more ? ((sum - before.sum) / more) * 1000 : null });
  }
  counted = found;
  countedAt = now;
}

// --- models

async function change(button, method, path, body, told) {
  button.disabled = true;
  byId("done").textContent = `${told} …`;
  byId("done").className = "small quiet";
  const token = byId("token").value;
  const headers = { "Content-Type": "application/json" };
  if (token) headers.Authorization = `Bearer ${token}`;
  try {
    await ask(method, path, { headers, body: body && JSON.stringify(body) });
    byId("done").textContent = `${told}: done.`;
    byId("done").className = "small good";
  } catch (error) {
    byId("done").textContent = `${told}: ${error.message}`;
    byId("done").className = "small bad";
    if (error.status === 401 || error.status === 403) {
      byId("token-row").hidden = false;
      byId("token").focus();
    }
  }
  button.disabled = false;
  refresh();
}

function buttons(model, version) {
  const path = `/models/${encodeURIComponent(model.name)}`;
  const name = `${model.name} ${version.version}`;
  const button = (title, told, verb, body) => {
    const made = make("button", { type: "button", className: "small", title: `${told} ${name}` }, title);
    made.dataset.key = `${title} ${name}`;
    made.addEventListener("click", () => change(made, "POST", `${path}/${verb}`, body, `${told} ${name}`));
    return made;
  };
  const which = { version: version.version };
  const shown = [];
  if (version.state === "UNLOADED" || version.state === "FAILED") shown.push(button("Load", "Load", "load", which));
  if (version.state === "READY" && !version.default) {
    shown.push(button("Promote", "Promote", "promote", which), button("Unload", "Unload", "unload", which));
  }
  if (version.default && model.previous && model.previous !== version.version) {
    shown.push(button(`Back to ${model.previous}`, "Roll back", "rollback"));
  }
  return make("div", { className: "row", style: "margin:0" }, shown);
}

function versionRow(model, version, index) {
  const memory = version.metadata.memory || {};
  const bytes = Object.values(memory).reduce((sum, each) => sum + each, 0);
  const traffic = rates.get(`${model.name} ${version.version}`);
  const labels = version.labels.length ? ` (${version.labels.join(", ")})` : "";
  const note = version.reason || version.progress || (index === 0 ? model.error || model.description : "");
  return make("tr", null,
    make("td", { className: "name" }, index === 0 ? make("h3", null, model.name) : "", index === 0 ? make("span", { className: "quiet small" }, model.task || "") : ""),
    make("td", null, version.version + labels, version.default ? make("strong", { title: "serves requests that name no version" }, " ✓") : ""),
    make("td", { className: STATE[version.state] || "quiet" }, version.state),
    make("td", { className: "number" }, bytes ? sized(bytes) : ""),
    make("td", { className: "number" }, traffic ? traffic.rate.toFixed(traffic.rate < 10 ? 1 : 0) : ""),
    make("td", { className: "number" }, traffic && traffic.ms !== null ? traffic.ms.toFixed(2) : ""),
    make("td", { className: "words small quiet" }, note),
    make("td", null, buttons(model, version)));
}

function showModels() {
  const rows = models.flatMap((model) => {
    const newestFirst = [...model.versions].reverse();
    return newestFirst.map((version, index) => versionRow(model, version, index));
  });
  if (!rows.length) {
    byId("models").replaceChildren(
      make("p", null, "No models yet. Put an ONNX file into the repository, and it is served:"),
      make("pre", null, `millrace push net.onnx --name mine --server ${location.origin}`));
    return;
  }
  const heads = [["Model"], ["Version"], ["State"], ["Memory", 1], ["Requests/s", 1], ["Mean ms", 1], ["Note"], [""]];
  const head = heads.map(([title, number]) => make("th", { className: number ? "number" : "", scope: "col" }, title));
  const focused = document.activeElement && document.activeElement.dataset.key; // the table is new each time
  byId("models").replaceChildren(make("table", null, make("thead", null, make("tr", null, head)), make("tbody", null, rows)));
  if (focused) [...byId("models").querySelectorAll("button")].find((each) => each.dataset.key === focused)?.focus();
}

function fill(select, names) {
  if (select.dataset.names === names.join("\n")) return false;
  const chosen = select.value;
  select.dataset.names = names.join("\n");
  select.replaceChildren(...names.map((name) => make("option", { value: name }, name)));
  if (names.includes(chosen)) select.value = chosen;
  return select.value !== chosen;
}

async function refresh() {
  try {
    const [about, found, collections] = await Promise.all([
      ask("GET", "/"), ask("GET", "/models"), ask("GET", "/collections").catch(() => null), measure().catch(() => null),
    ]);
    models = found.content.models;
    byId("trouble").hidden = true;
    byId("about").textContent = `${about.content.version}, ${about.content.ready ? "ready" : "not ready"}`;
    byId("about").className = about.content.ready ? "good" : "busy";
    showModels();
    const ready = models.filter((model) => model.default).map((model) => model.name);
    byId("try").hidden = !ready.length;
    if (fill(byId("model"), ready)) chooseModel();
    const names = collections ? collections.content.collections : [];
    byId("search").hidden = !names.length;
    fill(byId("collection"), names);
    showMap();
  } catch (error) {
    byId("trouble").textContent = `${error.message} Trying again …`;
    byId("trouble").hidden = false;
    byId("about").textContent = "";
  }
}

// --- trying a model

const chosen = () => models.find((model) => model.name === byId("model").value);

function zeros(shape) {
  const [first, ...rest] = shape.map((size) => (size < 0 ? 1 : size));
  return first === undefined ? 0 : Array.from({ length: first }, () => zeros(rest));
}

async function chooseModel() {
  const model = chosen();
  if (!model) return;
  const tasks = { classification: "picture", embedding: "picture", translation: "text" };
  byId("what").value = tasks[model.task] || "tensors";
  clearAnswer();
  await chooseWhat();
}

async function chooseWhat() {
  const what = byId("what").value;
  for (const each of ["picture", "text", "tensors"]) byId(`${each}-part`).hidden = each !== what;
  if (what !== "tensors") return;
  try {
    const { content } = await ask("GET", `/v2/models/${encodeURIComponent(byId("model").value)}`);
    const lines = content.inputs.map((input) => {
      const known = input.shape.reduce((product, size) => product * Math.abs(size), 1);
      const value = input.datatype === "BYTES" ? [""] : known > 4096 ? [] : zeros(input.shape);
      return `  ${JSON.stringify(input.name)}: ${JSON.stringify(value)}`;
    });
    byId("tensors").value = `{\n${lines.join(",\n")}\n}`;
    const said = content.inputs.map((input) => `${input.name} ${input.datatype} [${input.shape.join(", ")}]`);
    byId("took").textContent = `Inputs: ${said.join("; ")}; -1 is any size`;
  } catch (error) {
    byId("answer").replaceChildren(failed(error));
  }
}

function takePicture(file) {
  if (!file || !file.type.startsWith("image/")) return;
  picture = file;
  if (byId("preview").src) URL.revokeObjectURL(byId("preview").src);
  byId("preview").src = URL.createObjectURL(file);
  byId("preview").hidden = false;
}

function base64(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.split(",", 2)[1]);
    reader.onerror = () => reject(new Refused("The picture cannot be read."));
    reader.readAsDataURL(file);
  });
}

async function readItem() {
  const what = byId("what").value;
  if (what === "picture") {
    if (!picture) throw new Refused("Choose a picture first.");
    return { image: { b64: await base64(picture) } };
  }
  if (what === "text") return { text: byId("text").value };
  try {
    return { tensors: JSON.parse(byId("tensors").value) };
  } catch (error) {
    throw new Refused(`The tensors are not JSON: ${error.message}`);
  }
}

function shown(result) {
  if (result.predictions) {
    return make("div", { className: "bars" }, result.predictions.flatMap(({ label, score }) => {
      const bar = make("div");
      bar.style.width = `${Math.max(0, Math.min(1, score)) * 100}%`;
      return [make("span", null, label), make("div", { className: "bar" }, bar), make("span", { className: "number" }, score.toFixed(4))];
    }));
  }
  if (typeof result.text === "string") return make("p", null, result.text);
  if (result.embedding) return make("p", null, `${result.dim} numbers: ${result.embedding.slice(0, 8).map((each) => each.toFixed(4)).join(", ")}, …`);
  return make("pre", null, JSON.stringify(result.outputs || result, null, 1));
}

function clearAnswer() {
  byId("answer").replaceChildren();
  byId("took").textContent = "";
  byId("raw-part").hidden = true;
}

async function predict(event) {
  event.preventDefault();
  byId("send").disabled = true;
  clearAnswer();
  try {
    const body = JSON.stringify({ model: byId("model").value, inputs: [await readItem()] });
    const { content, timing } = await ask("POST", "/predict", { headers: { "Content-Type": "application/json" }, body });
    byId("answer").replaceChildren(...content.results.map(shown));
    byId("took").textContent = (timing || "").replaceAll(";dur=", " ").replaceAll(", ", " ms, ") + (timing ? " ms" : "");
    const short = body.length > 2000 ? "@request.json" : body.replaceAll("'", "'\\''");
    byId("curl").textContent = `curl -s ${location.origin}/predict -H 'Content-Type: application/json' -d '${short}'`;
    byId("raw").textContent = JSON.stringify(content, null, 1).slice(0, 20000);
    byId("raw-part").hidden = false;
  } catch (error) {
    byId("answer").replaceChildren(failed(error));
  }
  byId("send").disabled = false;
}

// --- searching

function showMap() {
  byId("map").href = `/collections/${encodeURIComponent(byId("collection").value)}/map?format=png`;
}

async function search() {
  const [file] = byId("search-file").files;
  if (!file) return;
  byId("hits").replaceChildren(make("p", { className: "quiet" }, "Searching …"));
  const name = byId("collection").value;
  try {
    const body = JSON.stringify({ collection: name, image: { b64: await base64(file) }, k: 12 });
    const { content } = await ask("POST", "/similar", { headers: { "Content-Type": "application/json" }, body });
    const hits = content.results[0].hits.map(({ id, score }) => make("figure", null,
      make("img", { alt: id, loading: "lazy", src: `/collections/${encodeURIComponent(name)}/items/${id.split("/").map(encodeURIComponent).join("/")}/thumbnail` }),
      make("figcaption", null, `${id} (${score.toFixed(3)})`)));
    byId("hits").replaceChildren(...(hits.length ? hits : [make("p", { className: "quiet" }, "Nothing in this collection yet.")]));
  } catch (error) {
    byId("hits").replaceChildren(failed(error));
  }
}

// --- events

byId("form").addEventListener("submit", predict);
byId("model").addEventListener("change", chooseModel);
byId("what").addEventListener("change", () => { clearAnswer(); chooseWhat(); });
byId("file").addEventListener("change", () => takePicture(byId("file").files[0]));
byId("collection").addEventListener("change", () => { showMap(); search(); });
byId("search-file").addEventListener("change", search);
byId("token").value = sessionStorage.getItem("millrace-token") || "";
byId("token").addEventListener("change", () => sessionStorage.setItem("millrace-token", byId("token").value));
document.addEventListener("paste", (event) => takePicture([...event.clipboardData.files][0]));
const drop = byId("picture-part");
drop.addEventListener("dragover", (event) => { event.preventDefault(); drop.classList.add("over"); });
drop.addEventListener("dragleave", () => drop.classList.remove("over"));
drop.addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  takePicture(event.dataTransfer.files[0]);
});
refresh();
setInterval(() => { if (!document.hidden) refresh(); }, REFRESH_MS);
