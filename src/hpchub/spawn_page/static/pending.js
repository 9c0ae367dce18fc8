"use strict";
// Follows the job without reloading; without JavaScript the page reloads itself.
(() => {
  const page = document.getElementById("hpchub-pending");
  const failed = document.getElementById("hpchub-failed");
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
  const show = (status) => {
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
      failed.textContent = event.message.replace("Spawn failed: ", "");
      failed.hidden = false;
      bar.classList.add("bg-danger");
      bar.classList.remove("progress-bar-animated");
      document.getElementById("hpchub-cancel").form.hidden = true;
    }
  };
  events.onerror = () => {
    events.close();
    window.setTimeout(() => window.location.reload(), 5000);
  };
})();
