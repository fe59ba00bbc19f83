// Two pictures, one over the other: left of the slider the one before, right of it the one after.

const SIDE = 420; // as in brush.js

function shownScale(width, height) {
  const longest = Math.max(width, height, 1);
  return longest <= SIDE ? Math.floor(SIDE / longest) : SIDE / longest;
}

function element(tag, properties, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

function render({ model, el }) {
  const before = element("img", { draggable: false });
  const after = element("img", { draggable: false });
  const left = element("div", { className: "qwenlab-half" }, before);
  const right = element("div", { className: "qwenlab-half" }, after);
  const line = element("div", { className: "qwenlab-line" });
  const stage = element("div", { className: "qwenlab-stage qwenlab-compare" }, left, right, line);
  const slider = element("input", { type: "range", min: 0, max: 100, step: 0.5, value: 50 });
  slider.setAttribute("aria-label", "Left of here the picture before, right of here the picture after");
  const leftLabel = element("span", {});
  const rightLabel = element("span", {});
  const labels = element("div", { className: "qwenlab-labels" }, leftLabel, rightLabel);
  const none = element("p", { className: "qwenlab-note", textContent: "Nothing to compare yet: this turn is a beginning." });
  el.append(labels, stage, slider, none);

  function move() {
    left.style.clipPath = `inset(0 ${100 - slider.value}% 0 0)`;
    right.style.clipPath = `inset(0 0 0 ${slider.value}%)`;
    line.style.left = `${slider.value}%`;
  }
  function drag(event) {
    if (!(event.buttons & 1)) return;
    const box = stage.getBoundingClientRect();
    slider.value = ((event.clientX - box.left) / box.width) * 100;
    move();
  }
  stage.addEventListener("pointerdown", drag);
  stage.addEventListener("pointermove", drag);
  slider.addEventListener("input", move);

  function load(image, bytes) {
    URL.revokeObjectURL(image.src);
    if (bytes?.byteLength) image.src = URL.createObjectURL(new Blob([bytes], { type: "image/png" }));
  }
  function show() {
    const [w, h] = model.get("size");
    const there = Boolean(model.get("before")?.byteLength && w);
    labels.hidden = stage.hidden = slider.hidden = !there;
    none.hidden = there;
    if (!there) return;
    load(before, model.get("before"));
    load(after, model.get("after"));
    leftLabel.textContent = before.alt = model.get("before_label");
    rightLabel.textContent = after.alt = model.get("after_label");
    const shown = `${w * shownScale(w, h)}px`;
    for (const part of [stage, slider, labels]) part.style.width = shown;
    stage.style.aspectRatio = `${w} / ${h}`;
    const [x, y, width, height] = model.get("box").map((share) => `${100 * share}%`);
    before.style.cssText = `left: ${x}; top: ${y}; width: ${width}; height: ${height}`;
    move();
  }
  const traits = ["before", "after", "before_label", "after_label", "box", "size"];
  for (const name of traits) model.on(`change:${name}`, show);
  show();
  return () => {
    for (const name of traits) model.off(`change:${name}`, show);
    for (const image of [before, after]) URL.revokeObjectURL(image.src);
  };
}

export default { render };
