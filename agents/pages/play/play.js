"use strict";
// Draws the boxes and asks the server for everything else. (row, col) in [-1, 1] always; a box's
// scale is half its side. Only drawing, which wants (x, y), turns them.
const [game, stage, scene, boxes, zoom] = ["game", "stage", "scene", "boxes", "zoom"].map(
  (id) => document.getElementById(id),
);
const at = (id) => document.getElementById(id);

const ZOOM_STEP = 0.25; // of -1 .. 1, the whole scene to the closest glimpse
const WHEEL_PX = 400; // scrolled for one unit of zoom

let state; // what the server said last
let aim = { row: 0, col: 0, zoom: 0 };
let others = null; // the glimpses of a policy, when they are shown after the game
let busy = false;

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

// -- where the next glimpse would be ---------------------------------------------------------------

// The zoom of the environment's box actions: the scale falls geometrically from 1 to the smallest.
const scaleOf = (z) => Math.max(state.min_scale ** ((z + 1) / 2), state.min_scale);

const place = () => [aim.row, aim.col, scaleOf(aim.zoom)];

function point(row, col, z = aim.zoom) {
  const reach = 1 - scaleOf(clamp(z, -1, 1));
  aim = {
    row: clamp(row, -reach, reach),
    col: clamp(col, -reach, reach),
    zoom: clamp(z, -1, 1),
  };
  zoom.value = aim.zoom;
  draw();
}

function describe([row, col, scale]) {
  const signed = (v) => (v < -0.004 ? "-" : "+") + Math.abs(v).toFixed(2);
  return `row ${signed(row)}, column ${signed(col)}, scale ${scale.toFixed(2)}`;
}

function adviceOf(advice) {
  if (advice === null) return "";
  return ` The policy would ${advice === "stop" ? "stop here" : `look at ${describe(advice)}`}.`;
}

// -- drawing ---------------------------------------------------------------------------------------

function shape(name, attributes, text) {
  const item = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) item.setAttribute(key, value);
  if (text !== undefined) item.textContent = text;
  boxes.append(item);
}

function box([row, col, scale], kind, tag) {
  const [x, y] = [col - scale, row - scale];
  for (const layer of ["edge", "box"]) {
    shape("rect", { x, y, width: 2 * scale, height: 2 * scale, class: `${layer} ${kind}` });
  }
  if (tag === undefined) return;
  const [width, height] = [0.05 + 0.05 * String(tag).length, 0.11];
  const left = Math.min(x, 1 - width);
  const above = y - height < -1 ? y + 2 * scale : y - height;
  const top = scale > 0.15 ? y : above; // on a small box it would hide what is in it
  shape("rect", { x: left, y: top, width, height, class: `tag-back ${kind}` });
  const middle = { x: left + width / 2, y: top + 0.085, "text-anchor": "middle" };
  shape("text", { ...middle, class: "tag" }, tag);
}

function draw() {
  boxes.replaceChildren();
  if (!state) return;
  const [taken, kind] = others ? [others, "other"] : [state.viewpoints, "you"];
  taken.forEach((v, i) => box(v, i < taken.length - 1 ? `${kind} earlier` : kind, i));
  if (Array.isArray(state.advice)) box(state.advice, "advice", "policy");
  if (!state.over) box(place(), "aim");
}

function drawScene() {
  scene.src = at("fog").checked ? state.seen : state.picture;
  scene.alt = at("fog").checked ? "The scene as far as CanViT has seen it" : "The scene";
}

// -- what the server says --------------------------------------------------------------------------

// The server escapes all text in these pieces, and the page's policy runs no script in them.
async function fill(id, html) {
  const template = document.createElement("template");
  template.innerHTML = html;
  const content = document.importNode(template.content, true);
  const pictures = [...content.querySelectorAll("img")];
  await Promise.all(pictures.map((picture) => picture.decode())); // so that nothing flickers
  at(id).replaceChildren(content);
}

