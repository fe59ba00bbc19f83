// Paint a mask on a picture. The mask is kept as one byte a pixel of the picture and sent as bits after each stroke.

const SIDE = 420; // CSS pixels of the longer side, about; small pictures are shown at a whole multiple of their size

function shownScale(width, height) {
  const longest = Math.max(width, height, 1);
  return longest <= SIDE ? Math.floor(SIDE / longest) : SIDE / longest;
}

function element(tag, properties, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

function pack(mask) {
  const bits = new Uint8Array(Math.ceil(mask.length / 8));
  for (let i = 0; i < mask.length; i++) if (mask[i]) bits[i >> 3] |= 128 >> (i & 7);
  return new DataView(bits.buffer);
}

function unpack(view, length) {
  const mask = new Uint8Array(length);
  if (view && view.byteLength * 8 >= length)
    for (let i = 0; i < length; i++) mask[i] = (view.getUint8(i >> 3) >> (7 - (i & 7))) & 1;
  return mask;
}

function render({ model, el }) {
  let mask = new Uint8Array(0);
  let erasing = false;
  let last = null; // where the pointer was, in pixels of the picture, while a stroke goes on
  let sent = null; // the mask as this view sent it last: no need to read it back

  const paint = element("button", { type: "button", textContent: "Paint" });
  const erase = element("button", { type: "button", textContent: "Erase" });
  const clear = element("button", { type: "button", textContent: "Clear mask" });
  const width = element("input", { type: "range", min: 1, step: 1 });
  const widthText = element("span", { className: "qwenlab-number" });
  const tools = element("div", { className: "qwenlab-tools" }, paint, erase,
    element("label", {}, "Brush ", width, widthText), clear);
  const image = element("img", { alt: "The current picture", draggable: false });
  const overlay = element("canvas", { className: "qwenlab-mask" });
  overlay.setAttribute("aria-label", "Paint here what is to be drawn again");
  const ring = element("div", { className: "qwenlab-ring", hidden: true });
  const stage = element("div", { className: "qwenlab-stage" }, image, overlay, ring);
  const note = element("p", { className: "qwenlab-note" });
  el.classList.add("qwenlab-brush");
  el.append(tools, stage, note);

  const size = () => model.get("size");
  const scale = () => overlay.getBoundingClientRect().width / Math.max(size()[0], 1);

  function show() {
    const [w, h] = size();
    const token = model.get("token");
    const across = Math.ceil(w / token);
    const touched = new Set();
    let count = 0;
    for (let i = 0; i < mask.length; i++) {
      if (!mask[i]) continue;
      count++;
      touched.add(Math.floor(Math.floor(i / w) / token) * across + Math.floor((i % w) / token));
    }
    overlay.width = w;
    overlay.height = h;
    if (!w || !h) return;
    const context = overlay.getContext("2d");
    const shown = context.createImageData(w, h);
    for (let i = 0; i < mask.length; i++) {
      const grown = touched.has(Math.floor(Math.floor(i / w) / token) * across + Math.floor((i % w) / token));
      if (mask[i] || grown) shown.data.set([216, 27, 96, mask[i] ? 150 : 60], 4 * i);
    }
    context.putImageData(shown, 0, 0);
    const all = across * Math.ceil(h / token);
    note.textContent = count
      ? `Mask: ${count} of ${w * h} pixels (dark). They touch ${touched.size} of ${all} tokens of ${token} x ${token} ` +
        "pixels (light), which Redraw draws again."
      : "No mask yet. Redraw needs one: paint over what is to be drawn again.";
  }

  function dab(x, y) {
    const [w, h] = size();
    const radius = model.get("brush") / 2;
    for (let row = Math.max(0, Math.floor(y - radius)); row <= Math.min(h - 1, Math.ceil(y + radius)); row++)
      for (let column = Math.max(0, Math.floor(x - radius)); column <= Math.min(w - 1, Math.ceil(x + radius)); column++)
        if (Math.hypot(column + 0.5 - x, row + 0.5 - y) <= Math.max(radius, 0.71)) mask[row * w + column] = erasing ? 0 : 1;
  }

  function stroke(from, to) {
    const steps = Math.max(1, Math.ceil(2 * Math.hypot(to[0] - from[0], to[1] - from[1])));
    for (let i = 0; i <= steps; i++)
      dab(from[0] + ((to[0] - from[0]) * i) / steps, from[1] + ((to[1] - from[1]) * i) / steps);
    show();
  }

  function place(event) {
    const box = overlay.getBoundingClientRect();
    return [(event.clientX - box.left) / scale(), (event.clientY - box.top) / scale()];
  }

  function send() {
    sent = pack(mask);
    model.set("mask", sent);
    model.save_changes();
  }

  overlay.addEventListener("pointerdown", (event) => {
    if (!model.get("enabled") || event.button !== 0) return;
    event.preventDefault();
    overlay.setPointerCapture(event.pointerId);
    last = place(event);
    stroke(last, last);
  });
  overlay.addEventListener("pointermove", (event) => {
    const side = model.get("brush") * scale();
    const box = overlay.getBoundingClientRect();
    ring.style.cssText = `left: ${event.clientX - box.left - side / 2}px; top: ${event.clientY - box.top - side / 2}px; ` +
      `width: ${side}px; height: ${side}px`;
    ring.hidden = !model.get("enabled");
    if (!last) return;
    for (const part of event.getCoalescedEvents?.() ?? [event]) {
      const next = place(part);
      stroke(last, next);
      last = next;
    }
  });
  const end = () => {
    if (last) send();
    last = null;
  };
  overlay.addEventListener("pointerup", end);
  overlay.addEventListener("pointercancel", end);
  overlay.addEventListener("pointerleave", () => (ring.hidden = true));

  function choose(whether) {
    erasing = whether;
    paint.setAttribute("aria-pressed", String(!whether));
    erase.setAttribute("aria-pressed", String(whether));
  }
  paint.addEventListener("click", () => choose(false));
  erase.addEventListener("click", () => choose(true));
  clear.addEventListener("click", () => {
    mask.fill(0);
    show();
    send();
  });
  width.addEventListener("input", () => {
    model.set("brush", Number(width.value));
    model.save_changes();
  });

  function onBrush() {
    width.value = model.get("brush");
    widthText.textContent = `${model.get("brush")} px`;
  }
  function onPicture() {
    const [w, h] = size();
    URL.revokeObjectURL(image.src);
    const bytes = model.get("picture");
    if (bytes?.byteLength) image.src = URL.createObjectURL(new Blob([bytes], { type: "image/png" }));
    stage.style.width = `${w * shownScale(w, h)}px`;
    stage.style.aspectRatio = `${w} / ${h}`;
    stage.hidden = tools.hidden = note.hidden = !w;
    width.max = Math.max(2, Math.round(Math.min(w, h) / 2));
    onBrush();
    onMask();
  }
  function onMask() {
    const [w, h] = size();
    if (model.get("mask") === sent && mask.length === w * h) return;
    mask = unpack(model.get("mask"), w * h);
    show();
  }
  function onEnabled() {
    const enabled = model.get("enabled");
    for (const tool of [paint, erase, clear, width]) tool.disabled = !enabled;
    stage.classList.toggle("qwenlab-waiting", !enabled);
  }
  const handlers = { picture: onPicture, size: onPicture, mask: onMask, brush: onBrush, enabled: onEnabled };
  for (const [name, handler] of Object.entries(handlers)) model.on(`change:${name}`, handler);
  choose(false);
  onPicture();
  onEnabled();
  model.send({ shown: true });
  return () => {
    for (const [name, handler] of Object.entries(handlers)) model.off(`change:${name}`, handler);
    URL.revokeObjectURL(image.src);
  };
}

export default { render };
