"use strict";

const by = (id) => document.getElementById(id);
const token = decodeURIComponent(location.hash.slice(1));
let item = null;
let chosen = 0;
let busy = false;

function element(kind, text, name) {
  const made = document.createElement(kind);
  if (text !== undefined) made.textContent = text;
  if (name) made.className = name;
  return made;
}

async function call(path, body) {
  const headers = { "Content-Type": "application/json" };
  if (token) headers["X-Token"] = token;
  const how = body === undefined ? { headers } : { headers, method: "POST", body: JSON.stringify(body) };
  const answer = await fetch(path, how);
  const found = await answer.json();
  if (!answer.ok) throw new Error(found.error || String(answer.status));
  return found;
}

function labeller() {
  return by("name").value.trim();
}

async function next() {
  item = null;
  show();
  if (!labeller()) {
    by("message").textContent = "Give your name to begin.";
    return;
  }
  const found = await call("/api/next?labeller=" + encodeURIComponent(labeller()));
  by("bar").max = Math.max(found.total, 1);
  by("bar").value = found.done;
  by("count").textContent = found.done + " of " + found.total;
  by("message").textContent = found.finished ? "All done. Thank you." : "";
  if (!found.finished) {
    const count = found.answers.length;
    item = { ...found, ranks: Array(count).fill(0), scores: Array(count).fill(0) };
    item.marks = found.answers.map(() => new Set());
  }
  chosen = 0;
  show();
}

function card(answer, at) {
  const box = element("li", undefined, at === chosen ? "chosen" : "");
  box.dataset.at = at;
  box.append(element("div", answer.text, "text"));
  const rank = item.ranks[at] ? "rank " + item.ranks[at] : "no rank yet";
  const score = item.scores[at] ? ", score " + item.scores[at] + " of 7" : "";
  box.append(element("div", rank + score, "given"));
  const more = element("details");
  more.open = item.open === at;
  more.append(element("summary", "Questions"));
  const set = element("fieldset");
  item.flags.forEach((words, flag) => {
    const label = element("label");
    const tick = element("input");
    tick.type = "checkbox";
    tick.checked = item.marks[at].has(flag);
    tick.addEventListener("change", () => {
      if (tick.checked) item.marks[at].add(flag);
      else item.marks[at].delete(flag);
    });
    label.append(tick, " " + words);
    set.append(label);
  });
  more.append(set);
  more.addEventListener("toggle", () => {
    if (more.open) item.open = at;
    else if (item && item.open === at) item.open = -1;
  });
  box.append(more);
  box.addEventListener("click", () => {
    if (chosen !== at) {
      chosen = at;
      mark();
    }
  });
  return box;
}

function mark() {
  for (const box of by("answers").children) box.classList.toggle("chosen", Number(box.dataset.at) === chosen);
  const here = by("answers").children[chosen];
  if (here) here.scrollIntoView({ block: "nearest" });
}

function written(content) {
  return typeof content === "string" ? content : JSON.stringify(content);
}

function turn({ role, content, ...rest }) {
  const box = element("div", undefined, "turn");
  box.append(element("div", String(role), "role"));
  if (content !== undefined && content !== null) box.append(element("div", written(content), "text"));
  if (Object.keys(rest).length) box.append(element("div", JSON.stringify(rest), "text"));
  return box;
}

function asked() {
  if (!item) return [];
  return Array.isArray(item.prompt) ? item.prompt.map(turn) : [item.prompt];
}

function show() {
  by("prompt").replaceChildren(...asked());
  by("answers").replaceChildren(...(item ? item.answers.map(card) : []));
  by("send").disabled = !item || item.ranks.includes(0);
}

async function send() {
  if (!item || item.ranks.includes(0)) return;
  const flags = item.marks.map((marks) => [...marks]);
  const body = { labeller: labeller(), id: item.id, ranks: item.ranks, scores: item.scores, flags };
  await call("/api/answer", body);
  await next();
}

async function undo() {
  if (!labeller()) return;
  await call("/api/undo", { labeller: labeller() });
  await next();
}

async function guarded(work) {
  if (busy) return;
  busy = true;
  try {
    await work();
  } catch (error) {
    by("message").textContent = error.message;
  } finally {
    busy = false;
  }
}

function key(event) {
  if (event.target === by("name")) {
    if (event.key === "Enter") by("name").blur();
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const digit = /^Digit([1-9])$/.exec(event.code) || /^Numpad([1-9])$/.exec(event.code);
  if (event.key === "u") {
    guarded(undo);
  } else if (event.key === "Enter" && event.target.tagName !== "BUTTON" && event.target.tagName !== "SUMMARY") {
    guarded(send);
  } else if (item && (event.key === "j" || event.key === "k")) {
    const count = item.answers.length;
    chosen = (chosen + (event.key === "j" ? 1 : count - 1)) % count;
    mark();
  } else if (item && event.key === "f") {
    item.open = item.open === chosen ? -1 : chosen;
    show();
  } else if (item && digit) {
    const value = Number(digit[1]);
    if (event.shiftKey && value <= 7) item.scores[chosen] = value;
    else if (!event.shiftKey && value <= item.answers.length) item.ranks[chosen] = value;
    else return;
    event.preventDefault();
    show();
  }
}

document.addEventListener("keydown", key);
by("name").addEventListener("change", () => guarded(next));
by("send").addEventListener("click", () => guarded(send));
by("undo").addEventListener("click", () => guarded(undo));
guarded(next);
