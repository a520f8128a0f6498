// A canvas to draw on: every stroke makes its picture the value of the component. `element`, `props` and `trigger` are
// Gradio's. The canvas is made here and not by the template, which is written anew with every value.
const canvas = document.createElement("canvas");
const clear = document.createElement("button");
const pad = element.querySelector(".nm-pad");
canvas.width = canvas.height = 280;
clear.textContent = "clear";
clear.type = "button";
pad.append(canvas, clear);
const pen = canvas.getContext("2d");

function wipe() {
  pen.fillStyle = pad.dataset.ground;
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.strokeStyle = pad.dataset.ink;
  pen.lineWidth = 24;
  pen.lineCap = pen.lineJoin = "round";
}
function place(event) {
  const box = canvas.getBoundingClientRect();
  return [((event.clientX - box.left) * canvas.width) / box.width, ((event.clientY - box.top) * canvas.height) / box.height];
}
function say(value) {
  props.value = value;
  trigger("input");
}
canvas.addEventListener("pointerdown", (event) => {
  canvas.setPointerCapture(event.pointerId);
  pen.beginPath();
  pen.moveTo(...place(event));
  pen.lineTo(...place(event)); // a dot
  pen.stroke();
});
canvas.addEventListener("pointermove", (event) => {
  if (canvas.hasPointerCapture(event.pointerId)) {
    pen.lineTo(...place(event));
    pen.stroke();
  }
});
canvas.addEventListener("pointerup", () => say(canvas.toDataURL("image/png")));
clear.addEventListener("click", () => {
  wipe();
  say("");
});
wipe();
