"use strict";
// Follows the job without reloading; without JavaScript the page reloads itself.
(() => {
  const page = document.getElementById("hpchub-pending");
  const icon = document.getElementById("hpchub-icon");
  const ask = document.getElementById("hpchub-notify");
  const bar = document.getElementById("progress-bar");
  const began = Date.now() - 1000 * page.dataset.seconds;
  const duration = (seconds) => {
    const minutes = Math.floor(seconds / 60);
    if (!minutes) return seconds + " s";
    return minutes < 60 ? minutes + " min" : Math.floor(minutes / 60) + " h " + (minutes % 60) + " min";
  };
  window.setInterval(() => {
    page.querySelector("[data-show=waited]").textContent = duration(Math.floor((Date.now() - began) / 1000));
  }, 1000);
  // A message of the browser's own comes only where a person has asked for it, here.
  const may = () => "Notification" in window && Notification.permission;
  const offer = () => {
    ask.hidden = !["default", "granted"].includes(may());
    ask.disabled = may() === "granted";
    if (ask.disabled) ask.textContent = "You will be told when it starts";
  };
  ask.addEventListener("click", () => Notification.requestPermission().then(offer));
  if (icon.href.includes("/waiting.svg")) offer();
  const started = (status) => {
    icon.href = icon.href.replace("/waiting.svg", "/starting.svg");
    ask.hidden = true;
    if (may() === "granted") {
      const message = new Notification("Your Lab session on " + page.dataset.cluster + " is starting", {
        body: status.sentence, tag: "hpchub-" + status.job,
      });
      message.onclick = () => window.focus();
    }
  };
  const show = (status) => {
    if (status.running && icon.href.includes("/waiting.svg")) started(status);
    for (const place of page.querySelectorAll("[data-show]")) {
      const text = status[place.dataset.show] ?? "";
      place.textContent = text;
      if (place.tagName === "DD") place.parentElement.hidden = !text;
    }
    document.title = status.state + " · " + document.title.split(" · ").pop();
  };
  const events = new EventSource(page.dataset.progress);
  events.onmessage = (message) => {
    const event = JSON.parse(message.data);
    if (event.hpchub) show(event.hpchub);
    if (event.progress !== undefined) {
      bar.style.width = event.progress + "%";
      bar.parentElement.setAttribute("aria-valuenow", event.progress);
    }
    if (event.ready) {
      events.close();
      window.location.reload(); // this address leads on to the server, or to where the user wanted to go
    } else if (event.failed) {
      events.close();
      window.location.reload(); // this address then says what went wrong
    }
  };
  events.onerror = () => {
    events.close();
    window.setTimeout(() => window.location.reload(), 5000);
  };
})();
