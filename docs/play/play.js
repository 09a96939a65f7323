// The page: a photo, a rough mask that is brushed or opened, and what the network makes of it.
"use strict";

const LONGEST = 1024; // pixels: larger photos are refined at this size
const FILL = [255, 196, 0];

const byId = (id) => document.getElementById(id);
const canvas = byId("canvas");
const context = canvas.getContext("2d", { willReadFrequently: true });
const worker = new Worker("worker.js", { type: "module" });

let photo = null; // ImageData, at the size that is refined
let mask = null; // Uint8Array, 0 or 255: the rough mask
let probabilities = null; // Float32Array: of the refined foreground
let brush = null; // place of the brush, where the keyboard moves it
let version = 0; // of photo and mask: a result of an older one is dropped
let started = 0;
let isBusy = false;

function say(text, isError = false) {
  byId("status").textContent = text;
  byId("status").classList.toggle("error", isError);
}

// The refined mask: a pixel changes where the new side leads by more than 1 - strength.
function refined() {
  const lead = 1 - Number(byId("strength").value);
  return mask.map((given, i) => {
    const side = probabilities[i] > 0.5 ? 255 : 0;
    return side !== given && Math.abs(2 * probabilities[i] - 1) > lead ? side : given;
  });
}

function draw() {
  if (!photo) return;
  const { width, height } = photo;
  const shown = new ImageData(new Uint8ClampedArray(photo.data), width, height);
  const after = probabilities ? refined() : mask;
  const split = probabilities ? (width * Number(byId("wipe").value)) / 100 : width;
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const i = y * width + x;
      const values = x < split ? mask : after;
      const right = x + 1 < width ? values[i + 1] : values[i];
      const below = y + 1 < height ? values[i + width] : values[i];
      if (values[i] !== right || values[i] !== below) {
        shown.data.fill(255, 4 * i, 4 * i + 3);
      } else if (values[i]) {
        for (let channel = 0; channel < 3; channel++) {
          shown.data[4 * i + channel] = 0.55 * shown.data[4 * i + channel] + 0.45 * FILL[channel];
        }
      }
    }
  }
  context.putImageData(shown, 0, 0);
  if (probabilities && split > 0 && split < width) {
    context.fillStyle = "white";
    context.fillRect(split - 1, 0, 2, height);
  }
  if (brush) {
    context.strokeStyle = "white";
    context.lineWidth = 2;
    context.beginPath();
    context.arc(brush.x, brush.y, radius(), 0, 2 * Math.PI);
    context.stroke();
  }
}

const radius = () => Number(byId("brush").value) / 2;

// Photo or mask are others now, so that what was refined is of the past.
function change() {
  version += 1;
  probabilities = null;
}

function update() {
  const isEmpty = !mask || !mask.includes(255);
  byId("refine").disabled = !photo || isEmpty || isBusy;
  byId("wipe-label").hidden = !probabilities;
  const save = byId("save");
  if (!photo || isEmpty) {
    save.removeAttribute("href");
    save.setAttribute("aria-disabled", "true");
  } else {
    const values = probabilities ? refined() : mask;
    const out = document.createElement("canvas");
    out.width = photo.width;
    out.height = photo.height;
    const pixels = new ImageData(photo.width, photo.height);
    values.forEach((value, i) => pixels.data.set([value, value, value, 255], 4 * i));
    out.getContext("2d").putImageData(pixels, 0, 0);
    save.href = out.toDataURL("image/png");
    save.setAttribute("aria-disabled", "false");
  }
  draw();
}

async function pixelsOf(file, width, height) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    throw new Error(`${file.name ?? "The file"} is no image that this browser can open.`);
  }
  const share = Math.min(1, LONGEST / Math.max(bitmap.width, bitmap.height));
  if (width && Math.abs(bitmap.width / bitmap.height / (width / height) - 1) > 0.02) {
    throw new Error(
      `The mask has ${bitmap.width} x ${bitmap.height} pixels, the photo ${width} x ${height}: ` +
        "another aspect, so it belongs to another photo.",
    );
  }
  const size = width ? [width, height] : [bitmap.width, bitmap.height].map((n) => Math.max(1, Math.round(share * n)));
  const own = document.createElement("canvas");
  [own.width, own.height] = size;
  const inside = own.getContext("2d", { willReadFrequently: true });
  inside.imageSmoothingQuality = "high";
  inside.drawImage(bitmap, 0, 0, ...size);
  return inside.getImageData(0, 0, ...size);
}

// Returns whether the file could be opened.
async function openPhoto(file) {
  try {
    photo = await pixelsOf(file);
  } catch (error) {
    say(error.message, true);
    return false;
  }
  canvas.width = photo.width;
  canvas.height = photo.height;
  mask = new Uint8Array(photo.width * photo.height);
  change();
  brush = null;
  say("Brush roughly over an object, or open its mask.");
  update();
  return true;
}

