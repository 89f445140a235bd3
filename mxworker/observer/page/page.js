"use strict";
// Asks for this page again every two seconds, and changes what is different in it. Nothing else is known here.
const EVERY_MS = 2000, PATIENCE_MS = 5000;
const live = document.getElementById("live"), lost = document.getElementById("lost");
const clock = () => new Date().toISOString().slice(11, 19) + " UTC";
let answeredAt = clock(), timer = 0;

function patch(shown, fresh) {
  if (shown.nodeType === Node.TEXT_NODE) {
    if (shown.data !== fresh.data) shown.data = fresh.data;
    return;
  }
  if (shown.dataset.keep !== undefined) return;
  for (const { name } of [...shown.attributes]) if (!fresh.hasAttribute(name)) shown.removeAttribute(name);
  for (const { name, value } of fresh.attributes) if (shown.getAttribute(name) !== value) shown.setAttribute(name, value);
  const before = [...shown.childNodes], after = [...fresh.childNodes];
  after.forEach((node, at) => {
    const old = before[at];
    if (!old) shown.append(document.adoptNode(node));
    else if (old.nodeName !== node.nodeName) old.replaceWith(document.adoptNode(node));
    else patch(old, node);
  });
  before.slice(after.length).forEach((node) => node.remove());
}

async function look() {
  clearTimeout(timer);
  try {
    const answer = await fetch(location.href, { cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS) });
    if (!answer.ok) throw new Error(`it answers ${answer.status}`);
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    if (page.body.dataset.build !== document.body.dataset.build) return location.reload();
    patch(document.body, page.body);
    document.title = page.title;
    document.querySelector("link[rel=icon]").href = page.querySelector("link[rel=icon]").href;
    answeredAt = clock();
    live.textContent = `Live, ${answeredAt}`;
    lost.hidden = true;
    delete document.documentElement.dataset.lost;
  } catch (error) {
    lost.querySelector("h1").textContent = `No answer since ${answeredAt}`;
    document.title = "No answer";
    live.textContent = `Tried at ${clock()}`;
    lost.hidden = false;
    document.documentElement.dataset.lost = "";
  }
  if (!document.hidden) timer = setTimeout(look, EVERY_MS);
}

document.addEventListener("visibilitychange", () => document.hidden || look());
look();
