"use strict";
// The limits of the chosen queue beside the fields, and only queues that the chosen project may use.
(() => {
  const data = document.getElementById("hpchub-queues");
  if (!data) return;
  const queues = JSON.parse(data.textContent);
  const field = (name) => document.getElementById(name);
  const help = (name, text) => {
    const place = field("help-" + name);
    if (place) place.textContent = text;
  };
  const show = () => {
    const project = field("project").value;
    for (const option of field("queue").options) {
      const queue = queues.find((one) => one.name === option.value);
      option.disabled = Boolean(queue && project && !queue.projects.includes(project));
    }
    const queue = queues.find((one) => one.name === field("queue").value);
    if (!queue) return;
    help("walltime", "Hours and minutes, as 02:30" + (queue.walltime ? ", up to " + queue.walltime : ""));
    help("cores", queue.cores ? "Up to " + queue.cores : "");
    help("memory", queue.memory ? "Up to " + queue.memory + " GiB" : "");
    help("gpus", queue.gpus ? "Up to " + queue.gpus : "This queue has none");
    const gpus = document.querySelector("[data-field=gpus]");
    if (gpus) {
      gpus.hidden = !queue.gpus && !gpus.querySelector(".is-invalid");
      if (gpus.hidden) field("gpus").value = "0";
    }
  };
  field("project").addEventListener("change", show);
  field("queue").addEventListener("change", show);
  document.getElementById("spawn_form").addEventListener("submit", () => {
    const button = field("hpchub-start");
    button.disabled = true;
    button.textContent = "Starting…";
  });
  window.addEventListener("pageshow", () => {
    const button = field("hpchub-start");
    button.disabled = false;
    button.textContent = "Start";
  });
  document.getElementById("hpchub-limits").hidden = queues.length === 1;
  show();
})();