async function show(said) {
  await Promise.all(Object.entries(said.html).map(([id, html]) => fill(id, html)));
  const isNew = state?.scene !== said.scene || said.viewpoints.length < state.viewpoints.length;
  state = said;
  others = null;
  if (isNew) aim = { row: 0, col: 0, zoom: 0 };
  drawScene();
  point(aim.row, aim.col);
  game.classList.toggle("over-now", state.over);
  at("lede").textContent = state.lede;
  at("scene-name").textContent = `${state.env}, ${state.split} split, scene ${state.scene}`;
  const pips = Array.from({ length: state.budget }, (_, i) => {
    const pip = document.createElement("span");
    pip.className = i < state.left ? "pip filled" : "pip";
    return pip;
  });
  at("left").replaceChildren(`${state.left} of ${state.budget} glimpses left `, ...pips);
  at("advise").hidden = state.advisor === null;
  at("stop").hidden = !state.may_stop;
  for (const id of ["look", "stop", "advise"]) at(id).setAttribute("aria-disabled", String(state.over));
  at("status").textContent = state.status + adviceOf(state.advice);
}

async function ask(action, request = {}) {
  if (busy) return;
  busy = true;
  game.setAttribute("aria-busy", "true");
  at("problem").hidden = true;
  try {
    const reply = await fetch(action, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ session: state?.session, ...request }),
    }).catch(() => {
      throw new Error("The server does not answer; start it again and reload the page.");
    });
    const said = await reply.json();
    if (!reply.ok) throw new Error(said.error);
    await show(said);
  } catch (error) {
    at("problem").textContent = error.message;
    at("problem").hidden = false;
  } finally {
    busy = false;
    game.setAttribute("aria-busy", "false");
  }
}

const look = () => state && !state.over && ask("look", { viewpoint: place() });

// -- pointer, wheel and keys -----------------------------------------------------------------------

function pointAt(event) {
  const { left, top, width, height } = stage.getBoundingClientRect();
  point((2 * (event.clientY - top)) / height - 1, (2 * (event.clientX - left)) / width - 1);
}

stage.addEventListener("pointermove", (event) => {
  if (state && event.pointerType !== "touch") pointAt(event);
});
stage.addEventListener("click", (event) => {
  if (!state) return;
  pointAt(event);
  if (event.pointerType !== "touch") look(); // a tap only says where
});
stage.addEventListener(
  "wheel",
  (event) => {
    if (!state || state.over || event.ctrlKey) return;
    event.preventDefault();
    const px = event.deltaY * (event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 33 : 1);
    point(aim.row, aim.col, aim.zoom - clamp(px / WHEEL_PX, -ZOOM_STEP, ZOOM_STEP));
  },
  { passive: false },
);
stage.addEventListener("keydown", (event) => {
  if (!state || state.over || event.altKey || event.ctrlKey || event.metaKey) return;
  const step = scaleOf(aim.zoom) * (event.shiftKey ? 0.1 : 0.5);
  const move = {
    ArrowUp: () => point(aim.row - step, aim.col),
    ArrowDown: () => point(aim.row + step, aim.col),
    ArrowLeft: () => point(aim.row, aim.col - step),
    ArrowRight: () => point(aim.row, aim.col + step),
    "+": () => point(aim.row, aim.col, aim.zoom + ZOOM_STEP),
    "=": () => point(aim.row, aim.col, aim.zoom + ZOOM_STEP),
    "-": () => point(aim.row, aim.col, aim.zoom - ZOOM_STEP),
    Enter: look,
    " ": look,
  }[event.key];
  if (move === undefined) return;
  event.preventDefault();
  move();
  if (move !== look) at("place").textContent = describe(place());
});

zoom.addEventListener("input", () => state && point(aim.row, aim.col, Number(zoom.value)));
for (const [id, sign] of [["wider", -1], ["closer", 1]]) {
  at(id).addEventListener(
    "click",
    () => state && point(aim.row, aim.col, aim.zoom + sign * ZOOM_STEP),
  );
}
at("look").addEventListener("click", look);
at("stop").addEventListener("click", () => state && !state.over && ask("stop"));
at("new").addEventListener("click", () => ask("new"));
at("again").addEventListener("click", () => ask("again"));
at("advise").addEventListener("click", () => state && !state.over && ask("advise"));
at("fog").addEventListener("change", () => state && drawScene());
at("truth").addEventListener("change", () => ask("truth", { shown: at("truth").checked }));

at("result").addEventListener("click", (event) => {
  const button = event.target.closest("[data-glimpses]");
  if (!button) return;
  const buttons = [...at("result").querySelectorAll("[data-glimpses]")];
  for (const item of buttons) item.setAttribute("aria-pressed", String(item === button));
  others = button === buttons[0] ? null : JSON.parse(button.dataset.glimpses);
  draw();
});

at("truth").checked = false; // a reloaded page may remember it, a new game does not
ask("start").then(() => stage.focus({ preventScroll: true }));