async function openMask(file) {
  if (!photo) return say("Open the photo first.", true);
  const own = photo;
  let pixels;
  try {
    pixels = await pixelsOf(file, own.width, own.height);
  } catch (error) {
    return say(error.message, true);
  }
  if (photo !== own) return; // another one was opened meanwhile
  // Foreground is what is bright, or, of a cut-out, what is opaque.
  const isCutout = pixels.data.some((value, i) => i % 4 === 3 && value < 128);
  mask = mask.map((_, i) => {
    const [red, green, blue, alpha] = pixels.data.subarray(4 * i, 4 * i + 4);
    return (isCutout ? alpha : Math.max(red, green, blue)) > 127 ? 255 : 0;
  });
  change();
  say(mask.includes(255) ? "Refine it." : "This mask has no foreground.", !mask.includes(255));
  update();
}

function stamp(x, y) {
  const value = byId("paint").checked ? 255 : 0;
  const reach = radius();
  const { width, height } = photo;
  for (let row = Math.max(0, Math.ceil(y - reach)); row <= Math.min(height - 1, y + reach); row++) {
    const half = Math.sqrt(reach ** 2 - (row - y) ** 2);
    const from = Math.max(0, Math.ceil(x - half));
    const to = Math.min(width, Math.floor(x + half) + 1);
    if (to > from) mask.fill(value, row * width + from, row * width + to);
  }
}

function stroke(from, to) {
  const steps = Math.max(1, Math.ceil(Math.hypot(to.x - from.x, to.y - from.y) / (radius() / 2)));
  for (let i = 0; i <= steps; i++) {
    stamp(from.x + ((to.x - from.x) * i) / steps, from.y + ((to.y - from.y) * i) / steps);
  }
  change();
  draw();
}

function place(event) {
  const box = canvas.getBoundingClientRect();
  return {
    x: ((event.clientX - box.left) * canvas.width) / box.width,
    y: ((event.clientY - box.top) * canvas.height) / box.height,
  };
}

let last = null;
canvas.addEventListener("pointerdown", (event) => {
  if (!photo) return;
  canvas.setPointerCapture(event.pointerId);
  brush = null;
  last = place(event);
  stroke(last, last);
});
canvas.addEventListener("pointermove", (event) => {
  if (!last) return;
  const next = place(event);
  stroke(last, next);
  last = next;
});
for (const name of ["pointerup", "pointercancel"]) {
  canvas.addEventListener(name, () => {
    if (!last) return;
    last = null;
    say("Refine it.");
    update();
  });
}
canvas.addEventListener("keydown", (event) => {
  const step = radius() / 2;
  const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
  if (!photo || !(event.key in moves || event.key === " ")) return;
  event.preventDefault();
  brush ??= { x: photo.width / 2, y: photo.height / 2 };
  if (event.key === " ") {
    stroke(brush, brush);
    say("Refine it.");
    return update();
  }
  const [x, y] = moves[event.key];
  brush = {
    x: Math.min(photo.width, Math.max(0, brush.x + x)),
    y: Math.min(photo.height, Math.max(0, brush.y + y)),
  };
  draw();
});

byId("photo").addEventListener("change", ({ target }) => target.files[0] && openPhoto(target.files[0]));
byId("mask").addEventListener("change", async ({ target }) => {
  if (target.files[0]) await openMask(target.files[0]);
  target.value = ""; // so that the same file may be opened again
});
byId("example").addEventListener("click", async () => {
  const [cat, itsMask] = await Promise.all(
    ["cat.jpg", "cat_mask.png"].map(async (name) => (await fetch(name)).blob()),
  );
  if (await openPhoto(cat)) await openMask(itsMask);
});
byId("clear").addEventListener("click", () => {
  if (!photo) return;
  mask.fill(0);
  change();
  say("Brush roughly over an object, or open its mask.");
  update();
});
for (const id of ["strength", "wipe"]) {
  byId(id).addEventListener("input", () => (id === "wipe" ? draw() : update()));
}

byId("refine").addEventListener("click", () => {
  isBusy = true;
  started = performance.now();
  say("The network runs …");
  update();
  const { width, height, data } = photo;
  worker.postMessage({ pixels: data, mask, width, height, version });
});
worker.addEventListener("message", ({ data }) => {
  isBusy = false;
  if (data.error) {
    say(`The network could not run: ${data.error}`, true);
    return update();
  }
  if (data.version !== version) {
    say("The mask was changed meanwhile: refine it again.");
    return update();
  }
  probabilities = data.probabilities;
  const changed = refined().reduce((sum, value, i) => sum + (value !== mask[i]), 0);
  const share = ((100 * changed) / mask.length).toFixed(2);
  const seconds = ((performance.now() - started) / 1000).toFixed(1);
  say(`Refined in ${seconds} s: ${share} % of the pixels changed. Drag the wipe to compare.`);
  byId("wipe").value = 0;
  update();
});
worker.addEventListener("error", (event) => {
  isBusy = false;
  say(`The network could not be loaded: ${event.message ?? "see the browser's console"}`, true);
  update();
});
