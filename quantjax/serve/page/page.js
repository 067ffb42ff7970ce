// The page's state is the part of its address behind "#" (row or upload, mode, class, count), so
// that links, the back button and reloading work. Text enters the page as text, never as HTML.

const $ = (id) => document.getElementById(id);
const STEP = 24;
const MODES = {
  aqd: ["AQD", "The query keeps its exact embedding; items are codes."],
  sqd: ["SQD", "Query and items are both codes."],
  hamming: ["Hamming", "Counts the bits in which two codes differ."],
  class: ["Class", "Items of the likeliest class come first."],
  float: ["Exact", "No quantization: distances of embeddings."],
  rerank: ["Re-rank", "Codes choose candidates; kept vectors order them."],
};
const SOURCES = {
  photo: "encoded from its photo",
  vector: "searched by its kept vector",
  code: "searched by its stored code",
};

const uploads = new Map(); // number -> {file, url}
let about = null; // the server's description of the index
let running = null; // aborts the request in flight

/* ---- requests ---- */

async function ask(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { signal: running?.signal, ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer. Is it still running?");
  }
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(answer.error ?? `The server answered ${response.status}.`);
  return answer;
}

const search = (state) => {
  const upload = uploads.get(state.upload);
  const options = upload && {
    method: "POST",
    body: upload.file,
    headers: { "content-type": "application/octet-stream" },
  };
  const { row, mode, count } = state;
  return ask(`api/search?${query({ row, mode, count, class: state.class })}`, options);
};

const query = (values) =>
  new URLSearchParams(Object.entries(values).filter(([, value]) => value)).toString();

/* ---- state ---- */

const defaults = () => ({ mode: about.modes[0], count: String(STEP) });
const stated = () => ({
  ...defaults(),
  ...Object.fromEntries(new URLSearchParams(location.hash.slice(1))),
});
const link = (changes) => {
  const state = { ...stated(), ...changes };
  const usual = Object.entries(defaults());
  for (const [name, value] of usual) if (state[name] === value) delete state[name];
  return `#${query(state)}`;
};
const searchRow = (row) => link({ row: String(row), upload: "", count: "" });

function searchFile(file) {
  if (!about?.encoder) return;
  if (!file) return fail("That was no image file.");
  if (file.size > about.max_upload_bytes) {
    const sizes = [file.size, about.max_upload_bytes].map(bytes);
    return fail(`${file.name} has ${sizes[0]}; the limit is ${sizes[1]}.`);
  }
  const number = String(uploads.size + 1);
  uploads.set(number, { file, url: URL.createObjectURL(file) });
  location.hash = link({ upload: number, row: "", count: "" });
}

async function searchRandom() {
  try {
    const { items } = await ask(`api/random?${query({ count: "1", class: stated().class })}`);
    if (items.length) location.hash = searchRow(items[0].row);
  } catch (error) {
    fail(error.message);
  }
}

/* ---- drawing ---- */

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

const bytes = (count) => {
  const units = ["bytes", "kB", "MB", "GB", "TB"];
  const step = count < 1000 ? 0 : Math.min(4, Math.floor(Math.log10(count) / 3));
  const number = count / 1000 ** step;
  return `${number >= 100 || step === 0 ? Math.round(number) : number.toPrecision(2)} ${units[step]}`;
};
const milliseconds = (ms) => `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`;
const items = (count) => `${count.toLocaleString("en")} ${count === 1 ? "item" : "items"}`;
const distance = (value) => (about.metric === "hamming" && Number.isInteger(value)
  ? `${value} ${value === 1 ? "bit" : "bits"}` : value.toPrecision(3));

function picture(item, url) {
  const words = element("span", { className: "no-picture", textContent: item.preview ?? item.id });
  if (!url) return words;
  const image = element("img", { alt: item.id, src: url, decoding: "async" });
  image.onerror = () => image.replaceWith(words);
  return image;
}

const photo = (row) => about.pictures && `images/${row}?v=${about.version}`;

function tile(item, wanted) {
  const kind = wanted && item.class && (item.class === wanted ? "same" : "other");
  const words = element("div", { className: "words" },
    element("span", { className: kind || "", textContent: item.class ?? (about.pictures ? item.id : "") }));
  if (item.distance !== undefined) {
    words.append(element("span", { className: "distance", textContent: distance(item.distance) }));
  }
  const frame = element("div", { className: "picture" }, picture(item, photo(item.row)));
  const told = [item.id, item.class, item.distance !== undefined && `distance ${item.distance}`];
  const anchor = element("a", {
    className: "item", href: searchRow(item.row), title: told.filter(Boolean).join("\n"),
  }, frame, words);
  return element("li", {}, anchor);
}

function drawQuery(answer, upload) {
  const asked = upload ? { id: upload.file.name || "pasted image", preview: "no preview" } : answer?.query;
  $("prompt").hidden = Boolean(asked);
  $("asked").hidden = !asked;
  $("drop").classList.toggle("filled", Boolean(asked));
  if (!asked) return;
  const url = upload ? upload.url : photo(asked.row);
  document.querySelector("#asked .picture").replaceChildren(picture(asked, url));
  const how = answer && SOURCES[answer.query.source];
  const words = upload ? how : [asked.class, how].filter(Boolean).join(", ");
  document.querySelector("#asked figcaption").replaceChildren(
    element("b", { textContent: asked.id }), words ?? "");
}

function drawNumbers(answer) {
  $("numbers").hidden = !answer;
  if (!answer) return;
  const told = {
    Encode: answer.encode_ms === null ? "not needed" : milliseconds(answer.encode_ms),
    Search: milliseconds(answer.search_ms),
    "Bytes per image": String(about.num_bytes),
  };
  if (stated().mode === "rerank") told["Bytes per image"] += ` + ${about.vector_bytes} (vector)`;
  $("numbers").replaceChildren(...Object.entries(told).flatMap(([name, value]) =>
    [element("dt", { textContent: name }), element("dd", { textContent: value })]));
}

function drawOptions(state) {
  for (const input of document.querySelectorAll("#modes input")) {
    input.checked = input.value === state.mode;
  }
  $("mode-note").textContent = MODES[state.mode]?.[1] ?? "";
  $("class").value = state.class ?? "";
}

function drawItems(found, wanted) {
  // The focus stays in the grid: a search by keyboard goes on from the first of the new items.
  const focused = $("grid").contains(document.activeElement);
  $("grid").replaceChildren(...found.map((item) => tile(item, wanted)));
  if (focused) $("grid").querySelector("a")?.focus({ preventScroll: true });
}

function say(heading, text, empty = false) {
  $("message").className = empty ? "empty" : "";
  $("message").replaceChildren(element("b", { textContent: heading }), text);
  $("message").hidden = false;
}

function fail(text) {
  drawItems([]);
  drawNumbers(null);
  $("more").hidden = true;
  $("status").textContent = "";
  $("title").textContent = "No results";
  const [, heading, reason] = text.match(/^([^:]+)(?:: (.*))?$/s) ?? [null, "Error", text];
  say(`${heading[0].toUpperCase()}${heading.slice(1)}`, reason ?? "");
}

async function show() {
  running?.abort();
  running = new AbortController();
  const { signal } = running;
  const state = stated();
  const upload = uploads.get(state.upload);
  drawOptions(state);
  $("message").hidden = true;
  $("results").setAttribute("aria-busy", "true");
  try {
    if (state.upload && !upload) throw new Error("That image was not kept. Choose it again.");
    if (upload) drawQuery(null, upload);
    if (upload || state.row) drawSearch(await search(state), state, upload);
    else drawStart(await ask(`api/random?${query({ count: String(STEP), class: state.class })}`));
  } catch (error) {
    if (error.name === "AbortError") return;
    if (!upload) drawQuery(null);
    fail(error.message);
  } finally {
    if (!signal.aborted) $("results").removeAttribute("aria-busy");
  }
}

const searched = (state) =>
  about.classes.find(({ name }) => name === state.class)?.count ?? about.count;

function drawSearch(answer, state, upload) {
  const { neighbours } = answer;
  drawQuery(answer, upload);
  drawNumbers(answer);
  // Within one class there is nothing to tell apart.
  const wanted = !state.class && answer.query.class;
  drawItems(neighbours, wanted);
  $("title").textContent = "Nearest items";
  $("status").textContent = `${neighbours.length} of ${items(searched(state))}`;
  if (wanted) {
    $("status").append(element("span", { className: "key same", textContent: wanted }),
      element("span", { className: "key other", textContent: "other class" }));
  }
  const count = Number(state.count);
  $("more").hidden = neighbours.length < count || count >= about.max_count;
  if (!neighbours.length) say("Nothing to show", "No other item is in this class.", true);
}

function drawStart({ items: found }) {
  drawQuery(null);
  drawNumbers(null);
  drawItems(found);
  $("more").hidden = true;
  $("title").textContent = "From the index";
  $("status").textContent = found.length ? "Click an item to search from it" : "";
  if (!about.count) say("The index is empty", "Encode some photos into it, and start again.", true);
  else if (!found.length) say("Nothing to show", "No item is in this class.", true);
}

/* ---- events ---- */

function move(key) {
  const links = [...$("grid").querySelectorAll("a")];
  const at = links.indexOf(document.activeElement);
  const columns = links.findIndex((a) => a.offsetTop > links[0].offsetTop);
  const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[key];
  links[at < 0 ? 0 : at + step]?.focus();
  return links.length > 0;
}

const KEYS = {
  "/": () => $("class").focus(),
  r: searchRandom,
  o: () => about.encoder && $("file").click(),
  Escape: () => { location.hash = ""; },
};

document.addEventListener("keydown", (event) => {
  if (!about || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape" && event.target === $("class")) return $("class").blur();
  if (event.target.matches("select, input")) return;
  if (event.key in KEYS) KEYS[event.key]();
  else if (!(event.key.startsWith("Arrow") && move(event.key))) return;
  event.preventDefault();
});

document.addEventListener("paste", (event) => {
  if (event.clipboardData.files.length) searchFile(event.clipboardData.files[0]);
});
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.toggle("dragged", Boolean(about?.encoder));
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("dragged");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dragged");
  searchFile(event.dataTransfer.files[0]);
});
$("file").addEventListener("change", () => {
  if ($("file").files.length) searchFile($("file").files[0]);
  $("file").value = ""; // so that the same file can be chosen again
});
$("random").addEventListener("click", searchRandom);
$("class").addEventListener("change", () => {
  location.hash = link({ class: $("class").value, count: "" });
});
$("modes").addEventListener("change", (event) => {
  location.hash = link({ mode: event.target.value });
});
$("more").addEventListener("click", () => {
  const count = Math.min(Number(stated().count) + STEP, about.max_count);
  location.replace(link({ count: String(count) }));
});

async function start() {
  try {
    about = await ask("api/index");
  } catch (error) {
    return fail(error.message);
  }
  document.title = `${about.name} · quantjax`;
  const total = bytes(about.count * about.num_bytes);
  $("facts").textContent =
    `${about.name} · ${items(about.count)} · ${about.bits}-bit codes · ${total} in all`;
  document.querySelector("#modes .segments").append(...about.modes.map((mode) =>
    element("label", {},
      element("input", { type: "radio", name: "mode", value: mode }), MODES[mode][0])));
  $("class").append(element("option", { value: "", textContent: "All classes" }),
    ...about.classes.map(({ name, count }) => element("option",
      { value: name, textContent: `${name} (${count.toLocaleString("en")})` })));
  for (const part of [$("filter"), ...document.querySelectorAll(".of-classes")]) {
    part.hidden = !about.classes.length;
  }
  for (const part of [$("choose"), ...document.querySelectorAll(".of-images")]) {
    part.hidden = !about.encoder;
  }
  document.body.classList.toggle("bare", !about.pictures && !about.encoder);
  if (!about.encoder) {
    $("drop").classList.add("still");
    $("invite").textContent =
      "This index has no encoder for new images. Search from one of its own items.";
  }
  let row = null;
  addEventListener("hashchange", () => {
    const now = stated();
    // Another query starts at the top; more results, or another distance, keep the place.
    if (`${now.row}/${now.upload}` !== row) scrollTo(0, 0);
    row = `${now.row}/${now.upload}`;
    show();
  });
  await show();
}

start();
